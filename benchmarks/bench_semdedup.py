"""SemDeDup of 768-d clusters: time per pair compared with one plain matrix product, and scores with brute force."""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import time

import numpy as np

from curation.coverage import semdedup
from curation.selection import hashing

EPSILONS = (0.01, 0.05, 0.1, 0.2)
WORKERS = 16
PLAIN_ROWS = 2_048


def cluster(number: int, size: int, dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Makes embeddings around one centre, float32 [N, D], a tenth of them near an earlier one; cosines to it; hashes."""
  generator = np.random.default_rng(number)
  embeddings_ND = generator.standard_normal((size, dimensions), np.float32)
  centre_D = 0.7 * generator.standard_normal(dimensions, np.float32)
  embeddings_ND += centre_D
  for place in range(1, size, 10):
    noise_D = generator.uniform(0, 0.7) * generator.standard_normal(dimensions, np.float32)
    embeddings_ND[place] = embeddings_ND[generator.integers(place)] + noise_D
  lengths_N = np.sqrt(np.einsum("nd,nd->n", embeddings_ND, embeddings_ND))
  cosines_N = embeddings_ND @ (centre_D / np.linalg.norm(centre_D)) / lengths_N
  hashes_N = hashing.hash_documents(semdedup.HASH_PURPOSE, 0, f"cluster {number}", np.arange(size))
  return embeddings_ND, cosines_N, hashes_N


def plain_seconds(embeddings_ND: np.ndarray) -> float:
  """Returns the seconds that one product of two matrices takes for each number of its result."""
  left_ND = embeddings_ND[:PLAIN_ROWS]
  right_ND, out_NN = left_ND.copy(), np.zeros((len(left_ND), len(left_ND)), np.float32)
  started = time.perf_counter()
  np.matmul(left_ND, right_ND.T, out=out_NN)
  return (time.perf_counter() - started) / out_NN.size


def largest_share(size: int, workers: int) -> float:
  """Returns the pairs of the busiest worker over the mean, when a cluster's tile pairs are divided evenly."""
  borders = semdedup.count_tile_pairs(size) * np.arange(workers + 1) // workers
  pairs_W = np.zeros(workers)
  for worker in range(workers):
    for tile, earlier in semdedup.tile_pairs(borders[worker], borders[worker + 1]):
      places = semdedup.tile_places(tile, size)
      rows = places.stop - places.start
      pairs_W[worker] += rows * (rows - 1) // 2 if tile == earlier else rows * semdedup.TILE_ROWS
  assert pairs_W.sum() == size * (size - 1) // 2
  return float(pairs_W.max() / pairs_W.mean())


def check(scores_N: np.ndarray, made: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
  """Compares the scores with brute force in float64, in words, and the documents removed at some epsilons."""
  embeddings_ND, cosines_N, hashes_N = made
  order_N = np.lexsort((hashes_N, -cosines_N))
  unit_ND = embeddings_ND[order_N].astype(np.float64)
  unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
  exact_N = -np.tril(unit_ND @ unit_ND.T + 2, -1).max(axis=1, initial=1) + 2
  difference = np.abs(scores_N[order_N] - exact_N).max()
  removed = [
    (np.sum(exact_N < epsilon - 1), np.sum((exact_N < epsilon - 1) != (scores_N[order_N] < epsilon - 1)))
    for epsilon in EPSILONS
  ]
  counts = ", ".join(f"{exact:,} at {epsilon}" for epsilon, (exact, _) in zip(EPSILONS, removed, strict=True))
  others = sum(differ for _, differ in removed)
  return f"max |difference| {difference:.1e}; removed {counts}: {'THE SAME' if not others else f'{others} DIFFER'}"


def measure(sizes: list[int], dimensions: int) -> tuple[float, float, int, float]:
  """Returns the seconds, those of the plain product for as many numbers as pairs, the pairs, and the peak in MB."""
  seconds, limit, pairs = 0.0, 0.0, 0
  for number, size in enumerate(sizes):
    made = cluster(number, size, dimensions)
    before = plain_seconds(made[0])
    started = time.perf_counter()
    semdedup.score_cluster(*made)
    seconds += time.perf_counter() - started
    cluster_pairs = size * (size - 1) // 2
    limit += cluster_pairs * (before + plain_seconds(made[0])) / 2
    pairs += cluster_pairs
  status = pathlib.Path("/proc/self/status").read_text()  # getrusage would give the parent process's peak
  return seconds, limit, pairs, int(status.split("VmHWM:")[1].split()[0]) / 1024


def bench() -> None:
  import common  # imports Beam, which the measured processes do without

  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--points", type=int, default=200_000)
  parser.add_argument("--clusters", type=int, default=200)
  parser.add_argument("--dimensions", type=int, default=768)
  parser.add_argument("--checked", type=int, default=3_000, help="points of a cluster that brute force is run on")
  namespace = parser.parse_args()
  common.print_machine()
  made = cluster(0, namespace.checked, namespace.dimensions)
  print(f"{namespace.checked:,} points beside brute force in float64: {check(semdedup.score_cluster(*made), made)}")
  half, others = namespace.points // 2, namespace.clusters - 1
  for what, sizes in (
    ("of one size", [namespace.points // namespace.clusters] * namespace.clusters),
    ("one with half of all points", [half, *[(namespace.points - half) // others] * others]),
  ):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
      seconds, limit, pairs, peak = pool.submit(measure, sizes, namespace.dimensions).result()
    print(
      f"{namespace.clusters} clusters, {what}: {pairs:,} pairs, {seconds / pairs * 1e9:.1f} ns a pair, "
      f"{seconds / limit:.2f} of the plain product's {limit / pairs * 1e9:.1f} (bar 1.5); peak memory {peak:.0f} MB, "
      "the largest cluster in float32 among it (bar 500)",
      flush=True,
    )
  share = largest_share(half, WORKERS)
  print(f"tile pairs of {half:,} points over {WORKERS} workers: the largest share is {share:.3f} of the mean")


if __name__ == "__main__":
  bench()
