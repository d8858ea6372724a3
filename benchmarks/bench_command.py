"""The cost of `winnow score` beyond the bare scorer: Beam, stores, start-up, compiling cold and warm, and memory."""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import bench_scoring
import common
import psutil

from curation.models import checkpoints, engine, random_t5
from curation.scorers import ask_llm
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading

BLOCK_ROWS = 512


def command(folder: pathlib.Path, corpus: str, name: str, workers: int) -> tuple[float, float, int]:
  """Runs `winnow score`; returns the seconds of the process and of its pipeline, and its tree's peak memory."""
  arguments = [f"--input={corpus}", f"--model={folder / 'model'}", f"--scores={folder / 'scores'}", f"--name={name}"]
  flags = [f"--block_rows={BLOCK_ROWS}", f"--direct_num_workers={workers}"]
  started = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, "-m", "pipelines.score", *arguments, *flags],
    stdout=subprocess.DEVNULL,
    env=os.environ | {"WINNOW_CACHE": str(folder / "cache")},
  )
  root, peak = psutil.Process(process.pid), 0
  while process.poll() is None:
    with contextlib.suppress(psutil.NoSuchProcess):
      peak = max(peak, sum(member.memory_info().rss for member in [root, *root.children(recursive=True)]))
    time.sleep(0.05)
  assert process.returncode == 0
  seconds = time.perf_counter() - started
  log = json.loads(next((folder / "scores" / name / "log").iterdir()).read_text())
  return seconds, log["seconds"], peak


def bare(model: pathlib.Path, cache: pathlib.Path, corpus: str) -> tuple[float, float, float]:
  """Returns the seconds of loading and warming up, of `prepare` and of `run`, over the same blocks in this process."""
  engine.enable_compilation_cache(cache / "programs")
  started = time.perf_counter()
  scorer = ask_llm.AskLlmScorer(checkpoints.load_checkpoint(model))
  scorer.warm_up()
  loading = time.perf_counter() - started
  preparing = running = 0.0
  for shard in inputs.find_shards(corpus):
    for block in reading.read_blocks(shard, blocks.Fields(), block_rows=BLOCK_ROWS):
      started = time.perf_counter()
      prepared = scorer.prepare(block.documents["text"])
      middle = time.perf_counter()
      scorer.run(prepared)
      preparing, running = preparing + middle - started, running + time.perf_counter() - middle
  return loading, preparing, running


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=tuple(bench_scoring.SIZES), default="small")
  parser.add_argument("--documents", type=int, default=2_048)
  namespace = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    folder = pathlib.Path(place)
    common.write_corpus(folder / "corpus", count=namespace.documents, shards=1)
    common.write_corpus(folder / "one", count=1, shards=1)
    texts = itertools.islice(common.documents(1_445), 1_445)
    random_t5.write_random_checkpoint(
      folder / "model", texts, pieces=bench_scoring.PIECES, **bench_scoring.SIZES[namespace.size]
    )
    print(
      f"T5-{namespace.size} size, {namespace.documents:,} documents ({common.corpus_name()}), blocks of {BLOCK_ROWS}"
    )
    for what in ("cold", "warm"):
      seconds, pipeline, _ = command(folder, f"{folder}/one/*", f"one_{what}", 1)
      print(
        f"one document, {what} compilation cache: {seconds:.1f} s, of which the pipeline {pipeline:.1f} s", flush=True
      )
      # The bare scorer runs before and after, since the speed of a shared machine drifts.
    first = bare(folder / "model", folder / "cache", f"{folder}/corpus/*")
    whole, _, peak = command(folder, f"{folder}/corpus/*", "all", 1)
    second = bare(folder / "model", folder / "cache", f"{folder}/corpus/*")
    loading, preparing, running = ((a + b) / 2 for a, b in zip(first, second, strict=True))
    scoring = whole - seconds  # without a warm start of the whole command, which no document causes
    print(f"limit: bare scorer, run alone {running:.1f} s; prepare {preparing:.1f} s; load and warm up {loading:.1f} s")
    print(f"winnow score, one process: {whole:.1f} s; without a warm start {scoring:.1f} s")
    print(f"throughput of winnow score: {running / scoring:.2f} of run alone")
    print(f"peak memory: {peak / 2**20:,.0f} MB")


if __name__ == "__main__":
  bench()
