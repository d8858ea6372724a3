"""Files of ours that are found damaged: put on record, removed, and made again by the run that found them."""

import os
import platform
import time
import uuid
from collections.abc import Callable
from typing import Any

from curation.errors import DamagedError
from pipelines import logs, requests, storage

_PREFIX = "damaged-"


def remove(folder: str, path: str, error: DamagedError) -> None:
  """Removes a damaged file of the store or output `folder`, and says so in a file of its log."""
  logs.warn("damaged_file", path=path, reason=str(error))
  found = {"path": path, "reason": str(error), "host": platform.node(), "process": os.getpid()}
  found["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  storage.create(storage.join(_log(folder), f"{_PREFIX}{uuid.uuid4().hex}.json"), requests.to_json(found))
  storage.delete([path])


def is_whole(folder: str, path: str, check: Callable[[str], Any]) -> bool:
  """Tells whether a file is on record; where `check` of it raises DamagedError, it is removed."""
  if not storage.exists(path):
    return False
  try:
    check(path)
  except DamagedError as error:
    remove(folder, path, error)
    return False
  return True


def records(folder: str) -> list[str]:
  """The files that tell of damage in a store or output."""
  return [storage.join(_log(folder), name) for name in storage.list_names(_log(folder)) if name.startswith(_PREFIX)]


def _log(folder: str) -> str:
  return storage.join(folder, "log")
