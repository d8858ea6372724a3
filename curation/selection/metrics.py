"""Measures of scorers and of what was trained on their samples: the paper's sections 4.3 and 4.7, D.1 and Appendix E.

Scores are numbers without NaN, which scoring dead-letters; whatever is handed a NaN raises ValueError. Infinite ones
have their place in every order. What a corpus does not fit in memory for comes in parts that add up: `histogram` and
`count_ranks`.

Shape suffixes: N documents, S scorers, Q scores that are asked for, E edges of histogram bins.
"""

import collections
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from curation.errors import WinnowError

FULL = "full"
MOST_PAIRED = (1 << 31) - 1
"""Documents that a rank correlation can be of: their pairs are counted in 63 bits."""


class TaskResult(NamedTuple):
  """One row of a table of results: a model of one size, trained on a sample (or on `FULL`), on one task."""

  size: str
  data: str
  task: str
  result: float


def over_scaling(results: Iterable[TaskResult], sizes: Sequence[str]) -> dict[tuple[str, str], float]:
  """How much of the way to the next larger model a sample brings, in percent, by (size, data) (paper, section 4.3).

  For each size but the largest of `sizes`, which ascend, and for each sample that it was trained on: the mean over all
  tasks of 100 * (sampled - full) / (next larger on full - full). 0: as good as training on everything; 100: as good as
  the next larger model on everything. Tasks of which less is better, such as perplexity, need no sign: it cancels out.

  Raises WinnowError where a result is missing, given twice or no finite number, and where the larger model is no
  different from the smaller one on a task, so that there is no way to measure.
  """
  tables: dict[tuple[str, str], dict[str, float]] = collections.defaultdict(dict)
  for row in results:
    if row.size not in sizes:
      raise WinnowError(f"the size {row.size} is none of {', '.join(sizes)}; name all sizes, the smallest first")
    if not math.isfinite(row.result):
      raise WinnowError(f"{_named(*row[:3])} is {row.result}, which is no result; leave its task out everywhere")
    if row.task in tables[row.size, row.data]:
      raise WinnowError(f"{_named(*row[:3])} is given twice; leave one out")
    tables[row.size, row.data][row.task] = row.result
  return {
    (size, data): _over_scaling_of(tables, size, sizes[place + 1], data)
    for place, size in enumerate(sizes[:-1])
    for data in dict.fromkeys(data for of_size, data in tables if of_size == size)
  }


def _over_scaling_of(tables: dict[tuple[str, str], dict[str, float]], size: str, larger: str, data: str) -> float:
  compared = ((size, data), (size, FULL), (larger, FULL))
  tasks = sorted(set().union(*(tables.get(of, {}) for of in compared)))
  for of in compared:
    if missing := [task for task in tasks if task not in tables.get(of, {})]:
      raise WinnowError(f"{_named(*of, missing[0])} is missing; give it, or leave its task out everywhere")
  shares = []
  for task in tasks:
    sampled, full, next_full = (tables[of][task] for of in compared)
    if next_full == full:
      raise WinnowError(f"{size} and {larger} on {FULL} have the same result in {task}; leave the task out everywhere")
    shares.append(100 * (sampled - full) / (next_full - full))
  return math.fsum(shares) / len(shares)


def _named(size: str, data: str, task: str) -> str:
  return f"the result of {size} on {data} in {task}"


def kendall_tau(x_N: np.ndarray, y_N: np.ndarray) -> float:
  """Kendall's rank correlation of two columns of scores, tau-b, which takes account of ties (Kendall 1945).

  (concordant - discordant pairs) / sqrt(pairs not tied in x * pairs not tied in y). NaN where a column is constant, or
  shorter than two: it has no order to compare. In O(N log N) by Knight's way (1966): sort by x, and y among equal x;
  then the discordant pairs are the inversions of y. Counts are exact, the last bits those of scipy.stats.kendalltau.
  """
  return _tau(_dense_ranks(x_N), _dense_ranks(y_N))


def tau_matrix(scores_SN: np.ndarray) -> np.ndarray:
  """Kendall's tau of every two of several scorers over the same documents: float64 [S, S] (paper, Figure 7).

  Symmetric, 1 on the diagonal; NaN in the row and column of a scorer whose scores are all the same.
  """
  ranks = [_dense_ranks(scores_N) for scores_N in scores_SN]
  matrix_SS = np.empty((len(ranks), len(ranks)))
  for i, first in enumerate(ranks):
    for j, second in enumerate(ranks[:i]):
      matrix_SS[i, j] = matrix_SS[j, i] = _tau(first, second)
    matrix_SS[i, i] = math.nan if first.is_constant else 1.0
  return matrix_SS


class _Ranks(NamedTuple):
  """`dense_N`: how many different scores are smaller, uint32 [N]; and how many pairs of documents are tied."""

  dense_N: np.ndarray
  tied_pairs: int

  @property
  def pairs(self) -> int:
    return len(self.dense_N) * (len(self.dense_N) - 1) // 2

  @property
  def is_constant(self) -> bool:
    """There is no order in it."""
    return self.pairs == self.tied_pairs


