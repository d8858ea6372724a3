"""Measures against scipy, against loops over all pairs, and by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.selection import metrics
from curation.selection.metrics import FULL, TaskResult

FEW = st.sampled_from([-math.inf, -2.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 3.0, math.inf])
FINITE = st.floats(-100, 100, width=32)
SCORES = st.lists(st.one_of(FEW, FINITE), min_size=1, max_size=60)


def columns(values, min_size: int = 2, max_size: int = 40):
  return st.lists(st.tuples(values, values), min_size=min_size, max_size=max_size).map(
    lambda pairs: np.array(pairs, np.float32).reshape(-1, 2).T
  )


def tau_by_pairs(x_N: np.ndarray, y_N: np.ndarray) -> float:
  """Computes tau-b by its definition."""
  signs = [
    (np.sign(float(x_N[i] > x_N[j]) - float(x_N[i] < x_N[j])), np.sign(float(y_N[i] > y_N[j]) - float(y_N[i] < y_N[j])))
    for i, j in itertools.combinations(range(len(x_N)), 2)
  ]
  untied_x, untied_y = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
  return sum(a * b for a, b in signs) / math.sqrt(untied_x * untied_y) if untied_x and untied_y else math.nan


@given(st.one_of(columns(FEW), columns(st.one_of(FEW, FINITE))))
def test_tau_is_its_definition_and_scipys(pair):
  """Ties of all kinds. Kills the mutants: pairs tied in x counted as inversions; pairs tied in both taken off twice;
  tau-a; -0.0 below 0.0; a merge that counts equal values."""
  x_N, y_N = pair
  tau = metrics.kendall_tau(x_N, y_N)
  assert tau == pytest.approx(tau_by_pairs(x_N, y_N), abs=1e-12, nan_ok=True)
  if np.isfinite(pair).all():
    np.testing.assert_equal(tau, float(scipy.stats.kendalltau(x_N, y_N).statistic))


@given(columns(st.one_of(FEW, FINITE)), st.randoms(use_true_random=False))
def test_tau_knows_no_order_of_documents_no_side_and_no_scale(pair, random):
  """Kills the mutants: ties by the place in the column; x and y not treated alike; a sign that is lost."""
  x_N, y_N = pair
  tau = metrics.kendall_tau(x_N, y_N)
  places = list(range(len(x_N)))
  random.shuffle(places)
  np.testing.assert_equal(metrics.kendall_tau(x_N[places], y_N[places]), tau)
  assert metrics.kendall_tau(y_N, x_N) == pytest.approx(tau, abs=1e-12, nan_ok=True)
  assert metrics.kendall_tau(x_N, -y_N) == pytest.approx(-tau, abs=1e-12, nan_ok=True)
  ranks_N = np.unique(x_N, return_inverse=True)[1]
  np.testing.assert_equal(metrics.kendall_tau(3 * ranks_N - 7, y_N), tau)


def test_tau_of_known_columns():
  assert metrics.kendall_tau(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4])) == 1
  assert metrics.kendall_tau(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])) == -1
  assert metrics.kendall_tau(np.array([1, 2, 3, 4]), np.array([2, 1, 4, 3])) == pytest.approx(1 / 3)
  # 5 pairs of 6 are untied in x and in y, 4 of them in both: 4 concordant.
  assert metrics.kendall_tau(np.array([1, 1, 2, 3]), np.array([1, 2, 3, 3])) == pytest.approx(4 / 5)


@pytest.mark.parametrize("x, y", [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_a_column_without_an_order_has_no_tau(x, y):
  assert math.isnan(metrics.kendall_tau(np.array(x), np.array(y)))


@pytest.mark.parametrize("kind", ["normal", "float16", "halves", "two values", "opposite"])
def test_tau_of_many_documents_is_scipys_to_the_last_bit(kind):
  """More documents than 16 bits number, and pairs than 32 bits do. Kills the mutant that counts in 32 bits."""
  generator = np.random.default_rng(3)
  x_N, y_N = generator.standard_normal((2, 150_000)).astype(np.float32)
  y_N += x_N / 2
  if kind == "float16":
    x_N, y_N = x_N.astype(np.float16), y_N.astype(np.float16)
  elif kind == "halves":
    x_N = np.where(generator.random(len(x_N)) < 0.5, 0, x_N)
  elif kind == "two values":
    x_N, y_N = x_N > 0, y_N > 0.3
  elif kind == "opposite":
    y_N = -x_N
  assert metrics.kendall_tau(x_N, y_N) == float(scipy.stats.kendalltau(x_N, y_N).statistic)


def test_the_matrix_has_the_tau_of_every_two():
  """Kills the mutant that fills one triangle, or numbers scorers wrongly."""
  scores_SN = np.random.default_rng(0).standard_normal((4, 500)).astype(np.float32)
  scores_SN[1] += scores_SN[0]
  scores_SN[3] = 7
  matrix_SS = metrics.tau_matrix(scores_SN)
  for i, j in itertools.product(range(4), repeat=2):
    expected = 1.0 if i == j != 3 else metrics.kendall_tau(scores_SN[max(i, j)], scores_SN[min(i, j)])
    np.testing.assert_equal(matrix_SS[i, j], expected)
  assert matrix_SS[0, 1] > 0.3 and np.isnan(matrix_SS[3]).all()


@pytest.mark.parametrize(
  "measure",
  [
    lambda bad: metrics.kendall_tau(bad, np.arange(3.0)),
    lambda bad: metrics.kendall_tau(np.arange(3.0), bad),
    lambda bad: metrics.tau_matrix(np.stack([np.arange(3.0), bad])),
    lambda bad: metrics.histogram(bad, np.arange(3.0)),
    lambda bad: metrics.count_ranks(bad, np.arange(3.0)),
    lambda bad: metrics.count_ranks(np.arange(3.0), bad),
    metrics.percentiles,
    lambda bad: metrics.bin_edges(bad[1], 1.0, 3),
  ],
)
def test_a_nan_is_refused_by_all(measure):
  with pytest.raises(ValueError, match=r"NaN|nan"):
    measure(np.array([0.0, math.nan, 1.0]))


def test_columns_that_cannot_be_paired_are_refused():
  with pytest.raises(ValueError, match="3 and 4"):
    metrics.kendall_tau(np.arange(3), np.arange(4))
  with pytest.raises(ValueError, match="must be a column"):
    metrics.kendall_tau(np.zeros((2, 2)), np.zeros((2, 2)))


@given(SCORES, st.lists(st.one_of(FEW, FINITE), max_size=20), st.data())
def test_percentiles_are_counts_whatever_the_parts(scores, queries, data):
  """Kills the mutants: less or equal in place of less; queries in sorted order; counts of the last part alone."""
  scores_N, queries_Q = np.array(scores, np.float32), np.array(queries, np.float32)
  cut = data.draw(st.integers(0, len(scores)))
  counts_2Q = metrics.count_ranks(queries_Q, scores_N[:cut]) + metrics.count_ranks(queries_Q, scores_N[cut:])
  assert counts_2Q[0].tolist() == [int((scores_N < query).sum()) for query in queries_Q]
  assert counts_2Q[1].tolist() == [int((scores_N == query).sum()) for query in queries_Q]
  assert metrics.to_percentiles(counts_2Q, len(scores)) == pytest.approx(
    [scipy.stats.percentileofscore(scores_N, query, "mean") for query in queries_Q]
  )
  own_N = metrics.percentiles(scores_N)
  assert own_N.tolist() == metrics.to_percentiles(metrics.count_ranks(scores_N, scores_N), len(scores)).tolist()
  assert own_N.mean() == pytest.approx(50)
  assert metrics.percentiles(-scores_N) == pytest.approx(100 - own_N)


def test_percentiles_of_nothing():
  assert len(metrics.percentiles(np.zeros(0))) == 0
  with pytest.raises(ValueError, match="at least one document"):
    metrics.to_percentiles(np.zeros((2, 1)), 0)


@given(SCORES, st.integers(1, 9))
def test_histograms_count_every_document_once(scores, bins):
  """By numpy's where all is within. Kills the mutants: what is outside is lost; the largest value is in no bin."""
  scores_N = np.array(scores, np.float32)
  edges_E = metrics.bin_edges(float(scores_N.min()), float(scores_N.max()), bins)
  assert len(edges_E) == bins + 1 and np.isfinite(edges_E).all() and (np.diff(edges_E) > 0).all()
  counts = metrics.histogram(scores_N, edges_E)
  assert counts.sum() == len(scores)
  finite_N = scores_N[np.isfinite(scores_N)].astype(np.float64)
  outside = np.where(scores_N == math.inf, len(counts) - 1, 0)[~np.isfinite(scores_N)]
  expected = np.histogram(finite_N, edges_E)[0] + np.bincount(outside, minlength=len(counts))
  assert counts.tolist() == expected.tolist()


