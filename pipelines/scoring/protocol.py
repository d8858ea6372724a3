"""What the rest of the pipelines knows of a loaded scorer, and of what it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa


class Scores(NamedTuple):
  """One block's results, in its documents' order. `num_tokens` is None where the scorer counts no tokens."""

  scores: np.ndarray
  """float32 [N]; of what embeds, embeddings [N, D] in the dtype that they are kept in; of what clusters, records of an
  int32 `cluster` and a float32 `cosine` [N]; signatures uint32 [N, H]."""
  num_tokens: np.ndarray | None
  useful_tokens: int
  computed_tokens: int


OnBatch = Callable[[np.ndarray, int], None]
"""Called with the places of documents in the block, and their tokens, as they are done; not after the whole block."""


class Scorer(Protocol):
  def describe(self) -> dict[str, Any]: ...
  def warm_up(self) -> None: ...
  def prepare(self, column: pa.ChunkedArray) -> Any: ...
  def run(self, prepared: Any, on_batch: OnBatch | None = None) -> Any: ...


class Description(Protocol):
  """What is to be scored with, as the launcher knows it; it is pickled to the workers, which load it."""

  @property
  def reads(self) -> str:
    """The column of a block's documents that it reads."""

  @property
  def speed(self) -> float | None:
    """Documents a second that one core is expected to do; None where it depends on a model and a device."""

  def checked(self) -> Self:
    """Raises WinnowError for what cannot work, as far as that is known without computing."""

  def request(self) -> dict[str, Any]:
    """Its part of the fingerprint of a store."""

  def engine(self) -> dict[str, Any]:
    """What of `Scorer.describe` is known without a device."""

  def load(self) -> Scorer: ...
