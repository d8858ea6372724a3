"""Folders that the tests of a session make once, in whichever xdist worker needs them first."""

import fcntl
import os
import pathlib
from collections.abc import Callable

import pytest


def made(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
  """Returns the folder that `make` has filled; the other workers wait for it. Nobody may write there afterwards."""
  session = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    session = session.parent  # that of all workers
  folder = session / f"once_{name}"
  with open(session / f"{name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (session / f"{name}.made").exists():
      folder.mkdir()
      make(folder)
      (session / f"{name}.made").touch()
  return folder
