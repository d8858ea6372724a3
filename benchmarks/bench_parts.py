"""What parts cost: 1, 2 and 4 parts of one scoring command against one process with two workers."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import common

from curation.models import random_t5

_TOLD_AFTER = 1.0  # seconds of waiting, until a part says that it waits


class Run(NamedTuple):
  """The figures of one run: seconds of the clock, of CPU in all processes, and of waiting in all parts."""

  wall: float
  cpu: float
  waited: float


def command(folder: pathlib.Path, *more: str) -> list[str]:
  """Returns the command that scores the folder's corpus."""
  where = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--scores={folder}/scores", "--name=scored"]
  return [sys.executable, "-m", "pipelines.main", "score", *where, "--block_rows=64", *more]


def run(commands: list[list[str]]) -> Run:
  """Runs commands at the same time, which must succeed."""
  waited = [0.0] * len(commands)
  before, started = os.times(), time.monotonic()

  def follow(place: int, process: subprocess.Popen) -> None:
    began = None
    for line in process.stderr:
      if " waits for " in line:
        began = time.monotonic() - _TOLD_AFTER
    if process.wait():
      raise SystemExit(f"{' '.join(process.args)} ended with status {process.returncode}")
    waited[place] = 0.0 if began is None else time.monotonic() - began

  quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": common.PROJECT}
  threads = [
    threading.Thread(target=follow, args=(place, subprocess.Popen(each, **quiet)))
    for place, each in enumerate(commands)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  after = os.times()
  cpu = after.children_user + after.children_system - before.children_user - before.children_system
  return Run(time.monotonic() - started, cpu, sum(waited))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=2_000)
  documents = parser.parse_args().documents
  common.print_machine()
  print(f"{documents:,} documents in 8 shards: {common.corpus_name()}")
  columns = ["what", "wall, s", "CPU, s", "documents/s", "documents / s of CPU", "waiting, s, all parts"]
  print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    common.write_corpus(folder / "corpus", count=documents, shards=8)
    random_t5.write_random_checkpoint(
      folder / "model", common.documents(1_445), pieces=2_000, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4
    )
    plans = {"one process, two workers": [command(folder, "--direct_num_workers=2")]}
    for count in (1, 2, 4):
      parts = [command(folder, f"--part={index}/{count}", "--direct_num_workers=1") for index in range(count)]
      plans[f"{count} part{'s' * (count > 1)}"] = parts
    run(plans["1 part"])  # compiles, for the cache that all runs share
    shutil.rmtree(folder / "scores")
    for name, commands in plans.items():
      done = run(commands)
      speeds = f"{documents / done.wall:,.0f} | {documents / done.cpu:,.0f}"
      print(f"| {name} | {done.wall:.1f} | {done.cpu:.1f} | {speeds} | {done.waited:.1f} |", flush=True)
      shutil.rmtree(folder / "scores")


if __name__ == "__main__":
  main()
