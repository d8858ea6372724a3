"""The end of a command: errors of one sentence, exit statuses, and the log."""

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
from types import TracebackType
from typing import Any

import grpc

from curation.errors import WinnowError
from pipelines.files import fingerprints, storage
from pipelines.worker import standard_files

DONE, FAILED, REFUSED = 0, 1, 2
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # as shells have it
DIED = (
  "a worker process died ({}): run the same command again to continue, with fewer --direct_num_workers or "
  "--batch_tokens if need be"
)
NO_DASK = (
  "is refused: Beam's runner for Dask ends without an error where its results are missing or wrong; use another runner"
)
_DISCONNECTED = "SDK worker disconnected"  # in the words of Prism
_SENTENCE = r"\b(?:{}): (.+?)(?: \[while running '.*'\])?$"


class JobError(Exception):
  """An error for a pipeline that ran and failed; the message is for the user.

  `needs_traceback`: the message does not say enough. The log of the run has the traceback, and adds its path.
  """

  def __init__(self, message: str, *, needs_traceback: bool = False):
    super().__init__(message)
    self.needs_traceback = needs_traceback


class Terminated(KeyboardInterrupt):
  """The exception for SIGTERM, which schedulers send; it ends a command as Ctrl-C does."""


def job_error(error: BaseException) -> JobError:
  """Finds the sentence for the user within a failure that came through runners, processes and tracebacks."""
  names = "|".join(kind.__name__ for kind in _kinds(WinnowError))
  sentences = re.findall(_SENTENCE.format(names), "".join(traceback.format_exception(error)), re.MULTILINE)
  if sentences:
    return JobError(sentences[-1].replace("\\n", " "))
  if _DISCONNECTED in str(error):
    return JobError(DIED.format(_DISCONNECTED))
  return JobError(f"{type(error).__name__}: {last_line(error)}", needs_traceback=True)


def _kinds(base: type[BaseException]) -> list[type[BaseException]]:
  return [base, *(kind for subclass in base.__subclasses__() for kind in _kinds(subclass))]


def last_line(error: BaseException) -> str:
  """Returns the last line of an error's message, or the name of its class if it has no message."""
  details = error.details() if isinstance(error, grpc.Call) else None
  return (str(details or error).strip().splitlines() or [type(error).__name__])[-1]


@contextlib.contextmanager
def writing() -> Iterator[None]:
  """Marks the part of a command that writes or removes files, in which a refusal becomes a JobError."""
  try:
    yield
  except Exception as error:
    if (message := _refusal(error)) is None:
      raise
    raise JobError(message) from error


def _refusal(error: Exception) -> str | None:
  """Returns the sentence of a refusal by Winnow, the system or an object store; None for a bug."""
  if isinstance(error, WinnowError):
    return str(error)
  if isinstance(error, OSError):
    return ": ".join(str(part) for part in (error.strerror, error.filename) if part) or last_line(error)
  return last_line(error) if type(error).__module__.startswith("google.") else None


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None, *, resumes: bool = True) -> int:
  """Runs a command and returns its exit status. A command that is refused outside of `writing` leaves nothing behind.

  `resumes`: the same command can be run again to continue.
  """
  standard_files.open_missing()
  advice = "; run the same command again to continue" if resumes else ""
  before = signal.signal(signal.SIGTERM, _terminate)
  try:
    command(sys.argv[1:] if argv is None else argv)
    return DONE
  except JobError as error:
    status, message = FAILED, str(error)
  except Terminated:
    status, message = TERMINATED, f"terminated{advice}"
  except KeyboardInterrupt:
    status, message = INTERRUPTED, f"interrupted{advice}"
  except Exception as error:
    if (refusal := _refusal(error)) is None:
      raise
    status, message = REFUSED, refusal
  finally:
    signal.signal(signal.SIGTERM, before)
  print(f"winnow: {message}", file=sys.stderr)
  return status


def _terminate(*_) -> None:
  raise Terminated


class Log:
  """The log of one run: a file for what may differ between two runs of one request, such as times and hosts.

  A context manager. The file is written when the run ends, however it ends.
  """

  def __init__(self, folder: str, arguments: Sequence[str]):
    self._path = storage.join(
      folder, "log", f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}.json"
    )
    self.entry: dict[str, Any] = {"command": list(arguments), "host": platform.node(), "process": os.getpid()}
    self._started = time.time()

  def __enter__(self) -> "Log":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self.entry["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started))
    self.entry["seconds"] = round(time.time() - self._started, 3)
    if error is not None:
      self.entry["error"] = "".join(traceback.format_exception(kind, error, trace))
    try:
      storage.create(self._path, fingerprints.to_json(self.entry))
      if isinstance(error, JobError) and error.needs_traceback:
        error.args = (f"{error}; the traceback is in {self._path}",)
    except (WinnowError, OSError) as failure:  # an error here must not hide how the run ended
      print(f"winnow: no log was written: {failure}", file=sys.stderr)
