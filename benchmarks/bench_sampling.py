"""The sampling pass, JSONL.gz to TFRecord, compared with gunzip alone and reading alone; and a free scorer."""

import argparse
import json
import pathlib
import resource
import tempfile
import time

import common

from pipelines import main
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import planning, run_jobs
from pipelines.registry import command_names
from pipelines.scorers.count import Count


def time_call(function) -> float:
  """Returns the seconds of a call."""
  started = time.perf_counter()
  function()
  return time.perf_counter() - started


def gunzip(folder: pathlib.Path) -> None:
  from isal import igzip

  for path in sorted(folder.iterdir()):
    with igzip.open(path, "rb") as file:
      while file.read(4 << 20):
        pass


def read_blocks(folder: pathlib.Path) -> None:
  for shard in inputs.find_shards(f"{folder}/*"):
    for _ in reading.read_blocks(shard, blocks.Fields()):
      pass


def score_nothing(source: str, folder: pathlib.Path) -> float:
  """Returns the seconds of `winnow score`'s pipeline with the scorer that only counts documents."""
  arguments = [source, f"--scores={folder.parent}", "--direct_num_workers=1"]
  namespace, beam_arguments = parsing.parse(command_names.SCORE, arguments)
  launcher = planning.make_launcher(namespace, beam_arguments)
  job = planning.plan_scoring(namespace, launcher, Count(), str(folder))
  run_jobs.run(launcher, ["winnow", "score"], scoring_job=job)
  return logged_seconds(folder)


def run(arguments: list[str], folder: pathlib.Path) -> float:
  """Runs a command; returns the seconds of its pipeline, without imports and with the runner."""
  assert main.main([*arguments, "--direct_num_workers=1"]) == 0
  return logged_seconds(folder)


def logged_seconds(folder: pathlib.Path) -> float:
  """Returns the seconds of the last run into a folder, by its own log."""
  logs = sorted((folder / "log").iterdir(), key=lambda path: path.stat().st_mtime)
  return json.loads(logs[-1].read_text())["seconds"]


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=100_000)
  namespace = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    folder = pathlib.Path(place)
    num_bytes = common.write_corpus(folder / "corpus", count=namespace.documents, shards=4)
    print(f"{namespace.documents:,} documents, {num_bytes / 1e6:,.0f} MB of text ({common.corpus_name()}), one worker")

    def show(what: str, seconds: float) -> None:
      print(f"{what:<44} {seconds:7.2f} s {num_bytes / 1e6 / seconds:8.0f} MB of text/s", flush=True)

    show("limit: gunzip alone (isal)", time_call(lambda: gunzip(folder / "corpus")))
    show("limit: reading blocks alone", time_call(lambda: read_blocks(folder / "corpus")))
    source = f"--input={folder}/corpus/*"
    show("score, with a scorer that costs nothing", score_nothing(source, folder / "scores/count"))
    for rate in ("0.2", "0.8"):
      output = folder / rate
      seconds = run(
        ["sample", "--sampler=random", f"--scores={folder}/scores", f"--rate={rate}", f"--output={output}"], output
      )
      show(f"sampling pass at {float(rate):.0%}", seconds)
      written = sum(size for _, size in storage.match(f"{output}/*.tfrecord-*"))
      print(f"{'':<44} {written / 1e6:,.0f} MB written")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f"peak resident memory of the process, TFDS included: {peak:,.0f} MB")


if __name__ == "__main__":
  bench()
