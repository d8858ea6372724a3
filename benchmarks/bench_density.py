"""The resolution of RACE sketches: errors, ranks and contrast by rows, counters and kernel; and Theorem A.2.

Shape suffixes: N points, M of them at which densities are looked up, D dimensions, K clusters.
"""

import argparse
import dataclasses

import common
import numpy as np
import pyarrow as pa
import scipy.stats

from curation.coverage import density, kernels, race
from curation.demo import embedder as demo_embedder
from curation.scorers import sentence_t5
from curation.selection import hashing

ROWS = (50, 100, 200, 500, 1_000)
COUNTERS = (200, 2_000, 20_000)
CLUSTERS = 10
RATE = 0.2
DOCUMENTS = 1_445  # the size of the shared C4 sample


def mixture(number: int, dimensions: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
  """Makes unit vectors around ten random centres, the k-th with weight 1/k: float32 [N, D], and their centres."""
  generator = np.random.default_rng(0)
  centres_KD = generator.standard_normal((CLUSTERS, dimensions))
  centres_KD /= np.linalg.norm(centres_KD, axis=1, keepdims=True)
  weights_K = 1 / np.arange(1, CLUSTERS + 1)
  cluster_N = generator.choice(CLUSTERS, number, p=weights_K / weights_K.sum())
  noise_ND = generator.standard_normal((number, dimensions)) / np.sqrt(dimensions)
  points_ND = centres_KD[cluster_N] + spread * noise_ND
  return (points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)).astype(np.float32), cluster_N


def embed_documents(number: int) -> np.ndarray:
  """Embeds `number` documents of the benchmarks' corpus by the demo embedder: float32 [N, D]."""
  embedder = sentence_t5.SentenceT5Embedder(sentence_t5.load(demo_embedder.folder()))
  return embedder.run(embedder.prepare(pa.array(list(common.documents(number))))).embeddings


def settings(points_ND: np.ndarray) -> dict[str, kernels.Kernel]:
  """Returns the kernels to compare, the default first."""
  default = density.choose_kernel(points_ND)
  assert default.bandwidth is not None
  return {
    "default": default,
    "one hash": dataclasses.replace(default, hashes=1),
    "bandwidth / 4": dataclasses.replace(default, bandwidth=default.bandwidth / 4),
    "bandwidth x 4": dataclasses.replace(default, bandwidth=default.bandwidth * 4),
    "4 hashes": density.choose_kernel(points_ND, hashes=4),
    "angular": density.choose_kernel(points_ND, "angular"),
    "L1": density.choose_kernel(points_ND, "l1"),
  }


def make_sketch(points_ND: np.ndarray, kernel: kernels.Kernel, rows: int, counters: int, seed: int) -> race.Sketch:
  sketch = race.Sketch(race.SketchConfig(points_ND.shape[1], kernel, rows, counters, seed=seed))
  sketch.add(points_ND)
  return sketch


def variation(density_M: np.ndarray) -> float:
  """Computes the coefficient of variation of the weights."""
  return np.std(1 / density_M) / np.mean(1 / density_M)


def print_table(points_ND: np.ndarray, kernel: kernels.Kernel, seeds: int, *, whole: bool) -> None:
  """Prints a row for each sketch size, or for the largest one unless `whole`.

  Errors (root mean squares) are relative to the mean count expected from the exact sum and 1/B collisions.
  """
  queries_MD = points_ND[np.random.default_rng(0).permutation(len(points_ND))[:1_000]]
  exact_M = kernel.sums(queries_MD, points_ND)
  print(f"    exact: median kernel sum {np.median(exact_M):,.2f}, CV of weights {variation(exact_M):.3f}")
  print(
    f"    {'R':>5}{'B':>8}{'error / predicted':>19}{'relative error':>16}{'rank correlation':>18}{'CV of weights':>15}"
  )
  for rows in ROWS if whole else ROWS[-1:]:
    for counters in COUNTERS if whole else COUNTERS[-1:]:
      expected_M = exact_M + (len(points_ND) - exact_M) / counters
      measured = []
      for seed in range(seeds):
        mean_M, error_M = make_sketch(points_ND, kernel, rows, counters, seed).density(queries_MD)
        measured.append(
          (
            np.mean((mean_M - expected_M) ** 2) / np.mean(error_M**2),
            np.mean((mean_M / expected_M - 1) ** 2),
            scipy.stats.spearmanr(mean_M, exact_M).statistic,
            variation(mean_M),
          )
        )
      ratio, relative, correlation, contrast = np.mean(measured, axis=0)
      print(
        f"    {rows:>5,}{counters:>8,}{ratio**0.5:>19.2f}{relative**0.5:>16.4f}{correlation:>18.3f}{contrast:>15.3f}",
        flush=True,
      )


