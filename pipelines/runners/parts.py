"""Parts: tasks of a cluster that share the work of one command, without a runner between them.

Every part makes the same plan, and does the items whose place in it is the part's own modulo the number of parts. Then
it waits until the items of all others are on record, and goes to the next step. Nothing on record tells how many parts
there are. A part that ends early is started again, and does only what is missing. A part that does too much only loses
time: the first writer wins, and the bytes are equal.
"""

import contextlib
import contextvars
import dataclasses
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping

from curation.errors import WinnowError
from pipelines.worker import progress

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.1, 30.0, 1.3  # seconds between two looks
_TELL_SECONDS = 1.0
_MOST_NAMED = 5
_PATIENCE = 0.1  # the share of the limit after which work that another part has begun is taken over


@dataclasses.dataclass(frozen=True)
class Missing:
  """What is not on record yet: numbers of items by the index of the part that has to make them.

  `seen` changes whenever the others make anything.
  """

  items: Mapping[int, int]
  seen: Hashable = None


@dataclasses.dataclass(frozen=True)
class Part:
  """One of `count` parts, by its `index` from 0.

  `limit`: the seconds for which it waits while nothing new comes on record. `steals`: whether it does what other parts
  have not done, once its own share is done. `records`: the folder of the store or output whose log records which parts
  are at work (`part_records`).
  """

  index: int
  count: int
  limit: float
  steals: bool = False
  records: str | None = None

  @classmethod
  def parse(cls, text: str, *, limit: float, steals: bool) -> "Part":
    """Reads I/N. Raises WinnowError if it is none, or if the limit is negative."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or int(found[1]) >= int(found[2]):
      raise WinnowError(f"--part={text} is no part: write I/N with I from 0 to N-1, such as --part=0/8")
    if not limit >= 0:
      raise WinnowError(f"--part_timeout={limit:g} is below 0: give the seconds to wait for other parts")
    return cls(int(found[1]), int(found[2]), limit, steals)

  def __str__(self) -> str:
    return f"{self.index}/{self.count}"

  def owner(self, place: int) -> int:
    """Returns the index of the part that makes the item at a place of a plan."""
    return place % self.count

  def owns(self, place: int) -> bool:
    return self.owner(place) == self.index

  def wait(self, look: Callable[[], Missing], what: str, address: progress.Address | None) -> bool:
    """Waits until no `what` (a noun) is missing, and says once how many are waited for, and for whom.

    Returns True; or False, if this part steals, once nothing new has come for a while, so that it does what is missing.
    Raises WinnowError if nothing new comes within the limit.
    """
    has_told = False
    for missing, waited, idle in _looks(look):
      if not missing.items:
        break
      if self.steals and idle >= _PATIENCE * self.limit:
        return False
      count = sum(missing.items.values())
      named = f"{count:,} {what}{'s' * (count != 1)} of {self._named(missing)}"
      if waited >= _TELL_SECONDS and not has_told:
        has_told = True
        progress.tell(address, f"part {self} waits for {named}")
      if idle >= self.limit:
        raise WinnowError(
          f"part {self} has waited {self.limit:g} s without anything new for {named}: start what has ended, and this "
          "part again; all that is done stays"
        )
    return True

  def _named(self, missing: Missing) -> str:
    named = [f"{index}/{self.count}" for index in sorted(missing.items)]
    more = f" and {len(named) - _MOST_NAMED:,} more" if len(named) > _MOST_NAMED else ""
    return f"part{'s' * (len(named) > 1)} {', '.join(named[:_MOST_NAMED])}{more}"


def _looks(look: Callable[[], Missing]) -> Iterator[tuple[Missing, float, float]]:
  """Yields what is missing, at growing intervals, with the seconds since the first look and since the last change."""
  began = changed = time.monotonic()
  last, pause = look(), _FIRST_PAUSE
  yield last, 0.0, 0.0
  while True:
    time.sleep(pause)
    pause = min(_GROWTH * pause, _LONGEST_PAUSE)
    missing, now = look(), time.monotonic()
    if missing != last:
      last, changed = missing, now
    yield missing, now - began, now - changed


_CURRENT: contextvars.ContextVar[Part | None] = contextvars.ContextVar("part", default=None)


@contextlib.contextmanager
def dividing(part: Part | None) -> Iterator[None]:
  """Has all steps that are added to a pipeline in the `with` block divided into parts, of which this is one."""
  token = _CURRENT.set(part)
  try:
    yield
  finally:
    _CURRENT.reset(token)


def current() -> Part | None:
  """Returns the part for which a pipeline is being built; None if it does all of the work itself."""
  return _CURRENT.get()
