"""Shared code of the benchmarks: describes the machine, and makes a corpus with C4's length distribution."""

import gzip
import itertools
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import orjson

from pipelines.registry import versions

PROJECT = pathlib.Path(__file__).resolve().parent.parent
SHARED_C4 = pathlib.Path(os.environ.get("WINNOW_SHARED", PROJECT.parent / "shared")) / "data/c4/c4_en_1445.jsonl.gz"


def print_machine() -> None:
  """Prints date, commit, processor and versions, so that figures of different machines can be told apart."""
  commit = subprocess.run(
    ["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True, check=False
  ).stdout.strip()
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
  load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
  print(f"{time.strftime('%Y-%m-%d')}, commit {commit or 'unknown'}")
  print(f"{len(models)} cores of {models[0] if models else platform.processor()}, load {load}")
  print(", ".join(f"{name} {version}" for name, version in versions.versions().items()))


def winnow(*arguments: str) -> None:
  """Runs a command in a process of its own, from the project's folder; raises SystemExit with the cause if it fails."""
  done = subprocess.run(
    [sys.executable, "-m", "pipelines.main", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise SystemExit(f"winnow {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr[-4_000:]}")


def documents(count: int, seed: int = 0) -> Iterator[str]:
  """Yields texts with C4's lengths (median 1,065 characters): the shared sample, repeated, or else random words."""
  if SHARED_C4.exists():
    with gzip.open(SHARED_C4) as file:
      texts = [orjson.loads(line)["text"] for line in file]
  else:
    generator = np.random.default_rng(seed)
    words = ["".join(map(chr, generator.integers(97, 123, length))) for length in generator.integers(1, 12, 5_000)]
    lengths = np.clip(generator.lognormal(np.log(190), 1.0, 1_445), 10, 17_000).astype(int)
    texts = [" ".join(generator.choice(words, length)) for length in lengths]
  for place in range(count):
    yield texts[place % len(texts)]


def corpus_name() -> str:
  """Says which texts `documents` yields."""
  return "the shared C4 sample, repeated" if SHARED_C4.exists() else "random words with C4's lengths"


def write_corpus(folder: pathlib.Path, *, count: int, shards: int) -> int:
  """Writes C4 records as gzipped JSON lines; returns the bytes of their texts."""
  folder.mkdir(parents=True)
  texts, num_bytes = documents(count), 0
  for shard in range(shards):
    with gzip.open(folder / f"c4-{shard:05d}.json.gz", "wb", compresslevel=6) as file:
      for row, text in enumerate(itertools.islice(texts, count // shards)):
        record = {"text": text, "url": f"http://example.org/{shard}/{row}", "timestamp": "2019-04-25T12:57:54Z"}
        file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        num_bytes += len(text.encode())
  return num_bytes
