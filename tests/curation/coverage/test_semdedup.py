"""SemDeDup: scores as brute force finds them, whatever tiles and workers the pairs of a cluster are shared out to."""

import itertools
import os
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from curation.coverage import semdedup
from curation.errors import WinnowError
from curation.selection import hashing

TILE = semdedup.TILE_ROWS
SIZES = st.one_of(st.integers(0, 700), st.sampled_from([TILE - 1, TILE, TILE + 1, 2 * TILE, 2 * TILE + 77]))
CLUSTERS = st.tuples(SIZES, st.integers(1, 400), st.integers(0, 2**32 - 1))


def cluster(size: int, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Embeddings of any length with a fifth near-copies and exact ones, cosines to the centroid with ties, and hashes."""
  generator = np.random.default_rng(seed)
  embeddings_ND = generator.standard_normal((size, dimensions)) * generator.uniform(0.1, 9, (size, 1))
  for place in generator.choice(size, size // 5, replace=False):
    noise_D = generator.choice([0, 0.05, 0.5]) * generator.standard_normal(dimensions)
    embeddings_ND[place] = embeddings_ND[generator.integers(size)] + noise_D
  cosines_N = np.round(generator.uniform(-1, 1, size), 1).astype(np.float32)
  return embeddings_ND.astype(np.float32), cosines_N, hashing.hash_documents("semdedup", seed, "shard", np.arange(size))


def brute_force(embeddings_ND: np.ndarray, cosines_N: np.ndarray, hashes_N: np.ndarray, keep: str) -> np.ndarray:
  """Scores by all cosines at once, float64 [N]; documents ranked by Python's sort."""
  rank = {"nearest": lambda i: -cosines_N[i], "farthest": lambda i: cosines_N[i], "random": lambda i: 0}[keep]
  order = sorted(range(len(cosines_N)), key=lambda i: (rank(i), int(hashes_N[i])))
  unit_ND = embeddings_ND.astype(np.float64) / np.linalg.norm(embeddings_ND.astype(np.float64), axis=1, keepdims=True)
  cosines_NN = unit_ND[order] @ unit_ND[order].T
  cosines_NN[np.triu_indices(len(order))] = -1
  scores_N = np.empty(len(order))
  scores_N[order] = -cosines_NN.max(axis=1, initial=-1)
  return scores_N


@hypothesis.settings(max_examples=40)
@hypothesis.given(CLUSTERS, st.sampled_from(["nearest", "farthest", "random"]))
def test_scores_are_those_of_brute_force(sizes, keep):
  """Kills: a document compared with itself, or with one ranked after it; tiles or terms that are left out; a tile's own
  pairs alone; the wrong end kept; ties that fall by place; a cosine of 0 in place of none."""
  embeddings_ND, cosines_N, hashes_N = cluster(*sizes)
  scores_N = semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N, keep=keep)
  assert scores_N.dtype == np.float32 and scores_N.shape == (sizes[0],)
  np.testing.assert_allclose(scores_N, brute_force(embeddings_ND, cosines_N, hashes_N, keep), atol=2e-6)
  assert sizes[0] == 0 or scores_N.max() == 1


def test_a_threshold_removes_the_documents_that_semdedup_removes():
  """Kills: scores that are off by more than rounding, of the other sign, or of the nearest in place of any before."""
  embeddings_ND, cosines_N, hashes_N = cluster(2_500, 48, 3)
  scores_N = semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)
  exact_N = brute_force(embeddings_ND, cosines_N, hashes_N, "nearest")
  for epsilon in (1e-4, 0.01, 0.05, 0.2, 0.5):
    removed_N = exact_N < -(1 - epsilon)
    assert 50 < removed_N.sum() < 2_000
    assert np.array_equal(scores_N < -(1 - epsilon), removed_N)


def test_the_last_of_many_tiles_are_compared_with_the_first():
  """Kills: earlier tiles that are forgotten once they are no longer held in memory."""
  embeddings_ND, cosines_N, hashes_N = cluster(11 * TILE + 9, 5, 4)
  order_N = semdedup.rank_documents(cosines_N, hashes_N)
  last_N, unit_ND = order_N[-300:], embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
  cosines_LN = unit_ND[last_N] @ unit_ND[order_N].T
  cosines_LN[:, -300:][np.triu_indices(300)] = -1
  scores_N = semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)
  np.testing.assert_allclose(scores_N[last_N], -cosines_LN.max(axis=1), atol=2e-6)


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.integers(1, 4 * TILE), st.integers(1, 9), st.randoms(use_true_random=False))
def test_any_sharing_of_tile_pairs_gives_the_same_bits(size, workers, random):
  """Kills: a maximum that starts at 0; partial maxima that are added or overwritten; a plan that loses a tile pair."""
  embeddings_ND, cosines_N, hashes_N = cluster(size, 20, size)
  order_N = semdedup.rank_documents(cosines_N, hashes_N)
  count = semdedup.count_tile_pairs(size)
  borders = sorted([0, count, *(random.randint(0, count) for _ in range(workers - 1))])
  shares = [semdedup.tile_pairs(start, stop) for start, stop in itertools.pairwise(borders)]
  random.shuffle(shares)
  largest_N = np.full(size, semdedup.NOTHING_BEFORE)
  for pairs_P2 in shares:
    partial_N = np.full(size, semdedup.NOTHING_BEFORE)
    for tile, earlier in random.sample(pairs_P2.tolist(), len(pairs_P2)):
      tile_RD, earlier_CD = (
        semdedup.unit_vectors(embeddings_ND[order_N[semdedup.tile_places(some, size)]]) for some in (tile, earlier)
      )
      largest_R = semdedup.largest_cosines(tile_RD, None if tile == earlier else earlier_CD)
      places = semdedup.tile_places(tile, size)
      partial_N[places] = np.maximum(partial_N[places], largest_R)
    largest_N = np.maximum(largest_N, partial_N)
  scores_N = semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)
  assert scores_N[order_N].tobytes() == semdedup.to_scores(largest_N).tobytes()


