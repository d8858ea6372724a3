"""Progress on the local runner: workers send small datagrams to the launcher, which draws a bar or prints lines.

Beam's local runner tells of metrics only when a stage is over. Datagrams on the loopback need no lock, no file and no
answer; one that is lost costs a moment of the picture: the figures of record are the stores' and Beam's metrics.
"""

import contextlib
import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import rich.console
import rich.progress

Address = tuple[str, int]
_DATAGRAM_BYTES = 1024
_DRAIN_SECONDS = 1.0
_LINE_SECONDS = 10.0
_WAITING = "waiting for the first documents"


def report(address: Address | None, *, stage: str, documents: int, tokens: int = 0) -> None:
  """Tells the launcher, if there is one on this machine, that `documents` more passed a stage."""
  if address is not None:
    message = {"stage": stage, "documents": documents, "tokens": tokens, "process": os.getpid()}
    with contextlib.suppress(OSError):
      _socket().sendto(json.dumps(message).encode(), address)


@functools.cache
def _socket() -> socket.socket:
  return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _parsed(datagram: bytes) -> object:
  """None where it is no JSON: any process may send to an open port."""
  try:
    return json.loads(datagram)
  except (ValueError, RecursionError):
    return None


class Meter:
  """Adds up what workers report, and shows it until the `with` block ends.

  `stages` maps each stage to its expected number of documents, None where unknown; `estimated` marks those as guesses.
  `quiet` shows nothing, where workers are on other machines and the runner's own console tells.
  """

  def __init__(self, stages: dict[str, int | None], *, estimated: bool = False, quiet: bool = False):
    self._console = rich.console.Console(file=sys.stderr, quiet=quiet)
    self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self._socket.bind(("127.0.0.1", 0))
    self._socket.settimeout(0.2)
    self.address: Address = self._socket.getsockname()
    self._expected, self._estimated = stages, estimated
    self._counts = {stage: [0, 0] for stage in stages}
    self.documents_by_process: dict[str, dict[int, int]] = {stage: {} for stage in stages}
    self._started: dict[str, float] = {}
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._receive, name="progress", daemon=True)
    self._bars = rich.progress.Progress(
      rich.progress.TextColumn("{task.description:<8}"),
      rich.progress.BarColumn(bar_width=None),
      rich.progress.TextColumn("{task.fields[figures]}"),
      console=self._console,
      expand=True,
    )
    self._tasks: dict[str, rich.progress.TaskID] = {}

  def __enter__(self) -> "Meter":
    if self._console.is_terminal:
      self._bars.start()
      for stage, expected in self._expected.items():
        self._tasks[stage] = self._bars.add_task(stage, total=expected, figures=_WAITING)
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._stopped.set()
    self._thread.join()
    self._socket.close()
    if self._console.is_terminal:
      self._bars.stop()

  def _receive(self) -> None:
    last_line = time.monotonic()
    for datagram in self._datagrams():
      now = time.monotonic()
      match _parsed(datagram):
        case {"stage": str(stage), "documents": int(documents), "tokens": int(tokens), "process": int(process)} if (
          stage in self._counts
        ):
          self._started.setdefault(stage, now)
          self._counts[stage][0] += documents
          self._counts[stage][1] += tokens
          workers = self.documents_by_process[stage]
          workers[process] = workers.get(process, 0) + documents
          if self._console.is_terminal:
            self._draw(stage)
      if not self._console.is_terminal and now - last_line >= _LINE_SECONDS:
        last_line = now
        for stage in self._started or list(self._expected)[:1]:
          self._console.print(f"{stage}: {self._figures(stage)}", highlight=False, soft_wrap=True)

  def _datagrams(self) -> Iterator[bytes]:
    """Datagrams as they come, b"" now and then; when the block has ended, those that are there already."""
    while not self._stopped.is_set():
      try:
        yield self._socket.recv(_DATAGRAM_BYTES)
      except TimeoutError:
        yield b""
    deadline = time.monotonic() + _DRAIN_SECONDS
    self._socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
      while time.monotonic() < deadline:
        yield self._socket.recv(_DATAGRAM_BYTES)

  def _draw(self, stage: str) -> None:
    documents, expected = self._counts[stage][0], self._expected[stage]
    if expected is not None and documents > expected:
      self._bars.update(self._tasks[stage], total=documents)
    self._bars.update(self._tasks[stage], completed=documents, figures=self._figures(stage))

  def _figures(self, stage: str) -> str:
    if stage not in self._started:
      return _WAITING
    documents, tokens = self._counts[stage]
    expected = self._expected[stage]
    seconds = max(time.monotonic() - self._started[stage], 1e-3)
    figures = f"{documents:,} documents, {documents / seconds:,.0f}/s"
    if tokens:
      figures += f", {tokens / seconds:,.0f} tokens/s"
    if expected and documents and documents < expected:
      about = "about " if self._estimated else ""
      left = time.strftime("%H:%M:%S", time.gmtime((expected - documents) * seconds / documents))
      figures += f", {about}{left} left"
    return figures
