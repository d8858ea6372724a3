"""Another user, who may read what the tests have written but not write there."""

import contextlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

_NOBODY = 65534


@contextlib.contextmanager
def readable_folder() -> Iterator[pathlib.Path]:
  """Yields a temporary folder that every user may read; pytest's own are for one user alone."""
  with tempfile.TemporaryDirectory(prefix="winnow-rights-") as name:
    folder = pathlib.Path(name)
    folder.chmod(0o755)
    yield folder


@contextlib.contextmanager
def without_rights(folder: pathlib.Path) -> Iterator[None]:
  """Makes this process unable to write to a folder and all in it: root becomes nobody, others change modes."""
  if os.geteuid() == 0:
    os.seteuid(_NOBODY)
    try:
      yield
    finally:
      os.seteuid(0)
    return
  modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if not path.is_symlink()}
  for path, mode in modes.items():
    path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
  try:
    yield
  finally:
    for path, mode in modes.items():
      path.chmod(mode)
