"""The compiled loops of `models`, in their own module since the compiler takes half a second and 50 MB to load.

Shape suffixes: N documents, D dimensions, H hidden units.
"""

import math

import numpy as np

from curation.machine_code import compiled


@compiled
def regress(points_ND, tokens_N, weights, scores_N):
  """Writes the scores of a ridge regression, whose terms are added in float64 in the order of dimensions."""
  dimensions = points_ND.shape[1]
  for n in range(points_ND.shape[0]):
    total = np.float64(weights[dimensions + 1])
    total += np.float64(weights[dimensions]) * math.log1p(np.float64(tokens_N[n]))
    for d in range(dimensions):
      total += np.float64(points_ND[n, d]) * np.float64(weights[d])
    scores_N[n] = np.float32(total)


@compiled
def finish_network(sums_NH, tokens_N, rest_3H, constant, scores_N):
  """Writes the scores of a network from the products of its first layer; `rest_3H` has its other weights.

  These are the weights of the length, the constants, and the second layer's weights.
  """
  for n in range(len(scores_N)):
    total, length = np.float64(constant), math.log1p(np.float64(tokens_N[n]))
    for h in range(sums_NH.shape[1]):
      unit = np.float64(sums_NH[n, h]) + np.float64(rest_3H[0, h]) * length + np.float64(rest_3H[1, h])
      total += max(unit, 0.0) * np.float64(rest_3H[2, h])
    scores_N[n] = np.float32(total)
