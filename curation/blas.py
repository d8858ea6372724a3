"""The threads of BLAS, which NumPy's products run on."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_state: dict[str, Any] = {"users": 0, "limited": None}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
  """Has BLAS compute each product in the thread that asks for it, so that its bits do not depend on the cores.

  It holds for the whole process, until the last of the threads that have asked for it leaves.
  """
  with _lock:
    if not _state["users"]:
      _state["limited"] = _controller().limit(limits=1, user_api="blas")
    _state["users"] += 1
  try:
    yield
  finally:
    with _lock:
      _state["users"] -= 1
      if not _state["users"]:
        _state["limited"].restore_original_limits()


@functools.cache
def _controller() -> Any:
  import numpy  # noqa: F401  # loads its BLAS, for the controller to find
  import threadpoolctl

  return threadpoolctl.ThreadpoolController()
