"""The progress of a command on a terminal: a bar for each stage that is at work, or a line now and then.

The figures of a stage follow from the totals that processes send (`progress`), so no report is counted twice.
A stage's clock runs while a process is at work on it, and stands still while other stages are.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import rich.console
import rich.live
import rich.progress_bar
import rich.table

from pipelines.jobs.durations import duration
from pipelines.worker.progress import DATAGRAM_BYTES, Address, Stage

_DRAIN_SECONDS = 1.0
_REDRAW_SECONDS = 0.5
_SETTLED_SECONDS = 2.0  # a stage without work for so long, while another is at work, is over
_TELLING_SECONDS = 3.0  # after so much work, a stage's own speed gives the time that is left


@dataclasses.dataclass
class _Clock:
  """A clock that adds up the seconds of a stage's work."""

  before: float = 0.0
  started: float | None = None
  stopped: float = 0.0

  def seconds(self, now: float) -> float:
    return self.before + (0.0 if self.started is None else now - self.started)

  def start(self, now: float, *, goes_on: bool) -> None:
    """Starts the clock. `goes_on`: no other stage was at work meanwhile, so the pause counts."""
    self.started = self.stopped if goes_on and self.stopped else now

  def stop(self, now: float) -> None:
    self.before, self.started, self.stopped = self.seconds(now), None, now


class _Shown:
  """The figures of one stage while its command runs."""

  def __init__(self, stage: Stage):
    self.stage, self.clock = stage, _Clock()
    self.counts: dict[int, tuple[int, int, int, int]] = {}
    """For each process: new documents, documents of an earlier run, tokens, threads at work."""
    self.is_over = self.was_shown = False

  def total(self, place: int) -> int:
    return sum(counts[place] for counts in self.counts.values())

  @property
  def is_at_work(self) -> bool:
    return self.clock.started is not None

  @property
  def has_begun(self) -> bool:
    return bool(self.counts)

  @property
  def passed(self) -> int:
    return self.total(0) + self.total(1)

  def share(self) -> float | None:
    """Returns the share of the documents that is done, below 1; None if it is not known."""
    count = self.stage.count
    if self.is_over or count is None or not 0 < self.passed < count.documents:
      return None
    return self.passed / count.documents

  def speed(self, now: float) -> float | None:
    """Returns the new documents a second; None before the first."""
    seconds = self.clock.seconds(now)
    return self.total(0) / seconds if self.total(0) and seconds > 0 else None

  def seconds_left(self, now: float) -> float | None:
    """Returns the seconds until the stage is done; None if they cannot be estimated."""
    if self.is_over:
      return 0.0
    count, seconds = self.stage.count, self.clock.seconds(now)
    if count is None:
      return None
    if self.passed >= count.documents:
      return 0.0
    if (speed := self.speed(now)) and seconds >= _TELLING_SECONDS:
      return max(count.documents - self.passed, 0) / speed
    if self.stage.speed is None:
      return None
    return max((count.documents - self.total(1)) / (self.stage.speed * _cores()) - seconds, 0.0)

  def figures(self, now: float) -> str:
    """Returns the text about the stage that users see, without the time left."""
    seconds, speed, count = self.clock.seconds(now), self.speed(now), self.stage.count
    if not self.passed:
      return f"took {duration(seconds)}" if self.is_over else f"{duration(seconds)} so far"
    text = f"{self.passed:,} documents"
    if count is not None and (share := self.share()) is not None:
      text = f"{self.passed:,} of {'' if count.is_exact else '~'}{count.documents:,} documents ({int(100 * share)}%)"
    if self.total(1):
      text += f", {self.total(1):,} of them done by an earlier run"
    if self.is_over:
      text += f"{',' if self.total(1) else ''} in {duration(seconds)}"
    if speed is not None and (self.is_over or seconds >= 1):
      text += f", {speed:,.{1 if speed < 100 else 0}f}/s"
      if self.total(2):
        text += f", {self.total(2) / seconds:,.0f} tokens/s"
    return text


def pause_seconds(elapsed: float) -> float:
  """Returns the seconds between two looks at a run, or two lines about it: 10, and up to 60 when it takes hours."""
  return min(max(10.0, elapsed / 100), 60.0)


