"""K-means of a synthetic mixture, 1M x 768: training compared with faiss's own, and assignment with the GEMM.

Both train on the same sample. Inertia is that of the sample with the final centroids, measured alike for both, and runs
alternate. The whole mixture is never in memory, since its blocks are made as they are assigned.
"""

import argparse
import functools
import time

import common
import numpy as np

from curation.coverage import halves, kmeans

BAR_INERTIA, BAR_TIME, BAR_ASSIGNMENT = 1.01, 1.1, 0.7
BLOCK = 4_096


def mixture(centres_CD: np.ndarray, points: int, seed: int) -> np.ndarray:
  """Makes unit vectors around centres of very uneven weight and width: float16 [N, D]."""
  generator = np.random.default_rng(seed)
  centres, dimensions = centres_CD.shape
  weights_C = 1 / np.arange(1, centres + 1) ** 0.8
  centre_N = generator.choice(centres, points, p=weights_C / weights_C.sum())
  width_N = (0.3 + 0.5 * (centre_N % 7) / 6).astype(np.float32)
  points_ND = generator.standard_normal((points, dimensions), dtype=np.float32) * width_N[:, None]
  points_ND += centres_CD[centre_N]
  points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
  return points_ND.astype(np.float16)


def blocks(centres_CD: np.ndarray, points: int):
  """Yields the mixture in blocks. A few dozen blocks are reused, since making one takes longer than assigning it."""
  made = [mixture(centres_CD, BLOCK, seed) for seed in range(min(32, -(-points // BLOCK)))]
  for place in range(-(-points // BLOCK)):
    yield made[place % len(made)]


def train_by_faiss(sample_ND: np.ndarray, clusters: int, iterations: int, seed: int) -> np.ndarray:
  import faiss

  trainer = faiss.Kmeans(
    sample_ND.shape[1],
    clusters,
    niter=iterations,
    spherical=True,
    seed=seed + 1,
    max_points_per_centroid=len(sample_ND),
    min_points_per_centroid=1,
  )
  trainer.train(sample_ND.astype(np.float32))
  return trainer.centroids


def inertia(sample_ND: np.ndarray, centroids_KD: np.ndarray) -> float:
  parts = [
    (sample_ND[i : i + BLOCK].astype(np.float32) @ centroids_KD.T).max(axis=1) for i in range(0, len(sample_ND), BLOCK)
  ]
  return float(2 - 2 * np.concatenate(parts).mean(dtype=np.float64))


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--points", type=int, default=1_000_000)
  parser.add_argument("--dimensions", type=int, default=768)
  parser.add_argument("--clusters", type=int, default=1_000)
  parser.add_argument("--centres", type=int, default=3_000, help="of the mixture")
  parser.add_argument("--sample", type=int, default=256, help="points a centroid")
  parser.add_argument("--iterations", type=int, default=20)
  parser.add_argument("--rounds", type=int, default=3)
  namespace = parser.parse_args()
  common.print_machine()
  centres_CD = np.random.default_rng(0).standard_normal((namespace.centres, namespace.dimensions), dtype=np.float32)
  centres_CD *= 0.5
  sample_ND = mixture(centres_CD, min(namespace.points, namespace.clusters * namespace.sample), 1 << 20)
  print(f"sample of {len(sample_ND):,} x {namespace.dimensions}")
  print(f"k = {namespace.clusters:,}, {namespace.iterations} iterations")
  rows: dict[str, list[tuple[float, float]]] = {"faiss": [], "ours": []}
  for seed in range(namespace.rounds):
    config = kmeans.KMeansConfig(namespace.clusters, namespace.sample, namespace.iterations, seed=seed)
    for name, work in (
      ("faiss", functools.partial(train_by_faiss, sample_ND, namespace.clusters, namespace.iterations, seed)),
      ("ours", lambda config=config: kmeans.train(sample_ND, config).centroids_KD),
    ):
      started = time.perf_counter()
      centroids_KD = work()
      seconds = time.perf_counter() - started
      rows[name].append((inertia(sample_ND, centroids_KD), seconds))
      print(f"  {name:<6} seed {seed}: inertia {rows[name][-1][0]:.5f}, {seconds:.1f} s", flush=True)
  ratios = np.median(np.array(rows["ours"]) / np.array(rows["faiss"]), axis=0)
  print(f"inertia {ratios[0]:.4f} x faiss's (bar: {BAR_INERTIA}), time {ratios[1]:.2f} x (bar: {BAR_TIME})")
  centroids = kmeans.Centroids(centroids_KD)
  centroids.assign(sample_ND[:BLOCK])  # loads the compiler, once per process
  float32 = [block_ND.astype(np.float32) for block_ND in blocks(centres_CD, 8 * BLOCK)]
  products_BK, speeds = np.empty((1_024, namespace.clusters), np.float32), []
  for _ in range(namespace.rounds):
    points, seconds = 0, 0.0
    for block_ND in blocks(centres_CD, namespace.points):
      started = time.perf_counter()
      centroids.assign(block_ND)
      seconds += time.perf_counter() - started
      points += len(block_ND)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < min(seconds, 20):
      for start in range(0, BLOCK, 1_024):
        np.matmul(float32[count % len(float32)][start : start + 1_024], centroids_KD.T, out=products_BK)
      count += 1
    limit = count * BLOCK / (time.perf_counter() - started)
    speeds.append((points / seconds, limit))
    print(f"  assignment {speeds[-1][0]:,.0f} embeddings/s, the GEMM alone {limit:,.0f}", flush=True)
  share = np.median([ours / limit for ours, limit in speeds])
  print(f"assignment {share:.2f} of the GEMM (bar: {BAR_ASSIGNMENT})")
  seconds, made = {}, list(blocks(centres_CD, 32 * BLOCK))
  for name, convert in (("ours", halves.to_float32), ("NumPy", lambda points_ND: points_ND.astype(np.float32))):
    started = time.perf_counter()
    for block_ND in made:
      convert(block_ND)
    seconds[name] = time.perf_counter() - started
  print(f"float16 to float32: {seconds['NumPy'] / seconds['ours']:.1f} times as fast as NumPy")


if __name__ == "__main__":
  bench()
