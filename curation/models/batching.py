"""Batches of fixed shapes: assigns each text to a bucket and plans which texts share a batch. Pure NumPy.

A text of L tokens always goes to the same bucket. Every batch of a bucket has the same number of rows, filled up with
dummy rows. So a text always runs through the same compiled program, whatever its neighbours are (DESIGN.md, invariant
1). A model with a decoder takes pairs of an input and a target, and its buckets have two lengths.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from curation.errors import WinnowError

MAX_BUCKETS = 16

# Bucket lengths are multiples of this, so that rows are aligned for the CPU's vectors and an accelerator's tiles.
_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class BucketTable:
  """The shapes that get compiled: bucket lengths in tokens, ascending, and the rows of each bucket's batches.

  For pairs, `lengths` are the lengths of inputs and `targets` the lengths of targets; the sums of both ascend.
  Raises ValueError unless there are 1 to 16 buckets of positive sizes in order.
  """

  lengths: tuple[int, ...]
  rows: tuple[int, ...]
  targets: tuple[int, ...] = ()

  def __post_init__(self):
    if not 1 <= len(self.lengths) <= MAX_BUCKETS or len(self.rows) != len(self.lengths):
      raise ValueError(f"needs 1 to {MAX_BUCKETS} buckets with a row count each, not {self}")
    if self.targets and len(self.targets) != len(self.lengths):
      raise ValueError(f"needs as many targets as inputs, not {self}")
    sizes = self.sizes()
    ascend = all(a < b or (self.targets and a == b) for a, b in itertools.pairwise(sizes))
    if min(self.lengths + self.rows + self.targets) < 1 or not ascend:
      raise ValueError(f"lengths must ascend, and lengths and rows be positive, not {self}")

  def sizes(self) -> tuple[int, ...]:
    """Returns the tokens in a row of each bucket, inputs and targets together."""
    return tuple(map(sum, zip(self.lengths, self.targets, strict=True))) if self.targets else self.lengths

  def to_json(self) -> dict[str, Any]:
    """Returns the table as JSON types for fingerprints, since another table pads a text to another shape."""
    pairs = {"targets": list(self.targets)} if self.targets else {}
    return {"lengths": list(self.lengths), "rows": list(self.rows), **pairs}

  def find_buckets(self, lengths_N: np.ndarray, targets_N: np.ndarray | None = None) -> np.ndarray:
    """Returns the smallest bucket that holds each length, or pair of lengths: int64 [N].

    Raises ValueError if a length fits into no bucket.
    """
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
  """Texts that are computed together. Rows beyond `indices` are dummies."""

  length: int
  rows: int
  indices: np.ndarray
  """Positions of the texts in the block: int64 [n], 1 <= n <= rows."""
  target: int = 0
  """The targets' length for pairs, otherwise 0."""


class Padding(NamedTuple):
  """Token counts of a plan; dummy rows count as padding."""

  useful_tokens: int
  computed_tokens: int


def bucket_table(shortest: int, longest: int, batch_tokens: int) -> BucketTable:
  """Returns a table for inputs of `shortest` to `longest` tokens with about `batch_tokens` tokens in a batch.

  Buckets are evenly spaced, which suits web text that is cut at `longest`: on C4, with 1,024 tokens a batch, 2.4% of
  the tokens computed are padding, and geometric steps are no better. A batch has at least one row, however long the
  text. Raises WinnowError for `batch_tokens` below 1, and ValueError unless 1 <= shortest <= longest.
  """
  lengths = bucket_lengths(shortest, longest)
  return BucketTable(lengths=lengths, rows=_rows(lengths, batch_tokens))


def bucket_lengths(shortest: int, longest: int) -> tuple[int, ...]:
  """Returns evenly spaced bucket lengths; the last one is `longest` or slightly more."""
  if not 1 <= shortest <= longest:
    raise ValueError(f"needs 1 <= shortest <= longest, not {shortest} and {longest}")
  steps = np.linspace(shortest - 1, longest, MAX_BUCKETS + 1)[1:]
  return tuple(int(n) for n in np.unique(np.ceil(steps / _MULTIPLE).astype(int) * _MULTIPLE))


def pair_table(shapes: Iterable[tuple[int, int]], batch_tokens: int) -> BucketTable:
  """Returns a table of these (input, target) lengths with about `batch_tokens` tokens of both in a batch."""
  lengths, targets = zip(*sorted(set(shapes), key=lambda shape: (sum(shape), shape)), strict=True)
  sizes = tuple(map(sum, zip(lengths, targets, strict=True)))
  return BucketTable(lengths, _rows(sizes, batch_tokens), targets)


def plan(lengths_N: np.ndarray, table: BucketTable, targets_N: np.ndarray | None = None) -> list[Batch]:
  """Groups the texts of one block into batches, longest first. Ties keep the block's order.

  The last batches, which leave some devices waiting, are thus the cheapest.
  """
  lengths_N = np.asarray(lengths_N)
  bucket_N = table.find_buckets(lengths_N, targets_N)
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
  """Counts the tokens of a plan: those of the texts, and those computed with padding and dummy rows."""
  return Padding(int(np.sum(lengths_N)), sum(batch.rows * (batch.length + batch.target) for batch in batches))


def _rows(sizes: tuple[int, ...], batch_tokens: int) -> tuple[int, ...]:
  if batch_tokens < 1:
    raise WinnowError(f"--batch_tokens must be at least 1, not {batch_tokens}.")
  return tuple(max(1, round(batch_tokens / size)) for size in sizes)
