"""Chooses the bandwidth for density sampling, and diagnoses whether densities are meaningful (paper, 3.2, B.2).

Under a kernel that is too wide every document is a neighbour of every other; under one that is too narrow none has a
neighbour. Both weight all documents alike, which is random sampling. Shape suffixes: N points of a sample, M held-out
points, D dimensions.
"""

from typing import Any

import numpy as np
import scipy.optimize

from curation.coverage import kernels, race
from curation.errors import WinnowError

DEFAULT_HASHES = 8
# The kernel's value at the median distance of two documents. It is well above 1/20,000, which chance collisions add,
# and so small that a far document weighs nothing beside a near one. Measured in benchmarks/RESULTS.md.
_KERNEL_AT_MEDIAN = 1e-3
_MOST_FOR_PAIRS = 2_000
_MOST_IN_SKETCH = 10_000
_MOST_HELD_OUT = 1_000

# Limits between what the default bandwidth gave, on text embeddings and mixtures, and what bandwidths ten times off
# gave: 2 to 200 neighbours against under 0.001 (too narrow); neighbours of 0.1% to 4% of the corpus against 57%, with
# weights that differ by 1% to 9% (too wide).
_LEAST_NEIGHBOURS = 0.1
_MOST_NEIGHBOURS_SHARE = 0.1
LEAST_VARIATION = 0.2
"""The coefficient of variation of the weights below which density is nearly random sampling (docs/density.md)."""
_LEAST_RANK_CORRELATION = 0.7
_MOST_NOISE = 0.7  # half of the weights' variance
_MOST_COLLISIONS = 0.5


def choose_kernel(
  sample_ND: np.ndarray, name: str = "l2", hashes: int | None = None, bandwidth: float | None = None
) -> kernels.Kernel:
  """Returns the kernel of that name, choosing what is None by a sample of the corpus, float [N, D].

  The choice makes two points at the median distance (of all pairs that are not copies) share a bucket once in 1,000
  times. `l2` and `l1` join 8 hashes and choose the bandwidth, to 3 digits; `angular` has no bandwidth and chooses the
  number of hashes. The choice depends on at most 2,000 evenly spaced rows, but not on the size of the corpus, and a few
  copies in the sample do not change it. Raises WinnowError if a choice is needed and no two points differ.
  """
  if name == "angular" and hashes is None:
    median = np.array(_median_distance(sample_ND, name, "--hashes"))
    one_hash = np.clip(kernels.Kernel(name, bandwidth).at_distances(median), 1e-9, 1 - 1e-9)
    hashes = int(np.clip(np.rint(np.log(_KERNEL_AT_MEDIAN) / np.log(one_hash)), 1, 64))
  hashes = DEFAULT_HASHES if hashes is None else hashes
  if name in ("l2", "l1") and bandwidth is None:
    exact = _median_distance(sample_ND, name, "--bandwidth") * _bandwidth_at_one(name, hashes)
    bandwidth = float(f"{exact:.3g}")
  return kernels.Kernel(name, bandwidth, hashes)


