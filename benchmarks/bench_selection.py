"""The exact threshold over a score store, as `winnow sample` finds it, compared with numpy.argpartition in memory."""

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import pathlib
import resource
import tempfile
import threading
import time

import apache_beam as beam
import common
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from curation.selection import domains, search, selection
from pipelines.corpus import blocks
from pipelines.files import fingerprints
from pipelines.runners import launch
from pipelines.selection import quotas, ranks, thresholds
from pipelines.store import block_files, score_files, score_store
from pipelines.store.score_store import ScoreStore

RATE = "0.2"
# Scores: hardly a tie, one value for half of the documents, some hundred ties each, and all the same.
SCORES = {
  "all different": lambda generator, size: generator.standard_normal(size),
  "half equal": lambda generator, size: np.where(generator.random(size) < 0.5, 0, generator.standard_normal(size)),
  "34,000 values": lambda generator, size: generator.standard_normal(size).astype(np.float16),
  "all equal": lambda generator, size: np.zeros(size),
}


QUOTA = "a quota of 100"
GROUP_MAX = 100
SCORES[f"all different, {QUOTA}"] = SCORES["all different"]
NUM_DOMAINS = 2_000_000


def make_request(kind: str) -> selection.SelectionRequest:
  """Asks for a fifth of all documents, or for all within the quotas of domains."""
  if QUOTA in kind:
    return selection.SelectionRequest("ask_llm", group_by="domain", group_max=GROUP_MAX)
  return selection.SelectionRequest("ask_llm", rate=RATE)


def domain_names(numbers: np.ndarray) -> pa.Array:
  """Returns a domain for each number."""
  return pc.binary_join_element_wise("site-", pa.array(numbers).cast(pa.string()), ".example.org", "")


def write_store(folder: pathlib.Path, kind: str, keys: int, shards: int) -> tuple[ScoreStore, list[blocks.Shard]]:
  """Writes a store as `winnow score` does: blocks of 4,096 documents, compacted into one file per shard."""
  generator = np.random.default_rng(0)
  written = [blocks.Shard(f"shard-{i:05d}", "", "jsonl", "", 0) for i in range(shards)]
  request = {"kind": kind, "keys": keys, "inputs": [shard.identity() for shard in written]}
  store = ScoreStore.for_request(str(folder), request)
  fingerprints.claim(store.request_path, request, owner="the benchmark's store")
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
          "domain": domain_names(generator.zipf(1.2, size) % NUM_DOMAINS) if QUOTA in kind else nothing,
          "reason": nothing,
          "text": nothing,
        },
        schema=block_files.BLOCK_SCHEMA,
      )
      block_files.write_block(store, shard, index, block_files.BlockFile(table, size, 0), engine=store.engine())
    block_files.compact_shard(store, shard, num_blocks=len(starts), num_rows=rows)
  return store, written


def find_threshold(
  store: ScoreStore, shards: list[blocks.Shard], request: selection.SelectionRequest, keys: int, workers: int
) -> search.Selected:
  """Runs the pipeline; returns its result by way of a file, since it may come from another process."""
  with tempfile.TemporaryDirectory() as place:
    answer = pathlib.Path(place) / "selected.json"
    settled = quotas.Quotas(store, request, place, place, "bench")

    def define(pipeline: beam.Pipeline) -> None:
      ledger = pipeline | "Ledger" >> beam.Create([score_store.Ledger(keys, None, keys)])
      limits: ranks.Limits = ranks.unlimited
      if request.group_by is not None:
        ledger, limits = ledger | quotas.Settle(settled, shards), settled.within
      (
        ledger
        | thresholds.FindThreshold(store, request, shards, limits)
        | beam.MapTuple(lambda _, selected: answer.write_text(json.dumps(selected)))
      )

    launch.Launcher([f"--direct_num_workers={workers}"]).run(define)
    return search.Selected(*json.loads(answer.read_text()))


