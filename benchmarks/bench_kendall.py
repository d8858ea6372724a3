"""Kendall's tau of two columns of scores on one core, compared with scipy.stats.kendalltau in the same run."""

import argparse
import os
import time

import common
import numpy as np
import scipy.stats

from curation.selection import metrics

SCORERS = 5


def columns(kind: str, size: int) -> np.ndarray:
  """Returns scores of several scorers that agree in part: float32 [S, N]."""
  generator = np.random.default_rng(0)
  scores_SN = generator.standard_normal((SCORERS, size)) + generator.standard_normal(size)
  if kind == "34,000 values":
    return scores_SN.astype(np.float16).astype(np.float32)
  if kind == "half equal":
    scores_SN = np.where(generator.random(scores_SN.shape) < 0.5, 0, scores_SN)
  return scores_SN.astype(np.float32)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=500_000)
  namespace = parser.parse_args()
  common.print_machine()
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  metrics.kendall_tau(np.arange(3), np.arange(3))  # compiles
  for kind in ("all different", "34,000 values", "half equal"):
    scores_SN = columns(kind, namespace.documents)
    started = time.perf_counter()
    tau = metrics.kendall_tau(scores_SN[0], scores_SN[1])
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    expected = float(scipy.stats.kendalltau(scores_SN[0], scores_SN[1]).statistic)
    beside = time.perf_counter() - started
    started = time.perf_counter()
    metrics.tau_matrix(scores_SN)
    pair_seconds = (time.perf_counter() - started) / (SCORERS * (SCORERS - 1) // 2)
    equal = "as scipy has it" if tau == expected else f"NOT AS SCIPY HAS IT, {expected!r}"
    print(
      f"{namespace.documents:,} documents, {kind}: {seconds:.3f} s, {pair_seconds:.3f} s a pair of a matrix of "
      f"{SCORERS} (bar 1); scipy {beside:.3f} s; tau {tau!r}, {equal}",
      flush=True,
    )


if __name__ == "__main__":
  bench()
