"""`winnow report` of a million documents, 5 scorers and 2 outputs: seconds, peak memory, page size."""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import resource
import tempfile
import time

import common
import numpy as np
import pyarrow as pa

from pipelines import main, report
from pipelines.corpus import blocks, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints
from pipelines.store import block_files, score_store
from pipelines.store.score_store import ScoreStore

SECONDS, MEGABYTES, PAGE_MEGABYTES = 60, 1_000, 3
SCORERS = {f"flan_t5_{size}": "ask_llm" for size in ("small", "base", "large", "xl")} | {"density": "density"}
NUM_DOMAINS = 300_000


OUTPUTS = {
  "ask_llm_20": ["--sampler=ask_llm", "--name=flan_t5_xl", "--rate=0.2"],
  "density_10": ["--sampler=density", "--rate=0.1"],
}


def write_store(folder: pathlib.Path, number: int, read: dict[blocks.Shard, list[blocks.Block]], pattern: str) -> None:
  """Writes a complete store as `winnow score` does: partly agreeing scores, log-normal lengths, many domains."""
  name = folder.name
  shared, own = np.random.default_rng(0), np.random.default_rng(1 + number)
  corpus = Corpus(tuple(read), blocks.Fields(), blocks.BLOCK_ROWS).request()
  model = {"model.safetensors": {"bytes": 10 ** (8 + number), "checksum": ""}}
  request = {"format": score_store.FORMAT, "scorer": SCORERS[name], "model": model, **corpus}
  store = ScoreStore.for_request(str(folder), request)
  fingerprints.claim(store.request_path, request, owner="the benchmark's store")
  pathlib.Path(store.engine_path).write_bytes(fingerprints.to_json({}))
  where = {"input": pattern, "tfds_data_dir": None}
  (folder / score_store.INPUT_FILE).write_bytes(fingerprints.to_json(where))
  summaries = []
  for shard, shard_blocks in read.items():
    for block in shard_blocks:
      size = block.num_rows
      quality_N, lengths_N = shared.standard_normal(size), shared.lognormal(5.6, 1.0, size)
      domains = [f"site-{number}.example.org" for number in shared.zipf(1.3, size) % NUM_DOMAINS]
      score_N = -np.exp(0.5 * quality_N + own.standard_normal(size))
      columns = {
        "row": np.arange(block.first_row, block.first_row + size),
        "score": (-score_N if name == "density" else score_N).astype(np.float32),
        "num_tokens": np.clip(lengths_N, 1, 1 << 17).astype(np.int32),
        "domain": domains,
        "reason": pa.nulls(size, pa.string()),
        "text": pa.nulls(size, pa.string()),
      }
      table = pa.table(columns, schema=block_files.BLOCK_SCHEMA)
      file = block_files.BlockFile(table, block.text_bytes, block.checksum)
      block_files.write_block(store, shard, block.index, file, engine=store.engine())
    num_rows = sum(block.num_rows for block in shard_blocks)
    summary = block_files.compact_shard(store, shard, num_blocks=len(shard_blocks), num_rows=num_rows)
    counts = {name: getattr(summary, name) for name in ("read", "scored", "bad", "num_tokens", "text_bytes")}
    summaries.append({"shard": shard.name, "block_rows": summary.block_rows, "reasons": {}, **counts})
  total = {
    name: sum(summary[name] for summary in summaries) for name in ("read", "scored", "bad", "num_tokens", "text_bytes")
  }
  ledger = {"fingerprint": store.fingerprint, "engine": store.engine(), "shards": summaries, "reasons": {}, **total}
  pathlib.Path(store.summary_path).write_bytes(fingerprints.to_json(ledger))


def make_all(place: pathlib.Path, documents: int, shards: int) -> None:
  """Makes the corpus, its stores, and two outputs."""
  common.write_corpus(place / "corpus", count=documents, shards=shards)
  pattern = f"{place}/corpus/*.json.gz"
  read = {}
  for shard in inputs.identify(inputs.find_shards(pattern)):
    shard_blocks = reading.read_blocks(shard, blocks.Fields())
    read[shard] = [dataclasses.replace(block, documents=None) for block in shard_blocks]
  for number, name in enumerate(SCORERS):
    write_store(place / "scores" / name, number, read, pattern)
  for name, flags in OUTPUTS.items():
    command = ["sample", f"--scores={place}/scores", *flags, f"--output={place}/{name}", "--direct_num_workers=2"]
    assert main.main(command) == 0


def run_report(place: pathlib.Path) -> tuple[float, float, float]:
  """Returns the seconds, the peak memory in MB and the page's MB, from the imports of a new process on."""
  started = time.perf_counter()
  outputs = ",".join(f"{place}/{name}" for name in OUTPUTS)
  assert main.main(["report", f"--scores={place}/scores", f"--report={place}/report", f"--output={outputs}"]) == 0
  seconds = time.perf_counter() - started
  page = place / "report" / report.PAGE
  return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, page.stat().st_size / 1e6


def apart() -> concurrent.futures.ProcessPoolExecutor:
  """Returns a pool of one new process."""
  return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=1_000_000)
  parser.add_argument("--shards", type=int, default=20)
  namespace = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
    place = pathlib.Path(folder)
    with apart() as process:
      process.submit(make_all, place, namespace.documents, namespace.shards).result()
    what = f"{namespace.documents:,} documents, {len(SCORERS)} scorers, {len(OUTPUTS)} outputs"
    print(f"{what}, texts: {common.corpus_name()}", flush=True)
    with apart() as process:
      seconds, megabytes, page = process.submit(run_report, place).result()
    print(
      f"{seconds:.1f} s (bar {SECONDS}), {megabytes:.0f} MB at the peak (bar {MEGABYTES}), "
      f"a page of {page:.2f} MB (bar {PAGE_MEGABYTES})"
    )


if __name__ == "__main__":
  bench()
