"""RACE sketches of 768-d embeddings, 1,000 x 20,000: building and scoring, compared with the projection and NumPy."""

import argparse
import time
from collections.abc import Callable

import common
import numpy as np

from curation.coverage import kernels, race


def rate(work: Callable[[], object], points: int, seconds: float) -> float:
  """Returns the points per second of repeated calls, after one call that is not timed."""
  work()
  started, count = time.perf_counter(), 0
  while time.perf_counter() - started < seconds:
    work()
    count += 1
  return points * count / (time.perf_counter() - started)


def plain(hashes: race.Hashes, counts_RB: np.ndarray, points_ND: np.ndarray, *, add: bool) -> np.ndarray:
  """Counts or looks up as a sketch does, in whole arrays and without compiled loops."""
  config = hashes.config
  joined = config.kernel.hashes
  projected_NP = hashes.project(points_ND).T * hashes._scale + hashes._offsets_P
  codes_NRH = np.floor(projected_NP).astype(np.int64).astype(np.uint32).reshape(len(points_ND), config.rows, joined)
  mixed_NR = (codes_NRH * hashes._multipliers_RH[:, :joined]).sum(axis=2) + hashes._multipliers_RH[:, joined]
  counters_NR = ((mixed_NR >> np.uint64(32)) * np.uint64(config.counters) >> np.uint64(32)).astype(np.int64)
  rows_R = np.arange(config.rows)
  if add:
    np.add.at(counts_RB, (rows_R, counters_NR), 1)
    return counts_RB
  return counts_RB[rows_R, counters_NR].mean(axis=1)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--dimensions", type=int, default=768)
  parser.add_argument("--hashes", type=int, nargs="+", default=[1, 4])
  parser.add_argument("--points", type=int, default=4_096, help="of a block")
  parser.add_argument("--seconds", type=float, default=5.0)
  parser.add_argument("--rounds", type=int, default=3)
  namespace = parser.parse_args()
  common.print_machine()
  generator = np.random.default_rng(0)
  points_ND = generator.standard_normal((namespace.points, namespace.dimensions)).astype(np.float32)
  points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
  for joined in namespace.hashes:
    config = race.SketchConfig(namespace.dimensions, kernels.Kernel("l2", 1.0, joined))
    started = time.perf_counter()
    sketch = race.Sketch(config)
    sketch.add(points_ND)
    sketch.density(points_ND)
    print(f"{joined} hashes a row; making them and compiling the loops: {time.perf_counter() - started:.1f} s")
    batches = [points_ND[i : i + 1_024] for i in range(0, len(points_ND), 1_024)]
    counts_RB = np.zeros_like(sketch.counts_RB)
    rows = {
      "limit: the projection alone": lambda batches=batches, a=sketch.hashes._projections_PD: [
        a @ x.T for x in batches
      ],
      "add to a sketch": lambda sketch=sketch: sketch.add(points_ND),
      "density": lambda sketch=sketch: sketch.density(points_ND),
      "beside: plain NumPy, add": lambda s=sketch, c=counts_RB: plain(s.hashes, c, points_ND[:512], add=True),
      "beside: plain NumPy, density": lambda s=sketch, c=counts_RB: plain(s.hashes, c, points_ND[:512], add=False),
    }
    measured: dict[str, list[float]] = {what: [] for what in rows}
    for _ in range(namespace.rounds):
      for what, work in rows.items():
        measured[what].append(rate(work, 512 if "NumPy" in what else len(points_ND), namespace.seconds))
    limit = np.array(next(iter(measured.values())))
    for what, rates in measured.items():
      share = np.median(np.array(rates) / limit)
      print(f"  {what:<32}{np.median(rates):>10,.0f} embeddings/s{share:>8.2f} of the projection", flush=True)


if __name__ == "__main__":
  bench()
