"""Groups of consecutive blocks: the units of work over a whole store."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple


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