def _dense_ranks(scores_N: np.ndarray) -> _Ranks:
  scores_N = np.asarray(scores_N)
  if scores_N.ndim != 1 or len(scores_N) > MOST_PAIRED:
    raise ValueError(f"scores of shape {scores_N.shape} are no column of at most {MOST_PAIRED} documents")
  _refuse_nan(scores_N)
  _, dense_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
  return _Ranks(dense_N.astype(np.uint32), _pairs(counts))


def _pairs(counts: np.ndarray) -> int:
  """How many pairs there are within groups of these sizes."""
  counts = counts.astype(np.int64)
  return int((counts * (counts - 1) // 2).sum())


def _tau(x: _Ranks, y: _Ranks) -> float:
  size = len(x.dense_N)
  if size != len(y.dense_N):
    raise ValueError(f"columns of {size} and {len(y.dense_N)} scores cannot be paired")
  if x.is_constant or y.is_constant:
    return math.nan
  from curation.selection import rank_loops

  # One sort of 64-bit numbers orders by x, and by y among equal x, so that pairs tied in x are no inversions.
  both_N = np.sort(x.dense_N.astype(np.uint64) << np.uint64(32) | y.dense_N)
  starts = np.flatnonzero(np.concatenate([[True], both_N[1:] != both_N[:-1]]))
  tied_in_both = _pairs(np.diff(np.append(starts, size)))
  discordant = int(rank_loops.count_inversions(both_N.astype(np.uint32)))
  pairs = x.pairs
  difference = pairs - x.tied_pairs - y.tied_pairs + tied_in_both - 2 * discordant
  tau = difference / math.sqrt(pairs - x.tied_pairs) / math.sqrt(pairs - y.tied_pairs)
  return max(-1.0, min(1.0, tau))


def bin_edges(low: float, high: float, bins: int) -> np.ndarray:
  """Edges of equally wide bins over what is finite of [low, high], float64 [bins + 1], however narrow that is.

  Raises ValueError where low > high, or one is NaN.
  """
  if not low <= high:
    raise ValueError(f"{low} to {high} is no range")
  largest = float(np.finfo(np.float32).max)
  low, high = (min(max(value, -largest), largest) for value in (low, high))
  if low >= high:
    half = max(0.5, abs(low) * 1e-6)
    low, high = low - half, low + half
  return np.linspace(low, high, bins + 1)


def histogram(values_N: np.ndarray, edges_E: np.ndarray) -> np.ndarray:
  """How many values each bin has: int64 [E - 1], which adds up over parts of a corpus.

  A bin has its lower edge and not its upper one, but for the last. What lies outside is counted in the first and last
  bin, so that every document is counted once.
  """
  _refuse_nan(values_N)
  bin_N = np.clip(np.searchsorted(edges_E, values_N, side="right") - 1, 0, len(edges_E) - 2)
  return np.bincount(bin_N, minlength=len(edges_E) - 1).astype(np.int64)


def count_ranks(queries_Q: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """How many of the scores are less than each query, and how many are equal to it: int64 [2, Q].

  Adds up over parts of a corpus: `to_percentiles` makes percentiles of the sum.
  """
  _refuse_nan(queries_Q)
  _refuse_nan(scores_N)
  sorted_Q, place_Q = np.unique(queries_Q, return_inverse=True)
  # The scores are looked up among the queries, which are few, and not the other way round: nothing long is sorted.
  up_to = np.bincount(np.searchsorted(sorted_Q, scores_N, side="left"), minlength=len(sorted_Q) + 1)
  below = np.bincount(np.searchsorted(sorted_Q, scores_N, side="right"), minlength=len(sorted_Q) + 1)
  counted_less, counted_up_to = np.cumsum(below)[:-1], np.cumsum(up_to)[:-1]
  return np.stack([counted_less, counted_up_to - counted_less])[:, place_Q].astype(np.int64)


def to_percentiles(counts_2Q: np.ndarray, total: int) -> np.ndarray:
  """The percentiles of scores among `total` documents, by `count_ranks`: float64 [Q], 0 to 100.

  By mid-ranks: 100 * (less + equal / 2) / total. So a score that all documents share is at 50, the mean over a whole
  corpus is 50 with any ties, and the percentile of the opposite order is 100 minus it.
  """
  if total < 1:
    raise ValueError("there are no documents to stand among")
  return 100 * (counts_2Q[0] + counts_2Q[1] / 2) / total


def percentiles(scores_N: np.ndarray) -> np.ndarray:
  """The quality percentile of each document among all of them (paper, Appendix E), by mid-ranks: float64 [N]."""
  _refuse_nan(scores_N)
  _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
  less = np.cumsum(counts) - counts
  return to_percentiles(np.stack([less, counts])[:, place_N], len(scores_N)) if len(scores_N) else np.zeros(0)


def _refuse_nan(values_N: np.ndarray) -> None:
  if np.isnan(values_N).any():
    raise ValueError("a NaN has no place in an order")
