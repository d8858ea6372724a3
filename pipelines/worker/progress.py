"""Progress on the local runner, as workers tell it: small datagrams to the launcher, whose `meter` shows them.

Beam's local runner tells of metrics only when a stage is over. A process adds up what it does of each stage and sends
its totals, at most twenty times a second. So a report for every batch costs nothing, a lost datagram costs a moment of
the picture, and the figures of record stay those of the stores and of Beam's metrics.
"""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sized
from typing import NamedTuple

DATAGRAM_BYTES = 1024
PRODUCTS = 5e7
"""Products of two 768-dimensional vectors a second, by one core in large matrix products: the speed of some stages."""
_PAUSE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Address:
  """Where a launcher listens on this machine, and the name of its run, which tells its datagrams from strangers'.

  `prefix` goes before the name of each stage, as "stage 2 of 3: " in a recipe of several stages.
  """

  port: int
  run: str
  stages: int = 1
  prefix: str = ""

  def within(self, number: int) -> "Address":
    """The same for the work of one stage of a recipe."""
    return dataclasses.replace(self, prefix=prefix_of(number, self.stages))


def prefix_of(number: int, stages: int) -> str:
  """What goes before the names of a recipe's stage; nothing where there is only one."""
  return f"stage {number} of {stages}: " if stages > 1 else ""


class Count(NamedTuple):
  """How many documents there are: so many, or about so many."""

  documents: int
  is_exact: bool


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a command: what users read, and how many documents it has; None where nobody knows.

  `speed`: documents a second that one core is expected to do, from which the time left is told until the stage has a
  speed of its own; None: not known.
  """

  title: str
  count: Count | None = None
  speed: float | None = None


@dataclasses.dataclass
class _Totals:
  """What this process has done of one stage, and how many of its threads are at work on it now."""

  documents: int = 0
  resumed: int = 0
  tokens: int = 0
  at_work: int = 0
  sent: float = 0.0


_LOCK = threading.Lock()
_totals: dict[tuple[Address, str], _Totals] = {}


def report(address: Address | None, *, stage: str, documents: int = 0, tokens: int = 0, resumed: int = 0) -> None:
  """Adds documents that passed a stage: new ones, with their tokens, and those that an earlier run had done.

  Does nothing without an address: then no launcher on this machine shows the progress.
  """
  if address is not None and (documents or tokens or resumed):
    _add(address, stage, documents=documents, tokens=tokens, resumed=resumed)


@contextlib.contextmanager
def working(address: Address | None, stage: str) -> Iterator[None]:
  """Lets the stage's clock run while the block does; where it ends, all that was reported is sent."""
  if address is None:
    yield
    return
  _add(address, stage, at_work=1)
  try:
    yield
  finally:
    _add(address, stage, at_work=-1)


class Block:
  """Reports what is done of a block, batch by batch where its scorer tells, and in the end exactly the block."""

  def __init__(self, address: Address | None, stage: str):
    self._report = functools.partial(report, address, stage=stage)
    self._documents = self._tokens = 0

  def add(self, places: Sized, tokens: int) -> None:
    """Takes the documents of a batch."""
    self._documents, self._tokens = self._documents + len(places), self._tokens + tokens
    self._report(documents=len(places), tokens=tokens)

  def finish(self, documents: int, tokens: int) -> None:
    """Adds what no batch told of: bad documents, or all of them."""
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
    if not at_work:  # where work begins or ends, nothing is held back
      if now - totals.sent < _PAUSE_SECONDS:
        return
      totals.sent = now
    counts = [totals.documents, totals.resumed, totals.tokens, totals.at_work]
    message = {"run": address.run, "stage": address.prefix + stage, "process": os.getpid(), "counts": counts}
    with contextlib.suppress(OSError):
      _socket().sendto(json.dumps(message).encode(), ("127.0.0.1", address.port))


@functools.cache
def _socket() -> socket.socket:
  return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


METRICS = "winnow"