def by_sorting(
  store: ScoreStore, shards: list[blocks.Shard], request: selection.SelectionRequest
) -> tuple[search.Selected, float]:
  """Finds the documents within quotas by NumPy with all ranks in memory; returns also the seconds without reading."""
  parts, groups = [], []
  for shard in shards:
    with score_files.ScoreFile(store, shard) as scores:
      for batch in scores.batches(ranks.BATCH_ROWS, domains=True):
        parts.append(ranks.rank_rows(request, shard.name, batch))
        groups.append(domains.hash_domains(batch["domain"]))
  key_N, tie_N = np.concatenate([part.keys for part in parts]), np.concatenate([part.ties for part in parts])
  tokens_N, group_N = np.concatenate([part.num_tokens for part in parts]), np.concatenate(groups)
  del parts, groups
  started = time.perf_counter()
  order_N = np.lexsort((~tie_N, ~key_N, group_N))
  _, first, counts = np.unique(group_N[order_N], return_index=True, return_counts=True)
  within_N = order_N[np.arange(len(order_N)) - np.repeat(first, counts) < GROUP_MAX]
  seconds = time.perf_counter() - started
  floor = selection.smallest_rank(key_N[within_N], tie_N[within_N])
  assert floor is not None
  return search.Selected(len(within_N), int(tokens_N[within_N].sum(dtype=np.int64)), floor), seconds


def by_partition(
  store: ScoreStore, shards: list[blocks.Shard], request: selection.SelectionRequest, k: int
) -> tuple[int, float]:
  """Finds the rank of the k-th document by NumPy with all keys in memory; returns also the seconds without reading."""
  parts = [part for shard in shards for part in ranks.read(store, shard, request)]
  key_N, tie_N = np.concatenate([part.keys for part in parts]), np.concatenate([part.ties for part in parts])
  started = time.perf_counter()
  kth = key_N[np.argpartition(key_N, len(key_N) - k)[len(key_N) - k]]
  ties = tie_N[key_N == kth]
  wanted = k - int((key_N > kth).sum())
  floor = int(kth) << 64 | int(ties[np.argpartition(ties, len(ties) - wanted)[len(ties) - wanted]])
  return floor, time.perf_counter() - started


class Peak:
  """A context manager that measures `megabytes`, the peak memory of the largest of this process and its workers."""

  def __init__(self, workers: int, others: set[int]):
    self._workers, self._others, self.megabytes = workers, others, 0.0
    self._ended = threading.Event()
    self._watcher = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> "Peak":
    if self._workers > 1:
      self._watcher.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    if self._workers > 1:
      self._watcher.join()
    self.megabytes = max(self.megabytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

  def _watch(self) -> None:
    while not self._ended.wait(0.1):
      for child in psutil.Process().children(recursive=True):
        if child.pid not in self._others:
          with contextlib.suppress(psutil.NoSuchProcess):
            self.megabytes = max(self.megabytes, child.memory_info().rss / 2**20)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--keys", type=int, default=10_000_000)
  parser.add_argument("--shards", type=int, default=64)
  parser.add_argument("--workers", type=int, default=1, help="processes; memory is that of the largest")
  parser.add_argument("--kinds", nargs="+", choices=tuple(SCORES), default=list(SCORES))
  namespace = parser.parse_args()
  common.print_machine()
  apart = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # its memory is not ours
  with apart, tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    small = apart.submit(write_store, pathlib.Path(place) / "small", "all equal", 100_000, 2).result()
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    with Peak(namespace.workers, others) as idle:
      find_threshold(*small, make_request(""), 100_000, namespace.workers)
    for number, kind in enumerate(namespace.kinds):
      request = make_request(kind)
      folder = pathlib.Path(place) / str(number)
      store, shards = apart.submit(write_store, folder, kind, namespace.keys, namespace.shards).result()
      started = time.perf_counter()
      with Peak(namespace.workers, others) as peak:
        selected = find_threshold(store, shards, request, namespace.keys, namespace.workers)
      seconds = time.perf_counter() - started
      grown = peak.megabytes - idle.megabytes
      print(
        f"{namespace.keys:,} keys, {kind}: {seconds:.1f} s, "
        f"{namespace.keys / seconds / namespace.workers / 1e6:.2f} M keys/s a worker, {grown:.0f} MB more than idle",
        flush=True,
      )
      if QUOTA in kind:
        expected, seconds = apart.submit(by_sorting, store, shards, request).result()
        print(f"  beside: numpy.lexsort on all ranks in memory {namespace.keys / seconds / 1e6:.1f} M keys/s")
        print(
          f"  {selected.documents:,} selected, {'as NumPy has it' if selected == expected else 'NOT AS NUMPY HAS IT'}"
        )
        continue
      floor, seconds = apart.submit(by_partition, store, shards, request, selected.documents).result()
      print(f"  beside: numpy.argpartition on keys in memory {namespace.keys / seconds / 1e6:.1f} M keys/s")
      exact = selected.floor == floor and selected.documents == request.search(namespace.keys, None).amount
      print(f"  {selected.documents:,} selected, {'as NumPy has it' if exact else 'NOT AS NUMPY HAS IT'}", flush=True)


if __name__ == "__main__":
  bench()