def test_the_order_of_the_input_changes_no_bit():
  """Kills: ties that fall by place, and products whose last bits depend on where a document stands."""
  embeddings_ND, cosines_N, hashes_N = cluster(1_500, 300, 5)
  scores_N = semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)
  shuffled_N = np.random.default_rng(5).permutation(1_500)
  again_N = semdedup.score_cluster(embeddings_ND[shuffled_N], cosines_N[shuffled_N], hashes_N[shuffled_N])
  assert again_N.tobytes() == scores_N[shuffled_N].tobytes()


BITS = """
import hashlib, numpy as np
from curation import semdedup
unit_ND = semdedup.unit_vectors(np.random.default_rng(0).standard_normal((1_800, 700)).astype(np.float32))
tile_RD, earlier_CD = unit_ND[1_024:], unit_ND[:1_024]
found = np.concatenate([semdedup.largest_cosines(tile_RD, earlier_CD), semdedup.largest_cosines(earlier_CD)])
print(hashlib.sha256(found.tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
  """Kills: products that OpenBLAS divides among threads: with 700 terms in one go, or any on CPUs without AVX-512."""
  result = set()
  for threads in "123":
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, check=True)
    result.add(done.stdout)
  assert len(result) == 1


def test_of_exact_copies_one_is_kept_and_the_hash_says_which():
  """Kills: ties that fall by place; scores below -1, by which copies would differ from one another."""
  copy_D = np.random.default_rng(2).standard_normal(768).astype(np.float32)
  embeddings_ND = np.tile(copy_D, (9, 1)) * np.arange(1, 10, dtype=np.float32)[:, None]
  hashes_N = hashing.hash_documents(semdedup.HASH_PURPOSE, 0, "shard", np.arange(9))
  for keep in ("nearest", "farthest", "random"):
    scores_N = semdedup.score_cluster(embeddings_ND, np.full(9, 0.5, np.float32), hashes_N, keep=keep)
    assert np.flatnonzero(scores_N > 0).tolist() == [np.argmin(hashes_N)]
    assert np.sort(scores_N)[-1] == 1 and np.all(np.sort(scores_N)[:-1] < -0.999999) and scores_N.min() >= -1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_of_any_float_dtype_and_files(dtype, tmp_path):
  """Kills: arithmetic in float16; an embedding that is scaled where it lies."""
  embeddings_ND, cosines_N, hashes_N = cluster(300, 64, 7)
  embeddings_ND = embeddings_ND.astype(dtype)
  np.save(tmp_path / "embeddings.npy", embeddings_ND)
  mapped_ND = np.load(tmp_path / "embeddings.npy", mmap_mode="r+")
  scores_N = semdedup.score_cluster(mapped_ND, cosines_N, hashes_N)
  np.testing.assert_allclose(scores_N, brute_force(embeddings_ND, cosines_N, hashes_N, "nearest"), atol=1e-6)
  semdedup.unit_vectors(mapped_ND)
  assert np.array_equal(mapped_ND, embeddings_ND)


def test_tile_pairs_are_numbered_without_a_gap_up_to_clusters_of_billions():
  """Kills: a root in float32; an earlier tile after its tile; the last tile cut."""
  expected = [(tile, earlier) for tile in range(60) for earlier in range(tile + 1)]
  assert [tuple(pair) for pair in semdedup.tile_pairs(0, len(expected)).tolist()] == expected
  for tile in (10**5, 3 * 10**6, 2**25):
    first = tile * (tile + 1) // 2
    result = semdedup.tile_pairs(first - 1, first + 2).tolist()
    assert result == [[tile - 1, tile - 1], [tile, 0], [tile, 1]]
  for size, pairs in ((0, 0), (1, 1), (TILE, 1), (TILE + 1, 3), (100_000, 98 * 99 // 2)):
    assert semdedup.count_tile_pairs(size) == pairs
  assert semdedup.tile_places(1, TILE + 5) == slice(TILE, TILE + 5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, 3e38])
def test_embeddings_without_a_cosine_are_refused(wrong):
  """Kills: NaN that loses every comparison, so that the copies of a document all get +1."""
  embeddings_ND, cosines_N, hashes_N = cluster(1_500, 8, 1)
  embeddings_ND[70] = wrong
  with pytest.raises(WinnowError, match=r"embedding 70 of 1500 has length (nan|inf|0\.0), .* or embed it again"):
    semdedup.unit_vectors(embeddings_ND)
  with pytest.raises(WinnowError, match="so its cosines are undefined"):
    semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)


def test_wrong_arguments_are_refused():
  embeddings_ND, cosines_N, hashes_N = cluster(5, 8, 1)
  with pytest.raises(WinnowError, match="the 'first' documents of a cluster: give nearest or farthest or random"):
    semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N, keep="first")
  with pytest.raises(ValueError, match="not of the same documents"):
    semdedup.score_cluster(embeddings_ND[:4], cosines_N, hashes_N)
  with pytest.raises(ValueError, match="not of the same documents"):
    semdedup.rank_documents(cosines_N, hashes_N[:4])
  cosines_N[3] = np.nan
  with pytest.raises(WinnowError, match="document 3 of the cluster has NaN as its cosine"):
    semdedup.score_cluster(embeddings_ND, cosines_N, hashes_N)
