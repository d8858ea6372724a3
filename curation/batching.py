"""Fixed shapes: which bucket a text goes to, and which texts share a batch. Pure NumPy.

A text of L tokens always goes to the same bucket, and every batch of a bucket has the same number of rows (filled with
dummy rows), so a text always meets the same compiled program, whoever its neighbours are (DESIGN.md, invariant 1).
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from curation.errors import WinnowError

MAX_BUCKETS = 16

# Bucket lengths are multiples of this: aligned rows for the CPU's vectors and an accelerator's tiles.
_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class BucketTable:
  """Lengths in tokens, ascending, and the rows of a batch of each; together they are the shapes that get compiled."""

  lengths: tuple[int, ...]
  rows: tuple[int, ...]

  def __post_init__(self):
    if not 1 <= len(self.lengths) <= MAX_BUCKETS or len(self.rows) != len(self.lengths):
      raise ValueError(f"1 to {MAX_BUCKETS} buckets with as many row counts, not {self}")
    if min(self.lengths + self.rows) < 1 or any(a >= b for a, b in zip(self.lengths, self.lengths[1:], strict=False)):
      raise ValueError(f"lengths must ascend, and lengths and rows be positive, not {self}")

  def to_json(self) -> dict[str, Any]:
    """For fingerprints: two tables that differ give a text another shape."""
    return {"lengths": list(self.lengths), "rows": list(self.rows)}

  def bucket_of(self, lengths_N: np.ndarray) -> np.ndarray:
    """The smallest bucket that holds each length: int64 [N]. Raises ValueError if one fits into none."""
    lengths_N = np.asarray(lengths_N)
    if lengths_N.size and lengths_N.max() > self.lengths[-1]:
      raise ValueError(f"a text of {lengths_N.max()} tokens does not fit into the last bucket of {self.lengths[-1]}")
    return np.searchsorted(np.array(self.lengths), lengths_N)


class Batch(NamedTuple):
  """Texts that are computed together; the rows beyond `indices` are dummies."""

  length: int
  rows: int
  indices: np.ndarray
  """Places of the texts in the block: int64 [n], 1 <= n <= rows."""


class Padding(NamedTuple):
  """What is computed, in tokens: dummy rows count as padding."""

  useful_tokens: int
  computed_tokens: int


def bucket_table(shortest: int, longest: int, batch_tokens: int) -> BucketTable:
  """A table for inputs of `shortest` to `longest` tokens with about `batch_tokens` tokens in a batch.

  Buckets are equally far apart, which suits web text that is cut at `longest`: of C4, 2.4% of the tokens computed at
  1,024 a batch are padding, and geometric steps are no better. A batch has at least one row, however long the text.
  """
  if batch_tokens < 1:
    raise WinnowError(f"--batch_tokens must be at least 1, not {batch_tokens}.")
  if not 1 <= shortest <= longest:
    raise ValueError(f"needs 1 <= shortest <= longest, not {shortest} and {longest}")
  steps = np.linspace(shortest - 1, longest, MAX_BUCKETS + 1)[1:]
  lengths = np.unique(np.ceil(steps / _MULTIPLE).astype(int) * _MULTIPLE)
  return BucketTable(
    lengths=tuple(int(n) for n in lengths), rows=tuple(max(1, round(batch_tokens / int(n))) for n in lengths)
  )


def plan(lengths_N: np.ndarray, table: BucketTable) -> list[Batch]:
  """Groups the texts of one block into batches, longest first; ties keep the block's order.

  Longest first, so that the last batches, for which some devices wait, are the cheapest.
  """
  lengths_N = np.asarray(lengths_N)
  order_N = np.argsort(-lengths_N, kind="stable")
  bucket_N = table.bucket_of(lengths_N)[order_N]
  batches = []
  for bucket in range(len(table.lengths) - 1, -1, -1):
    # bucket_N descends; its negation is sorted.
    start, stop = np.searchsorted(-bucket_N, [-bucket, -bucket + 1])
    length, rows = table.lengths[bucket], table.rows[bucket]
    batches += [Batch(length, rows, order_N[i : min(i + rows, stop)]) for i in range(start, stop, rows)]
  return batches


def padding(lengths_N: np.ndarray, batches: list[Batch]) -> Padding:
  """Accounts for a plan: useful tokens are those of the texts, computed ones include padding and dummy rows."""
  return Padding(int(np.sum(lengths_N)), sum(batch.rows * batch.length for batch in batches))
