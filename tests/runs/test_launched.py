"""`winnow launch`: what Slurm and Kubernetes would run, run here as processes; the bytes of one machine."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from places import SECONDS, Place, environment
from running import content
from schedulers import Array, Slurm, command_in_pod, containers_of

pytestmark = pytest.mark.long
PROJECT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
  return Place(tmp_path_factory.mktemp("launched"), big_rows=4_000, small_rows=200, commands=("score", "sample"))


def launch(place: Place, folder: pathlib.Path, *flags: str, root: str = "", **how) -> subprocess.CompletedProcess:
  """Runs `winnow launch` for a score and a sample of it, in an empty folder."""
  folder.mkdir()
  steps = [word for name in ("score", "sample") for word in ["--", *place.arguments(name, workers=1, root=root)]]
  command = [sys.executable, "-m", "pipelines.main", "launch", *flags, *steps]
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **{"env": environment()} | how)
  assert done.returncode == 0, done.stderr
  return done


def assert_equal_bytes(place: Place, folder: pathlib.Path) -> None:
  assert content(folder / "scores/asked") == content(place.undisturbed / "scores/asked")
  sampled = content(folder / "sampled")
  # The manifest has the command, whose paths are whole here.
  sampled["manifest.json"] = sampled["manifest.json"].replace(f"{folder}/".encode(), b"")
  assert sampled == content(place.undisturbed / "sampled")


def end_of(tasks: list[subprocess.Popen]) -> list[int]:
  try:
    return [task.wait(SECONDS) for task in tasks]
  finally:
    for task in tasks:
      if task.poll() is None:
        os.killpg(task.pid, signal.SIGKILL)


def kill_amidst(task: subprocess.Popen, folder: pathlib.Path) -> None:
  """Kills all processes of a task once blocks are on record, as a node that fails does."""
  deadline = time.monotonic() + SECONDS
  while not list(folder.glob("scores/asked/blocks/**/*.parquet")):
    assert task.poll() is None and time.monotonic() < deadline
    time.sleep(0.01)
  os.killpg(task.pid, signal.SIGKILL)
  task.wait()


def test_slurm_runs_the_arrays_one_after_another_and_starts_a_killed_task_again(place):
  """Two tasks of two parts each, one of which is killed and started again; then four tasks of the sample.

  Kills the mutants: parts of one task that are all the same, a part that is left out, a sample before the scores.
  """
  folder = place.folder / "slurm"
  slurm = Slurm(place.folder / "of_slurm")
  done = launch(
    place,
    folder,
    *("slurm", "--parts=4", "--gpus_per_task=2", "--submit"),
    env=slurm.environment | environment() | {"PATH": slurm.environment["PATH"]},
  )
  assert [line.partition(",")[0] for line in done.stdout.splitlines()] == ["score: job 1", "sample: job 2"]
  scoring, sampling = slurm.arrays()

  def start(array: Array, task: int) -> subprocess.Popen:
    return slurm.start(array, task, folder, {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "0,1"})

  assert (list(scoring.tasks), list(sampling.tasks), sampling.after) == ([0, 1], [0, 1, 2, 3], 1)
  victim = start(scoring, 1)
  kill_amidst(victim, folder)
  assert end_of([start(scoring, 1), start(scoring, 0)]) == [0, 0]
  assert end_of([start(sampling, task) for task in sampling.tasks]) == [0, 0, 0, 0]
  assert_equal_bytes(place, folder)
  assert len(list(folder.glob("winnow-score-*-1_1.log"))) == 1
  # Who submits it again has nothing done again, and no task fails.
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
  assert end_of([start(scoring, 0)]) == [0]
  assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_pods_run_their_commands_in_order_and_a_killed_one_begins_again(place):
  """Three pods, one of which is killed during the first command and started again under its index.

  Kills the mutants: a pod that goes on before all parts are done, or whose commands are in another order.
  """
  folder = place.folder / "pods"
  root = f"{folder}/"
  done = launch(place, folder, "k8s", "--parts=3", "--image=winnow", f"--volume=claim:{place.folder}", root=root)
  pods, containers = containers_of(done.stdout)

  def start(index: int) -> subprocess.Popen:
    commands = [command_in_pod(container, index) for container in containers]
    program = (
      "import json, subprocess, sys\n"
      "for command in json.loads(sys.argv[1]):\n"
      "  status = subprocess.run([sys.executable, '-m', 'pipelines.main', *command[1:]]).returncode\n"
      "  if status: sys.exit(status)\n"
    )
    import json

    with (folder / f"pod-{index}.log").open("ab") as log:
      return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(commands)],
        cwd=place.folder,
        env=environment(),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  victim = start(2)
  kill_amidst(victim, folder)
  assert end_of([start(index) for index in range(pods)]) == [0, 0, 0]
  assert_equal_bytes(place, folder)
