"""Where commands are hurt, and how."""

import os
import pathlib
import random

import faults
import places
import pytest

SEED = random.randrange(1 << 30)


@pytest.fixture(scope="module")
def place(request, tmp_path_factory) -> places.Place:
  """With undisturbed runs of the COMMANDS of a module."""
  print(f"seed {SEED}")
  folder: pathlib.Path = tmp_path_factory.mktemp("faults")
  return places.Place(folder, big_rows=4_000, small_rows=200, commands=request.module.COMMANDS)


@pytest.fixture
def generator(request) -> random.Random:
  return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def check():
  """Asserts that a fault did no harm."""

  def check_outcome(outcome: places.Outcome) -> None:
    assert outcome.is_good and not outcome.notes, (outcome, f"seed {SEED}")

  return check_outcome


@pytest.fixture
def shim() -> None:
  if faults.shim() is None:
    assert os.environ.get("CI") != "true", "CI needs a C compiler"
    pytest.skip("there is no C compiler here to build what makes a disk fail")


@pytest.fixture
def check_full_disk(place, check):
  """Asserts that a command comes through a disk that is full in the middle."""

  def check_command(name: str) -> None:
    outcome = faults.full_disk(place, name)
    if outcome is None:
      assert os.environ.get("CI") != "true", "CI needs the right to mount a tmpfs"
      pytest.skip("no tmpfs can be mounted here")
    check(outcome)

  return check_command
