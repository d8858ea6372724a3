"""Checks that tell stores, folders of stores and outputs apart, for messages that name the right folder."""

import os

from pipelines.files import fingerprints, local_files, storage
from pipelines.output import writing

MANIFEST_FILE = "manifest.json"


def is_store(folder: str) -> bool:
  """Tells whether a folder is one score store, of this or another version."""
  return fingerprints.field(storage.join(folder, fingerprints.REQUEST_FILE), "scorer") is not None


def stores_below(folder: str) -> list[str]:
  """Returns the names of stores directly below a folder, through links, and of folders that this user cannot read."""
  pattern = storage.join(storage.escape(folder), "*")
  if storage.is_local(folder):
    names = [storage.base_name(path) for path in local_files.match_folders(pattern) if _may_be_store(path)]
  else:
    names = [path.rsplit("/", 2)[-2] for path, _ in storage.match(storage.join(pattern, fingerprints.REQUEST_FILE))]
  return [name for name in names if not name.startswith(".")]  # the work folder of an output has a request too


def _may_be_store(folder: str) -> bool:
  return os.path.exists(storage.join(folder, fingerprints.REQUEST_FILE)) or not os.access(folder, os.X_OK)


def is_output(folder: str) -> bool:
  """Tells whether a folder is an output, complete or not."""
  begun = storage.join(folder, writing.WORK_FOLDER, fingerprints.REQUEST_FILE)
  return storage.exists(storage.join(folder, MANIFEST_FILE)) or storage.exists(begun)


def instead_of_stores(folder: str) -> str:
  """Returns the end of a sentence that refuses `folder` as a folder of score stores: what it is, and what to name."""
  if is_store(folder):
    above, _, name = folder.rstrip("/").rpartition("/")
    return f"is one score store, {name}; name the folder above: {above}"
  if is_output(folder):
    place = fingerprints.field(storage.join(folder, writing.WORK_FOLDER, writing.SCORES_FILE), "store")
    store = writing.scores_folder(place, folder) if isinstance(place, str) else ""
    is_counted = not store or store == writing.count_folder(folder)
    right_folder = "the folder that winnow score wrote to" if is_counted else store.rpartition("/")[0]
    return f"is an output of winnow sample and holds no score stores; name {right_folder}"
  return f"{_is_not('holds no score stores', folder)}; name the folder that winnow score wrote to"


def instead_of_output(folder: str) -> str:
  """Returns the end of a sentence that refuses `folder` as a complete output: what it is, and what to name."""
  if is_store(folder):
    return "is a score store, which winnow status looks at; name the folder that winnow sample wrote to"
  if names := stores_below(folder):
    return f"is a folder of score stores ({', '.join(names)}); name the folder that winnow sample wrote to"
  if is_output(folder):
    return f"is an incomplete output, since it has no {MANIFEST_FILE}; run its command again to finish it"
  reason = _is_not(f"is no output of winnow sample, since it has no {MANIFEST_FILE}", folder)
  return f"{reason}; name the folder that winnow sample wrote to"


def _is_not(reason: str, folder: str) -> str:
  return "does not exist" if storage.is_local(folder) and not storage.exists(folder) else reason
