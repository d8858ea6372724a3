"""The number of threads on which BLAS computes NumPy's products."""

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any


class _OneThread:
  """The setting of one thread, while any thread wants it."""

  def __init__(self):
    self._lock = threading.Lock()
    self._users = 0
    self._limits: Any = None

  def enter(self) -> None:
    with self._lock:
      if not self._users:
        self._limits = _owner().submit(_limit_process).result()
      self._users += 1

  def leave(self) -> None:
    with self._lock:
      self._users -= 1
      if not self._users:
        _owner().submit(self._limits.__exit__, None, None, None).result()


_ONE_THREAD = _OneThread()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
  """Computes each product of the `with` block in the thread that asks for it: then its bits do not depend on cores.

  Most builds of BLAS have one setting for the process. So it holds in all threads, until the last of those in such a
  block leaves it. Other builds have one for each thread: threads started in the block call `limit_this_thread`.
  """
  _ONE_THREAD.enter()
  try:
    yield
  finally:
    _ONE_THREAD.leave()


def limit_this_thread() -> None:
  """Has BLAS use one thread for the products of this thread, for good, where each thread has a setting of its own."""
  if _is_set_by_thread():
    _controller().limit(limits=1, user_api="blas")


def _limit_process() -> Any:
  """Limits BLAS to one thread; the result is a context manager that has been entered."""
  limits = _controller().limit(limits=1, user_api="blas").__enter__()
  for library in _controller().lib_controllers:
    if library.user_api == "blas" and library.num_threads != 1:  # another thread has control, which threadpoolctl keeps
      library.clear_controlling_thread(force=True)
      library.set_num_threads(1)
  return limits


@functools.cache
def _is_set_by_thread() -> bool:
  libraries = [library for library in _controller().lib_controllers if library.user_api == "blas"]
  return any(getattr(library, "threading_layer", None) != "pthreads" for library in libraries)


@functools.cache
def _owner() -> concurrent.futures.Executor:
  """Returns the one thread that changes the setting, since threadpoolctl ignores changes by any but one thread."""
  return concurrent.futures.ThreadPoolExecutor(1, "winnow-blas")


@functools.cache
def _controller() -> Any:
  """Returns the controller of the libraries that are loaded now, which takes some milliseconds."""
  import threadpoolctl

  return threadpoolctl.ThreadpoolController()
