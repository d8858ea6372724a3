"""Learning: the right regression, the better of two kinds, no document on two sides, and the same bytes again."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from curation.coverage import minhash
from curation.errors import WinnowError
from curation.student import figures, learning, ridge, splits

DOCUMENTS, DIMENSIONS = 3_000, 24


def examples(*, linear: bool, noise: float = 0.1, seed: int = 0) -> learning.Examples:
  generator = np.random.default_rng(seed)
  points_ND = (generator.standard_normal((DOCUMENTS, DIMENSIONS)) * 0.2 + 0.1).astype(np.float16)
  tokens_N = generator.integers(1, 3_000, DOCUMENTS).astype(np.int32)
  weights = generator.standard_normal((DIMENSIONS, 3))
  products = points_ND.astype(float) @ weights
  targets_N = products[:, 0] if linear else np.abs(products).sum(axis=1)
  targets_N = targets_N + 0.2 * np.log1p(tokens_N) + noise * generator.standard_normal(DOCUMENTS)
  hashes_N = generator.integers(0, 1 << 64, DOCUMENTS, dtype=np.uint64)
  return learning.Examples(points_ND, tokens_N, targets_N.astype(np.float32), splits.parts_of(hashes_N))


def test_the_regression_is_the_one_that_equations_give():
  """Against NumPy on all rows at once. Kills: a batch that is left out; a penalty on the constant."""
  given = examples(linear=True)
  numbers_N = given.numbers(splits.LEARNING)
  inputs_NF, targets_N = given.inputs(numbers_N, np.float64), given.targets_N[numbers_N].astype(np.float64)
  batches = [(inputs_NF[rows], targets_N[rows]) for rows in ridge.batches_of(len(numbers_N), 700)]
  found = ridge.solve(batches)
  scaled = (inputs_NF - inputs_NF.mean(axis=0)) / inputs_NF.std(axis=0)
  for place, penalty in enumerate(ridge.PENALTIES):
    gram = scaled.T @ scaled + penalty * len(numbers_N) * np.eye(scaled.shape[1])
    expected = np.linalg.solve(gram, scaled.T @ (targets_N - targets_N.mean())) / inputs_NF.std(axis=0)
    np.testing.assert_allclose(found.weights_FP[:, place], expected, rtol=1e-6)
    constant = targets_N.mean() - inputs_NF.mean(axis=0) @ expected
    np.testing.assert_allclose(found.constants_P[place], constant, rtol=1e-6)


def test_an_input_that_does_not_vary_has_no_weight():
  inputs_NF = np.random.default_rng(0).standard_normal((400, 3))
  inputs_NF[:, 1] = 0.7
  found = ridge.solve([(inputs_NF, inputs_NF[:, 0] * 2 + 5)])
  np.testing.assert_allclose(found.weights_FP[:, 0], [2, 0, 0], atol=1e-4)
  assert np.isfinite(found.weights_FP).all()


@pytest.mark.parametrize("linear", [True, False])
def test_the_better_kind_is_taken_and_twice_the_same(linear):
  """Kills: a choice by the documents that were learned from; bytes that another run does not give."""
  given = examples(linear=linear)
  learned, again = (learning.learn(given, seed=1) for _ in range(2))
  correlations = learned.choice["spearman"]
  assert learned.choice["kind"] == learned.student.shape.kind == max(correlations, key=correlations.get)
  if not linear:
    assert learned.choice["kind"] == "network" and correlations["network"] > correlations["ridge"] + 0.2
  judging_N = given.numbers(splits.JUDGING)
  reached = figures.spearman(given.targets_N[judging_N], given.predict(learned.student, judging_N))
  assert reached > 0.7
  choosing_N = given.numbers(splits.CHOOSING)
  on_choosing = figures.spearman(given.targets_N[choosing_N], given.predict(learned.student, choosing_N))
  assert on_choosing == correlations[learned.choice["kind"]]
  assert learned.choice == again.choice and learned.student.weights.tobytes() == again.student.weights.tobytes()


def test_documents_that_judge_change_nothing():
  """Kills: standardisation or a choice that looks at them."""
  given = examples(linear=False)
  other = learning.Examples(given.points_ND.copy(), given.tokens_N.copy(), given.targets_N.copy(), given.parts_N)
  judging_N = given.numbers(splits.JUDGING)
  other.points_ND[judging_N] *= -3
  other.targets_N[judging_N] = np.arange(len(judging_N))
  assert learning.learn(given, 0).student.weights.tobytes() == learning.learn(other, 0).student.weights.tobytes()


def test_too_few_documents_and_scores_without_an_order_are_refused():
  given = examples(linear=True)
  few = learning.Examples(given.points_ND[:150], None, given.targets_N[:150], given.parts_N[:150])
  with pytest.raises(WinnowError, match="too few; score at least 200"):
    learning.learn(few, 0)
  constant = learning.Examples(given.points_ND, None, np.zeros(DOCUMENTS, np.float32), given.parts_N)
  with pytest.raises(WinnowError, match="there is no order to learn"):
    learning.learn(constant, 0)


def test_near_copies_are_on_one_side():
  """Each near-copy is in the part of the first of its group, and nothing else moves. Kills: a split by documents."""
  generator = np.random.default_rng(0)
  originals = [" ".join(f"w{word}" for word in generator.integers(0, 9_999, 60)) for _ in range(150)]
  texts = [f"{text} tail{copy}" for text in originals for copy in range(4)] + [f"alone {n} " * 20 for n in range(300)]
  config = minhash.MinHashConfig()
  signatures_NH = minhash.signatures(pa.array(texts), config.hashes)
  hashes_N = generator.integers(0, 1 << 64, len(texts), dtype=np.uint64)
  joined_N = splits.join_near_copies(hashes_N, signatures_NH, config)
  parts_N = splits.parts_of(joined_N)
  assert all(len(set(parts_N[start : start + 4].tolist())) == 1 for start in range(0, 600, 4))
  assert len({tuple(splits.parts_of(hashes_N)[start : start + 4].tolist()) for start in range(0, 600, 4)}) > 10
  is_copy_N = minhash.near_copies(texts, config)
  np.testing.assert_array_equal(joined_N != hashes_N, is_copy_N)


def test_parts_have_their_shares():
  hashes_N = np.random.default_rng(0).integers(0, 1 << 64, 100_000, dtype=np.uint64)
  shares = np.bincount(splits.parts_of(hashes_N)) / len(hashes_N)
  np.testing.assert_allclose(shares, splits.SHARES, atol=0.005)


def test_figures_are_those_of_other_libraries():
  """Kills: ranks that break ties; a share of the student's best that is counted the other way round."""
  generator = np.random.default_rng(0)
  wanted_N = np.round(generator.standard_normal(600), 1).astype(np.float32)
  scores_N = (wanted_N + generator.standard_normal(600)).astype(np.float32)
  hashes_N = generator.integers(0, 1 << 64, 600, dtype=np.uint64)
  domains_N = np.array(["a", "b", ""] * 200)
  judged = figures.judge(wanted_N, scores_N, hashes_N, np.arange(600, dtype=np.int32), domains_N)
  np.testing.assert_allclose(judged["spearman"], scipy.stats.spearmanr(wanted_N, scores_N).statistic, rtol=1e-12)
  np.testing.assert_allclose(judged["kendall_tau"], scipy.stats.kendalltau(wanted_N, scores_N).statistic, rtol=1e-12)
  for entry in judged["recall"]:
    best = set(sorted(range(600), key=lambda n: (-wanted_N[n], hashes_N[n]))[: round(entry["rate"] * 600)])
    ranked = sorted(range(600), key=lambda n: (-scores_N[n], hashes_N[n]))
    for asked, share in zip(entry["asked"], entry["share"], strict=True):
      assert share == len(best & set(ranked[: round(asked * 600)])) / len(best)
  assert [entry["domain"] for entry in judged["by_domain"]] == ["a", "b"]
  assert [entry["documents"] for entry in judged["by_length"]] == [150] * 4
  assert figures.spearman(wanted_N, np.zeros(600)) == -1
