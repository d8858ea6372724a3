"""Coverage of a corpus by embeddings and signatures: density, clusters and near-copies."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.coverage.density import choose_kernel as choose_kernel
  from curation.coverage.kernels import Kernel as Kernel
  from curation.coverage.kmeans import Centroids as Centroids
  from curation.coverage.kmeans import KMeansConfig as KMeansConfig
  from curation.coverage.minhash import MinHashConfig as MinHashConfig
  from curation.coverage.minhash import near_copies as near_copies
  from curation.coverage.race import Sketch as Sketch
  from curation.coverage.race import SketchConfig as SketchConfig
  from curation.coverage.race import SketchFile as SketchFile
  from curation.coverage.semdedup import score_cluster as score_cluster
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "density.choose_kernel",
      "kernels.Kernel",
      "kmeans.Centroids",
      "kmeans.KMeansConfig",
      "minhash.MinHashConfig",
      "minhash.near_copies",
      "race.Sketch",
      "race.SketchConfig",
      "race.SketchFile",
      "semdedup.score_cluster",
    ),
  )
