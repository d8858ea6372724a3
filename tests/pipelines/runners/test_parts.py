"""Parts: their division, and the wait for others with its limit."""

import itertools

import pytest

from curation.errors import WinnowError
from pipelines.runners import parts
from pipelines.runners.parts import Missing, Part
from pipelines.worker import progress


class Clock:
  """A clock that moves only while somebody sleeps."""

  def __init__(self):
    self.now, self.pauses = 100.0, []

  def monotonic(self) -> float:
    return self.now

  def sleep(self, seconds: float) -> None:
    self.now += seconds
    self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
  clock = Clock()
  monkeypatch.setattr(parts, "time", clock)
  return clock


@pytest.mark.parametrize("text", ["8/8", "1", "-1/4", "0/0", "a/b", "1/2/3", "1/4 "])
def test_what_is_no_part_is_refused(text):
  with pytest.raises(WinnowError, match="write I/N with I from 0 to N-1"):
    Part.parse(text, limit=1, steals=False)


def test_each_item_belongs_to_one_part_and_shares_differ_by_one_at_most():
  """Kills the mutants: an item that no part does, or that two do; a last part that does the rest."""
  for count in (1, 3, 8):
    all_parts = [Part.parse(f"{index}/{count}", limit=1, steals=False) for index in range(count)]
    shares = [[place for place in range(29) if part.owns(place)] for part in all_parts]
    assert sorted(itertools.chain(*shares)) == list(range(29))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_wait_ends_once_nothing_is_missing_and_says_once_for_whom(clock, capsys):
  """Kills the mutants: a line at every look; pauses that do not grow, or that grow without end."""
  left = [{1: 5, 2: 3}] * 40 + [{}]
  assert Part(0, 3, limit=1e6).wait(lambda: Missing(left.pop(0)), "shard", None)
  assert not left
  assert capsys.readouterr().err == "winnow: part 0/3 waits for 8 shards of parts 1/3, 2/3\n"
  assert clock.pauses[0] < 1
  assert clock.pauses == sorted(clock.pauses)
  assert clock.pauses[-1] == 30


def test_a_wait_fails_once_nothing_new_has_come_within_the_limit(clock):
  """Kills the mutant whose limit is that of the whole wait, although the others make progress."""
  seen = iter([*range(60), *[60] * 1_000])
  with pytest.raises(WinnowError, match=r"part 0/64 has waited 300 s .* 7 files of parts 5/64, 63/64: start"):
    Part(0, 64, limit=300).wait(lambda: Missing({63: 3, 5: 4}, next(seen)), "file", None)
  at_rest = clock.now - 100 - sum(clock.pauses[:60])
  assert 300 - 30 <= at_rest <= 300 + 60
  assert sum(clock.pauses[:60]) > 300


def test_a_limit_of_zero_does_not_wait(clock):
  with pytest.raises(WinnowError, match="has waited 0 s"):
    Part(0, 2, limit=0).wait(lambda: Missing({1: 1}), "file", None)
  assert not clock.pauses


def test_a_part_that_steals_takes_over_what_has_come_to_rest(clock):
  """Kills the mutants: a thief that waits to the limit; one that takes what others are at work on."""
  seen = iter([*range(60), *[60] * 1_000])
  assert not Part(0, 2, limit=2_000, steals=True).wait(lambda: Missing({1: 1}, next(seen)), "file", None)
  at_rest = clock.now - 100 - sum(clock.pauses[:60])
  assert 200 - 30 <= at_rest <= 200 + 60


def test_a_line_of_a_worker_reaches_the_terminal_through_the_launcher(capsys):
  """Kills the mutant that prints in a worker process, whose standard error nobody sees."""
  from pipelines.jobs import meter

  with meter.Meter([]) as shown:
    progress.tell(shown.address, "part 0/2 waits for [1] file")
  assert capsys.readouterr().err == "winnow: part 0/2 waits for [1] file\n"
