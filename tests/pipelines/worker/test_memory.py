"""Invariant 5: selecting and writing takes as much memory for 2,000,000 documents as for 100,000."""

import subprocess
import sys
import time

import processes
import pytest

MEGABYTE = 1 << 20


def write_documents(folder, count: int, shards: int = 4) -> str:
  folder.mkdir()
  for shard in range(shards):
    with open(folder / f"{shard}.jsonl", "w") as file:
      for row in range(count // shards):
        file.write(f'{{"text": "document {row} of shard {shard} {"with words " * (row % 20)}", "url": "u{row}"}}\n')
  return f"{folder}/*.jsonl"


def peak_of_tree(arguments: list[str], cwd) -> int:
  """Runs a command to its end; returns the peak of the resident memory of it and its workers, in bytes."""
  process = subprocess.Popen([sys.executable, "-m", "pipelines.main", *arguments], cwd=cwd)
  peak = 0
  while process.poll() is None:
    peak = max(peak, processes.resident_bytes(process.pid))
    time.sleep(0.02)
  assert process.returncode == 0
  return peak


@pytest.mark.long
def test_the_peak_does_not_grow_with_the_corpus(tmp_path):
  """Kills the mutants: selected text that is kept until the end of a stripe; ranks or scores that are collected in a
  list."""
  peaks = {}
  for count in (100_000, 2_000_000):
    pattern = write_documents(tmp_path / str(count), count)
    command = ["sample", "--sampler=random", f"--input={pattern}", "--rate=0.8", f"--output=out{count}"]
    peaks[count] = peak_of_tree([*command, "--direct_num_workers=2"], tmp_path)
  print({count: f"{peak / MEGABYTE:.0f} MB" for count, peak in peaks.items()})
  assert peaks[2_000_000] - peaks[100_000] <= 100 * MEGABYTE
