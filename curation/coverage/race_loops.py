"""The compiled loops of `race`, in their own module since the compiler takes half a second and 50 MB to load.

Shape suffixes: N points, P projections, R rows, H hashes that are joined in a row, B counters of a row.
"""

import numpy as np

from curation.machine_code import compiled


@compiled
def _buckets(projected_PN, row, scale, offsets_P, multipliers_RH, counters, signs, mixed_N):
  """Writes the counters of one row that the points fall into to `mixed_N`, uint64 [N].

  A strongly universal multilinear hash (Lemire and Kaser 2014) maps joined hashes to 32 bits, and a product maps these
  to [0, B).
  """
  joined, points = multipliers_RH.shape[1] - 1, projected_PN.shape[1]
  for n in range(points):
    mixed_N[n] = multipliers_RH[row, joined]
  for h in range(joined):
    multiplier, offset = multipliers_RH[row, h], offsets_P[row * joined + h]
    if signs:
      for n in range(points):
        mixed_N[n] += multiplier * np.uint64(projected_PN[row * joined + h, n] >= 0)
    else:
      for n in range(points):
        bucket = np.int64(np.floor(projected_PN[row * joined + h, n] * scale + offset))
        mixed_N[n] += multiplier * np.uint64(np.uint32(bucket))
  for n in range(points):
    mixed_N[n] = ((mixed_N[n] >> np.uint64(32)) * counters) >> np.uint64(32)


@compiled
def count(projected_PN, scale, offsets_P, multipliers_RH, counters, signs, counts_RB):
  """Adds 1 to the counter of each point in each row of `counts_RB`."""
  mixed_N = np.empty(projected_PN.shape[1], np.uint64)
  for row in range(counts_RB.shape[0]):
    _buckets(projected_PN, row, scale, offsets_P, multipliers_RH, counters, signs, mixed_N)
    for n in range(projected_PN.shape[1]):
      counts_RB[row, mixed_N[n]] += 1


@compiled
def look_up(projected_PN, scale, offsets_P, multipliers_RH, counters, signs, counts_RB, sums_2N):
  """Adds each point's counts and their squares, over the rows of `counts_RB`, to `sums_2N`."""
  mixed_N = np.empty(projected_PN.shape[1], np.uint64)
  for row in range(counts_RB.shape[0]):
    _buckets(projected_PN, row, scale, offsets_P, multipliers_RH, counters, signs, mixed_N)
    for n in range(projected_PN.shape[1]):
      count = float(counts_RB[row, mixed_N[n]])
      sums_2N[0, n] += count
      sums_2N[1, n] += count * count


@compiled
def find_codes(projected_PN, scale, offsets_P, multipliers_RH, counters, signs, codes_RN):
  """Writes the counter of each point in each row to `codes_RN`."""
  mixed_N = np.empty(projected_PN.shape[1], np.uint64)
  for row in range(codes_RN.shape[0]):
    _buckets(projected_PN, row, scale, offsets_P, multipliers_RH, counters, signs, mixed_N)
    for n in range(projected_PN.shape[1]):
      codes_RN[row, n] = mixed_N[n]


@compiled
def count_codes(codes_RN, counts_RB):
  """Adds 1 to the counters that `find_codes` wrote."""
  for row in range(codes_RN.shape[0]):
    for n in range(codes_RN.shape[1]):
      counts_RB[row, codes_RN[row, n]] += 1
