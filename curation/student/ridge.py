"""Ridge regression in closed form, from sums of products that need one pass over the documents.

Shape suffixes: N documents, D dimensions, F inputs (the dimensions, and the length if it is one), P penalties.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""Penalties that are tried, each as a share of the number of documents, for standardised inputs."""
_CONSTANT = 1e-9  # an input whose deviation is a smaller share of its size than this does not vary


class Moments(NamedTuple):
  """Means and deviations of inputs, float64 [F], and of the target."""

  means_F: np.ndarray
  deviations_F: np.ndarray
  target_mean: float
  target_deviation: float


class Regressions(NamedTuple):
  """Regressions, one for each penalty: weights of the inputs as they are, float64 [F, P], and constants [P]."""

  weights_FP: np.ndarray
  constants_P: np.ndarray
  moments: Moments


def solve(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Regressions:
  """Fits regressions to batches of inputs, float64 [N, F], and targets, float64 [N].

  Adds up products in float64 in the order of the batches, so the result depends on their borders in its last bits
  alone. An input that is constant gets the weight 0. Raises ValueError without any batch.
  """
  count, total = 0, None
  for inputs_NF, targets_N in batches:
    # The targets are one more column, so that one product has all sums.
    columns = np.concatenate([inputs_NF, targets_N[:, None], np.ones((len(targets_N), 1))], axis=1)
    products = columns.T @ columns
    total = products if total is None else total + products
    count += len(targets_N)
  if total is None or not count:
    raise ValueError("there are no documents to learn from")
  means = total[-1, :-1] / count
  covariances = total[:-1, :-1] / count - np.outer(means, means)
  deviations = np.sqrt(np.maximum(np.diag(covariances), 0))
  varies = deviations > _CONSTANT * np.maximum(np.abs(means), 1e-30)
  scale = np.where(varies, deviations, 1.0)
  correlations = np.where(np.outer(varies, varies), covariances / np.outer(scale, scale), 0.0)
  values_F, vectors_FF = np.linalg.eigh(correlations[:-1, :-1])
  projected_F = vectors_FF.T @ correlations[:-1, -1]
  shrunk_FP = projected_F[:, None] / (np.maximum(values_F, 0)[:, None] + np.array(PENALTIES))
  weights_FP = vectors_FF @ shrunk_FP * (scale[-1] / scale[:-1])[:, None]
  moments = Moments(means[:-1], scale[:-1], float(means[-1]), float(scale[-1]))
  return Regressions(weights_FP, means[-1] - means[:-1] @ weights_FP, moments)


def batches_of(count: int, rows: int) -> Iterator[slice]:
  """Yields slices of so many rows that cover `count`."""
  for start in range(0, count, rows):
    yield slice(start, min(start + rows, count))
