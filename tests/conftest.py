"""Fixtures that several tests share."""

import contextlib
import gc
import os
import pathlib

import buckets
import hypothesis
import pytest
import quick_beam

from pipelines import main
from pipelines.registry import command_names

# The same examples in every run, so that a commit passes or fails; `make test ARGS=--hypothesis-profile=other` draws
# others. Neither depends on time.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("other", deadline=None)
hypothesis.settings.load_profile("repeatable")

# A full collection looks at a million objects of imported modules, and takes 7% of the time where it runs as usual.
gc.set_threshold(20_000, 50, 50)

PROJECT = pathlib.Path(__file__).resolve().parent.parent

# Programs are kept from one run of the tests to the next, as commands keep them: compiling takes half of the time of
# the tests of models. JAX reads these when it is imported, here and in the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/winnow/programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Returns the folder of golden files and real data beside the project: a user's checkout has none, CI must."""
  folder = pathlib.Path(os.environ.get("WINNOW_SHARED", PROJECT.parent / "shared"))
  if not folder.is_dir():
    assert os.environ.get("CI") != "true", f"CI needs {folder}"
    pytest.skip(f"{folder} is not here: golden files and real data are not part of a user's checkout")
  return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts whole runs and commands first: they take longest, and a late one would leave one xdist worker busy alone."""
  items.sort(key=lambda item: not item.nodeid.startswith(("tests/runs/", "tests/commands/", "tests/faults/")))


@pytest.fixture(autouse=True, scope="session")
def quick_commands(request):
  """Runs commands of the tests in the tests' own process unless they say otherwise; `make test` builds graphs faster.

  `make test-prism` runs them with the flags in WINNOW_TEST_FLAGS instead. The long tests of `make test-all`, and all
  processes that tests start, have Beam as it is.
  """
  is_quick = request.config.option.markexpr == "not long"
  added = os.environ.get("WINNOW_TEST_FLAGS", "").split() or ["--direct_num_workers=1"]
  run, pipelines = main.main, set(command_names.COMMANDS) - {command_names.DEMO, command_names.LAUNCH}
  names = {flag.split("=")[0] for flag in (*added, "--runner")}

  def run_there(argv):
    is_told = any(argument.split("=")[0] in names for argument in argv)
    return run([*argv, *added] if argv and argv[0] in pipelines and not is_told else argv)

  with pytest.MonkeyPatch.context() as patch, quick_beam.installed() if is_quick else contextlib.nullcontext():
    patch.setattr(main, "main", run_there)
    yield


@pytest.fixture(scope="module")
def bucket():
  """Yields the address of a bucket that worker processes reach too."""
  with buckets.emulated() as found:
    yield found
