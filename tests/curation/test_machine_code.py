"""Machine code that is kept on disk, in processes that share a folder."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from curation import rank_loops
if sys.argv[1] == "full disk":  # files stay empty
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
assert rank_loops.count_inversions(np.array([3.0, 1.0, 2.0])) == 2
stats = rank_loops.count_inversions.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def hits_and_misses(folder: pathlib.Path, disk: str = "") -> list[int]:
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, disk],
    env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  return [int(number) for number in result.stdout.split()]


def test_another_process_does_not_compile_again(tmp_path):
  """Kills the mutant that keeps nothing."""
  assert hits_and_misses(tmp_path) == [0, 1]
  assert hits_and_misses(tmp_path) == [1, 0]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_files_are_compiled_anew(tmp_path, suffix):
  """Kills the mutant that ends with what unpickling raises."""
  hits_and_misses(tmp_path)
  damaged = list(tmp_path.rglob(f"*.{suffix}"))
  assert damaged
  for path in damaged:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert hits_and_misses(tmp_path) == [0, 1]


def test_a_full_disk_ends_nothing(tmp_path):
  """Kills the mutant that ends with an OSError."""
  assert hits_and_misses(tmp_path, "full disk") == [0, 1]
