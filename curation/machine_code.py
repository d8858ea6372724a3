"""Compiles loops over arrays to machine code and caches it on disk, since each worker process would take seconds.

The cache is `__pycache__` beside the source or, if that is not writable, the user's cache folder. As with Python's own
files in `__pycache__`, whoever may write there decides what is run.
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
  """Files with the compiled forms of one loop, each named by a hash of everything that the machine code depends on.

  numba numbers its own files and keeps the numbers in an index. After a crash between writing the two, or with two
  processes at once, one form may end up in another's file.
  """

  def __init__(self, folder: str, name: str, source: str):
    self._folder, self._name = pathlib.Path(folder), name
    # The compiler's options are in this file and in numba's environment variables.
    sources = [hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() for path in (source, __file__)]
    variables = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    self._stamp = (numba.__version__, *sources, *variables)

  def load(self, key: tuple) -> Any:
    """Returns the form cached for these types, processor and byte code; None if there is none."""
    try:
      return pickle.loads(self._path(key).read_bytes())
    except FileNotFoundError:
      return None

  def save(self, key: tuple, data: Any) -> None:
    """Caches a form; readers see the whole file or none."""
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
  """One loop's cache on disk. A loop is compiled anew where the cache cannot be read or written."""

  def __init__(self, loop: Callable[..., Any]):
    super().__init__(loop)
    self._cache_file = _Files(self._cache_path, self._impl.filename_base, loop.__code__.co_filename)

  def load_overload(self, *arguments):
    with contextlib.suppress(Exception):  # a damaged file may raise anything
      return super().load_overload(*arguments)
    return None

  def save_overload(self, *arguments):
    with contextlib.suppress(OSError):  # a full disk
      super().save_overload(*arguments)


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
  """Compiles a loop with numba, releasing Python's lock while it runs.

  It may call only loops of its own file, since the cache would not notice a change of another file.
  """
  dispatcher: Any = numba.njit(nogil=True)(loop)
  with contextlib.suppress(RuntimeError, OSError):  # no folder is writable, or there is no source
    dispatcher._cache = _Cache(loop)
  return dispatcher
