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
class GroupPlan:
  """A division of the blocks of a complete store into groups, which depends only on the store, not on the workers."""

  block_rows: list[list[int]]
  """The rows of each block of each shard."""
  documents: int
  """The number of documents in a group; a group has these or a few more."""

  @classmethod
  def for_store(cls, store: ScoreStore, *, least: int, largest: int, most: int) -> "GroupPlan":
    """Cuts a store into `most` groups or fewer, of `least` to `largest` documents each. Reads its summary."""
    summary = store.summary()
    rows = {shard["shard"]: shard["block_rows"] for shard in summary["shards"]}
    block_rows = [rows[shard.name] for shard in store.shards()]
    return cls(block_rows, min(max(summary["read"] // most, least), largest))

  def groups(self) -> list[Numbered]:
    """Returns the groups in order."""
    return [Numbered(*each) for each in enumerate(group_blocks(self.block_rows, self.documents))]
