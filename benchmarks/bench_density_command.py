"""`winnow score --scorer=density` on given embeddings: peak memory and time for a small and a large corpus.

Also measures how long it takes to read a block as Winnow stores it, and as lists of numbers.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import common
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import fixed_width

MEGABYTE = 1 << 20
BAR_MEGABYTES = 100
STAGES = ("embed", "sketch", "score")


def write_corpus(folder: pathlib.Path, documents: int, dimensions: int, shards: int) -> None:
  """Writes short texts, and clustered float16 unit vectors for them."""
  folder.mkdir()
  generator = np.random.default_rng(0)
  centres = generator.standard_normal((100, dimensions), np.float32)
  for shard in range(shards):
    rows = documents // shards
    with open(folder / f"{shard}.jsonl", "w") as file:
      file.writelines(f'{{"text": "document {row} of shard {shard}"}}\n' for row in range(rows))
    made = np.lib.format.open_memmap(folder / f"{shard}.npy", "w+", np.float16, (rows, dimensions))
    for start in range(0, rows, 10_000):
      points_ND = centres[generator.integers(0, 100, min(10_000, rows - start))]
      points_ND = points_ND + generator.standard_normal(points_ND.shape, np.float32)
      made[start : start + 10_000] = points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)


def seconds_to_read(dimensions: int, column: str, repeats: int = 10) -> float:
  """Returns the seconds to read a block of embeddings from Parquet in memory, as `binary` values or as `list`s."""
  points_ND = np.random.default_rng(0).standard_normal((4_096, dimensions)).astype(np.float16)
  lists = pa.FixedSizeListArray.from_arrays(pa.array(points_ND.ravel()), dimensions)
  table = pa.table({"embedding": fixed_width.column(points_ND) if column == "binary" else lists})
  file = pa.BufferOutputStream()
  pq.write_table(table, file, compression="none", use_dictionary=False, write_page_checksum=True)
  started = time.perf_counter()
  for _ in range(repeats):
    pq.ParquetFile(pa.BufferReader(file.getvalue()), page_checksum_verification=True).read()
  return (time.perf_counter() - started) / repeats


def measure_peak(command: list[str]) -> int:
  """Runs a command to its end; returns the peak resident memory of it and its workers together, in bytes."""
  process = subprocess.Popen(command, cwd=common.PROJECT)
  root, peak = psutil.Process(process.pid), 0
  while process.poll() is None:
    with contextlib.suppress(psutil.NoSuchProcess):
      peak = max(peak, sum(member.memory_info().rss for member in (root, *root.children(recursive=True))))
    time.sleep(0.02)
  if process.returncode:
    raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
  return peak


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 1_000_000])
  parser.add_argument("--dimensions", type=int, default=768)
  parser.add_argument("--workers", type=int, default=1)
  namespace = parser.parse_args()
  common.print_machine()
  for column in ("binary", "list"):
    print(f"a block read as {column}: {1000 * seconds_to_read(namespace.dimensions, column):.1f} ms", flush=True)
  peaks = []
  for documents in namespace.documents:
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      write_corpus(folder / "corpus", documents, namespace.dimensions, shards=4)
      command = [sys.executable, "-m", "pipelines.main", "score", "--scorer=density", "--name=density"]
      command += [
        f"--input={folder}/corpus/*.jsonl",
        f"--embeddings={folder}/corpus/*.npy",
        f"--scores={folder}/scores",
      ]
      started = time.perf_counter()
      peaks.append(measure_peak([*command, f"--direct_num_workers={namespace.workers}"]))
      seconds = time.perf_counter() - started
      log = json.loads(next((folder / "scores/density/log").iterdir()).read_text())
      counted = ", ".join(f"{stage} {sum(log['documents_by_process'][stage].values()):,}" for stage in STAGES)
    print(
      f"{documents:,} documents of {namespace.dimensions} dimensions, {namespace.workers} workers: {seconds:.0f} s ",
      end="",
    )
    print(f"({counted}), peak memory {peaks[-1] / MEGABYTE:,.0f} MB", flush=True)
  print(f"growth: {(peaks[-1] - peaks[0]) / MEGABYTE:,.0f} MB (bar: {BAR_MEGABYTES})")


if __name__ == "__main__":
  bench()
