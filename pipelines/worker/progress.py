"""Progress reports on the local runner: small datagrams from the workers to the launcher, whose `meter` shows them.

Beam's local runner publishes metrics only when a stage is over. So each process adds up what it has done in each stage
and sends its totals, at most twenty times a second. A report for every batch costs almost nothing, and a lost datagram
only delays the display. The figures of record are those of the stores and of Beam's metrics.
"""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

DATAGRAM_BYTES = 1024
PRODUCTS = 5e7
"""Dot products of 768-dimensional vectors that one core computes in a second in large matrix products.

The expected speed of some stages follows from it.
"""
_PAUSE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Address:
  """The local port on which a launcher listens, and the name of its run, which sets its datagrams apart from others.

  `prefix` precedes the name of each stage, such as "stage 2 of 3: " in a recipe of several stages.
  """

  port: int
  run: str
  stages: int = 1
  prefix: str = ""

  def within(self, number: int) -> "Address":
    """Returns this address for the work of stage `number` of the recipe."""
    return dataclasses.replace(self, prefix=prefix_of(number, self.stages))


def prefix_of(number: int, stages: int) -> str:
  """Returns the prefix for names of work in one stage of a recipe; empty if the recipe has only one stage."""
  return f"stage {number} of {stages}: " if stages > 1 else ""


class Count(NamedTuple):
  """A number of documents, exact or estimated."""

  documents: int
  is_exact: bool


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a command: its title for users, and its number of documents (None: unknown).

  `speed` is the number of documents that one core is expected to finish in a second (None: unknown). The time left is
  estimated from it until the stage's own speed has been measured.
  """

  title: str
  count: Count | None = None
  speed: float | None = None


@dataclasses.dataclass
class _Totals:
  """The totals of this process for one stage, and the number of its threads that are working on it now."""

  documents: int = 0
  resumed: int = 0
  tokens: int = 0
  at_work: int = 0
  sent: float = 0.0


_LOCK = threading.Lock()
_totals: dict[tuple[Address, str], _Totals] = {}


def report(address: Address | None, *, stage: str, documents: int = 0, tokens: int = 0, resumed: int = 0) -> None:
  """Adds documents that passed a stage: new ones with their tokens, and `resumed` ones that an earlier run finished.

  Does nothing without an address, since no launcher on this machine shows the progress then.
  """
  if address is not None and (documents or tokens or resumed):
    _add(address, stage, documents=documents, tokens=tokens, resumed=resumed)


def tell(address: Address | None, text: str) -> None:
  """Has the launcher print one line; without an address, prints it on this process's standard error."""
  line = f"winnow: {text}"
  if address is None:
    print(line, file=sys.stderr, flush=True)
    return
  with contextlib.suppress(OSError):
    _send(address, {"line": line})


@contextlib.contextmanager
def working(address: Address | None, stage: str) -> Iterator[None]:
  """Runs the stage's clock during the `with` block, and sends all totals at its end."""
  if address is None:
    yield
    return
  _add(address, stage, at_work=1)
  try:
    yield
  finally:
    _add(address, stage, at_work=-1)


class Block:
  """Progress within one block of documents: batch by batch if its scorer reports batches, and exact at the end."""

  def __init__(self, address: Address | None, stage: str):
    self._report = functools.partial(report, address, stage=stage)
    self._documents = self._tokens = 0

  def add(self, places: Sized, tokens: int) -> None:
    """Reports the documents of a batch and their tokens."""
    self._documents, self._tokens = self._documents + len(places), self._tokens + tokens
    self._report(documents=len(places), tokens=tokens)

  def finish(self, documents: int, tokens: int) -> None:
    """Reports the rest of the block, such as bad documents, or all of it if its scorer reported no batches."""
    self._report(documents=documents - self._documents, tokens=tokens - self._tokens)


def _add(
  address: Address, stage: str, *, documents: int = 0, tokens: int = 0, resumed: int = 0, at_work: int = 0
) -> None:
  now = time.monotonic()
  with _LOCK:
    totals = _totals.setdefault((address, stage), _Totals())
    totals.documents += documents
    totals.resumed += resumed
    totals.tokens += tokens
    totals.at_work += at_work
    if not at_work:  # totals are sent at once when work begins or ends
      if now - totals.sent < _PAUSE_SECONDS:
        return
      totals.sent = now
    counts = [totals.documents, totals.resumed, totals.tokens, totals.at_work]
    with contextlib.suppress(OSError):
      _send(address, {"stage": address.prefix + stage, "process": os.getpid(), "counts": counts})


def _send(address: Address, message: dict[str, Any]) -> None:
  _socket().sendto(json.dumps({"run": address.run, **message}).encode(), ("127.0.0.1", address.port))


@functools.cache
def _socket() -> socket.socket:
  return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


METRICS = "winnow"
