"""What a scorer is to the rest of Winnow, before and after it is loaded.

The launcher calls `checked()`, which makes sure of all that is known without computing, `request()`, the scorer's part
of a store's fingerprint, and `engine()`, what of `Scorer.describe` is known without a device. Workers call `load()`.
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
  """float32 [N]; or what another kind of store holds (`pipelines.store.kinds`)."""
  num_tokens: np.ndarray | None = None
  """int32 [N]: the tokens of each whole text; None where the scorer counts none."""
  useful_tokens: int = 0
  computed_tokens: int = 0


OnBatch = Callable[[np.ndarray, int], None]
"""Called with the places of documents in the block, and their tokens, as they are done; not after the whole block."""


class Scorer(Protocol):
  """A scorer that is loaded, one for all threads of a process."""

  def describe(self) -> dict[str, Any]:
    """Returns how it computes, as JSON: a store holds scores of one engine alone."""

  def warm_up(self) -> None:
    """Does what must happen once before the first document."""

  def prepare(self, column: pa.ChunkedArray) -> Any:
    """Does the host's work for a block, from the column of its documents that the description `reads`. Thread-safe."""

  def run(self, prepared: Any, on_batch: OnBatch | None = None) -> Any:
    """Returns the block's `Scores`, or the same fields.

    Where that takes long, calls `on_batch` now and then with the documents that are done.
    """


class Description(abc.ABC):
  """What is to be scored with. A frozen dataclass, as a rule: it is pickled to the workers, which load it."""

  reads: ClassVar[str] = "text"
  """The column of a block's documents that it reads."""
  loading: ClassVar[str | None] = None
  """What loading is called on a terminal, where it takes a while."""

  @property
  def speed(self) -> float | None:
    """Documents a second that one core is expected to do; None where that depends on a model and a device."""
    return None

  @property
  def model_bytes(self) -> int | None:
    """The size of the model's files, for which workers need memory; None without a model."""
    return None

  @property
  def num_devices(self) -> int:
    """The devices that one copy of the model needs; 0 without a model."""
    return 0

  def checked(self) -> Self:
    """Raises WinnowError for what cannot work; returns the description with what was found out."""
    return self

  @abc.abstractmethod
  def request(self) -> dict[str, Any]:
    """Returns its part of a store's fingerprint, JSON: `scorer`, its name, and all that its scores depend on."""

  def engine(self) -> dict[str, Any]:
    """Returns what of `Scorer.describe` is known at launch."""
    return {}

  @abc.abstractmethod
  def load(self) -> Scorer: ...

  def source(self, texts: sources.Texts) -> stored_blocks.Source:
    """Returns where its blocks come from."""
    return texts

  def made_with(self, namespace: argparse.Namespace) -> dict[str, str]:
    """Returns the model or the embeddings that it runs, by flags, for who wants to run the same again."""
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
    """Needs nothing."""

  @abc.abstractmethod
  def prepare(self, column: pa.ChunkedArray) -> Any: ...

  @abc.abstractmethod
  def run(self, prepared: Any, on_batch: OnBatch | None = None) -> Scores: ...


class OverStore(Description):
  """A description of what reads another store in place of texts."""

  STORED: ClassVar[str]
  """The name of the field that holds the blocks of that store, in requests too."""

  @property
  def stored(self) -> stored_blocks.StoredBlocks:
    return getattr(self, self.STORED)

  def source(self, texts: sources.Texts) -> stored_blocks.Source:
    del texts
    return self.stored

  def engine(self) -> dict[str, Any]:
    store = self.stored.store
    return {self.STORED: store.fingerprint_with_engine()} if storage.exists(store.engine_path) else {}
