"""Figures of a clustering, and their warnings."""

import json
import re

import numpy as np
import pytest

from curation.coverage import cluster_diagnostics

TRAINING = {"sample_points": 4_000, "inertia": [0.9, 0.6, 0.599], "silhouette": 0.3}


def diagnosed(counts: list[int], **training) -> dict:
  counts_K = np.array(counts)
  return cluster_diagnostics.diagnose(counts_K, 0.75 * counts_K, TRAINING | training)


def test_figures_are_those_of_the_clusters():
  """Kills: pairs that count twice, a mean over clusters in place of documents."""
  result = diagnosed([4, 0, 1, 5])
  assert result["inertia"] == pytest.approx(0.5)
  assert (result["documents"], result["clusters"], result["empty"], result["largest"]) == (10, 4, 1, 5)
  assert (result["smallest"], result["median"], result["sizes"]) == (0, 2.5, [4, 0, 1, 5])
  assert result["pairs"] == 6 + 0 + 0 + 10
  assert json.loads(json.dumps(result)) == result


def test_tallies_add_up_in_any_order():
  """Kills: sums of float32 as they are, whose last bits depend on the order."""
  generator = np.random.default_rng(0)
  clusters_N, cosines_N = generator.integers(0, 5, 9_000), generator.random(9_000).astype(np.float32)
  whole_2K = cluster_diagnostics.tally(clusters_N, cosines_N, 7)
  order_N = generator.permutation(9_000)
  parts = [cluster_diagnostics.tally(clusters_N[part], cosines_N[part], 7) for part in np.split(order_N, 30)]
  np.testing.assert_array_equal(sum(parts), whole_2K)
  np.testing.assert_array_equal(whole_2K[0], np.bincount(clusters_N, minlength=7))
  assert whole_2K[1].sum() == pytest.approx(cosines_N.sum(dtype=float), rel=1e-6)


@pytest.mark.parametrize(
  ("counts", "training", "expected"),
  [
    ([40] * 100, {}, []),
    ([3] * 100, {}, ["3 of the 300 documents on average, .* use fewer clusters, such as --num_clusters=17"]),
    ([7] * 4, {}, ["cluster a larger corpus"]),  # the square root is not fewer
    ([400] * 100, {"sample_points": 3_000}, ["trained on 30 points each: take a larger --kmeans_sample"]),
    ([30] * 100, {"sample_points": 3_000}, []),  # the sample is the corpus
    ([100] * 98 + [0, 0], {}, ["2 of 100 clusters are empty"]),
    ([40] * 99 + [6_000], {}, ["1 clusters of more than 20 times the mean size have 60%"]),
    ([40] * 100, {"inertia": [0.9, 0.6, 0.5]}, ["lowered the inertia by 16.7%: take more --kmeans_iterations"]),
    ([40] * 100, {"lloyd_inertia": [0.5]}, []),
    ([40] * 100, {"inertia": [0.9, 0.6], "lloyd_inertia": [0.7, 0.6]}, ["take more --lloyd_iterations"]),
    ([40] * 100, {"inertia": [0.9]}, []),
  ],
)
def test_warnings_name_the_flag_to_turn(counts, training, expected):
  result = cluster_diagnostics.warnings(diagnosed(counts, **training))
  assert len(result) == len(expected) and all(
    re.search(words, sentence) for words, sentence in zip(expected, result, strict=True)
  )