class Meter:
  """Adds up what workers report, and shows it until the `with` block ends.

  `quiet` shows nothing: workers are on other machines, and nothing is on record. `recipe_stages`: the number of stages
  in the recipe that is run.
  """

  def __init__(self, stages: Sequence[Stage], *, quiet: bool = False, recipe_stages: int = 1):
    self._console = rich.console.Console(file=sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
    self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self._socket.bind(("127.0.0.1", 0))
    self._socket.settimeout(0.2)
    self.address = Address(self._socket.getsockname()[1], secrets.token_hex(8), recipe_stages)
    self._shown = {stage.title: _Shown(stage) for stage in stages}
    self._latest: _Shown | None = None
    self._began = time.monotonic()
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._receive, name="progress", daemon=True)
    self._live = rich.live.Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)

  @property
  def documents_by_process(self) -> dict[str, dict[int, int]]:
    """Returns how many new documents of each stage each process did."""
    return {
      title: {process: counts[0] for process, counts in shown.counts.items() if counts[0]}
      for title, shown in self._shown.items()
    }

  def __enter__(self) -> "Meter":
    if self._console.is_terminal:
      self._live.start()
    self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    self._stopped.set()
    self._thread.join()
    self._socket.close()
    if self._console.is_terminal:
      self._live.stop()
    now = time.monotonic()
    for shown in self._shown.values():
      if not shown.is_over:  # after a failure, say how far the stage had come
        shown.is_over = kind is None
        self._print_last(shown, now)

  def _receive(self) -> None:
    shown_last = time.monotonic()
    is_terminal = self._console.is_terminal
    for datagram in self._datagrams():
      now = time.monotonic()
      self._take(datagram, now)
      if now - shown_last >= (_REDRAW_SECONDS if is_terminal else pause_seconds(now - self._began)):
        shown_last = now
        self._end_stages(now)
        if is_terminal:
          self._live.update(self._bars(now), refresh=True)
        else:
          self._print_lines(now)

  def _datagrams(self) -> Iterator[bytes]:
    """Yields datagrams as they come, and b"" now and then; once the block has ended, those that are there already."""
    while not self._stopped.is_set():
      try:
        yield self._socket.recv(DATAGRAM_BYTES)
      except TimeoutError:
        yield b""
    deadline = time.monotonic() + _DRAIN_SECONDS
    self._socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
      while time.monotonic() < deadline:
        yield self._socket.recv(DATAGRAM_BYTES)

  def _take(self, datagram: bytes, now: float) -> None:
    """Takes a process's totals of a stage, or prints its line. Ignores datagrams of other runs."""
    match _parsed(datagram):
      case {"run": self.address.run, "line": str(line)}:
        self._console.print(line, markup=False)
      case {
        "run": self.address.run,
        "stage": str(title),
        "process": int(process),
        "counts": [int(new), int(resumed), int(tokens), int(at_work)],
        **others,
      } if title in self._shown:
        ago = others.get("ago", 0.0)
        shown = self._shown[title]
        shown.counts[process] = new, resumed, tokens, at_work
        is_at_work = shown.total(3) > 0
        if is_at_work and not shown.is_at_work:
          shown.clock.start(now - (ago if isinstance(ago, float) else 0.0), goes_on=self._latest is shown)
          self._latest, shown.is_over = shown, False
        elif not is_at_work and shown.is_at_work:
          shown.clock.stop(now)

  def _end_stages(self, now: float) -> None:
    """Prints the last figures of stages that others have followed."""
    for shown in self._shown.values():
      is_followed = shown is not self._latest and not shown.is_at_work and now - shown.clock.stopped > _SETTLED_SECONDS
      if shown.has_begun and not shown.is_over and is_followed:
        shown.is_over = True
        self._print_last(shown, now)

  def _print_last(self, shown: _Shown, now: float) -> None:
    if shown.was_shown:
      self._console.print(f"{shown.stage.title}: {shown.figures(now)}", markup=False)
      shown.was_shown = False

  def _at_work(self) -> list[_Shown]:
    """Returns the stages to show: those at work, or else the one that was at work last."""
    at_work = [shown for shown in self._shown.values() if shown.is_at_work]
    return at_work or ([] if self._latest is None else [self._latest])

  def _print_lines(self, now: float) -> None:
    left = self._left(now)
    if not self._at_work():
      self._console.print(f"starting the workers: {duration(now - self._began)} so far", markup=False)
    for shown in self._at_work():
      shown.was_shown = True
      self._console.print(f"{shown.stage.title}: {shown.figures(now)}{left and '; ' + left}", markup=False)

  def _bars(self, now: float) -> rich.table.Table:
    """Makes a table with a row for each stage at work, and one for the whole command."""
    table = rich.table.Table.grid(padding=(0, 1))
    for shown in self._at_work():
      shown.was_shown = True
      bar = rich.progress_bar.ProgressBar(100, 100 * (shown.share() or 0), width=12, pulse=shown.share() is None)
      table.add_row(shown.stage.title, bar, shown.figures(now))
    left = self._left(now)
    table.add_row(
      "in all" if self._latest else "starting the workers",
      "",
      f"{duration(now - self._began)} so far{left and ', ' + left}",
    )
    return table

  def _left(self, now: float) -> str:
    """Returns the time to the end of the command, as far as it is known, or "" if none is."""
    if self._latest is None:
      return ""
    if not any(shown.stage.count and shown.seconds_left(now) for shown in self._at_work()):
      return ""
    seconds = [shown.seconds_left(now) for shown in self._shown.values()]
    known = [each for each in seconds if each is not None]
    if len(known) < len(seconds) and sum(known) < 1:
      return ""  # "at least 0:00:00" would say nothing
    return f"{'about' if len(known) == len(seconds) else 'at least'} {duration(sum(known))} left"


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parsed(datagram: bytes) -> object:
  """Parses a datagram; returns None if it is not JSON, since any process may send to an open port."""
  try:
    return json.loads(datagram)
  except (ValueError, RecursionError):
    return None
