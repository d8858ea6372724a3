"""Two runs at one time on one folder: of the same request they help each other, of different ones they never mix."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import corpora
import pyarrow.parquet as pq
import pytest
from running import content, run_in


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("two_runs")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_model(folder / "other_model", d_ff=48)
  corpora.write_corpus(folder / "corpus", big_rows=8_000, small_rows=100)
  return folder


def score_command(place: pathlib.Path, model: str, *flags: str) -> list[str]:
  reading = [f"--input={place}/corpus/*", f"--model={place / model}", "--max_bad_fraction=0.5", "--block_rows=100"]
  shape = [f"--prompt_file={place / 'prompt.txt'}", "--max_input_tokens=32"]
  return ["score", *reading, *shape, "--scores=scores", "--name=tiny", "--direct_num_workers=1", *flags]


SAMPLE = ["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.5", "--output=out", "--direct_num_workers=1"]


def start(arguments: list[str], folder: pathlib.Path) -> subprocess.Popen:
  folder.mkdir(exist_ok=True)
  command = [sys.executable, "-m", "pipelines.main", *arguments]
  return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
  """What a command printed; it must have ended with status 0."""
  told, _ = process.communicate()
  assert process.returncode == 0, told
  return told


@pytest.fixture(scope="module")
def alone(place) -> pathlib.Path:
  folder = place / "alone"
  assert run_in(folder, score_command(place, "model")) == 0
  assert run_in(folder, SAMPLE) == 0
  return folder


def wait_for(process: subprocess.Popen, folder: pathlib.Path, made: str, count: int) -> None:
  """Waits until a process that runs in a folder has made files of a pattern there."""
  while len(list(folder.glob(made))) < count:
    assert process.poll() is None
    time.sleep(0.001)


@pytest.mark.long
def test_two_equal_runs_at_once_both_succeed_with_the_same_bytes(place, alone):
  """Kills the mutants: the faster run sweeps what the slower one writes; a shard compacted by another run, or runs that
  it has tidied up, are an error."""
  folder = place / "equal"
  for arguments, made in (
    (score_command(place, "model"), "scores/tiny/blocks/*/*.parquet"),
    (SAMPLE, "out/.winnow/runs/*/*"),
  ):
    first = start(arguments, folder)
    wait_for(first, folder, made, 1)
    first.send_signal(signal.SIGSTOP)  # so that the second is at work before the first has done all
    second = start(arguments, folder)
    wait_for(second, folder, made, len(list(folder.glob(made))) + 1)
    first.send_signal(signal.SIGCONT)
    finish(first)
    finish(second)
  assert content(folder) == content(alone)
  store = folder / "scores/tiny"
  logs = [json.loads(path.read_text()) for path in (store / "log").iterdir()]
  assert len(logs) == 2, "both were at work"


def test_a_run_that_wakes_up_when_another_has_done_its_work_succeeds(place, alone):
  """Kills the mutant for which it is an error that what it was reading has been tidied up."""
  folder = place / "woken"
  shutil.copytree(alone / "scores", folder / "scores")
  arguments = [*SAMPLE, "--num_shards=40"]
  sleeper = start(arguments, folder)
  wait_for(sleeper, folder, "out/.winnow/runs/*/*.run", 1)
  sleeper.send_signal(signal.SIGSTOP)
  assert run_in(folder, arguments) == 0
  assert not (folder / "out/.winnow/runs").exists()
  sleeper.send_signal(signal.SIGCONT)
  assert "4,525 of 9,049 documents selected" in finish(sleeper)


@pytest.mark.long
def test_a_run_that_still_writes_when_another_model_starts_over_never_mixes_in(place, alone):
  """Kills the mutant whose block files are known by shard and number alone: half the scores would be the other's."""
  folder = place / "overwritten"
  old = start(score_command(place, "other_model"), folder)
  wait_for(old, folder, "scores/tiny/blocks/*/*.parquet", 1)
  old.send_signal(signal.SIGSTOP)  # a machine that was suspended, and wakes up when another has taken over
  request = folder / "scores/tiny/request.json"
  before = request.read_bytes()
  new = start(score_command(place, "model", "--overwrite"), folder)
  while not request.exists() or request.read_bytes() in (before, b""):
    assert new.poll() is None
    time.sleep(0.01)
  old.send_signal(signal.SIGCONT)
  told, _ = new.communicate()
  told_old, _ = old.communicate()
  assert new.returncode == 0 or "--overwrite" in told, told
  assert old.returncode == 1, told_old
  assert "Traceback" not in told + told_old
  if new.returncode:
    assert run_in(folder, score_command(place, "model", "--overwrite")) == 0
  for path in (alone / "scores/tiny/shards").iterdir():
    assert pq.read_table(folder / "scores/tiny/shards" / path.name).equals(pq.read_table(path))
  assert run_in(folder, SAMPLE) == 0
  assert content(folder / "out") == content(alone / "out")
