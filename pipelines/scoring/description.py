"""The interface between a scorer and the rest of Winnow, before and after the scorer is loaded.

The launcher calls `checked()`, which checks all that can be checked without computing; `request()`, the scorer's part
of a store's fingerprint; and `engine()`, the part of `Scorer.describe` that is known without a device. Workers call
`load()`.
"""

import abc
import argparse
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa

from pipelines.corpus import sources
from pipelines.files import storage
from pipelines.scoring import stored_blocks


class Scores(NamedTuple):
  """The results of one block, in the order of its documents."""

  scores: np.ndarray
  """float32 [N], or the values that another kind of store holds (`pipelines.store.kinds`)."""
  num_tokens: np.ndarray | None = None
  """int32 [N], the tokens of each whole text; None if the scorer does not count them."""
  useful_tokens: int = 0
  computed_tokens: int = 0


OnBatch = Callable[[np.ndarray, int], None]
"""A callback, called as documents are done: their places in the block, and their tokens; not after the whole block."""


class Scorer(Protocol):
  """A loaded scorer, which all threads of a process share."""

  def describe(self) -> dict[str, Any]:
    """Returns how the scorer computes, as JSON: all scores of a store come from one engine."""

  def warm_up(self) -> None:
    """Does what must happen once before the first document."""

  def prepare(self, column: pa.ChunkedArray) -> Any:
    """Does the host's work for a block, given the column of its documents that the description `reads`. Thread-safe."""

  def run(self, prepared: Any, on_batch: OnBatch | None = None) -> Any:
    """Returns the block's `Scores`, or an object with the same fields.

    If that takes long, it calls `on_batch` now and then with the documents that are done.
    """


class Description(abc.ABC):
  """The description of a scorer, usually a frozen dataclass: it is pickled to the workers, which load the scorer."""

  reads: ClassVar[str] = "text"
  """The column of a block's documents that the scorer reads."""
  loading: ClassVar[str | None] = None
  """The name of the loading on a terminal, if it takes a while."""

  @property
  def speed(self) -> float | None:
    """Returns how many documents a second one core should score; None if that depends on a model and a device."""
    return None

  @property
  def model_bytes(self) -> int | None:
    """Returns the size of the model's files, for which workers need memory; None without a model."""
    return None

  @property
  def num_devices(self) -> int:
    """Returns how many devices one copy of the model needs; 0 without a model."""
    return 0

  def checked(self) -> Self:
    """Returns the description with what the checks found out. Raises WinnowError for what cannot work."""
    return self

  def stamp(self) -> Any:
    """Returns something that differs once the scorer's files have changed, without reading them."""
    return None

  @abc.abstractmethod
  def request(self) -> dict[str, Any]:
    """Returns the part of a store's fingerprint, as JSON: `scorer`, its name, and all that its scores depend on."""

  def engine(self) -> dict[str, Any]:
    """Returns the part of `Scorer.describe` that is known at launch."""
    return {}

  @abc.abstractmethod
  def load(self) -> Scorer: ...

  def source(self, texts: sources.Texts) -> stored_blocks.Source:
    """Returns the source of the blocks that the scorer reads."""
    return texts

  def made_with(self, namespace: argparse.Namespace) -> dict[str, str]:
    """Returns the model or embeddings that the scorer runs, by flags, for users who want to run the same again."""
    del namespace
    return {}


class Own(Description):
  """A description that is its own scorer: nothing is loaded."""

  @property
  def speed(self) -> float | None:
    return 200_000.0

  def load(self) -> Scorer:
    return self

  def describe(self) -> dict[str, Any]:
    return self.engine()

  def warm_up(self) -> None:
    """Does nothing: there is no model to warm up."""

  @abc.abstractmethod
  def prepare(self, column: pa.ChunkedArray) -> Any: ...

  @abc.abstractmethod
  def run(self, prepared: Any, on_batch: OnBatch | None = None) -> Scores: ...


class OverStore(Description):
  """The description of a scorer that reads another store instead of texts."""

  STORED: ClassVar[str]
  """The name of the field that holds the blocks of that store; requests have the same name."""

  @property
  def stored(self) -> stored_blocks.StoredBlocks:
    return getattr(self, self.STORED)

  def source(self, texts: sources.Texts) -> stored_blocks.Source:
    del texts
    return self.stored

  def engine(self) -> dict[str, Any]:
    store = self.stored.store
    return {self.STORED: store.fingerprint_with_engine()} if storage.exists(store.engine_path) else {}
