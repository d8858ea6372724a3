"""Preparations: what is made of a whole store before it can be scored, such as a sketch, centroids or a join."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import apache_beam as beam

from pipelines.corpus import blocks
from pipelines.scoring.stored_blocks import StoredBlocks
from pipelines.store.groups import FINE, GroupSizes
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


class Summary(NamedTuple):
  """Lines about a preparation for the end of a command, and warnings."""

  lines: list[str]
  warnings: list[str]


@dataclasses.dataclass(frozen=True)
class PreparationConfig:
  """The store that a scorer reads, which its description names, and the scorer's own store.

  Configs of preparations have further fields with the sizes into which they divide their work. No result depends on
  these sizes.
  """

  scorer: Any
  store: ScoreStore
  progress_address: progress.Address | None = None
  groups: GroupSizes = FINE

  @property
  def shards(self) -> tuple[blocks.Shard, ...]:
    """The shards, read from the store: otherwise the job's graph would hold them once for each stage."""
    return self.scorer.stored.store.shards()


@dataclasses.dataclass(frozen=True)
class Preparation(abc.ABC):
  """A step between the store that a scorer reads and the scorer's own store, which holds what the step makes."""

  label: ClassVar[str]
  """The label of its transform."""
  makes: ClassVar[tuple[str, ...]]
  """The names of its files and folders in the store, folders with a slash at the end. No other preparation has them."""
  work: ClassVar[tuple[str, ...]] = ()
  """Folders in the store, without a slash, that a complete store no longer needs."""
  config_type: ClassVar[Callable[..., PreparationConfig]] = PreparationConfig
  transform_type: ClassVar[type[beam.PTransform]]
  """The work, made of a config: PCollection of one element -> PCollection of one element.

  The input has its element once the store that is read is complete, the output once the work is done.
  """
  config: Any
  """Of `config_type`."""

  @classmethod
  def for_store(cls, scorer: Any, store: ScoreStore) -> Self:
    """Returns the preparation for the scorer's own store."""
    return cls(cls.config_type(scorer, store))

  def transform(self, address: progress.Address | None) -> beam.PTransform:
    """Returns the work, which reports its progress to the address."""
    return self.transform_type(dataclasses.replace(self.config, progress_address=address))

  @abc.abstractmethod
  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    """Returns the stages of the remaining work, as users see them, for `count` documents."""

  def source(self, stored: StoredBlocks) -> StoredBlocks:
    """Returns the blocks that the scorer reads, chosen from those of the store that it reads."""
    return stored

  def conclusion(self) -> beam.PTransform | None:
    """Returns a transform on the complete store, PCollection[Ledger] -> PCollection[Ledger]; None if it needs none."""
    return None

  @property
  def is_concluded(self) -> bool:
    """Tells whether the conclusion is on record."""
    return True

  def summary(self) -> Summary:
    """Returns what a user should know about a complete store."""
    return Summary([], [])

  @classmethod
  def state(cls, store: ScoreStore) -> list[str]:
    """Returns lines for `winnow status` about the preparation of a store that is not complete."""
    del store
    return []