def diagnose(
  kernel: kernels.Kernel,
  rows: int,
  counters: int,
  seed: int,
  sample_ND: np.ndarray,
  held_out_MD: np.ndarray,
  num_points: int,
) -> dict[str, Any]:
  """Compares a sketch of a sample with exact kernel sums at held-out points, and extrapolates to the corpus.

  Both sets of points are float [_, D], finite and of length 1 at most; 10,000 and 1,000 evenly spaced rows are used.
  Every held-out point counts as one more document of the sample, so its density is at least 1. Raises WinnowError for
  fewer than two points in either set. Returns figures for JSON:

  - `median_relative_error`: that of the estimates against the expected mean count (exact sum plus chance collisions);
  - `median_relative_standard_error`: the relative error that the estimates themselves predict;
  - `error_over_standard_error`: the root of the mean square of their ratio, 1 if errors are as predicted;
  - `rank_correlation`: Spearman's, between estimates and exact kernel sums;
  - `neighbours`: the median of the exact kernel sums without the document itself, for a corpus of `num_points`;
  - `weights_variation`: the coefficient of variation of the exact weights 1/S in that corpus;
  - `collisions_share`: the share of the mean count that is due to chance collisions in that corpus.
  """
  sample_ND, held_out_MD = _thinned(sample_ND, _MOST_IN_SKETCH), _thinned(held_out_MD, _MOST_HELD_OUT)
  if len(sample_ND) < 2 or len(held_out_MD) < 2:
    raise WinnowError(
      "density cannot be checked on fewer than two documents and two held-out ones: give more documents"
    )
  radius = float(max(1.0, *(np.linalg.norm(x, axis=1).max() for x in (sample_ND, held_out_MD))))
  sketch = race.Sketch(race.SketchConfig(sample_ND.shape[1], kernel, rows, counters, radius, seed))
  sketch.add(sample_ND)
  estimate = sketch.density(held_out_MD)
  others_M = kernel.sums(held_out_MD, sample_ND)
  expected_M = 1 + others_M + (len(sample_ND) - others_M) / counters
  errors_M, estimates_M = estimate.mean + 1 - expected_M, estimate.mean + 1
  predicted_M = np.maximum(estimate.standard_error, 1 / rows)  # rows that agree may still miss one point in one row
  in_corpus_M = 1 + others_M * num_points / len(sample_ND)
  return {
    "num_points": num_points,
    "sample_points": len(sample_ND),
    "held_out_points": len(held_out_MD),
    "median_relative_error": float(np.median(np.abs(errors_M) / expected_M)),
    "median_relative_standard_error": float(np.median(estimate.standard_error / estimates_M)),
    "error_over_standard_error": float(np.sqrt(np.mean((errors_M / predicted_M) ** 2))),
    "rank_correlation": _rank_correlation(estimates_M, others_M),
    "neighbours": float(np.median(in_corpus_M) - 1),
    "weights_variation": _variation(1 / in_corpus_M),
    "collisions_share": float(num_points / counters / (np.mean(in_corpus_M) + num_points / counters)),
  }


def resolution(sketch: race.Sketch, sample_ND: np.ndarray) -> dict[str, Any]:
  """Measures how well a corpus's sketch tells documents apart, at a sample of its documents, float [N, D], N > 0.

  Returns figures for JSON:

  - `occupied_share`: the share of the counters that are above 0;
  - `neighbours`: the median density without collisions and without the document itself;
  - `weights_variation`: the coefficient of variation of the weights 1/S, noise included;
  - `collisions_share`: the share of the mean count that is due to chance collisions, N/B for all N points;
  - `median_relative_standard_error`: that of the densities.
  """
  mean_N, error_N = sketch.density(_thinned(sample_ND, _MOST_IN_SKETCH))
  return {
    "num_points": sketch.num_points,
    "neighbours": float(np.median(sketch.without_collisions(mean_N)) - 1),
    "occupied_share": float(np.count_nonzero(sketch.counts_RB) / sketch.counts_RB.size),
    "weights_variation": _variation(1 / mean_N),
    "collisions_share": float(sketch.num_points / sketch.config.counters / np.mean(mean_N)),
    "median_relative_standard_error": float(np.median(error_N / mean_N)),
  }


def warnings(diagnostics: dict[str, Any], name: str = "l2") -> list[str]:
  """Returns sentences on why densities are poor and which flag to change, usually none.

  `diagnostics` are those of `diagnose` or `resolution`. `name` is the kernel's, since the angular
  kernel has no bandwidth to change.
  """
  wider, narrower = "take a larger --bandwidth or fewer --hashes", "take a smaller --bandwidth or more --hashes"
  if name == "angular":
    wider, narrower = "take fewer --hashes", "take more --hashes, or --kernel=l2"
  neighbours, num_points = diagnostics["neighbours"], diagnostics["num_points"]
  variation, error = diagnostics["weights_variation"], diagnostics["median_relative_standard_error"]
  correlation = diagnostics.get("rank_correlation")
  warned = []
  if neighbours < _LEAST_NEIGHBOURS:
    warned.append(
      f"most documents have no neighbours (the median kernel sum of all others is {neighbours:.2g}), so that only "
      f"close copies are thinned: {wider}"
    )
  elif neighbours > _MOST_NEIGHBOURS_SHARE * num_points and variation < LEAST_VARIATION:
    warned.append(
      f"the kernel is so wide that {neighbours / num_points:.0%} of the corpus are neighbours of a document, and the "
      f"weights differ by only {variation:.1%}, almost random sampling: {narrower}"
    )
  elif variation < LEAST_VARIATION:
    # On text embeddings and made-up ones, both raise it by a tenth to a half; L1 lowers it (bench_density_contrast.py).
    advice = "" if name == "angular" else "take more --hashes (16), or --kernel=angular; if that does not help, "
    warned.append(
      f"the weights differ by only {variation:.1%}, less than {LEAST_VARIATION:.0%}, which is nearly random sampling: "
      f"{advice}embed with a model that tells documents apart better, such as a larger one"
    )
  elif correlation is not None and correlation < _LEAST_RANK_CORRELATION:
    warned.append(
      f"estimated densities follow the exact ones poorly (rank correlation {correlation:.2f}): take more --sketch_rows"
    )
  elif correlation is None and error > _MOST_NOISE * variation:
    warned.append(
      f"most of what the weights differ by, {variation:.1%}, is noise of {error:.1%}: take more --sketch_rows"
    )
  collisions = diagnostics["collisions_share"]
  if collisions > _MOST_COLLISIONS:
    warned.append(
      f"{collisions:.0%} of a mean count are other documents that share a counter by chance: take more "
      "--sketch_counters, or a larger --bandwidth"
    )
  return warned


