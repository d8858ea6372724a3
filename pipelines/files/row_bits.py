"""Bitmaps of the rows of a shard: uint8, the first row in the highest bit of a byte, as in `numpy.packbits`."""

import numpy as np


def look_up(bits: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
  """Returns the bits of rows, bool [N]; False for rows beyond the end."""
  is_inside_N = rows_N < 8 * len(bits)
  rows_N = np.where(is_inside_N, rows_N, 0)
  bits = bits if len(bits) else np.zeros(1, np.uint8)
  return is_inside_N & ((bits[rows_N >> 3] >> (7 - (rows_N & 7)).astype(np.uint8)) & 1 > 0)


def count(bits: np.ndarray) -> int:
  """Returns the number of bits that are set."""
  return int(np.bitwise_count(bits).sum(dtype=np.int64))
