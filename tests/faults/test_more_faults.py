"""Invariant 4 under all faults, in a short form: signals, damage, a C library that makes reads fail, changed shards."""

import faults
import pytest

pytestmark = [pytest.mark.local_runner, pytest.mark.long]
COMMANDS = ("score", "density", "sample", "stages")  # the others are made of these, and make faults hurts them too


@pytest.mark.parametrize("name", ["density", "sample", "stages"])
def test_commands_killed_at_random_moments(place, generator, check, name):
  check(faults.kills(place, name, 1, generator))


@pytest.mark.parametrize("name", ["density", "sample"])
def test_files_that_are_damaged(place, generator, check, name):
  outcome = faults.damaged_files(place, name, 4, generator)
  if outcome.injected:  # else it was killed before it had written any
    check(outcome)


def test_a_full_disk_while_scoring(check_full_disk):
  check_full_disk("score")


def test_a_disk_that_fails_in_the_middle_of_a_shard(place, check, shim):
  check(faults.read_error(place, "score"))


def test_a_clock_that_jumps(place, check, shim):
  check(faults.jumping_clock(place, "score"))


@pytest.mark.parametrize(("name", "how"), [("score", "replaced"), ("sample", "truncated")])
def test_a_shard_that_changes(place, check, name, how):
  check(faults.changed_shard(place, name, how))


def test_too_little_memory(place, check):
  check(faults.little_memory(place))


def test_two_runs_at_once(place, check):
  check(faults.two_at_once(place, "score"))
