"""Measures of scorers and of models trained on their samples (paper, sections 4.3 and 4.7, D.1 and Appendix E).

Scores are numbers without NaN, since scoring dead-letters NaN. Functions raise ValueError for a NaN; infinite scores
are ordered like any others. For a corpus that does not fit in memory, `histogram` and `count_ranks` give parts that add
up.

Shape suffixes: N documents, S scorers, Q queried scores, E edges of histogram bins.
"""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from curation.errors import WinnowError

FULL = "full"
MOST_PAIRED = (1 << 31) - 1
"""The most documents of a rank correlation, whose pairs are counted in 63 bits."""


class TaskResult(NamedTuple):
  """One row of a table of results: a model of one size, trained on a sample (or on `FULL`), on one task."""

  size: str
  data: str
  task: str
  result: float


def over_scaling(results: Iterable[TaskResult], sizes: Sequence[str]) -> dict[tuple[str, str], float]:
  """Computes how far a sample takes a model towards the next larger one, in percent (paper, section 4.3).

  Returns, by (size, data), the mean over all tasks of 100 * (sampled - full) / (next larger on full - full). Covers all
  of `sizes`, which ascend, but the largest, and each sample that a size was trained on. 0 means as good as training on
  everything, 100 as good as the next larger model on everything. The sign cancels out for tasks where less is better,
  such as perplexity.

  Raises WinnowError if a result is missing, given twice or not finite, or if both models have the same result in a
  task, so that there is nothing to measure by.
  """
  tables: dict[tuple[str, str], dict[str, float]] = collections.defaultdict(dict)
  for row in results:
    if row.size not in sizes:
      raise WinnowError(f"the size {row.size} is none of {', '.join(sizes)}; name all sizes, the smallest first")
    if not math.isfinite(row.result):
      raise WinnowError(f"{_named(*row[:3])} is {row.result}, which is not finite; leave its task out everywhere")
    if row.task in tables[row.size, row.data]:
      raise WinnowError(f"{_named(*row[:3])} is given twice; leave one out")
    tables[row.size, row.data][row.task] = row.result
  return {
    (size, data): _mean_share(tables, size, sizes[place + 1], data)
    for place, size in enumerate(sizes[:-1])
    for data in dict.fromkeys(data for trained_size, data in tables if trained_size == size)
  }


def _mean_share(tables: dict[tuple[str, str], dict[str, float]], size: str, larger: str, data: str) -> float:
  """Computes the over-scaling of one (size, data), in percent."""
  models = ((size, data), (size, FULL), (larger, FULL))
  tasks = sorted(set().union(*(tables.get(model, {}) for model in models)))
  for model in models:
    if missing := [task for task in tasks if task not in tables.get(model, {})]:
      raise WinnowError(f"{_named(*model, missing[0])} is missing; give it, or leave its task out everywhere")
  shares = []
  for task in tasks:
    sampled, full, next_full = (tables[model][task] for model in models)
    if next_full == full:
      raise WinnowError(f"{size} and {larger} on {FULL} have the same result in {task}; leave the task out everywhere")
    shares.append(100 * (sampled - full) / (next_full - full))
  return math.fsum(shares) / len(shares)


def _named(size: str, data: str, task: str) -> str:
  return f"the result of {size} on {data} in {task}"


def kendall_tau(x_N: np.ndarray, y_N: np.ndarray) -> float:
  """Computes Kendall's tau-b of two columns of scores, the rank correlation that accounts for ties (Kendall 1945).

  tau-b = (concordant - discordant pairs) / sqrt(pairs not tied in x * pairs not tied in y). NaN if a column is constant
  or shorter than two, since it has no order to compare. Takes O(N log N) by Knight's method (1966): after sorting by x,
  and by y among equal x, the discordant pairs are the inversions of y. Counts are exact, and the last bits are those of
  scipy.stats.kendalltau. Raises ValueError for columns of different lengths, for NaN, and beyond `MOST_PAIRED`.
  """
  return _tau(_dense_ranks(x_N), _dense_ranks(y_N))


def tau_matrix(scores_SN: np.ndarray) -> np.ndarray:
  """Computes Kendall's tau for every two of several scorers over the same documents: float64 [S, S] (paper, Figure 7).

  Symmetric, with 1 on the diagonal. NaN in the row and column of a scorer whose scores are all equal.
  """
  ranks = [_dense_ranks(scores_N) for scores_N in scores_SN]
  matrix_SS = np.empty((len(ranks), len(ranks)))
  for i, first in enumerate(ranks):
    for j, second in enumerate(ranks[:i]):
      matrix_SS[i, j] = matrix_SS[j, i] = _tau(first, second)
    matrix_SS[i, i] = math.nan if first.is_constant else 1.0
  return matrix_SS


class _Ranks(NamedTuple):
  """The ranks of a column of scores."""

  dense_N: np.ndarray
  """The number of different scores that are smaller: uint32 [N]."""
  tied_pairs: int
  """The number of pairs of documents with equal scores."""

  @property
  def pairs(self) -> int:
    return len(self.dense_N) * (len(self.dense_N) - 1) // 2

  @property
  def is_constant(self) -> bool:
    """Tells whether all scores are equal, so that there is no order."""
    return self.pairs == self.tied_pairs


