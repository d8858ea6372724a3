"""The scorers that there are."""

from pipelines.scorers.clusters.prototypes import Prototypes
from pipelines.scorers.clusters.scorer import Cluster
from pipelines.scorers.density.scorer import Density
from pipelines.scorers.minhash.scorer import MinHash
from pipelines.scorers.semdedup.scorer import SemDeDup

OF_STORED = (Density, Cluster, Prototypes, SemDeDup, MinHash)
"""Those that read another store in place of texts."""
