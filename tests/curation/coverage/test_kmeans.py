"""Spherical k-means: assignment against brute force, exact sums, and inertia beside faiss's own k-means."""

import hashlib
import itertools
import subprocess
import sys

import faiss
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from curation.coverage import kmeans
from curation.errors import WinnowError

DIMENSIONS = 24


def mixture(number: int, centres: int = 40, seed: int = 0, noise: float = 0.25) -> np.ndarray:
  """Unit vectors around centres, the first ones many: float16 [N, D], as embeddings are kept."""
  generator = np.random.default_rng(seed)
  centre_CD = generator.standard_normal((centres, DIMENSIONS))
  weights = 1 / np.arange(1, centres + 1)
  points_ND = centre_CD[generator.choice(centres, number, p=weights / weights.sum())]
  points_ND = points_ND + noise * generator.standard_normal((number, DIMENSIONS)) * np.sqrt(8)
  return (points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)).astype(np.float16)


def brute_force(points_ND: np.ndarray, centroids_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  points_ND = points_ND.astype(np.float64)
  cosines_NK = points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True) @ centroids_KD.astype(np.float64).T
  return cosines_NK.argmax(axis=1), cosines_NK.max(axis=1)


@pytest.fixture(scope="module")
def trained() -> kmeans.Trained:
  return kmeans.train(mixture(4_000), kmeans.KMeansConfig(clusters=50, iterations=12))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("number", [0, 1, 63, 5_000])
def test_assignment_is_the_nearest_by_brute_force(trained, number, dtype):
  """Kills: a last batch that is short, lengths that are not taken off the cosine."""
  points_ND = (mixture(number, seed=1).astype(np.float32) * 3).astype(dtype)
  result = kmeans.Centroids(trained.centroids_KD).assign(points_ND)
  clusters_N, cosines_N = brute_force(points_ND, trained.centroids_KD)
  np.testing.assert_array_equal(result.clusters, clusters_N)
  np.testing.assert_allclose(result.cosines, cosines_N, atol=1e-7)
  assert result.clusters.dtype == np.int32 and result.cosines.dtype == np.float32


def test_what_float32_cannot_part_is_parted_and_of_equals_the_first_wins():
  """Kills the mutant that takes the argmax of the float32 product: these cosines differ by less than it can tell."""
  generator = np.random.default_rng(0)
  base_D = generator.standard_normal(300)
  near_KD = kmeans._unit(base_D + 1e-6 * generator.standard_normal((40, 300)))
  centroids_KD = np.concatenate([near_KD, near_KD[::-1]])  # each occurs twice
  points_ND = kmeans._unit(base_D + 1e-3 * generator.standard_normal((2_000, 300)))
  result = kmeans.Centroids(centroids_KD).assign(points_ND)
  np.testing.assert_array_equal(result.clusters, brute_force(points_ND, near_KD)[0])
  assert ((points_ND @ near_KD.T).argmax(axis=1) != result.clusters).any()


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 2_500), max_size=6))
def test_a_points_result_does_not_depend_on_its_company(trained, seed, cuts):
  """Invariant 1. Kills the mutant that keeps float32's own cosine, whose last bits depend on the place in a batch."""
  points_ND = mixture(2_500, seed=2)
  centroids = kmeans.Centroids(trained.centroids_KD)
  whole = centroids.assign(points_ND)
  places = np.random.default_rng(seed).permutation(2_500)
  parts = [centroids.assign(points_ND[places[a:b]]) for a, b in itertools.pairwise([0, *sorted(cuts), 2_500])]
  np.testing.assert_array_equal(np.concatenate([part.clusters for part in parts]), whole.clusters[places])
  np.testing.assert_array_equal(np.concatenate([part.cosines for part in parts]), whole.cosines[places])


@given(cuts=st.lists(st.integers(0, 1_500), max_size=5), order=st.permutations(range(6)))
def test_sums_of_parts_are_the_sums_of_the_whole_to_the_last_bit(trained, cuts, order):
  """Kills: sums in float32, or of embeddings as they are: both depend on the order."""
  points_ND = mixture(1_500, seed=3).astype(np.float32) * np.linspace(0.5, 2, 1_500, dtype=np.float32)[:, None]
  centroids = kmeans.Centroids(trained.centroids_KD)

  def sums(part_ND: np.ndarray) -> kmeans.Sums:
    result = kmeans.Sums.empty(*trained.centroids_KD.shape)
    result.add(part_ND, centroids.assign(part_ND))
    return result

  borders = [0, *sorted(cuts), *([1_500] * (6 - len(cuts)))]
  parts = [sums(points_ND[a:b]) for a, b in itertools.pairwise(borders)]
  merged, whole = kmeans.Sums.empty(*trained.centroids_KD.shape), sums(points_ND)
  for place in order:
    merged.merge(parts[place])
  for result, expected in zip(vars(merged).values(), vars(whole).values(), strict=True):
    np.testing.assert_array_equal(result, expected)
  assert merged.counts_K.sum() == 1_500


