"""A merge of sorted streams of records, in batches. Shapes: N records."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

# Hashes in ascending order, uint64 or S16 [N], and their records, large_binary [N].
Batch = tuple[np.ndarray, pa.LargeBinaryArray]


def merge_batches(streams: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
  """Merges sorted streams of batches into one; equal hashes come in the order of the streams.

  Each stream that has a further batch bounds the output by the last hash of its current one. Records up to the smallest
  of these bounds can be emitted, since all records still to be read lie above it. Memory is two batches of each stream,
  and an output of at most one batch of each.
  """
  cursors = [_Cursor(stream) for stream in streams]
  while True:
    lasts = [(cursor.batch[0][-1], place) for place, cursor in enumerate(cursors) if cursor.batch and cursor.following]
    bound, bounding = min(lasts, default=(None, 0))
    parts = []
    for place, cursor in enumerate(cursors):
      if cursor.batch is None:
        continue
      hash_N, record_N = cursor.batch
      stop = len(hash_N)
      if bound is not None:
        # The bounding stream may continue with hashes equal to its last: later streams must keep theirs until then.
        stop = int(np.searchsorted(hash_N, bound, side="right" if place <= bounding else "left"))
      if stop:
        parts.append((hash_N[:stop], record_N[:stop]))
      if stop < len(hash_N):
        cursor.batch = hash_N[stop:], record_N[stop:]
      else:
        cursor.advance()
    if not parts:
      return
    yield _sorted(parts)


class _Cursor:
  """A position in a sorted stream: the rest of its current batch, and the next batch, if any."""

  def __init__(self, stream: Iterator[Batch]):
    self._stream = (batch for batch in stream if len(batch[0]))
    self.following = next(self._stream, None)
    self.advance()

  def advance(self) -> None:
    self.batch = self.following
    self.following = next(self._stream, None) if self.batch else None


def _sorted(parts: list[Batch]) -> Batch:
  if len(parts) == 1:
    return parts[0]
  hash_N = np.concatenate([part[0] for part in parts])
  order_N = np.argsort(hash_N, kind="stable")
  return hash_N[order_N], pa.concat_arrays([part[1] for part in parts]).take(pa.array(order_N))
