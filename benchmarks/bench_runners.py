"""One scoring job on every available runner, with one and with two workers of one core each: compares throughput.

Prism is available where `make test-all` built it, Flink where `make cluster-up` runs and FLINK_JOB_SERVER_JAR names
Beam's job server. Each worker is limited to one core, so that two workers are twice the machine.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import bench_scoring
import common

from curation.models import random_t5

ENGINES = common.PROJECT / ".engines"
SHARDS, BLOCK_ROWS = 4, 64


def runners() -> dict[str, tuple[list[str], int]]:
  """Returns the flags and the number of cores of each runner, the local one with two workers first."""
  available = {
    "local, 2 processes": (["--direct_num_workers=2"], 2),
    "local, 1 process": (["--direct_num_workers=1"], 1),
  }
  if (ENGINES / "prism").exists():
    available["Prism, threads of the launcher"] = (["--runner=PrismRunner", f"--prism_location={ENGINES / 'prism'}"], 2)
  state, jar = ENGINES / "cluster" / "state.json", os.environ.get("FLINK_JOB_SERVER_JAR")
  if state.exists() and jar:
    cluster = json.loads(state.read_text())
    where = [f"--flink_master={cluster['master']}", f"--environment_config={cluster['pool']}"]
    flags = ["--runner=FlinkRunner", "--environment_type=EXTERNAL", "--parallelism=2", *where]
    available["Flink, 2 TaskManagers"] = ([*flags, f"--flink_job_server_jar={jar}"], 2)
  return available


def seconds_in_pipeline(folder: pathlib.Path, corpus: str, name: str, flags: list[str], cores: int) -> float:
  """Runs `winnow score` on `cores` cores; returns the seconds of its pipeline, by its log."""
  arguments = [f"--input={corpus}", f"--model={folder / 'model'}", f"--scores={folder / 'scores'}", f"--name={name}"]
  subprocess.run(
    [sys.executable, "-m", "pipelines.score", *arguments, f"--block_rows={BLOCK_ROWS}", *flags],
    stdout=subprocess.DEVNULL,
    env=os.environ | {"WINNOW_CACHE": str(folder / "cache")},
    preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    check=True,
  )
  return json.loads(next((folder / "scores" / name / "log").iterdir()).read_text())["seconds"]


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=tuple(bench_scoring.SIZES), default="small")
  parser.add_argument("--documents", type=int, default=1_024)
  namespace = parser.parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    folder = pathlib.Path(place)
    common.write_corpus(folder / "corpus", count=namespace.documents, shards=SHARDS)
    common.write_corpus(folder / "one", count=1, shards=1)
    random_t5.write_random_checkpoint(
      folder / "model", common.documents(1_445), pieces=bench_scoring.PIECES, **bench_scoring.SIZES[namespace.size]
    )
    print(f"T5-{namespace.size} size, {namespace.documents:,} documents ({common.corpus_name()}), {SHARDS} shards")
    print("| runner | cores | documents/s without a start | of the local runner's on as many cores | start, s |")
    print("|---|---|---|---|---|")
    seconds_in_pipeline(folder, f"{folder}/one/*", "cache", ["--direct_num_workers=1"], 2)
    local_rates: dict[int, float] = {}
    for index, (name, (flags, cores)) in enumerate(runners().items()):
      start = seconds_in_pipeline(folder, f"{folder}/one/*", f"start_{index}", flags, cores)
      whole = seconds_in_pipeline(folder, f"{folder}/corpus/*", f"all_{index}", flags, cores)
      rate = namespace.documents / (whole - start)
      share = rate / local_rates.setdefault(cores, rate)
      print(f"| {name} | {cores} | {rate:.1f} | {share:.2f} | {start:.1f} |", flush=True)
    print(f"two workers: {local_rates[2] / local_rates[1]:.2f} times the throughput of one")


if __name__ == "__main__":
  bench()
