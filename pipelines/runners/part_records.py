"""The records of parts that have begun and ended, in `log/parts/` of a store or output.

They are for `winnow status`, and for parts that help others. The work itself is divided by what is on record of it.
"""

import contextlib
import datetime
import re
import uuid
from collections.abc import Iterator, Sequence

from curation.errors import WinnowError
from pipelines.files import fingerprints, storage
from pipelines.runners import commands
from pipelines.runners.parts import Part

_BEGUN, _DONE, _FAILED = "begun", "done", "failed"
_STATES = {_DONE: "done", _BEGUN: "at work, or killed", _FAILED: "ended with an error", "": "not begun"}
_NAME = re.compile(rf"(.+)-part-(\d{{1,6}})-of-(\d{{1,6}})-({_BEGUN}|{_DONE}|{_FAILED})\.json")
_MOST_NAMED, _MOST_ERRORS = 5, 3


@contextlib.contextmanager
def recording(folders: Sequence[str], part: Part | None) -> Iterator[None]:
  """Records in each folder that a part has begun, and how the `with` block ended; nothing for a whole command."""
  if part is None:
    yield
    return
  stamp = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}"

  def record(state: str, error: str | None = None) -> None:
    for folder in folders:
      path = storage.join(folder, "log", "parts", f"{stamp}-part-{part.index}-of-{part.count}-{state}.json")
      with contextlib.suppress(WinnowError, OSError):  # a record is no reason for a part to fail
        storage.create(path, fingerprints.to_json({"part": str(part), "error": error}))

  record(_BEGUN)
  try:
    yield
  except BaseException as error:
    record(_FAILED, commands.last_line(error))
    raise
  record(_DONE)


def at_work(part: Part) -> set[int]:
  """Returns the indexes of the parts of a division that have begun, and whose end is not on record."""
  if part.records is None:
    return set()
  last = _last(_listed(part.records), str(part.count))
  return {int(index) for index, (_, state) in last.items() if state == _BEGUN}


def _listed(folder: str) -> list[tuple[str, ...]]:
  """Returns stamp, index, count and state of each record, in order; that of a begin comes before that of its end."""
  names = storage.list_names(storage.join(folder, "log", "parts"))
  return sorted(match.groups() for match in map(_NAME.fullmatch, names) if match)


def _last(named: list[tuple[str, ...]], count: str) -> dict[str, tuple[str, str]]:
  """Returns the stamp and the state of the last record of each part of a division, by index."""
  return {index: (stamp, state) for stamp, index, of, state in named if of == count}


def lines(folder: str) -> list[str]:
  """Returns lines about the parts of the last division that worked on a folder: none if there never was one."""
  named = _listed(folder)
  if not named:
    return []
  count = named[-1][2]
  last = _last(named, count)
  by_state: dict[str, list[str]] = {state: [] for state in _STATES}
  errors: list[str] = []
  for index in map(str, range(int(count))):
    stamp, state = last.get(index, ("", ""))
    by_state[state].append(f"{index}/{count}")
    if state == _FAILED and len(errors) < _MOST_ERRORS:
      path = storage.join(folder, "log", "parts", f"{stamp}-part-{index}-of-{count}-{_FAILED}.json")
      errors.append(f"part {index}/{count}: {fingerprints.field(path, 'error')}")
  counted = "; ".join(
    f"{len(parts):,} {_STATES[state]}{_named(state, parts)}" for state, parts in by_state.items() if parts
  )
  return [f"parts of {int(count):,}: {counted}", *errors]


def _named(state: str, parts: Sequence[str]) -> str:
  more = ", ..." if len(parts) > _MOST_NAMED else ""
  return "" if state == _DONE else f" ({', '.join(parts[:_MOST_NAMED])}{more})"
