"""How a command ends: errors told in one sentence, exit statuses, and the log."""

import contextlib
import os
import platform
import re
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from curation.errors import WinnowError
from pipelines.files import fingerprints, storage

DONE, FAILED, REFUSED = 0, 1, 2
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # as shells have it
DIED = (
  "a worker process died ({}): run the same command again, it goes on where it was, with fewer --direct_num_workers or "
  "--batch_tokens if need be"
)
_DISCONNECTED = "SDK worker disconnected"  # as Prism has it
_SENTENCE = r"\b(?:{}): (.+?)(?: \[while running '.*'\])?$"


class JobError(Exception):
  """The pipeline ran and failed; the message is for the user."""


class Terminated(KeyboardInterrupt):
  """SIGTERM, such as a scheduler sends: it ends a command as Ctrl-C does."""


def sentence_of(error: BaseException) -> str:
  """The sentence within a failure, however many layers of a runner, processes and tracebacks it came through."""
  names = "|".join(kind.__name__ for kind in _kinds(WinnowError))
  found = re.findall(_SENTENCE.format(names), "".join(traceback.format_exception(error)), re.MULTILINE)
  if found:
    return found[-1].replace("\\n", " ")
  if _DISCONNECTED in str(error):
    return DIED.format(_DISCONNECTED)
  return f"{type(error).__name__}: {last_line(error)} (the whole story is in the log)"


def _kinds(base: type[BaseException]) -> list[type[BaseException]]:
  return [base, *(kind for subclass in base.__subclasses__() for kind in _kinds(subclass))]


def last_line(error: BaseException) -> str:
  told = error.details() if isinstance(error, grpc.Call) else None
  return (str(told or error).strip().splitlines() or [type(error).__name__])[-1]


@contextlib.contextmanager
def writing() -> Iterator[None]:
  """From here on something may have been written or removed: what is refused now is a failed job, not a refusal."""
  try:
    yield
  except Exception as error:
    if (told := _refusal(error)) is None:
      raise
    raise JobError(told) from error


def _refusal(error: Exception) -> str | None:
  """The sentence for what we, the system, or an object store refused; None for a defect, whose traceback counts."""
  if isinstance(error, WinnowError):
    return str(error)
  if isinstance(error, OSError):
    return ": ".join(str(part) for part in (error.strerror, error.filename) if part) or last_line(error)
  return last_line(error) if type(error).__module__.startswith("google.") else None


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None, *, goes_on: bool = True) -> int:
  """Runs a command to its exit status; what is refused outside of `writing` left nothing behind.

  `goes_on`: the same command goes on where this one is ended.
  """
  then = "; the same command goes on where it was" if goes_on else ""
  before = signal.signal(signal.SIGTERM, _terminate)
  try:
    command(sys.argv[1:] if argv is None else argv)
    return DONE
  except JobError as error:
    status, told = FAILED, str(error)
  except Terminated:
    status, told = TERMINATED, f"terminated{then}"
  except KeyboardInterrupt:
    status, told = INTERRUPTED, f"interrupted{then}"
  except Exception as error:
    if (refusal := _refusal(error)) is None:
      raise
    status, told = REFUSED, refusal
  finally:
    signal.signal(signal.SIGTERM, before)
  print(f"winnow: {told}", file=sys.stderr)
  return status


def _terminate(*_) -> None:
  raise Terminated


class Log:
  """What may differ between two runs of one request: times, hosts, the whole command line. One file per run.

  A context manager: the file is written when the run ends, however it ends.
  """

  def __init__(self, folder: str, arguments: Sequence[str]):
    self._path = storage.join(
      folder, "log", f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}.json"
    )
    self.entry: dict[str, Any] = {"command": list(arguments), "host": platform.node(), "process": os.getpid()}
    self._started = time.time()

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
    self.entry["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started))
    self.entry["seconds"] = round(time.time() - self._started, 3)
    if error is not None:
      self.entry["error"] = "".join(traceback.format_exception(kind, error, trace))
    try:
      storage.create(self._path, fingerprints.to_json(self.entry))
    except (WinnowError, OSError) as failure:  # which must not hide how the run ended
      print(f"winnow: no log was written: {failure}", file=sys.stderr)
