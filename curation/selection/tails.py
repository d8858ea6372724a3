"""Exact tails of the hypergeometric and the binomial distribution, for bounds that a certificate states.

A probability mass function is computed from the ratios of its neighbours, and divided by its sum. No large factorials
cancel, so that the result is exact to some 1e-10 even for a billion documents.
"""

import numpy as np


def hypergeometric_cdf(most: int, *, population: int, marked: int, drawn: int) -> float:
  """Returns P(X ≤ `most`), where X counts the marked among `drawn` of a population, drawn without replacement."""
  low, high = max(0, drawn + marked - population), min(drawn, marked)
  if most >= high or most < low:
    return float(most >= high)
  count = np.arange(low, high, dtype=np.float64)
  up = np.log(marked - count) + np.log(drawn - count)
  down = np.log(count + 1) + np.log(population - marked - drawn + count + 1)
  return _share(up - down, most - low)


def binomial_cdf(most: int, *, trials: int, probability: float) -> float:
  """Returns P(X ≤ `most`), where X counts the successes of independent trials; `probability` is in (0, 1)."""
  if most >= trials or most < 0:
    return float(most >= trials)
  count = np.arange(trials, dtype=np.float64)
  odds = np.log(probability) - np.log1p(-probability)
  return _share(np.log(trials - count) - np.log(count + 1) + odds, most)


def _share(log_ratios: np.ndarray, last: int) -> float:
  """Returns the share of all mass that is at places 0 to `last`, given the ratios of neighbours."""
  log_mass = np.concatenate([[0.0], np.cumsum(log_ratios)])
  mass = np.exp(log_mass - log_mass.max())
  below, above = float(mass[: last + 1].sum()), float(mass[last + 1 :].sum())
  return below / (below + above)


def binomial_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
  """Returns the exact interval of a probability (Clopper and Pearson 1934), by bisection."""
  risk = (1 - confidence) / 2

  def bound(most: int, wanted: float) -> float:
    low, high = 0.0, 1.0  # the tail P(X ≤ most) falls as the probability rises
    for _ in range(60):
      middle = (low + high) / 2
      if binomial_cdf(most, trials=trials, probability=middle) > wanted:
        low = middle
      else:
        high = middle
    return (low + high) / 2

  return (
    bound(successes - 1, 1 - risk) if successes else 0.0,
    bound(successes, risk) if successes < trials else 1.0,
  )
