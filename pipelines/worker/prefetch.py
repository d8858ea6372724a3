"""An iterator that runs ahead in a thread of its own, so that reading overlaps with computing."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], *, ahead: int) -> Iterator[T]:
  """Yields the items of an iterable; a thread computes up to `ahead` of them in advance.

  An error of the iterable is raised here, after the items before it. Closing this generator stops the thread at its
  next item.
  """
  ready: queue.Queue = queue.Queue(maxsize=ahead)
  stopped = threading.Event()

  def put(entry) -> bool:
    while not stopped.is_set():
      try:
        ready.put(entry, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def run() -> None:
    try:
      for item in items:
        if not put((item, None)):
          return
      put((_END, None))
    except BaseException as error:  # the consumer must see every error, KeyboardInterrupt included
      put((_END, error))

  thread = threading.Thread(target=run, name="prefetch", daemon=True)
  thread.start()
  try:
    while True:
      item, error = ready.get()
      if error is not None:
        raise error
      if item is _END:
        return
      yield item
  finally:
    stopped.set()
    thread.join()
