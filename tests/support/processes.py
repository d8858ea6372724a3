"""Views of processes that may end at any moment: one that has ended, even a zombie, is simply not there."""

import contextlib
from collections.abc import Iterable

import psutil


def is_alive(process: psutil.Process) -> bool:
  """Tells whether a process still runs."""
  try:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return False


def children(pid: int | None = None, *, recursive: bool = True) -> list[psutil.Process]:
  """Returns the living processes below one, or below this one."""
  try:
    return list(filter(is_alive, psutil.Process(pid).children(recursive=recursive)))
  except psutil.NoSuchProcess:
    return []


def local_workers(pid: int) -> list[psutil.Process]:
  """Returns the living workers of a command on the local runner, forked by the fork server, which is its child."""
  return [worker for server in children(pid, recursive=False) for worker in children(server.pid, recursive=False)]


def command_line(process: psutil.Process) -> str:
  """Returns the command line of a process; an empty one once it has ended."""
  try:
    return " ".join(process.cmdline())
  except psutil.NoSuchProcess:
    return ""


def resident_bytes(pid: int) -> int:
  """Returns the sum of the resident memory of a process and of all below it."""
  total = 0
  for member in [pid, *(child.pid for child in children(pid))]:
    try:
      total += psutil.Process(member).memory_info().rss
    except psutil.NoSuchProcess:
      continue
  return total


def end(found: Iterable[psutil.Process], seconds: float) -> None:
  """Ends processes: with SIGTERM, and with SIGKILL those that still run after `seconds`."""
  waiting = list(found)
  for process in waiting:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.terminate()
  for process in psutil.wait_procs(waiting, seconds)[1]:
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
