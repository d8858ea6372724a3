"""Invariant 4 under the two faults that find most: a kill at a random moment, and a disk that is full.

Each is real: a signal, a tmpfs. test_more_faults.py has the others and the other commands, `make faults` does it at
length, and docs/reliability.md has its table. What may be missing on a user's machine, a C compiler or the right to
mount, is skipped there and wanted in CI.
"""

import faults
import pytest

pytestmark = [pytest.mark.local_runner, pytest.mark.long]
COMMANDS = ("score", "sample")


def test_killed_at_random_moments(place, generator, check):
  """Kills the mutants: a file that is written in place; a bundle that is done because it was begun."""
  check(faults.kills(place, "score", 1, generator))


def test_a_full_disk(check_full_disk):
  """Kills the mutant whose workers log onto a disk: where it is full they answer nobody, and the launcher waits."""
  check_full_disk("sample")
