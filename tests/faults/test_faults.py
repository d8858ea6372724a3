"""Invariant 4 under faults, in a short form: `make faults` does it at length, and docs/reliability.md has its table.

Each fault is real: signals, a full tmpfs, a C library that makes reads fail, files that are changed meanwhile. What may
be missing on a user's machine (a C compiler, the right to mount) is skipped there and wanted in CI.
"""

import os
import random

import faults
import places
import pytest

pytestmark = pytest.mark.local_runner
SEED = random.randrange(1 << 30)
COMMANDS = ("score", "density", "sample", "stages")  # the others are made of these, and make faults hurts them too


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> places.Place:
  print(f"seed {SEED}")
  return places.Place(tmp_path_factory.mktemp("faults"), big_rows=4_000, small_rows=200, commands=COMMANDS)


@pytest.fixture
def generator(request) -> random.Random:
  return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def shim() -> None:
  if faults.shim() is None:
    assert os.environ.get("CI") != "true", "CI needs a C compiler"
    pytest.skip("there is no C compiler here to build what makes a disk fail")


def check(outcome: places.Outcome) -> None:
  assert outcome.is_good and not outcome.notes, (outcome, f"seed {SEED}")


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(place, generator, name):
  """Kills the mutants: a file that is written in place; a bundle that is done because it was begun."""
  check(faults.kills(place, name, 1, generator))


@pytest.mark.parametrize("name", ["density", "sample"])
def test_files_that_are_damaged(place, generator, name):
  outcome = faults.damaged_files(place, name, 4, generator)
  if outcome.injected:  # else it was killed before it had written any
    check(outcome)


@pytest.mark.parametrize("name", ["score", "sample"])
def test_a_full_disk(place, name):
  """Kills the mutant whose workers log onto a disk: where it is full they answer nobody, and the launcher waits."""
  outcome = faults.full_disk(place, name)
  if outcome is None:
    assert os.environ.get("CI") != "true", "CI needs the right to mount a tmpfs"
    pytest.skip("no tmpfs can be mounted here")
  check(outcome)


def test_a_disk_that_fails_in_the_middle_of_a_shard(place, shim):
  check(faults.read_error(place, "score"))


def test_a_clock_that_jumps(place, shim):
  check(faults.jumping_clock(place, "score"))


@pytest.mark.parametrize(("name", "how"), [("score", "replaced"), ("sample", "truncated")])
def test_a_shard_that_changes(place, name, how):
  check(faults.changed_shard(place, name, how))


def test_too_little_memory(place):
  check(faults.little_memory(place))


def test_two_runs_at_once(place):
  check(faults.two_at_once(place, "score"))
