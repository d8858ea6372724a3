"""Loops over arrays in machine code, which is kept on disk: compiling takes seconds, in each of many worker processes.

It lies in `__pycache__` beside the source or, where that is not writable, in the user's cache folder. As with Python's
own files in `__pycache__`, whoever may write there decides what is run.
"""

import contextlib
import hashlib
import os
import pathlib
import pickle
import uuid
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching, serialize


class _Files:
  """The compiled forms of one loop, a file for each: its name is a hash of all that the machine code depends on.

  numba's own files have numbers, which an index gives them: after a crash between the two, or with two processes at
  once, one form may lie in another's file.
  """

  def __init__(self, folder: str, name: str, source: str):
    self._folder, self._name = pathlib.Path(folder), name
    # The compiler's options are in this file and in its variables.
    sources = [hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() for path in (source, __file__)]
    variables = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    self._stamp = (numba.__version__, *sources, *variables)

  def load(self, key: tuple) -> Any:
    """What was kept for types, processor and byte code; None if nothing was."""
    try:
      return pickle.loads(self._path(key).read_bytes())
    except FileNotFoundError:
      return None

  def save(self, key: tuple, data: Any) -> None:
    path = self._path(key)
    partial = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
      partial.write_bytes(serialize.dumps(data))
      partial.replace(path)
    finally:
      partial.unlink(missing_ok=True)

  def _path(self, key: tuple) -> pathlib.Path:
    digest = hashlib.sha256(serialize.dumps((self._stamp, key))).hexdigest()
    return self._folder / f"{self._name}.{digest[:32]}.nbc"


class _Cache(caching.FunctionCache):
  """A loop's place on disk. Where it cannot be read or written, the loop is compiled anew."""

  def __init__(self, loop: Callable[..., Any]):
    super().__init__(loop)
    self._cache_file = _Files(self._cache_path, self._impl.filename_base, loop.__code__.co_filename)

  def load_overload(self, *arguments):
    with contextlib.suppress(Exception):  # whatever a damaged file ends with
      return super().load_overload(*arguments)
    return None

  def save_overload(self, *arguments):
    with contextlib.suppress(OSError):  # a full disk
      super().save_overload(*arguments)


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
  """A loop in machine code, which lets other threads run. It may call only loops of its own file.

  A change of another file would not be noticed.
  """
  dispatcher: Any = numba.njit(nogil=True)(loop)
  with contextlib.suppress(RuntimeError, OSError):  # no folder is writable, or there is no source
    dispatcher._cache = _Cache(loop)
  return dispatcher
