"""Groups of consecutive blocks: the units of work over a whole store."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.store.score_store import ScoreStore


@dataclasses.dataclass(frozen=True)
class Group:
  """Consecutive blocks: for each shard in the group (index of the shard, first block, first block after the group)."""

  parts: tuple[tuple[int, int, int], ...]


class Numbered(NamedTuple):
  """A group of blocks and its number."""

  number: int
  group: Group


def group_blocks(block_rows: list[list[int]], documents: int) -> Iterator[Group]:
  """Cuts the blocks of all shards, in order, into groups of `documents` or a little more."""
  parts: list[tuple[int, int, int]] = []
  counted = 0
  for shard, rows in enumerate(block_rows):
    first = 0
    for index, num_rows in enumerate(rows):
      counted += num_rows
      if counted >= documents:
        yield Group((*parts, (shard, first, index + 1)))
        parts, counted, first = [], 0, index + 1
    if first < len(rows):
      parts.append((shard, first, len(rows)))
  if parts:
    yield Group(tuple(parts))


@dataclasses.dataclass(frozen=True)
class GroupSizes:
  """Bounds of the groups of a store: the fewest and the most documents of a group, and the most groups.

  The bound on documents goes first: a store has more groups where `most_groups` of the largest do not hold it.
  """

  fewest: int = 1 << 17
  largest: int = 1 << 20
  most_groups: int = 256

  def documents(self, total: int) -> int:
    """Returns the number of documents in a group of a store of `total` documents."""
    return min(max(total // self.most_groups, self.fewest), self.largest)


FINE, COARSE = GroupSizes(), GroupSizes(most_groups=64)  # for what a group makes: files of its size, or of a fixed one


@dataclasses.dataclass(frozen=True)
class GroupPlan:
  """A division of the blocks of a complete store into groups, which depends only on the store, not on the workers."""

  block_rows: list[list[int]]
  """The rows of each block of each shard."""
  documents: int
  """The number of documents in a group; a group has these or a few more."""

  @classmethod
  def for_store(cls, store: ScoreStore, sizes: GroupSizes) -> "GroupPlan":
    """Cuts a complete store into groups of these sizes. Reads its summary."""
    summary = store.summary()
    rows = {shard["shard"]: shard["block_rows"] for shard in summary["shards"]}
    block_rows = [rows[shard.name] for shard in store.shards()]
    return cls(block_rows, sizes.documents(summary["read"]))

  def groups(self) -> list[Numbered]:
    """Returns the groups in order."""
    return [Numbered(*each) for each in enumerate(group_blocks(self.block_rows, self.documents))]