def distance_to_even(cluster_N: np.ndarray, density_N: np.ndarray, seeds: int) -> float:
  """Returns the total variation between the clusters' shares and even ones, in samples with probability ∝ 1 / density.

  The result is a mean over seeds.
  """
  number, measured = len(cluster_N), []
  for seed in range(seeds):
    gumbel_N = -np.log(-np.log(hashing.uniforms("bench draw", seed, 0, number)))
    drawn_N = np.argsort(np.log(density_N) - gumbel_N)[: round(RATE * number)]
    shares_K = np.bincount(cluster_N[drawn_N], minlength=CLUSTERS) / len(drawn_N)
    measured.append(np.abs(shares_K - 1 / CLUSTERS).sum() / 2)
  return float(np.mean(measured))


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--points", type=int, default=5_000)
  parser.add_argument("--dimensions", type=int, default=64, help="of the mixture")
  parser.add_argument(
    "--spread", type=float, default=0.3, help="of the mixture's clusters, whose centres have length 1"
  )
  parser.add_argument("--seeds", type=int, default=4, help="of sketches and samples")
  parser.add_argument("--embeddings", help="a .npy file of unit vectors, float [N, D]")
  namespace = parser.parse_args()
  common.print_machine()
  mixture_ND, cluster_N = mixture(namespace.points, namespace.dimensions, namespace.spread)
  corpora = {f"a mixture of {CLUSTERS} Gaussians on the sphere, weights 1/k": mixture_ND}
  corpora[f"{common.corpus_name()}, by the demo embedder"] = embed_documents(DOCUMENTS)
  if namespace.embeddings:
    given_ND = np.load(namespace.embeddings)
    corpora[f"given embeddings, at most {namespace.points:,} of {len(given_ND):,}"] = given_ND[
      np.random.default_rng(0).permutation(len(given_ND))[: namespace.points]
    ]
  for corpus, points_ND in corpora.items():
    print(f"{corpus}: {len(points_ND):,} x {points_ND.shape[1]}, mean of {namespace.seeds} sketches")
    for setting, kernel in settings(points_ND).items():
      bandwidth = "no" if kernel.bandwidth is None else f"{kernel.bandwidth:.3g}"
      print(f"  {setting}: bandwidth {bandwidth}, {kernel.hashes} hashes")
      print_table(points_ND, kernel, namespace.seeds, whole=setting == "default")
  random = distance_to_even(cluster_N, np.ones(len(cluster_N)), namespace.seeds)
  print(f"Theorem A.2: {RATE:.0%} of the mixture; total variation of the clusters' shares to even ones")
  print(f"  random sampling {random:.3f}; limit, a third of it: {random / 3:.3f}")
  for setting, kernel in settings(mixture_ND).items():
    mean_N = make_sketch(mixture_ND, kernel, 1_000, 20_000, 0).density(mixture_ND).mean
    exact_N = kernel.sums(mixture_ND, mixture_ND)
    sketched, exact = (distance_to_even(cluster_N, density_N, namespace.seeds) for density_N in (mean_N, exact_N))
    print(f"  {setting:<14} sketch {sketched:.3f} = {sketched / random:.2f} of random, exact kernel sums {exact:.3f}")


if __name__ == "__main__":
  bench()