def _dense_ranks(scores_N: np.ndarray) -> _Ranks:
  scores_N = np.asarray(scores_N)
  if scores_N.ndim != 1 or len(scores_N) > MOST_PAIRED:
    raise ValueError(f"scores must be a column of at most {MOST_PAIRED} documents, not of shape {scores_N.shape}")
  _refuse_nan(scores_N)
  _, dense_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
  return _Ranks(dense_N.astype(np.uint32), _pairs(counts))


def _pairs(counts: np.ndarray) -> int:
  """Counts the pairs within groups of these sizes."""
  counts = counts.astype(np.int64)
  return int((counts * (counts - 1) // 2).sum())


def _tau(x: _Ranks, y: _Ranks) -> float:
  size = len(x.dense_N)
  if size != len(y.dense_N):
    raise ValueError(f"columns of {size} and {len(y.dense_N)} scores cannot be paired")
  if x.is_constant or y.is_constant:
    return math.nan
  from curation.selection import rank_loops

  # One sort of 64-bit numbers orders by x, and by y among equal x, so that pairs tied in x are not inversions.
  both_N = np.sort(x.dense_N.astype(np.uint64) << np.uint64(32) | y.dense_N)
  starts = np.flatnonzero(np.concatenate([[True], both_N[1:] != both_N[:-1]]))
  tied_in_both = _pairs(np.diff(np.append(starts, size)))
  discordant = int(rank_loops.count_inversions(both_N.astype(np.uint32)))
  pairs = x.pairs
  difference = pairs - x.tied_pairs - y.tied_pairs + tied_in_both - 2 * discordant
  tau = difference / math.sqrt(pairs - x.tied_pairs) / math.sqrt(pairs - y.tied_pairs)
  return max(-1.0, min(1.0, tau))


def bin_edges(low: float, high: float, bins: int) -> np.ndarray:
  """Returns edges of equally wide bins over the finite part of [low, high]: float64 [bins + 1].

  A range without width is widened a little. Raises ValueError if low > high, or if either is NaN.
  """
  if not low <= high:
    raise ValueError(f"{low} to {high} is not a range")
  largest = float(np.finfo(np.float32).max)
  low, high = (min(max(value, -largest), largest) for value in (low, high))
  if low >= high:
    half = max(0.5, abs(low) * 1e-6)
    low, high = low - half, low + half
  return np.linspace(low, high, bins + 1)


def histogram(values_N: np.ndarray, edges_E: np.ndarray) -> np.ndarray:
  """Counts the values in each bin: int64 [E - 1]. Histograms of parts of a corpus add up.

  A bin includes its lower edge but not its upper one; the last bin includes both. Values outside all bins are counted
  in the first or last bin, so that every document is counted once.
  """
  _refuse_nan(values_N)
  bin_N = np.clip(np.searchsorted(edges_E, values_N, side="right") - 1, 0, len(edges_E) - 2)
  return np.bincount(bin_N, minlength=len(edges_E) - 1).astype(np.int64)


def count_ranks(queries_Q: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """Counts the scores that are less than each query, and those equal to it: int64 [2, Q].

  Counts of parts of a corpus add up, and `to_percentiles` turns the sum into percentiles.
  """
  _refuse_nan(queries_Q)
  _refuse_nan(scores_N)
  sorted_Q, place_Q = np.unique(queries_Q, return_inverse=True)
  # Looking up the scores among the few queries, and not the other way round, avoids sorting the scores.
  up_to = np.bincount(np.searchsorted(sorted_Q, scores_N, side="left"), minlength=len(sorted_Q) + 1)
  below = np.bincount(np.searchsorted(sorted_Q, scores_N, side="right"), minlength=len(sorted_Q) + 1)
  counted_less, counted_up_to = np.cumsum(below)[:-1], np.cumsum(up_to)[:-1]
  return np.stack([counted_less, counted_up_to - counted_less])[:, place_Q].astype(np.int64)


def to_percentiles(counts_2Q: np.ndarray, total: int) -> np.ndarray:
  """Returns the percentiles of scores among `total` documents from the sum of `count_ranks`: float64 [Q], 0 to 100.

  Uses mid-ranks: 100 * (less + equal / 2) / total. So a score that all documents share is at 50, the mean over a whole
  corpus is 50 whatever the ties, and reversing the order gives 100 minus the percentile. Raises ValueError for a total
  below 1.
  """
  if total < 1:
    raise ValueError(f"percentiles need at least one document, not {total}")
  return 100 * (counts_2Q[0] + counts_2Q[1] / 2) / total


def percentiles(scores_N: np.ndarray) -> np.ndarray:
  """Returns the quality percentile of each document among all (paper, Appendix E), by mid-ranks: float64 [N]."""
  _refuse_nan(scores_N)
  _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
  less = np.cumsum(counts) - counts
  return to_percentiles(np.stack([less, counts])[:, place_N], len(scores_N)) if len(scores_N) else np.zeros(0)


def _refuse_nan(values_N: np.ndarray) -> None:
  if np.isnan(values_N).any():
    raise ValueError("scores must not be NaN, which has no order")
