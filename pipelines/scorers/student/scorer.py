"""The scores of a student, from stored embeddings."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks, fixed_width
from pipelines.scorers.student import artifacts
from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Scorer, Scores
from pipelines.store import kinds
from pipelines.worker import memory, progress

_INPUT = "student_input"
_TOKENS = kinds.NUM_TOKENS.name


@dataclasses.dataclass(frozen=True)
class Student(OverStore):
  """A student's score of each document, by its embedding and, if the student knows lengths, its number of tokens."""

  STORED: ClassVar[str] = "embeddings"
  reads: ClassVar[str] = _INPUT
  loading: ClassVar[str | None] = "loading the student"
  student_path: str
  digest: str
  """That of the student's file at launch."""
  operations: int
  """The operations for one document."""
  embeddings: stored_blocks.StoredEmbeddings

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "student",
      "student": self.digest,
      "embeddings": self.embeddings.store.fingerprint,
      "version": 1,
    }

  def source(self, texts: Any) -> stored_blocks.StoredBlocks:
    del texts
    embeddings = self.embeddings
    return EmbeddingsWithTokens(embeddings.store, embeddings.dtype, embeddings.embedder, survivors=embeddings.survivors)

  @property
  def speed(self) -> float:
    return min(200_000.0, progress.PRODUCTS * 2 * 768 / self.operations)

  def load(self) -> Scorer:
    return _StudentScorer(self)


class EmbeddingsWithTokens(stored_blocks.StoredEmbeddings):
  """The blocks of a store of embeddings with one more column, which has both inputs of a student."""

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    for block in super().read(shard, want):
      if isinstance(block, blocks.SkippedBlock):
        yield block
        continue
      columns = [block.documents[name].combine_chunks() for name in (kinds.EMBEDDING, _TOKENS)]
      both = pa.StructArray.from_arrays(columns, [kinds.EMBEDDING, _TOKENS])
      yield dataclasses.replace(block, documents=block.documents.append_column(_INPUT, both))


class _StudentScorer:
  """One student for all threads of a process, which computes one block at a time."""

  def __init__(self, about: Student):
    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    file = artifacts.read_file(about.student_path)
    if file.digest != about.digest:
      raise WinnowError(f"{about.student_path} has changed since the command was launched; run it again")
    self._student = file.student

  def describe(self) -> dict[str, Any]:
    # The library of NumPy's products decides the last bits of a network's scores.
    return self._about.engine() | {"student": self._about.digest, "numpy": np.__version__}

  def warm_up(self) -> None:
    """Loads or compiles the loops."""
    dimensions = self._student.shape.dimensions
    self._student.predict(np.zeros((1, dimensions), self._about.embeddings.dtype), np.zeros(1, np.int32))

  def prepare(self, column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray | None]:
    parts = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    embeddings, tokens = (parts.field(name) for name in (kinds.EMBEDDING, _TOKENS))
    points_ND = fixed_width.array(pa.chunked_array([embeddings]), self._about.embeddings.dtype)
    if not self._student.shape.has_length:
      return points_ND, None
    if tokens.null_count:
      raise WinnowError(
        f"{self._about.embeddings.store.folder} has no number of tokens of some documents, which the student "
        f"{self._about.student_path} needs; make its embeddings again with the model that the student was learned with"
      )
    return points_ND, tokens.to_numpy()

  def run(self, prepared: tuple[np.ndarray, np.ndarray | None], on_batch: OnBatch | None = None) -> Scores:
    with self._turn:
      return Scores(self._student.predict(*prepared), None, 0, 0)
