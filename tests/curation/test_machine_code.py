"""Machine code that is kept on disk, in processes that share a folder."""

import os
import pathlib
import subprocess
import sys

import pytest

MODULE = """
from curation.machine_code import compiled

@compiled
def total(values_N):
  found = 0.0
  for n in range(len(values_N)):
    found += 2 * values_N[n]
  return found
"""
PROGRAM = """
import resource, sys
import numpy as np
import loops
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
print(loops.total(np.arange(8.0)[:: int(sys.argv[2])]), *loops.total.stats.cache_hits.values())
"""


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  (tmp_path / "loops.py").write_text(MODULE)
  return tmp_path


def run(folder: pathlib.Path, max_bytes: int = 1 << 30, stride: int = 1, **variables: str) -> str:
  """Returns the sum and, if machine code was loaded from disk, a 1."""
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(max_bytes), str(stride)],
    env=os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"} | variables,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout.strip()


def kept(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted((folder / "__pycache__").glob("loops.total*"))


def test_another_process_does_not_compile_again(folder):
  """Kills the mutants: nothing is kept; one file for all types; a name that each process makes anew."""
  assert run(folder) == "56.0"
  assert run(folder) == "56.0 1"
  assert run(folder, stride=2) == "24.0"
  assert run(folder, stride=2) == "24.0 1"
  assert len(kept(folder)) == 2


@pytest.mark.parametrize("max_bytes", [100, *(pytest.param(size, marks=pytest.mark.long) for size in (0, 4096))])
def test_a_full_disk_ends_nothing_and_leaves_nothing(folder, max_bytes):
  """Kills the mutants: it ends with an OSError; the beginning of a file stays; numba's own index, which gives the name
  of what another source was compiled to to what could not be written."""
  assert run(folder) == "56.0"
  (folder / "loops.py").write_text(MODULE.replace("2 *", "3.0 *"))
  before = kept(folder)
  assert run(folder, max_bytes) == "84.0"
  assert kept(folder) == before
  assert run(folder) == "84.0" and run(folder) == "84.0 1"


def test_a_damaged_file_is_compiled_anew(folder):
  """Kills the mutant that ends with what unpickling raises."""
  run(folder)
  (path,) = kept(folder)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert run(folder) == "56.0"
  assert run(folder) == "56.0 1"


def test_other_options_of_the_compiler_are_other_machine_code(folder):
  """Kills the mutant that knows a loop by its source alone."""
  run(folder)
  assert run(folder, NUMBA_BOUNDSCHECK="1") == "56.0"


def test_without_a_folder_that_is_writable_it_is_compiled(folder):
  """Kills the mutant that ends with numba's RuntimeError."""
  home = folder / "no folder"
  home.touch()
  (folder / "__pycache__").touch()
  assert run(folder, HOME=str(home), XDG_CACHE_HOME=str(home)) == "56.0"
  assert run(folder, HOME=str(home), XDG_CACHE_HOME=str(home)) == "56.0"
