"""The cluster of each document (paper B.3, B.4)."""

import dataclasses
import threading
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.coverage import kmeans
from pipelines.corpus import fixed_width
from pipelines.scorers.clusters import centroids
from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Scorer, Scores
from pipelines.store import kinds
from pipelines.worker import memory, progress


@dataclasses.dataclass(frozen=True)
class Cluster(OverStore):
  """The cluster of each document's embedding, and the cosine to its centroid (paper B.3, B.4)."""

  STORED: ClassVar[str] = "embeddings"
  reads: ClassVar[str] = kinds.EMBEDDING
  loading: ClassVar[str | None] = "loading the centroids"
  centroids_path: str
  embeddings: stored_blocks.StoredEmbeddings
  config: kmeans.KMeansConfig

  def checked(self) -> "Cluster":
    """Raises WinnowError if there are more clusters than documents, as far as the number of documents is known."""
    if summary := self.embeddings.store.readable_summary():
      self.config.check_points(summary["scored"])
    return self

  def request(self) -> dict[str, Any]:
    return {
      "scorer": kinds.CLUSTER,
      "embeddings": self.embeddings.store.fingerprint,
      "num_clusters": self.config.clusters,
      "kmeans_sample": self.config.points_per_cluster,
      "kmeans_iterations": self.config.iterations,
      "lloyd_iterations": self.config.lloyd_iterations,
      "kmeans_seed": self.config.seed,
    }

  @property
  def speed(self) -> float:
    return progress.PRODUCTS / self.config.clusters

  def load(self) -> Scorer:
    return _ClusterScorer(self)


class _ClusterScorer:
  """Centroids for all threads of a process, whose products use all cores for one block at a time."""

  _RECORD = np.dtype([("cluster", np.int32), ("cosine", np.float32)])

  def __init__(self, about: Cluster):
    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    self._held = centroids.load_centroids(about.centroids_path)

  def describe(self) -> dict[str, Any]:
    return self._about.engine() | {"centroids": self._held.file.checksum}

  def warm_up(self) -> None:
    """Does nothing: the centroids are loaded already."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, self._about.embeddings.dtype)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    found_N = np.empty(len(prepared), self._RECORD)
    with self._turn:
      found_N["cluster"], found_N["cosine"] = self._held.centroids.assign(prepared)
    return Scores(found_N, None, 0, 0)
