"""Fixtures that several tests share."""

import os
import pathlib

import buckets
import hypothesis
import pytest

from pipelines import main
from pipelines.registry import command_names

# The same examples in every run, so that a commit passes or fails; `make test ARGS=--hypothesis-profile=other` draws
# others. Neither depends on time.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("other", deadline=None)
hypothesis.settings.load_profile("repeatable")

PROJECT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of golden files and real data beside the project; a user's checkout has none, CI must have it."""
  folder = pathlib.Path(os.environ.get("WINNOW_SHARED", PROJECT.parent / "shared"))
  if not folder.is_dir():
    assert os.environ.get("CI") != "true", f"CI needs {folder}"
    pytest.skip(f"{folder} is not here: golden files and real data are not part of a user's checkout")
  return folder


@pytest.fixture(autouse=True, scope="session")
def another_runner():
  """`make test-prism` has every command of the tests run with the flags in WINNOW_TEST_FLAGS."""
  added, run = os.environ.get("WINNOW_TEST_FLAGS", "").split(), main.main
  with pytest.MonkeyPatch.context() as patch:
    if added:
      pipelines = set(command_names.COMMANDS) - {command_names.DEMO}

      def run_there(argv):
        names_runner = any(argument.startswith("--runner") for argument in argv)
        return run([*argv, *added] if argv[0] in pipelines and not names_runner else argv)

      patch.setattr(main, "main", run_there)
    yield


@pytest.fixture(scope="module")
def bucket():
  """A bucket that worker processes reach too."""
  with buckets.emulated() as found:
    yield found