def test_an_iteration_over_all_points_is_lloyds():
  """Against means by hand. Kills: counts in place of lengths, empty clusters that stay."""
  points_ND, start_KD = mixture(3_000), kmeans._unit(np.random.default_rng(5).standard_normal((30, DIMENSIONS)))
  start_KD[7] = start_KD[3]  # the first of two equal centroids gets all points
  inertia, counts_K = [], np.zeros(30)
  centroids_KD = start_KD
  for _ in range(15):
    sums = kmeans.Sums.empty(30, DIMENSIONS)
    sums.add(points_ND, kmeans.Centroids(centroids_KD).assign(points_ND))
    clusters_N, cosines_N = brute_force(points_ND, centroids_KD)
    assert sums.inertia == pytest.approx(2 - 2 * cosines_N.mean(), abs=1e-6)
    np.testing.assert_array_equal(sums.counts_K, np.bincount(clusters_N, minlength=30))
    before_KD, centroids_KD = centroids_KD, sums.centroids(centroids_KD)
    largest = int(sums.counts_K.argmax())
    for cluster in set(np.flatnonzero(sums.counts_K)) - ({largest} if (sums.counts_K == 0).any() else set()):
      units_ND = points_ND[clusters_N == cluster].astype(np.float64)
      units_ND /= np.linalg.norm(units_ND, axis=1, keepdims=True)
      np.testing.assert_allclose(centroids_KD[cluster], kmeans._unit(units_ND.sum(axis=0)[None])[0], atol=1e-6)
    inertia.append(sums.inertia)
    counts_K = sums.counts_K
  assert before_KD.shape == centroids_KD.shape and counts_K.min() > 0
  assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(inertia[2:]))


def test_points_that_cancel_out_leave_their_centroid_where_it_was():
  """Kills: a centroid of NaN."""
  sums = kmeans.Sums.empty(2, 2)
  points_ND = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
  sums.add(points_ND, kmeans.Assigned(np.array([0, 0, 1], np.int32), np.zeros(3, np.float32)))
  np.testing.assert_array_equal(sums.centroids(np.array([[0, -1], [1, 0]], np.float32)), [[0, -1], [0, 1]])


@pytest.mark.parametrize("seed", range(3))
def test_inertia_is_as_low_as_that_of_faiss(seed):
  """Its own k-means on the same points with as many iterations. Kills: seeds that are the first points; no training."""
  points_ND = mixture(8_000, centres=150, seed=seed, noise=0.15)
  result = kmeans.train(points_ND, kmeans.KMeansConfig(clusters=100, iterations=20, seed=seed))
  theirs = faiss.Kmeans(DIMENSIONS, 100, niter=20, spherical=True, seed=seed + 1, max_points_per_centroid=10_000)
  theirs.train(points_ND.astype(np.float32))
  inertia = [2 - 2 * brute_force(points_ND, c)[1].mean() for c in (result.centroids_KD, theirs.centroids)]
  assert inertia[0] <= 1.01 * inertia[1]
  message = result.training["inertia"]
  assert len(message) == 20 and message[-1] == pytest.approx(inertia[0], rel=0.01)
  assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(message))
  assert 0 < result.training["silhouette"] < 1 and result.training["sample_points"] == 8_000
  np.testing.assert_allclose(np.linalg.norm(result.centroids_KD, axis=1), 1, atol=1e-6)


def test_a_large_sample_is_trained_on_as_it_is_kept(trained, monkeypatch):
  """Kills: another result where there is no room for float32."""
  monkeypatch.setattr(kmeans, "_MOST_DECODED_BYTES", 0)
  again = kmeans.train(mixture(4_000), kmeans.KMeansConfig(clusters=50, iterations=12))
  np.testing.assert_array_equal(again.centroids_KD, trained.centroids_KD)


