"""The cost of resuming a run: blocks scored twice after a kill, and the time to the first new block."""

import argparse
import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import common
import numpy as np
import pyarrow as pa

from curation.models import random_t5
from pipelines.corpus import inputs
from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.jobs import planning
from pipelines.registry import command_names
from pipelines.scorers.count import Count
from pipelines.store import block_files

BLOCK_ROWS = 64
# Runs in worker processes by way of PYTHONPATH, and writes a line for each block before its scores are recorded.
_WITNESS = """
import os, sys
if sys.argv[0].endswith("sdk_worker_main.py") or "sdk_worker_main" in " ".join(sys.orig_argv):
  from pipelines.scoring import recording
  record = recording.record
  def witnessed(where, block, result):
    with open(os.environ["WINNOW_WITNESS"], "a") as file:
      file.write(f"{where[1].name} {block.index}\\n")
    return record(where, block, result)
  recording.record = witnessed
"""


def command(folder: pathlib.Path, workers: int) -> list[str]:
  """Returns the command that scores the folder's corpus."""
  arguments = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--scores={folder}/scores", "--name=resumed"]
  return [
    *(sys.executable, "-m", "pipelines.score", *arguments),
    *(f"--block_rows={BLOCK_ROWS}", f"--direct_num_workers={workers}"),
  ]


def on_record(store: pathlib.Path) -> set[tuple[str, int]]:
  """Returns the recorded blocks as (shard, index)."""
  return {(path.parent.name.rpartition("-")[0], int(path.stem)) for path in store.glob("blocks/*/*.parquet")}


def scored_twice(folder: pathlib.Path, documents: int, workers: int) -> None:
  """Kills the whole command when half of the blocks are recorded, and runs it again."""
  common.write_corpus(folder / "corpus", count=documents, shards=2)
  random_t5.write_random_checkpoint(
    folder / "model", common.documents(1_445), pieces=2_000, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4
  )
  (folder / "path").mkdir()
  (folder / "path/sitecustomize.py").write_text(_WITNESS)
  witness = folder / "witness.txt"
  environment = os.environ | {
    "WINNOW_WITNESS": str(witness),
    "PYTHONPATH": os.pathsep.join([str(folder / "path"), str(common.PROJECT)]),
  }
  total, store = documents // BLOCK_ROWS, folder / "scores/resumed"
  quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  process = subprocess.Popen(command(folder, workers), env=environment, start_new_session=True, **quiet)
  while len(on_record(store)) < total // 2:
    assert process.poll() is None, "it ended before it could be killed"
    time.sleep(0.005)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  kept = len(on_record(store))
  subprocess.run(command(folder, workers), env=environment, check=True, **quiet)
  times = collections.Counter(witness.read_text().splitlines())
  counters = json.loads(max((store / "log").iterdir(), key=lambda path: path.stat().st_mtime).read_text())["this_run"]
  twice = sum(count - 1 for count in times.values())
  print(
    f"{workers} workers, {len(times)} blocks of {BLOCK_ROWS}, killed with {kept} on record: "
    f"{counters['blocks_scored']} scored by the next run, {twice} of them for the second time (bar: {workers})",
    flush=True,
  )


def first_new_block(folder: pathlib.Path, block_files_: int, shards: int) -> None:
  """Makes a store of a scorer that costs nothing, without one block of each shard, and runs the command again."""
  per_shard = block_files_ // shards + 1
  corpus = folder / "many"
  corpus.mkdir()
  for shard in range(shards):
    lines = [f'{{"text": "document {row}"}}\n' for row in range(per_shard)]
    (corpus / f"{shard:05d}.jsonl").write_text("".join(lines))
  arguments = [f"--input={corpus}/*", "--sampler=random", "--rate=0.5", f"--output={folder}/out", "--block_rows=1"]
  namespace, beam_arguments = parsing.parse(command_names.SAMPLE, arguments)
  launcher = planning.make_launcher(namespace, beam_arguments)
  place = f"{folder}/out/.winnow/count"
  job = planning.plan_scoring(namespace, launcher, Count(), place, spare=True)
  job.claim()
  store = job.config.store
  engine = {"method": store.method}
  fingerprints.claim(store.engine_path, engine, owner=place)
  nothing = pa.nulls(1, pa.string())
  for shard in inputs.identify(inputs.find_shards(f"{corpus}/*")):
    pathlib.Path(store.block_folder(shard, store.engine())).mkdir(parents=True)
    for row in range(per_shard - 1):
      columns = [np.array([row]), np.zeros(1, np.float32), pa.nulls(1, pa.int32()), nothing, nothing]
      block = block_files.BlockFile(pa.table(columns, schema=block_files.BLOCK_SCHEMA), 10, 0)
      block_files.write_block(store, shard, row, block, engine=store.engine())
  written = len(on_record(pathlib.Path(place)))
  for workers in (1, 2):
    folders = [pathlib.Path(store.block_folder(shard, store.engine())) for shard in job.corpus.shards]
    new = [path / f"{per_shard - 1:08d}.parquet" for path in folders]
    for path in new:
      path.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(
      [sys.executable, "-m", "pipelines.sample", *arguments, f"--direct_num_workers={workers}"],
      start_new_session=True,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    while not any(path.exists() for path in new):
      assert process.poll() is None, "it ended without a new block"
      time.sleep(0.01)
    seconds = time.perf_counter() - started
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = f"first new block after {seconds:.1f} s (bar: 30)"
    print(f"{written:,} block files in {shards} shards, {workers} worker(s): {result}", flush=True)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=8_192)
  parser.add_argument("--block_files", type=int, default=100_000)
  parser.add_argument("--shards", type=int, default=24)
  namespace = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    scored_twice(pathlib.Path(place), namespace.documents, 2)
    first_new_block(pathlib.Path(place), namespace.block_files, namespace.shards)


if __name__ == "__main__":
  bench()
