"""Density sampling: the choice of its kernel, its diagnostics and warnings, and Theorem A.2 measured.

Shape suffixes as in the module; K clusters, S seeds.
"""

import dataclasses
import json
import pathlib
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from curation.coverage import density, kernels, race
from curation.errors import WinnowError
from curation.selection import hashing

CLUSTERS = 10


def mixture(number: int, spread: float = 0.3, dimensions: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Unit vectors around ten centres, the k-th with weight 1/k: float32 [N, D], and the centre of each."""
  generator = np.random.default_rng(seed)
  centres_KD = generator.standard_normal((CLUSTERS, dimensions))
  centres_KD /= np.linalg.norm(centres_KD, axis=1, keepdims=True)
  weights_K = 1 / np.arange(1, CLUSTERS + 1)
  cluster_N = generator.choice(CLUSTERS, number, p=weights_K / weights_K.sum())
  noise_ND = generator.standard_normal((number, dimensions)) / np.sqrt(dimensions)
  points_ND = centres_KD[cluster_N] + spread * noise_ND
  return (points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)).astype(np.float32), cluster_N


def draw(density_N: np.ndarray, k: int, seed: int) -> np.ndarray:
  """Indices of k draws without replacement, each with probability proportional to 1 / density."""
  gumbel_N = -np.log(-np.log(hashing.uniforms("draw", seed, 0, len(density_N))))
  return np.argpartition(np.log(density_N) - gumbel_N, k)[:k]


def pairs(kernel: kernels.Kernel, points_ND: np.ndarray) -> np.ndarray:
  return kernel.distances(points_ND, points_ND)[np.triu_indices(len(points_ND), 1)]


@pytest.mark.parametrize("name", ["l2", "l1"])
@pytest.mark.parametrize("hashes", [1, None, 64])
def test_far_documents_share_a_bucket_once_in_a_thousand_times(name, hashes):
  """Kills: the mean in place of the median, a bandwidth for one hash that is used for eight."""
  points_ND, _ = mixture(500)
  kernel = density.choose_kernel(points_ND, name, hashes)
  assert kernel.hashes == (hashes or 8)
  assert kernel.at_distances(np.median(pairs(kernel, points_ND))) == pytest.approx(1e-3, rel=0.05)
  assert kernel.bandwidth == float(f"{kernel.bandwidth:.3g}")


def test_angles_take_the_number_of_hashes():
  """Two for one at right angles: ten hashes; the closer together points lie, the more."""
  points_ND = mixture(500)[0]
  assert density.choose_kernel(points_ND, "angular") == kernels.Kernel("angular", None, 10)
  close_ND = points_ND + np.eye(1, 64, dtype=np.float32) * 3
  kernel = density.choose_kernel(close_ND, "angular")
  assert 20 < kernel.hashes < 60
  assert kernel.at_distances(np.median(pairs(kernel, close_ND))) == pytest.approx(1e-3, rel=0.1)
  assert density.choose_kernel(points_ND, "angular", 3).hashes == 3
  with pytest.raises(WinnowError, match="has no --bandwidth"):
    density.choose_kernel(points_ND, "angular", bandwidth=0.5)


def test_what_is_given_stays():
  points_ND = np.ones((1, 4))
  assert density.choose_kernel(points_ND, "l2", 3, 0.12345) == kernels.Kernel("l2", 0.12345, 3)
  assert density.choose_kernel(points_ND, "l1", bandwidth=2.0) == kernels.Kernel("l1", 2.0, 8)
  with pytest.raises(WinnowError, match="--kernel=rbf"):
    density.choose_kernel(points_ND, "rbf")
  with pytest.raises(WinnowError, match="--hashes=0"):
    density.choose_kernel(mixture(9)[0], "l2", 0)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(2, 300), st.sampled_from([2.0**-9, 0.5, 4.0]), st.integers(0, 99))
def test_the_choice_scales_with_the_points_and_no_order_or_copy_moves_it(number, scale, seed):
  """Kills: pairs of copies that are counted, a choice that looks at the first rows."""
  points_ND = mixture(number, seed=seed)[0]
  chosen = density.choose_kernel(points_ND).bandwidth
  assert density.choose_kernel(scale * points_ND).bandwidth == pytest.approx(scale * chosen, rel=0.01)
  order_N = np.random.default_rng(seed).permutation(number)
  assert density.choose_kernel(points_ND[order_N]).bandwidth == pytest.approx(chosen, rel=0.01)
  assert density.choose_kernel(np.repeat(points_ND, 3, axis=0)).bandwidth == pytest.approx(chosen, rel=0.01)


def test_a_large_sample_is_looked_at_from_end_to_end():
  sample_ND = np.concatenate([mixture(3_000, scale)[0] * scale for scale in (0.01, 1.0)])
  whole = np.median(pairs(kernels.Kernel("l2", 1.0), sample_ND[::3]))
  kernel = density.choose_kernel(sample_ND)
  assert kernel.at_distances(whole) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("number", [0, 1, 50])
@pytest.mark.parametrize(("name", "flag"), [("l2", "--bandwidth"), ("l1", "--bandwidth"), ("angular", "--hashes")])
def test_points_that_are_all_equal_leave_the_choice_to_the_user(number, name, flag):
  with pytest.raises(WinnowError, match=f"no two of {number} sampled embeddings differ, so {flag} cannot be chosen"):
    density.choose_kernel(np.tile(np.eye(1, 8), (number, 1)), name)


@pytest.mark.parametrize("spread", [0.3, 0.8, 1.3])
def test_the_default_resolves_mixtures(spread):
  points_ND, _ = mixture(2_500, spread)
  kernel = density.choose_kernel(points_ND[:2_000])
  result = density.diagnose(kernel, 1_000, 20_000, 0, points_ND[:2_000], points_ND[2_000:], 10**9)
  assert density.warnings(result) == []
  assert result["rank_correlation"] > 0.95
  assert result["median_relative_error"] < 0.05
  assert result["collisions_share"] < 0.05
  assert json.loads(json.dumps(result)) == result
  sketch = race.Sketch(race.SketchConfig(64, kernel))
  sketch.add(points_ND)
  assert density.warnings(density.resolution(sketch, points_ND[::5])) == []


@pytest.mark.parametrize("spread", [0.3, 0.8, 1.3])
@pytest.mark.parametrize(
  ("factor", "sentence"), [(0.1, "no neighbours.*larger --bandwidth"), (10, "so wide.*smaller --bandwidth")]
)
def test_bandwidths_ten_times_off_are_told(spread, factor, sentence):
  """The sample shows it, and so does the sketch of a corpus."""
  points_ND, _ = mixture(2_500, spread)
  chosen = density.choose_kernel(points_ND)
  kernel = dataclasses.replace(chosen, bandwidth=chosen.bandwidth * factor)
  result = density.diagnose(kernel, 1_000, 20_000, 0, points_ND[:2_000], points_ND[2_000:], 2_500)
  sketch = race.Sketch(race.SketchConfig(64, kernel))
  sketch.add(points_ND)
  for diagnostics in (result, density.resolution(sketch, points_ND[::5])):
    (warning,) = density.warnings(diagnostics)
    assert re.search(sentence, warning)


@pytest.mark.parametrize(("variation", "is_told"), [(0.07, True), (0.199, True), (0.2, False)])
@pytest.mark.parametrize("name", ["l2", "angular"])
def test_weights_that_hardly_differ_are_told(name, variation, is_told):
  """A real encoder gave 0.07. Kills: the least that is good 0.05; advice to take the kernel that there is."""
  figures = {"num_points": 10_000, "neighbours": 3.0, "weights_variation": variation, "collisions_share": 0.01}
  figures |= {"median_relative_standard_error": 0.01, "rank_correlation": 0.99}
  result = density.warnings(figures, name)
  assert len(result) == is_told
  if is_told:
    assert f"differ by only {variation:.1%}, less than 20%" in result[0] and "embed with a model" in result[0]
    assert ("--kernel=angular" in result[0]) == (name == "l2")
  verdict = density.lines(figures, name)[-1]
  assert verdict == f"verdict: density tells these documents apart {'poorly' if is_told else 'well'}"
  page = (pathlib.Path(__file__).parents[3] / "docs/density.md").read_text()
  assert re.search(rf"`weights_variation` .* \| above {density.LEAST_VARIATION} \|", page)


def test_what_cannot_be_resolved_is_told():
  """One hash weighs all alike; few rows are noise; few counters are collisions. Kills: any threshold that is lost."""
  points_ND, _ = mixture(2_500, 1.3)
  sample_ND, held_out_MD = points_ND[:2_000], points_ND[2_000:]

  def find_warnings(kernel, rows=1_000, counters=20_000):
    sketch = race.Sketch(race.SketchConfig(64, kernel, rows, counters))
    sketch.add(points_ND)
    by_sample = density.diagnose(kernel, rows, counters, 0, sample_ND, held_out_MD, len(points_ND))
    return [density.warnings(result) for result in (by_sample, density.resolution(sketch, points_ND))]

  default = density.choose_kernel(points_ND)
  for (warning,) in find_warnings(density.choose_kernel(points_ND, hashes=1)):
    assert "nearly random sampling: take more --hashes" in warning
  for (warning,) in find_warnings(default, rows=10):
    assert "--sketch_rows" in warning
  for result in find_warnings(default, counters=100):
    assert "take more --sketch_counters" in result[-1]


def test_estimates_are_looked_up_at_points_that_are_not_in_the_sketch():
  """Against a sketch by hand. Kills: the document itself counted twice or not at all, a corpus's size forgotten."""
  points_ND, _ = mixture(300)
  sample_ND, held_out_MD = points_ND[:200], points_ND[200:]
  kernel = density.choose_kernel(sample_ND)
  result = density.diagnose(kernel, 200, 400, 7, sample_ND, held_out_MD, 6_000)
  sketch = race.Sketch(race.SketchConfig(64, kernel, 200, 400, seed=7))
  sketch.add(sample_ND)
  sums_M = np.array([kernel.sums(x[None], sample_ND)[0] for x in held_out_MD])
  mean_M, error_M = sketch.density(held_out_MD)
  expected_M = 1 + sums_M + (200 - sums_M) / 400
  assert result["median_relative_error"] == pytest.approx(np.median(np.abs(1 + mean_M - expected_M) / expected_M))
  assert result["median_relative_standard_error"] == pytest.approx(np.median(error_M / (1 + mean_M)))
  ratio = np.sqrt(np.mean(((1 + mean_M - expected_M) / error_M) ** 2))
  assert result["error_over_standard_error"] == pytest.approx(ratio)
  assert result["neighbours"] == pytest.approx(np.median(sums_M) * 30)
  weights_M = 1 / (1 + sums_M * 30)
  assert result["weights_variation"] == pytest.approx(weights_M.std() / weights_M.mean())
  assert result["collisions_share"] == pytest.approx(15 / (15 + np.mean(1 / weights_M)))
  assert len(np.unique(mean_M)) < 100, "equal estimates share a rank"
  assert result["rank_correlation"] == pytest.approx(scipy.stats.spearmanr(mean_M, sums_M).statistic, abs=1e-12)
  with pytest.raises(WinnowError, match="fewer than two documents"):
    density.diagnose(kernel, 200, 400, 7, sample_ND, held_out_MD[:1], 201)


def test_resolution_is_the_sketchs():
  points_ND, _ = mixture(400)
  sketch = race.Sketch(race.SketchConfig(64, density.choose_kernel(points_ND), 50, 300))
  sketch.add(points_ND)
  mean_N, error_N = sketch.density(points_ND)
  result = density.resolution(sketch, points_ND)
  assert result["occupied_share"] == np.mean(sketch.counts_RB > 0)
  assert result["weights_variation"] == pytest.approx(np.std(1 / mean_N) / np.mean(1 / mean_N))
  assert result["collisions_share"] == pytest.approx(400 / 300 / mean_N.mean())
  assert result["median_relative_standard_error"] == pytest.approx(np.median(error_N / mean_N))
  assert result["neighbours"] == pytest.approx(np.median((mean_N - 400 / 300) / (1 - 1 / 300)) - 1)
  assert json.loads(json.dumps(result)) == result


def test_errors_are_as_predicted_and_fall_with_the_root_of_the_rows():
  """Errors are within 1.2 times the standard error, over seeds, since the errors of one sketch are correlated."""
  points_ND, _ = mixture(2_500, 0.8)
  sample_ND, held_out_MD = points_ND[:2_000], points_ND[2_000:]
  kernel = density.choose_kernel(sample_ND)
  errors = {}
  for rows in (60, 240, 960):
    result = [density.diagnose(kernel, rows, 20_000, seed, sample_ND, held_out_MD, 2_500) for seed in range(6)]
    ratio = np.sqrt(np.mean([one["error_over_standard_error"] ** 2 for one in result]))
    assert 0.8 < ratio < 1.2
    errors[rows] = np.mean([one["median_relative_error"] for one in result])
  assert errors[60] / errors[240] == pytest.approx(2, rel=0.25)
  assert errors[240] / errors[960] == pytest.approx(2, rel=0.25)


def test_a_fifth_of_an_uneven_mixture_is_spread_evenly():
  """Theorem A.2 of the paper, measured. Kills: p proportional to S (as Algorithm 2 is printed), one hash in a row."""
  points_ND, cluster_N = mixture(5_000)
  sketch = race.Sketch(race.SketchConfig(64, density.choose_kernel(points_ND[:1_500])))
  sketch.add(points_ND)

  def distance(density_N: np.ndarray) -> float:
    """Total variation of the clusters' shares to even ones, mean of five seeds."""
    shares_SK = [np.bincount(cluster_N[draw(density_N, 1_000, seed)], minlength=CLUSTERS) / 1_000 for seed in range(5)]
    return np.abs(np.array(shares_SK) - 1 / CLUSTERS).sum(axis=1).mean() / 2

  random = distance(np.ones(5_000))
  assert random > 0.3
  assert distance(sketch.density(points_ND).mean) <= random / 3


def test_copies_are_drawn_as_often_as_exact_sums_say():
  """Documents with 1, 10 and 100 copies among others: the inclusion of one copy, by the sketch and by exact sums."""
  base_ND, _ = mixture(2_500, 0.8)
  copies_N = np.ones(2_500, int)
  copies_N[::50], copies_N[25::250] = 10, 100
  points_ND, copies_N = np.repeat(base_ND, copies_N, axis=0), np.repeat(copies_N, copies_N)
  kernel, number = density.choose_kernel(base_ND), len(points_ND)
  exact_N = kernel.sums(points_ND, points_ND)
  expected_N = exact_N + (number - exact_N) / 20_000

  def inclusion(densities, seeds) -> np.ndarray:
    result = []
    for density_N, seed in zip(densities, seeds, strict=True):
      drawn_N = np.bincount(draw(density_N, number // 5, seed), minlength=number)
      result.append([drawn_N[copies_N == copies].mean() for copies in (1, 10, 100)])
    return np.array(result)

  predicted_S3 = inclusion([expected_N] * 200, range(1_000, 1_200))
  estimates = []
  for seed in range(20):
    sketch = race.Sketch(race.SketchConfig(64, kernel, rows=500, seed=seed))
    sketch.add(points_ND)
    estimates.append(sketch.density(points_ND).mean)
  measured_S3 = inclusion(estimates, range(20))
  errors_3 = np.sqrt(measured_S3.var(axis=0, ddof=1) / 20 + predicted_S3.var(axis=0, ddof=1) / 200)
  assert (np.abs(measured_S3.mean(axis=0) - predicted_S3.mean(axis=0)) < 3 * errors_3).all()
  assert (errors_3 < 0.05 * predicted_S3.mean(axis=0)).all()
  one, ten, hundred = predicted_S3.mean(axis=0)
  assert one > 1.5 * ten and ten > 3 * hundred