def lines(diagnostics: dict[str, Any], name: str = "l2") -> list[str]:
  """Summarises the figures of `diagnose` or `resolution` in a few lines; the last one is a verdict."""
  correlation = diagnostics.get("rank_correlation")
  ranks = "" if correlation is None else f"; estimates rank documents as exact sums do, correlation {correlation:.2f}"
  is_good = not warnings(diagnostics, name)
  return [
    f"neighbours of the median document: {diagnostics['neighbours']:,.3g} of {diagnostics['num_points']:,} documents",
    f"the weights 1 / density differ by {diagnostics['weights_variation']:.1%} (random sampling: 0%)",
    f"noise of a density: {diagnostics['median_relative_standard_error']:.1%}{ranks}",
    f"chance collisions: {diagnostics['collisions_share']:.1%} of a count",
    f"verdict: density tells these documents apart {'well' if is_good else 'poorly'}",
  ]


def _median_distance(sample_ND: np.ndarray, name: str, flag: str) -> float:
  """Returns the median distance, in the kernel's measure, of all pairs that differ; raises WinnowError if none does."""
  sample_ND = _thinned(sample_ND, _MOST_FOR_PAIRS)
  measure = kernels.Kernel(name, None if name == "angular" else 1.0)
  distances = measure.distances(sample_ND, sample_ND)[np.triu_indices(len(sample_ND), 1)]
  distances = distances[distances > 1e-6 * distances.max(initial=0)]
  if not len(distances):
    raise WinnowError(f"no two of {len(sample_ND):,} sampled embeddings differ, so {flag} cannot be chosen: give it")
  return float(np.median(distances))


def _bandwidth_at_one(name: str, hashes: int) -> float:
  """Returns the bandwidth at which the kernel at distance 1 has the value wanted at the median distance."""

  def excess(log_bandwidth: float) -> float:
    kernel = kernels.Kernel(name, float(np.exp(log_bandwidth)), hashes)
    return float(kernel.at_distances(np.array(1.0))) - _KERNEL_AT_MEDIAN

  return float(np.exp(scipy.optimize.brentq(excess, np.log(1e-6), np.log(1e6))))


def _thinned(points_ND: np.ndarray, most: int) -> np.ndarray:
  """Returns at most `most` of the rows, evenly spaced."""
  points_ND = np.asarray(points_ND)
  if len(points_ND) <= most:
    return points_ND
  return points_ND[np.arange(most) * len(points_ND) // most]


def _variation(weights_N: np.ndarray) -> float:
  return float(np.std(weights_N) / np.mean(weights_N))


def _rank_correlation(x_M: np.ndarray, y_M: np.ndarray) -> float:
  """Computes Spearman's rank correlation; returns 0 where it is undefined since one side is constant."""
  if np.ptp(x_M) == 0 or np.ptp(y_M) == 0:
    return 0.0
  return float(np.corrcoef(_ranks(x_M), _ranks(y_M))[0, 1])


def _ranks(x_M: np.ndarray) -> np.ndarray:
  """Ranks numbers; equal ones share their mean rank. (scipy.stats would take 23 MB of every worker's memory.)"""
  _, place_M, counts = np.unique(x_M, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts - 1) / 2)[place_M]
