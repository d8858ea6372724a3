"""Commands of this checkout beside those of another, whole processes in turn: what a change costs, or saves.

    git worktree add ../before COMMIT
    python benchmarks/compare_trees.py ../before

Both run with this environment's Python. A ratio below 1 means that this checkout is faster.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import common

from curation.models import random_t5

SHARDS = 4
RATER_SIZES = {"pieces": 2_000, "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_heads": 8}
RATER = ["--model=rater", "--prompt_file=prompt.txt", "--max_input_tokens=256"]
FROM_STORE = ["sample", "--sampler=minhash", "--scores=store"]
COMMANDS = {
  "select": [*FROM_STORE, "--num_examples=10", "--output=out", "--direct_num_workers=1"],
  "sample": [*FROM_STORE, "--rate=0.3", "--output=out", "--direct_num_workers=2"],
  "ask_llm": ["score", "--input=small/*", "--scores=out", *RATER, "--direct_num_workers=1"],
  "minhash": ["score", "--scorer=minhash", "--input=big/*", "--scores=out", "--direct_num_workers=2"],
}


class Cost(NamedTuple):
  """The wall time and the CPU time that a command took, workers included, in seconds."""

  wall: float
  cpu: float


def run(tree: pathlib.Path, folder: pathlib.Path, arguments: list[str]) -> Cost:
  """Runs a command of a checkout in a folder, from which it removes what an earlier run has left."""
  shutil.rmtree(folder / "out", ignore_errors=True)
  environment = os.environ | {"PYTHONPATH": str(tree)}
  before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-m", "pipelines.main", *arguments], cwd=folder, env=environment, capture_output=True, text=True
  )
  wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
  if done.returncode:
    raise SystemExit(
      f"{tree}: winnow {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr[-2_000:]}"
    )
  return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def write_corpus(folder: pathlib.Path, count: int) -> None:
  """Writes documents as JSON Lines; texts that repeat have another number at their end."""
  folder.mkdir()
  texts = [f"{text} {place}" for place, text in enumerate(common.documents(count))]
  for shard in range(SHARDS):
    lines = [json.dumps({"text": text}) + "\n" for text in texts[shard::SHARDS]]
    (folder / f"{shard}.jsonl").write_text("".join(lines))


def compare() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("other", type=pathlib.Path, help="the checkout to compare with")
  parser.add_argument("--documents", type=int, default=120_000, help="of MinHash; a sixtieth of them for Ask-LLM")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
  namespace = parser.parse_args()
  common.print_machine()
  print(f"{namespace.documents:,} documents: {common.corpus_name()}; medians of {namespace.rounds} pairs of runs")
  print(f"{'command':8} {'wall, s':>8} {'CPU, s':>8} {'wall, here/there':>17} {'CPU, here/there':>16}")
  trees = common.PROJECT, namespace.other.resolve()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_corpus(folder / "big", namespace.documents)
    write_corpus(folder / "small", namespace.documents // 60)
    random_t5.write_random_checkpoint(folder / "rater", list(common.documents(500)), **RATER_SIZES)
    (folder / "prompt.txt").write_text("{document}\n\nIs this worth reading? yes or no")
    run(trees[1], folder, COMMANDS["minhash"])
    (folder / "out").rename(folder / "store")
    for command in namespace.commands:
      pairs = [[run(tree, folder, COMMANDS[command]) for tree in trees] for _ in range(1 + namespace.rounds)][1:]
      wall, cpu = (
        statistics.median(getattr(here, of) / getattr(there, of) for here, there in pairs) for of in Cost._fields
      )
      ours = Cost(*map(statistics.median, zip(*(here for here, _ in pairs), strict=True)))
      print(f"{command:8} {ours.wall:8.2f} {ours.cpu:8.2f} {wall:17.2f} {cpu:16.2f}", flush=True)


if __name__ == "__main__":
  compare()
