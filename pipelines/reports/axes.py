"""Axes for scores: the unit of each scorer, and the scale on which its scores can be told apart.

Positions are numbers along an axis. Legend: N documents, E edges of bins.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from curation.selection import metrics
from pipelines.scorers.registry import SCORERS

_TAIL = 0.001
_LOG_RANGE = 100  # scores above 0 that differ by more than this factor get a logarithmic axis
_SMALLEST = 1e-7  # the smallest distance of log P from 0 that float32 holds near 1
# Round values of log P, from P = 2e-9 to P = 0.9999999.
_LOG_P_TICKS = (
  -20,
  -15,
  -10,
  -7,
  -5,
  -3,
  -2,
  -1,
  -0.5,
  -0.2,
  -0.1,
  -0.05,
  -0.02,
  -0.01,
  -1e-3,
  -1e-4,
  -1e-5,
  -1e-6,
  -1e-7,
)


class Scale(NamedTuple):
  """A strictly increasing function from scores to positions, and its inverse."""

  name: str
  position: Callable[[np.ndarray], np.ndarray]
  score: Callable[[np.ndarray], np.ndarray]


def _logit_of_log(score_N: np.ndarray) -> np.ndarray:
  score_N = np.minimum(score_N, -_SMALLEST)
  return score_N - np.log(-np.expm1(score_N))


RAW = Scale("raw", np.asarray, np.asarray)
LOG = Scale("log", lambda score_N: np.log10(np.maximum(score_N, np.finfo(np.float32).tiny)), lambda x_N: 10.0**x_N)
# P is drawn by its logit, so that probabilities near 1, where a threshold lies, do not share one bin.
LOGIT = Scale("logit", _logit_of_log, lambda x_N: -np.logaddexp(0, -x_N))


class Axis(NamedTuple):
  """The axis of a scorer: the unit of its scores, its scale, and whether there are two different scores at most."""

  label: str
  scale: Scale
  is_binary: bool

  def edges(self, scores_N: np.ndarray, bins: int) -> np.ndarray:
    """Returns edges of bins that are equally wide on this axis and leave a thousandth of the scores beyond each end.

    Edges are scores: float64 [bins + 1], strictly increasing.
    """
    if not len(scores_N):
      return metrics.bin_edges(0, 0, bins)
    low, high = np.quantile(scores_N, (_TAIL, 1 - _TAIL), method="inverted_cdf").astype(np.float64)
    low, high = self.scale.position(np.array([low, high]))
    edges_E = self.scale.score(metrics.bin_edges(float(low), float(high), bins))
    return (
      edges_E
      if (np.diff(edges_E) > 0).all()
      else metrics.bin_edges(float(edges_E[0]), float(max(edges_E[0], edges_E[-1])), bins)
    )

  def at(self, score: float) -> float:
    """Returns the position of a score."""
    return float(self.scale.position(np.array([score], np.float64))[0])

  def ticks(self, low: float, high: float, most: int = 4) -> list[tuple[float, str]]:
    """Returns positions and labels of a few round scores between two positions."""
    if self.scale is LOGIT:
      scores = [float(score) for score in _LOG_P_TICKS]
    elif self.scale is LOG:
      scores = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    else:
      scores = round_numbers(low, high, most)
    inside = [(self.at(score), number(score)) for score in scores if low <= self.at(score) <= high]
    spread: list[tuple[float, str]] = []
    # From the upper end, where a threshold on probabilities lies.
    for place, label in reversed(inside):
      if not spread or spread[-1][0] - place >= (high - low) / (most + 2):
        spread.append((place, label))
    return spread[::-1]


def choose(scorer: str, scores_N: np.ndarray) -> Axis:
  """Chooses the axis for the scores of a sample, float32 [N] without NaN.

  A scorer that is not installed has scores in no unit.
  """
  entry = SCORERS.get(scorer)
  label = entry.unit if entry else "score"
  if len(np.unique(scores_N)) <= 2:
    return Axis(label, RAW, is_binary=len(scores_N) > 0)
  if is_log_probability(scorer) and scores_N.max() <= 0:
    return Axis(label, LOGIT, is_binary=False)
  low, high = np.quantile(scores_N, (_TAIL, 1 - _TAIL), method="inverted_cdf").tolist()
  return Axis(label, LOG if low > 0 and scores_N.min() > 0 and high / low > _LOG_RANGE else RAW, is_binary=False)


def is_log_probability(scorer: str) -> bool:
  """Tells whether the scores of a scorer are logarithms of probabilities."""
  entry = SCORERS.get(scorer)
  return entry is not None and entry.is_log_probability


def round_numbers(low: float, high: float, most: int) -> list[float]:
  """Returns at most `most` + 1 multiples of 1, 2 or 5 times a power of ten in [low, high]."""
  if not low < high:
    return [low]
  rough = (high - low) / most
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
  return [round(n * step, 12) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
  """Writes a number short, with a minus sign."""
  written = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
  return written.replace("e-0", "e-").replace("-", "−")