def test_seeds_find_the_small_clusters():
  """Kills: seeds drawn evenly, which leave half of the 59 clusters out that have a fifth of the points together."""
  generator = np.random.default_rng(0)
  centres_KD = kmeans._unit(generator.standard_normal((60, DIMENSIONS)))
  centre_N = np.where(generator.random(6_000) < 0.8, 0, generator.integers(1, 60, 6_000))
  points_ND = kmeans._unit(centres_KD[centre_N] + 0.02 * generator.standard_normal((6_000, DIMENSIONS)))
  seeds_KD = kmeans.choose_seeds(points_ND.astype(np.float16), 60, 0)
  assert len(np.unique(seeds_KD, axis=0)) == 60
  found_N, cosines_N = brute_force(seeds_KD, centres_KD)
  assert len(set(found_N)) >= 52 and cosines_N.min() > 0.95


def test_training_is_repeatable_and_another_seed_gives_others(trained):
  """In a fresh process too. Kills: seeds of a random stream, or of the clock."""
  again = kmeans.train(mixture(4_000), kmeans.KMeansConfig(clusters=50, iterations=12))
  np.testing.assert_array_equal(again.centroids_KD, trained.centroids_KD)
  assert again.training == trained.training
  code = (
    "import sys; sys.path.insert(0, 'tests/curation/coverage');"
    "import test_kmeans as t, hashlib; from curation import kmeans;"
    "c = kmeans.train(t.mixture(4_000), kmeans.KMeansConfig(clusters=50, iterations=12)).centroids_KD;"
    "print(hashlib.sha256(c.tobytes()).hexdigest() == sys.argv[1])"
  )
  digest = hashlib.sha256(trained.centroids_KD.tobytes()).hexdigest()
  assert subprocess.run([sys.executable, "-c", code, digest], capture_output=True, text=True).stdout.strip() == "True"
  other = kmeans.train(mixture(4_000), kmeans.KMeansConfig(clusters=50, iterations=12, seed=1))
  assert not np.array_equal(other.centroids_KD, trained.centroids_KD)


@pytest.mark.parametrize("clusters", [1, 7, 30])
def test_copies_and_as_many_clusters_as_points(clusters):
  """Kills: seeding that never ends where fewer points differ than seeds are wanted; centroids of NaN."""
  points_ND = np.repeat(mixture(6, seed=4), 5, axis=0)
  result = kmeans.train(points_ND, kmeans.KMeansConfig(clusters=clusters))
  assert result.centroids_KD.shape == (clusters, DIMENSIONS) and np.isfinite(result.centroids_KD).all()
  assigned = kmeans.Centroids(result.centroids_KD).assign(points_ND)
  if clusters > 1:
    assert assigned.cosines.min() > 0.999
  else:
    assert result.training["silhouette"] is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"clusters": 0}, "--num_clusters=0 is not between 1 and 1,000,000"),
    ({"clusters": -3}, "--num_clusters=-3 is not between"),
    ({"clusters": 10_000_000}, "--num_clusters=10000000 is not between"),
    ({"points_per_cluster": 0}, "--kmeans_sample=0 is not between"),
    ({"iterations": 0}, "--kmeans_iterations=0 is not between"),
    ({"lloyd_iterations": -1}, "--lloyd_iterations=-1 is not between"),
    ({"clusters": 101}, "--num_clusters=101 is more than the 100 documents that have an embedding"),
  ],
)
def test_numbers_that_cannot_be_are_refused(options, message):
  with pytest.raises(WinnowError, match=message):
    kmeans.train(mixture(100), kmeans.KMeansConfig(**options))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_points_without_a_direction_are_refused(trained, value):
  """Kills the mutant that gives a NaN the first cluster."""
  points_ND = mixture(1_500)
  points_ND[1_111] = value
  with pytest.raises(WinnowError, match=r"point 1111 of the sample for k-means is zero, not finite or not of length 1"):
    kmeans.train(points_ND, kmeans.KMeansConfig(clusters=5))
  with pytest.raises(WinnowError, match=r"point 1111 of a block is zero or not finite"):
    kmeans.Centroids(trained.centroids_KD).assign(points_ND)


def test_a_sample_has_as_many_points_as_are_wanted_or_a_few_more():
  """Kills: a limit at the expected number alone, which is short of it half of the time."""
  config = kmeans.KMeansConfig(clusters=3, points_per_cluster=5)
  shares = [config.sample_limit(number) / 2.0**64 for number in (10_000, 10**9)]
  assert [shares[0] * 10_000, shares[1] * 10**9] == pytest.approx([15 + 6 * 15**0.5 + 60] * 2)
  assert config.sample_limit(50) == 2**64 - 1
