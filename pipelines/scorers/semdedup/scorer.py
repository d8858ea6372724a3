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
  """SemDeDup (paper B.3): documents most similar to one ranked before them in their cluster are the worst."""

  STORED: ClassVar[str] = "clusters"
  reads: ClassVar[str] = "largest_cosine"
  clusters: stored_blocks.StoredBlocks
  embeddings: stored_blocks.StoredEmbeddings
  keep: semdedup.Keep
  config: kmeans.KMeansConfig
  """How the clusters were found, and how giant ones are split."""
  max_cluster_pairs: int
  split_path: str

  @property
  def seed(self) -> int:
    return self.config.seed

  def checked(self) -> "SemDeDup":
    """Raises WinnowError if the limit is impossible."""
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
    """Returns the fingerprint of a split: it covers the request, and the clusters as they were computed."""
    return fingerprints.fingerprint([self.request(), self.clusters.store.fingerprint_with_engine()])

  def split(self) -> dict[str, Any] | None:
    """Returns the record of how giant clusters were split (`splitting.settle`); None if there is none."""
    found = fingerprints.read_sealed(self.split_path)
    return found if found is not None and found.get("fingerprint") == self.split_fingerprint() else None

  def describe(self) -> dict[str, Any]:
    split = self.split()
    return self.engine() | ({} if split is None else {"split": split["figures"] | {"centroids": split["centroids"]}})

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(semdedup.to_scores(prepared), None, 0, 0)
