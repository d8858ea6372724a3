"""Damaged files, as opposed to files that cannot be read at the moment: ours are logged, removed and remade."""

import contextlib
import errno
import os
import platform
import time
import tokenize
import uuid
from collections.abc import Callable, Iterator

import pyarrow as pa

from curation import errors
from curation.errors import DamagedError, WinnowError
from pipelines.files import fingerprints, storage
from pipelines.worker import logs

_PREFIX = "damaged-"
_PARSER_ERRORS = (
  OSError,
  pa.ArrowException,
  ValueError,
  LookupError,
  TypeError,
  EOFError,
  StopIteration,
  RecursionError,
  SyntaxError,  # this and the next come from NumPy, whose headers are Python literals
  tokenize.TokenError,
)


@contextlib.contextmanager
def naming_file(path: str, refusal: Callable[[str], Exception] | None = None) -> Iterator[None]:
  """Turns errors of parsing the file at `path` into `refusal(cause)`, or into a DamagedError that names the file.

  Raises AccessError if the disk or the network is to blame, and MemoryError as it is: neither says anything about the
  content of the file.
  """
  try:
    yield
  except MemoryError:  # Arrow's is one of its exceptions too
    raise
  except _PARSER_ERRORS as error:
    # Arrow raises plain OSErrors without a number; errors of a network may have no number either.
    is_foreign = isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)
    if is_foreign and not isinstance(error, FileNotFoundError):
      raise storage.AccessError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    cause = errors.first_line(error)
    raise (_damaged(path, cause) if refusal is None else refusal(cause)) from error


def _damaged(path: str, cause: str) -> DamagedError:
  return DamagedError(f"{path} is missing or damaged ({cause})")


def remove(folder: str, path: str, error: DamagedError) -> None:
  """Removes a damaged file of the store or output `folder`, and records that in a file of its log.

  Raises WinnowError if this user is not allowed to remove it.
  """
  logs.warn("damaged_file", path=path, reason=str(error))
  entry = {"path": path, "reason": str(error), "host": platform.node(), "process": os.getpid()}
  entry["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  try:
    storage.create(storage.join(_log(folder), f"{_PREFIX}{uuid.uuid4().hex}.json"), fingerprints.to_json(entry))
    storage.delete([path])
  except OSError as denied:
    if denied.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    raise WinnowError(f"{error}; this user cannot remove it: ask the owner of {folder} to run its command") from denied


def is_whole(folder: str, path: str, check: Callable[[str], object]) -> bool:
  """Tells whether a file exists and passes `check`; removes it if `check` raises DamagedError."""
  if not storage.exists(path):
    return False
  try:
    check(path)
  except DamagedError as error:
    remove(folder, path, error)
    return False
  return True


def records(folder: str) -> list[str]:
  """Returns the paths of the records of damage in the log of a store or output."""
  return [storage.join(_log(folder), name) for name in storage.list_names(_log(folder)) if name.startswith(_PREFIX)]


def _log(folder: str) -> str:
  return storage.join(folder, "log")
