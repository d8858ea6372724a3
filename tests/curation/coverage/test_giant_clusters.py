"""Giant clusters: their size, the numbers of their pieces, and the sample that pieces are found on."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from curation.coverage import giant_clusters, kmeans
from curation.errors import WinnowError

SIZES = st.lists(st.one_of(st.just(0), st.integers(1, 3_000)), min_size=1, max_size=9)
LIMITS = st.integers(giant_clusters.LEAST_PAIRS, 4_000_000)
CONFIG = kmeans.KMeansConfig(clusters=9, points_per_cluster=20, iterations=3, lloyd_iterations=2, seed=5)


def test_a_limit_is_in_range_or_refused():
  for pairs in (giant_clusters.LEAST_PAIRS, 10**11, 10**18):
    giant_clusters.check_limit(pairs)
  for pairs in (-1, 0, giant_clusters.LEAST_PAIRS - 1, 10**18 + 1):
    with pytest.raises(
      WinnowError, match=f"--max_cluster_pairs={pairs} is not between 523,776, the pairs of 1,024 doc"
    ):
      giant_clusters.check_limit(pairs)


def test_the_default_splits_giants_of_the_papers_corpus_alone():
  mean = 364_000_000 // 10_000
  pieces = giant_clusters.Pieces(np.array([mean, 10 * mean, 20 * mean, 5_000 * mean]), 10**11, CONFIG)
  assert pieces.giants.tolist() == [2, 3] and np.diff(pieces.starts).tolist() == [1, 1, 7, 1628]


@hypothesis.given(SIZES, LIMITS)
def test_giants_have_more_pairs_and_all_pieces_numbers_of_their_own(sizes, limit):
  """Kills: a limit of documents for one of pairs; one cluster's last piece that is the next one's first; a cluster at
  the limit that is split; a giant of one piece."""
  pieces = giant_clusters.Pieces(np.array(sizes, np.int64), limit, CONFIG)
  giants = [cluster for cluster, size in enumerate(sizes) if size * (size - 1) // 2 > limit]
  assert pieces.giants.tolist() == giants
  numbers = []
  for cluster, size in enumerate(sizes):
    own = range(*pieces.cluster_pieces(cluster).indices(1 << 30))
    numbers += own
    if cluster not in giants:
      assert len(own) == 1
      continue
    mean = size / len(own)
    assert mean * (mean - 1) / 2 < limit / 12
    config = pieces.kmeans_config(cluster)
    assert config == kmeans.KMeansConfig(len(own), points_per_cluster=20, iterations=3, seed=5)
  assert numbers == list(range(pieces.starts[-1]))


def test_too_many_pieces_are_refused():
  with pytest.raises(WinnowError, match="523776 would split 1 clusters into 39,063 pieces, more than 16,384: give"):
    _ = giant_clusters.Pieces(np.array([7, 10_000_000]), giant_clusters.LEAST_PAIRS, CONFIG).giants


def test_the_sample_is_of_giants_and_the_same_in_any_company():
  """Kills: hashes that are drawn by place; documents of small clusters; of a giant, a part that is not its share."""
  sizes_K = np.array([3, 40_000, 0, 100_000, 900])
  pieces = giant_clusters.Pieces(sizes_K, giant_clusters.LEAST_PAIRS, CONFIG)
  generator = np.random.default_rng(3)
  clusters_N = generator.permutation(np.repeat(np.arange(5), sizes_K)).astype(np.int32)
  rows_N = np.arange(len(clusters_N)) * 3
  places, giants, hashes = pieces.sample(clusters_N, "shard", rows_N)
  assert np.array_equal(pieces.giants[giants], clusters_N[places])
  wanted = 20 * np.diff(pieces.starts)[[1, 3]]
  assert (np.bincount(giants) >= wanted).all() and (np.bincount(giants) < 1.3 * wanted + 100).all()
  parts = [pieces.sample(clusters_N[part], "shard", rows_N[part]) for part in (slice(0, 7), slice(7, None))]
  np.testing.assert_array_equal(np.concatenate([parts[0][0], parts[1][0] + 7]), places)
  np.testing.assert_array_equal(np.concatenate([parts[0][2], parts[1][2]]), hashes)
  assert not np.array_equal(pieces.sample(clusters_N, "other", rows_N)[0], places)


def test_documents_get_the_nearest_piece_of_their_own_cluster():
  """Kills: pieces of another giant's centroids; documents of other clusters that are assigned too."""
  generator = np.random.default_rng(4)
  pieces = giant_clusters.Pieces(np.array([2_000, 5, 3_000]), giant_clusters.LEAST_PAIRS, CONFIG)
  counts = np.diff(pieces.starts)
  assert counts.tolist() == [8, 1, 12]
  centroids = [generator.standard_normal((count, 6)) for count in (8, 12)]
  centroids = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in centroids]
  clusters_N, points_ND = generator.integers(0, 3, 500).astype(np.int32), generator.standard_normal((500, 6))
  pieces_N = pieces.assign(clusters_N, points_ND, [kmeans.Centroids(each) for each in centroids])
  expected_N = np.select(
    [clusters_N == 0, clusters_N == 1],
    [np.argmax(points_ND @ centroids[0].T, axis=1), 8],
    9 + np.argmax(points_ND @ centroids[1].T, axis=1),
  )
  np.testing.assert_array_equal(pieces_N, expected_N)
  assert pieces_N.dtype == np.int32


def test_figures_are_of_giants_alone():
  pieces = giant_clusters.Pieces(np.array([2_000, 5, 3_000]), giant_clusters.LEAST_PAIRS, CONFIG)
  sizes_P = np.array([1_100, 900, 0, 0, 0, 0, 0, 0, 5, 1_500, 1_500, *[0] * 10])
  compared = (1_100 * 1_099 + 900 * 899 + 2 * 1_500 * 1_499) // 2
  assert pieces.figures(sizes_P) == {
    "max_cluster_pairs": giant_clusters.LEAST_PAIRS,
    "clusters": 2,
    "documents": 5_000,
    "pieces": 20,
    "pieces_above": 3,
    "largest_piece": 1_500,
    "pairs_compared": compared,
    "pairs_left_out": (2_000 * 1_999 + 3_000 * 2_999) // 2 - compared,
  }
