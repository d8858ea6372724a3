"""Fixed shapes: which bucket a text goes to, and which texts share a batch. Pure NumPy.

A text of L tokens always goes to the same bucket, and every batch of a bucket has the same number of rows (filled with
dummy rows), so a text always meets the same compiled program, whoever its neighbours are (DESIGN.md, invariant 1). What
is a pair for a model with a decoder, an input and a target, has buckets of two lengths.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from curation.errors import WinnowError

MAX_BUCKETS = 16

# Bucket lengths are multiples of this: aligned rows for the CPU's vectors and an accelerator's tiles.
_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class BucketTable:
  """Lengths in tokens, ascending, and the rows of a batch of each; together they are the shapes that get compiled.

  Of pairs `lengths` are those of inputs, `targets` those of targets, and what ascends are the sums of both.
  """

  lengths: tuple[int, ...]
  rows: tuple[int, ...]
  targets: tuple[int, ...] = ()

  def __post_init__(self):
    if not 1 <= len(self.lengths) <= MAX_BUCKETS or len(self.rows) != len(self.lengths):
      raise ValueError(f"1 to {MAX_BUCKETS} buckets with as many row counts, not {self}")
    if self.targets and len(self.targets) != len(self.lengths):
      raise ValueError(f"as many targets as inputs, not {self}")
    sizes = self.sizes()
    ascend = all(a < b or (self.targets and a == b) for a, b in itertools.pairwise(sizes))
    if min(self.lengths + self.rows + self.targets) < 1 or not ascend:
      raise ValueError(f"lengths must ascend, and lengths and rows be positive, not {self}")

  def sizes(self) -> tuple[int, ...]:
    """Tokens of a row of each bucket."""
    return tuple(map(sum, zip(self.lengths, self.targets, strict=True))) if self.targets else self.lengths

  def to_json(self) -> dict[str, Any]:
    """For fingerprints: two tables that differ give a text another shape."""
    pairs = {"targets": list(self.targets)} if self.targets else {}
    return {"lengths": list(self.lengths), "rows": list(self.rows), **pairs}

  def bucket_of(self, lengths_N: np.ndarray, targets_N: np.ndarray | None = None) -> np.ndarray:
    """The smallest bucket that holds each length, or pair of lengths: int64 [N]. Raises ValueError if none does."""
    lengths_N = np.asarray(lengths_N)
    fits_NK = lengths_N[:, None] <= np.array(self.lengths)
    if targets_N is not None:
      fits_NK &= np.asarray(targets_N)[:, None] <= np.array(self.targets)
    if not fits_NK.any(axis=1).all():
      i = int(np.argmin(fits_NK.any(axis=1)))
      pair = "" if targets_N is None else f" with a target of {targets_N[i]}"
      raise ValueError(f"a text of {lengths_N[i]} tokens{pair} does not fit into a bucket of {self}")
    return fits_NK.argmax(axis=1)


class Batch(NamedTuple):
  """Texts that are computed together; the rows beyond `indices` are dummies."""

  length: int
  rows: int
  indices: np.ndarray
  """Places of the texts in the block: int64 [n], 1 <= n <= rows."""
  target: int = 0
  """Of pairs: the targets' length."""


class Padding(NamedTuple):
  """What is computed, in tokens: dummy rows count as padding."""

  useful_tokens: int
  computed_tokens: int


def bucket_table(shortest: int, longest: int, batch_tokens: int) -> BucketTable:
  """A table for inputs of `shortest` to `longest` tokens with about `batch_tokens` tokens in a batch.

  Buckets are equally far apart, which suits web text that is cut at `longest`: of C4, 2.4% of the tokens computed at
  1,024 a batch are padding, and geometric steps are no better. A batch has at least one row, however long the text.
  """
  lengths = bucket_lengths(shortest, longest)
  return BucketTable(lengths=lengths, rows=_rows(lengths, batch_tokens))


def bucket_lengths(shortest: int, longest: int) -> tuple[int, ...]:
  """Equally far apart, the last of them `longest` or a little more."""
  if not 1 <= shortest <= longest:
    raise ValueError(f"needs 1 <= shortest <= longest, not {shortest} and {longest}")
  steps = np.linspace(shortest - 1, longest, MAX_BUCKETS + 1)[1:]
  return tuple(int(n) for n in np.unique(np.ceil(steps / _MULTIPLE).astype(int) * _MULTIPLE))


def pair_table(shapes: Iterable[tuple[int, int]], batch_tokens: int) -> BucketTable:
  """A table of these lengths of inputs and targets with about `batch_tokens` tokens of both in a batch."""
  lengths, targets = zip(*sorted(set(shapes), key=lambda shape: (sum(shape), shape)), strict=True)
  sizes = tuple(map(sum, zip(lengths, targets, strict=True)))
  return BucketTable(lengths, _rows(sizes, batch_tokens), targets)


def plan(lengths_N: np.ndarray, table: BucketTable, targets_N: np.ndarray | None = None) -> list[Batch]:
  """Groups the texts of one block into batches, longest first; ties keep the block's order.

  Longest first, so that the last batches, for which some devices wait, are the cheapest.
  """
  lengths_N = np.asarray(lengths_N)
  bucket_N = table.bucket_of(lengths_N, targets_N)
  order_N = np.lexsort((-(lengths_N if targets_N is None else lengths_N + targets_N), -bucket_N))
  bucket_N = bucket_N[order_N]
  batches = []
  for bucket in range(len(table.lengths) - 1, -1, -1):
    # bucket_N descends; its negation is sorted.
    start, stop = np.searchsorted(-bucket_N, [-bucket, -bucket + 1])
    length, rows, target = table.lengths[bucket], table.rows[bucket], table.targets[bucket] if table.targets else 0
    batches += [Batch(length, rows, order_N[i : min(i + rows, stop)], target) for i in range(start, stop, rows)]
  return batches


def padding(lengths_N: np.ndarray, batches: list[Batch]) -> Padding:
  """Accounts for a plan: useful tokens are those of the texts, computed ones include padding and dummy rows."""
  return Padding(int(np.sum(lengths_N)), sum(batch.rows * (batch.length + batch.target) for batch in batches))


def _rows(sizes: tuple[int, ...], batch_tokens: int) -> tuple[int, ...]:
  if batch_tokens < 1:
    raise WinnowError(f"--batch_tokens must be at least 1, not {batch_tokens}.")
  return tuple(max(1, round(batch_tokens / size)) for size in sizes)
