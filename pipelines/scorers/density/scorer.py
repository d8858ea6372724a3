"""The density of documents in embedding space (paper 3.2)."""

import dataclasses
import threading
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.corpus import fixed_width
from pipelines.files import storage
from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Scorer, Scores
from pipelines.store import kinds
from pipelines.worker import memory, progress


@dataclasses.dataclass(frozen=True)
class Density(OverStore):
  """RACE's estimate of the kernel sum around each document's embedding (paper 3.2, Algorithm 2)."""

  STORED: ClassVar[str] = "embeddings"
  reads: ClassVar[str] = kinds.EMBEDDING
  loading: ClassVar[str | None] = "loading the density sketch"
  sketch_path: str
  embeddings: stored_blocks.StoredEmbeddings
  kernel: str
  bandwidth: float | None
  """None: chosen from the data; the same goes for `hashes`."""
  hashes: int | None
  rows: int
  counters: int
  seed: int
  correct_collisions: bool

  def checked(self) -> "Density":
    """Raises WinnowError if the sketch is impossible, whatever the data are."""
    refuse_impossible(self.kernel, self.bandwidth, self.hashes, self.rows, self.counters, self.seed)
    return self

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "density",
      "embeddings": self.embeddings.store.fingerprint,
      "kernel": self.kernel,
      "bandwidth": self.bandwidth,
      "hashes": self.hashes,
      "sketch_rows": self.rows,
      "sketch_counters": self.counters,
      "sketch_seed": self.seed,
      "correct_collisions": self.correct_collisions,
    }

  @property
  def speed(self) -> float:
    return progress.PRODUCTS / self.rows / (self.hashes or 8)

  def load(self) -> Scorer:
    return _DensityScorer(self)


def refuse_impossible(
  kernel: str, bandwidth: float | None, hashes: int | None, rows: int, counters: int, seed: int
) -> None:
  """Raises WinnowError if a sketch is impossible, whatever the data are; what is None is chosen from them."""
  from curation.coverage import kernels, race

  stand_in = 1.0 if bandwidth is None and kernel != "angular" else bandwidth
  race.SketchConfig(1, kernels.Kernel(kernel, stand_in, 1 if hashes is None else hashes), rows, counters, seed=seed)


class _DensityScorer:
  """One sketch for all threads of a process, which uses all cores for one block at a time."""

  def __init__(self, about: Density):
    from curation.coverage import race

    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    with storage.open_input(about.sketch_path) as file:
      self._sketch = race.SketchFile(file, about.sketch_path).load()

  def describe(self) -> dict[str, Any]:
    sketch = {"config": self._sketch.config.to_json(), "num_points": self._sketch.num_points}
    return self._about.engine() | {"sketch": sketch | {"hashes": self._sketch.hashes.checksum()}}

  def warm_up(self) -> None:
    """Does nothing: the sketch is loaded already."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, self._about.embeddings.dtype)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    with self._turn:
      mean_N = self._sketch.density(prepared).mean
    if self._about.correct_collisions:
      mean_N = self._sketch.without_collisions(mean_N)
    return Scores(mean_N.astype(np.float32), None, 0, 0)