def test_edges_of_no_range_are_refused():
  with pytest.raises(ValueError, match="not a range"):
    metrics.bin_edges(2.0, 1.0, 3)


def table(**changed: float) -> list[TaskResult]:
  """Large is 4 better than Base in `squad` and 2 less perplexed; a sample brings Base half and three quarters of it."""
  result = {
    ("base", FULL, "squad"): 80.0,
    ("base", FULL, "perplexity"): 12.0,
    ("large", FULL, "squad"): 84.0,
    ("large", FULL, "perplexity"): 10.0,
    ("base", "ask_llm", "squad"): 82.0,
    ("base", "ask_llm", "perplexity"): 10.5,
    ("large", "ask_llm", "squad"): 85.0,
  }
  result |= {
    (size, sample, task): value for name, value in changed.items() for size, sample, task in [name.split("__")]
  }
  return [TaskResult(*key, value) for key, value in result.items()]


def test_over_scaling_by_hand():
  """Kills the mutants: the gap to the largest size; a sum for a mean; a mean of gaps before they are divided; a sign
  for tasks of which less is better; the largest size measured by nothing."""
  result = metrics.over_scaling(table(), ["base", "large"])
  assert result == {("base", FULL): 0.0, ("base", "ask_llm"): pytest.approx((50 + 75) / 2)}
  next_of_large = [TaskResult("xl", FULL, task, result) for task, result in (("squad", 88.0), ("perplexity", 9.0))]
  results = [*table(large__ask_llm__perplexity=11.0), *next_of_large]
  result = metrics.over_scaling(results, ["base", "large", "xl"])
  assert result["base", "ask_llm"] == pytest.approx((50 + 75) / 2)
  assert result["large", "ask_llm"] == pytest.approx((25 - 100) / 2) and result["large", FULL] == 0
  assert ("xl", FULL) not in result


@pytest.mark.parametrize(
  ("results", "message"),
  [
    (table(small__full__squad=1.0), "the size small is none of base, large"),
    (table(base__random__squad=81.0), "the result of base on random in perplexity is missing"),
    (table(base__full__mmlu=3.0, large__full__mmlu=4.0), "the result of base on ask_llm in mmlu is missing"),
    (table(base__full__mmlu=30.0, base__ask_llm__mmlu=31.0), "the result of large on full in mmlu is missing"),
    (table(large__full__squad=80.0), "base and large on full have the same result in squad"),
    (table(base__full__squad=math.nan), "the result of base on full in squad is nan"),
    ([*table(), *table()], "the result of base on full in squad is given twice"),
  ],
)
def test_a_table_that_cannot_be_measured_is_refused(results, message):
  """Kills the mutants: a task that is left out in silence; a NaN or an infinite share in the mean."""
  with pytest.raises(WinnowError, match=message):
    metrics.over_scaling(results, ["base", "large"])
