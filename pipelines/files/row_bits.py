"""A bit for each row of a shard, the first in the highest place of a byte, as `numpy.packbits` has it: uint8."""

import numpy as np


def look_up(bits: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
  """The bits of rows, bool [N]; of rows beyond the end False."""
  is_there_N = rows_N < 8 * len(bits)
  rows_N = np.where(is_there_N, rows_N, 0)
  bits = bits if len(bits) else np.zeros(1, np.uint8)
  return is_there_N & ((bits[rows_N >> 3] >> (7 - (rows_N & 7)).astype(np.uint8)) & 1 > 0)


def count(bits: np.ndarray) -> int:
  return int(np.bitwise_count(bits).sum(dtype=np.int64))
