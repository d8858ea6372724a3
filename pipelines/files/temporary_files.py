"""The names of temporary files on a disk, which tell whether their writers still live."""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import platform
import re
import time
import uuid

ABANDONED_SECONDS = 24 * 3600
"""The age at which a file of another host has no writer any more."""


def _kernel_value(path: str) -> str:
  with contextlib.suppress(OSError):
    return os.readlink(path) if os.path.islink(path) else pathlib.Path(path).read_text()
  return ""


# The scope in which a process id is unique: containers of the same name may share a disk.
_PLACE = (platform.node(), _kernel_value("/proc/sys/kernel/random/boot_id"), _kernel_value("/proc/self/ns/pid"))
_HOST = hashlib.blake2b(repr(_PLACE).encode(), digest_size=4).hexdigest()
# Host, process, and the process's start, which is not known everywhere. No longer than it must be: Linux limits names.
_NAME = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-(?:([g-v]{4})[0-9a-f]{4}|[0-9a-f]{8})\.tmp", re.DOTALL)
_DIGITS = str.maketrans("0123456789abcdef", "ghijklmnopqrstuv")
_numbers = itertools.count()


def name_for(name: str) -> str:
  """Returns a new name, of this process, for the temporary file of what will be called `name`."""
  process = os.getpid()
  start = _own_start(process)
  unique = uuid.uuid4().hex[:8] if start is None else f"{start}{next(_numbers) % 0x10000:04x}"
  return f".{name}.{_HOST}-{process}-{unique}.tmp"


def is_temporary(name: str) -> bool:
  """Tells whether a name is that of a temporary file."""
  return _NAME.fullmatch(name) is not None


def is_abandoned(path: str) -> bool:
  """Tells whether a file is a temporary one whose writer is dead. Raises OSError if the file is gone."""
  parts = _NAME.fullmatch(os.path.basename(path))
  if parts is None:
    return False
  if parts[1] != _HOST:
    return time.time() - os.path.getmtime(path) >= ABANDONED_SECONDS
  process = int(parts[2])
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass
  state, start = _state_and_start(process)
  # A killed process stays a zombie until its parent asks for its status, and its number is given to another one later.
  return state in ("Z", "X") or (None not in (parts[3], start) and parts[3] != start)


@functools.lru_cache(1)
def _own_start(process: int) -> str | None:
  return _state_and_start(process)[1]


def _state_and_start(process: int) -> tuple[str | None, str | None]:
  """Returns the state of a process, and the last digits of its start in ticks; None if the system does not tell."""
  try:
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return fields[0], f"{int(fields[19]) % 0x10000:04x}".translate(_DIGITS)
  except (OSError, IndexError, ValueError):
    return None, None
