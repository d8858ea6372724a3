"""SemDeDup (paper B.3)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.coverage import giant_clusters, kmeans, semdedup
from pipelines.files import fingerprints
from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Own, Scores


@dataclasses.dataclass(frozen=True)
class SemDeDup(OverStore, Own):
  """SemDeDup (paper B.3): what repeats a document that is ranked before it in its cluster is the worst, -cosine."""

  STORED: ClassVar[str] = "clusters"
  reads: ClassVar[str] = "largest_cosine"
  clusters: stored_blocks.StoredBlocks
  embeddings: stored_blocks.StoredEmbeddings
  keep: semdedup.Keep
  config: kmeans.KMeansConfig
  """How the clusters were found, and giant ones are split."""
  max_cluster_pairs: int
  split_path: str

  @property
  def seed(self) -> int:
    return self.config.seed

  def checked(self) -> "SemDeDup":
    """Raises WinnowError for a limit that cannot be."""
    giant_clusters.check_limit(self.max_cluster_pairs)
    return self

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "semdedup",
      "clusters": self.clusters.store.fingerprint,
      "keep": self.keep,
      "seed": self.seed,
      "max_cluster_pairs": self.max_cluster_pairs,
    }

  def split_fingerprint(self) -> str:
    """Whose a split is: of what was asked for, and of clusters as they were computed."""
    return fingerprints.fingerprint([self.request(), self.clusters.store.fingerprint_with_engine()])

  def split(self) -> dict[str, Any] | None:
    """What is on record of how giant clusters were split (`splitting.settle`); None where there is nothing."""
    found = fingerprints.read_sealed(self.split_path)
    return found if found is not None and found.get("fingerprint") == self.split_fingerprint() else None

  def describe(self) -> dict[str, Any]:
    split = self.split()
    return self.engine() | ({} if split is None else {"split": split["figures"] | {"centroids": split["centroids"]}})

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(semdedup.to_scores(prepared), None, 0, 0)
