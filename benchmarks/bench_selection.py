"""The exact threshold over a score store, as `winnow sample` finds it, beside numpy.argpartition on keys in memory."""

import argparse
import concurrent.futures
import json
import multiprocessing
import pathlib
import resource
import tempfile
import time

import apache_beam as beam
import common
import numpy as np
import pyarrow as pa

from curation import selection
from pipelines import block_files, blocks, launch, stores, stripes, thresholds

RATE = "0.2"
# Scores of every document: hardly a tie, some hundred ties each, and all the same.
SCORES = {
  "all different": lambda generator, size: generator.standard_normal(size),
  "34,000 values": lambda generator, size: generator.standard_normal(size).astype(np.float16),
  "all equal": lambda generator, size: np.zeros(size),
}


def write_store(
  folder: pathlib.Path, kind: str, keys: int, shards: int
) -> tuple[stores.ScoreStore, list[blocks.Shard]]:
  """A store as `winnow score` leaves it: blocks of 4,096 documents, compacted into one file a shard."""
  generator = np.random.default_rng(0)
  store = stores.ScoreStore.of(str(folder), {"kind": kind, "keys": keys})
  written = [blocks.Shard(f"shard-{i:05d}", "", "jsonl", "", 0) for i in range(shards)]
  for i, shard in enumerate(written):
    rows = keys * (i + 1) // shards - keys * i // shards
    starts = range(0, rows, blocks.BLOCK_ROWS)
    for index, start in enumerate(starts):
      size = min(blocks.BLOCK_ROWS, rows - start)
      nothing = pa.nulls(size, pa.string())
      table = pa.table(
        {
          "row": np.arange(start, start + size),
          "score": SCORES[kind](generator, size).astype(np.float32),
          "num_tokens": generator.integers(1, 2_000, size, np.int32),
          "reason": nothing,
          "text": nothing,
        },
        schema=block_files.BLOCK_SCHEMA,
      )
      block_files.write_block(store, shard, index, block_files.BlockFile(table, size, 0), engine=store.engine())
    block_files.compact_shard(store, shard, num_blocks=len(starts), num_rows=rows)
  return store, written


def find_threshold(
  store: stores.ScoreStore, shards: list[blocks.Shard], request: selection.SelectionRequest, keys: int, workers: int
) -> thresholds.Selected:
  """The pipeline's answer, by way of a file, for it may come from another process."""
  with tempfile.TemporaryDirectory() as place:
    answer = pathlib.Path(place) / "selected.json"

    def define(pipeline: beam.Pipeline) -> None:
      ledger = pipeline | "Ledger" >> beam.Create([stores.Ledger(keys, None, keys)])
      (
        pipeline
        | "Shards" >> stripes.Spread(shards)
        | thresholds.FindThreshold(store, request, ledger)
        | beam.Map(lambda selected: answer.write_text(json.dumps(selected)))
      )

    launch.Launcher([f"--direct_num_workers={workers}"]).run(define)
    return thresholds.Selected(*json.loads(answer.read_text()))


def by_partition(
  store: stores.ScoreStore, shards: list[blocks.Shard], request: selection.SelectionRequest, k: int
) -> tuple[int, float]:
  """The rank of the k-th document with NumPy, all keys in memory, and the seconds without reading."""
  ranks = [ranks for shard in shards for ranks in thresholds.read_ranks(store, shard, request)]
  key_N, tie_N = np.concatenate([r.keys for r in ranks]), np.concatenate([r.ties for r in ranks])
  started = time.perf_counter()
  kth = key_N[np.argpartition(key_N, len(key_N) - k)[len(key_N) - k]]
  ties = tie_N[key_N == kth]
  wanted = k - int((key_N > kth).sum())
  floor = int(kth) << 64 | int(ties[np.argpartition(ties, len(ties) - wanted)[len(ties) - wanted]])
  return floor, time.perf_counter() - started


def peak_mb() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--keys", type=int, default=10_000_000)
  parser.add_argument("--shards", type=int, default=64)
  parser.add_argument("--workers", type=int, default=1, help="processes; memory is that of this one, so of one alone")
  parser.add_argument("--kinds", nargs="+", choices=tuple(SCORES), default=list(SCORES))
  namespace = parser.parse_args()
  common.print_machine()
  request = selection.SelectionRequest("ask_llm", rate=RATE)
  apart = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # its memory is not ours
  with apart, tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    small = write_store(pathlib.Path(place) / "small", "all equal", 100_000, 2)
    find_threshold(*small, request, 100_000, namespace.workers)
    idle = peak_mb()
    for number, kind in enumerate(namespace.kinds):
      store, shards = write_store(pathlib.Path(place) / str(number), kind, namespace.keys, namespace.shards)
      started = time.perf_counter()
      found = find_threshold(store, shards, request, namespace.keys, namespace.workers)
      seconds = time.perf_counter() - started
      grown = peak_mb() - idle
      print(
        f"{namespace.keys:,} keys, {kind}: {seconds:.1f} s, "
        f"{namespace.keys / seconds / namespace.workers / 1e6:.2f} M keys/s a worker, {grown:.0f} MB more than idle",
        flush=True,
      )
      floor, seconds = apart.submit(by_partition, store, shards, request, found.documents).result()
      print(f"  beside: numpy.argpartition on keys in memory {namespace.keys / seconds / 1e6:.1f} M keys/s")
      exact = found.floor == floor and found.documents == request.search(namespace.keys, None).remaining
      print(f"  {found.documents:,} selected, {'as NumPy has it' if exact else 'NOT AS NUMPY HAS IT'}", flush=True)


if __name__ == "__main__":
  bench()
