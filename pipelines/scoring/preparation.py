"""What must be made of a whole store before scores can be read from it: a sketch, centroids, a join."""

import abc
from typing import Any, ClassVar, NamedTuple, Self

import apache_beam as beam

from pipelines.scoring.stored_blocks import StoredBlocks
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


class Summary(NamedTuple):
  """Lines about a preparation for the end of a command, and warnings."""

  lines: list[str]
  warnings: list[str]


class Preparation(abc.ABC):
  """A step between the store that a scorer reads and its own store; what it makes lies in the latter."""

  label: ClassVar[str]
  """The label of its transform."""
  makes: ClassVar[tuple[str, ...]]
  """The names of its files in the store, and of its folders, with a slash at the end; no other preparation has them."""
  work: ClassVar[tuple[str, ...]] = ()
  """Folders in the store, without a slash, that a complete store no longer needs."""

  @classmethod
  @abc.abstractmethod
  def of(cls, scorer: Any, store: ScoreStore) -> Self:
    """Returns the preparation for the scorer's own store."""

  @abc.abstractmethod
  def transform(self, address: progress.Address | None) -> beam.PTransform:
    """Returns the work: PCollection of one element, once what is read is complete -> one element, once it is done."""

  @abc.abstractmethod
  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    """Returns what users see of the work that is not done, for so many documents."""

  def source(self, stored: StoredBlocks) -> StoredBlocks:
    """Returns the blocks that the scorer reads, of those of the store that is read."""
    return stored

  def conclusion(self) -> beam.PTransform | None:
    """Returns work on the complete store, PCollection[Ledger] -> PCollection[Ledger]; None where there is none."""
    return None

  @property
  def is_concluded(self) -> bool:
    """Tells whether the conclusion is on record."""
    return True

  def summary(self) -> Summary:
    """Returns what a user should know of a complete store."""
    return Summary([], [])

  @classmethod
  def state(cls, store: ScoreStore) -> list[str]:
    """Returns lines for `winnow status` about the preparation of a store that is not complete."""
    del store
    return []
