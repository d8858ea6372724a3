"""Helpers that run commands in a folder, and read what they leave there."""

import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import main


def run_in(folder: pathlib.Path, arguments: list[str]) -> int:
  folder.mkdir(exist_ok=True)
  before = os.getcwd()
  os.chdir(folder)
  try:
    return main.main(arguments)
  finally:
    os.chdir(before)


def content(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns every file below a run's folder except its logs."""
  files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  return {name: data for name, data in files.items() if "/log/" not in f"/{name}"}


def logs(folder: pathlib.Path) -> list[dict]:
  return [
    json.loads(path.read_text()) for path in sorted((folder / "log").glob("*.json"), key=lambda p: p.stat().st_mtime)
  ]


def shards_of(store: pathlib.Path) -> pa.Table:
  """Returns what the files of a store's shards hold, in the order of their names."""
  return pa.concat_tables(pq.read_table(path) for path in sorted((store / "shards").iterdir()))


def embedded(folder: pathlib.Path) -> dict[tuple[str, int], np.ndarray]:
  """Returns what a run's own store of embeddings holds, by document."""
  found: dict[tuple[str, int], np.ndarray] = {}
  for path in sorted((folder / "scores/embeddings_made/blocks").glob("*/*.parquet")):
    table = pq.read_table(path, columns=["row", "embedding", "reason"])
    table = table.filter(pa.compute.is_null(table["reason"]))
    shard = path.parent.name.rpartition("-")[0]
    values = zip(table["row"].to_pylist(), table["embedding"].to_pylist(), strict=True)
    found |= {(shard, row): np.frombuffer(value, np.float16) for row, value in values}
  return found


def take_turns(folder: pathlib.Path, arguments: list[str], count: int) -> int:
  """Runs parts one after another, none of which waits, until one completes all; returns the number of runs."""
  for number in range(40):
    status = run_in(
      folder, [*arguments, f"--part={number % count}/{count}", "--part_timeout=0", "--direct_num_workers=1"]
    )
    assert status in (0, 1)
    if status == 0:
      return number + 1
  raise AssertionError("the parts never come to an end")
