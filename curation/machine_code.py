"""Loops over arrays in machine code, which is kept on disk: compiling takes seconds, in each of many worker processes.

numba keeps it in `__pycache__` beside the source or, where that is not writable, in the user's cache folder, and takes
it from there while neither the source nor the processor has changed. As with Python's own files in `__pycache__`,
whoever may write there decides what is run.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching


class _Cache(caching.FunctionCache):
  """A loop's place on disk. Where it cannot be read or written, the loop is compiled anew."""

  def load_overload(self, *arguments):
    try:
      return super().load_overload(*arguments)
    except Exception:  # whatever a damaged file ends with
      with contextlib.suppress(OSError):
        self.flush()
      return None

  def save_overload(self, *arguments):
    with contextlib.suppress(OSError):  # a full disk
      super().save_overload(*arguments)


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
  """A loop in machine code, which lets other threads run. It may call only loops of its own file.

  A change of another file would not be noticed.
  """
  dispatcher: Any = numba.njit(nogil=True)(loop)
  with contextlib.suppress(RuntimeError):  # no folder is writable
    dispatcher._cache = _Cache(loop)
  return dispatcher
