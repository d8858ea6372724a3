"""Progress from what is on record, for launchers whose workers are elsewhere."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import corpora
import pytest
from running import run_in

from pipelines import main
from pipelines.flags import parsing
from pipelines.jobs import meter, plan_output, plan_store, planning, watching
from pipelines.output import manifests, sampling
from pipelines.registry import command_names
from pipelines.scoring import scoring

SHARDS, ROWS, BLOCK_ROWS = 6, 50, 10
SCORING = "scoring (ask_llm)"
# Copies files as they are named on its standard input, each whole under its name, as a worker writes it.
WORKER = """
import os, shutil, sys
for line in sys.stdin:
  source, target = line.split()
  os.makedirs(os.path.dirname(target), exist_ok=True)
  shutil.copy(source, target + ".part")
  os.rename(target + ".part", target)
  print(target, flush=True)
"""


def score(folder: pathlib.Path) -> list[str]:
  model = [f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt", "--max_input_tokens=32", "--name=tiny"]
  reading = [f"--input={folder}/corpus/*", f"--block_rows={BLOCK_ROWS}", "--direct_num_workers=1"]
  return ["score", *model, *reading, "--scores=scores"]


def interrupted(folder: pathlib.Path, command: list[str], module: object, name: str, after: int) -> None:
  """Runs a command in a folder, and interrupts it before a function is called for the next time."""
  calls, function = [], getattr(module, name)

  def interrupt_after(*arguments, **keywords):
    if len(calls) == after:
      raise KeyboardInterrupt
    calls.append(None)
    return function(*arguments, **keywords)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, name, interrupt_after)
    assert run_in(folder, command) != 0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """Returns a folder with a corpus, a complete store in done/, and one in begun/ with two of six shards finished."""
  folder = tmp_path_factory.mktemp("watched")
  (folder / "corpus").mkdir()
  for shard in range(SHARDS):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(ROWS, shard)]
    (folder / f"corpus/{shard}.jsonl").write_text("\n".join(lines))
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  assert run_in(folder / "done", score(folder)) == 0
  interrupted(folder / "begun", score(folder), scoring.block_files, "compact_shard", after=2)
  return folder


@pytest.fixture
def worker():
  """Yields a function that lets another process copy a file, and waits until it has."""
  process = subprocess.Popen(
    [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
  )

  def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    process.stdin.write(f"{source} {target}\n")
    assert process.stdout.readline() == f"{target}\n"

  yield copy
  process.stdin.close()
  process.wait()


def watched_store(folder: pathlib.Path, place: pathlib.Path) -> list[watching.Watched]:
  """Claims the store in a folder, as a launcher does, and returns it as it is watched."""
  folder.mkdir()
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    namespace, beam_arguments = parsing.parse(command_names.SCORE, score(place)[1:])
    job = plan_store.plan_named_scoring(namespace, planning.make_launcher(namespace, beam_arguments))
    job.claim()
  return watching.watched([job], [], None, recipe=1, parallelism=2)


def stages(jobs: list[watching.Watched]) -> list:
  return [stage for job in jobs for stage in job.stages]


def wait_until(holds) -> None:
  deadline = time.monotonic() + 120
  while not holds():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_store_that_another_process_fills_is_shown_as_it_grows(place, tmp_path, worker, monkeypatch):
  """Kills the mutants: footers alone, or blocks alone; blocks of a finished shard that count again; documents that were
  on record before, shown as new ones; a last look that is not taken."""
  monkeypatch.setattr(meter, "pause_seconds", lambda elapsed: 0.01)
  begun, done, target = (folder / "scores/tiny" for folder in (place / "begun", place / "done", tmp_path / "own"))
  jobs = watched_store(tmp_path / "own", place)
  finished = sorted((begun / "shards").glob("*.parquet"))
  folders = sorted((begun / "blocks").iterdir())
  blocks = [sorted(folder.iterdir()) for folder in folders]
  assert len(finished) == 2 and [len(of_shard) for of_shard in blocks] == [ROWS // BLOCK_ROWS] * 4
  for path in (begun / "engine.json", finished[0]):
    worker(path, target / path.relative_to(begun))
  monkeypatch.setattr(watching, "_LAST_SECONDS", 120.0)
  with meter.Meter(stages(jobs)) as shown, watching.Watch(jobs, shown.address) as watch:
    figures = shown._shown[SCORING]
    wait_until(lambda: watch._first)  # one shard was there before
    for path in blocks[0][:2]:
      worker(path, target / path.relative_to(begun))
    wait_until(lambda: (figures.total(0), figures.total(1)) == (2 * BLOCK_ROWS, ROWS))
    assert figures.is_at_work and figures.stage.count.documents == pytest.approx(SHARDS * ROWS, rel=0.2)
    worker(finished[1], target / finished[1].relative_to(begun))
    wait_until(lambda: figures.total(0) == 2 * BLOCK_ROWS + ROWS)
    shard = folders[0].name.rpartition("-")[0]
    worker(done / f"shards/{shard}.parquet", target / f"shards/{shard}.parquet")  # its blocks are still there
    wait_until(lambda: figures.total(0) == 2 * ROWS)
    for path in (*sorted((done / "shards").iterdir()), done / "summary.json"):
      worker(path, target / path.relative_to(done))
  assert (figures.total(0), figures.total(1)) == ((SHARDS - 1) * ROWS, ROWS)
  assert not figures.is_at_work


def test_what_cannot_be_read_is_told_once_and_ends_nothing(place, tmp_path, worker, monkeypatch, capsys):
  """Kills the mutants: a thread that dies of its first error; one that prints each; an error that ends the job."""
  monkeypatch.setattr(meter, "pause_seconds", lambda elapsed: 0.01)
  jobs = watched_store(tmp_path / "own", place)
  target, done = tmp_path / "own/scores/tiny", place / "done/scores/tiny"
  request = (target / "request.json").read_bytes()
  (target / "request.json").write_bytes(b"{}")
  looks = []
  look = jobs[0].look
  jobs[0].look = lambda: looks.append(None) or look()
  with meter.Meter(stages(jobs)) as shown, watching.Watch(jobs, shown.address) as watch:
    wait_until(lambda: len(looks) > 3)
    (target / "request.json").write_bytes(request)
    wait_until(lambda: watch._first)
    for path in (done / "engine.json", *(done / "shards").iterdir()):
      worker(path, target / path.relative_to(done))
    wait_until(lambda: shown._shown[SCORING].passed == SHARDS * ROWS)
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("winnow: ")]
  assert len(lines) == 1
  assert f"{target}/request.json is damaged" in lines[0]


@pytest.mark.long
def test_a_look_that_hangs_keeps_neither_the_job_nor_the_process(tmp_path):
  """A pipe that nobody writes to, as a file system that does not answer. Kills the mutants: a wait for the last look
  without a limit; a thread that the process waits for."""
  script = """
import sys, threading
from pipelines.jobs import meter, watching
from pipelines.worker import progress

looking = threading.Event()

class Hangs:
  stages, is_awaited = [progress.Stage("hanging")], False
  def look(self):
    looking.set()
    open(sys.argv[1]).read()

watching._LAST_SECONDS = 0.1
with meter.Meter(Hangs.stages) as shown, watching.Watch([Hangs()], shown.address):
  looking.wait()
print("done")
"""
  os.mkfifo(tmp_path / "pipe")
  result = subprocess.run(
    [sys.executable, "-c", script, str(tmp_path / "pipe")], capture_output=True, text=True, timeout=300
  )
  assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_job_that_fails_is_not_looked_at_again(monkeypatch):
  """Kills the mutants: a thread that goes on after its job; a last look at what a failed job has left."""
  monkeypatch.setattr(meter, "pause_seconds", lambda elapsed: 3_600.0)

  class Counts:
    stages, is_awaited, looks = (), False, 0

    def look(self):
      self.looks += 1
      return []

  job = Counts()
  with pytest.raises(KeyError), meter.Meter([]) as shown, watching.Watch([job], shown.address):
    wait_until(lambda: job.looks)
    raise KeyError
  wait_until(lambda: "watch" not in {thread.name for thread in threading.enumerate()})
  assert job.looks == 1


@pytest.mark.long
def test_an_output_is_shown_by_its_runs_and_its_shards(place, tmp_path, monkeypatch):
  """Interrupted before the first run, between runs and shards, before the manifest. Kills: runs of other stripes;
  shards that count before they are on record; an output without its end."""
  shutil.copytree(place / "done/scores", tmp_path / "scores")
  monkeypatch.chdir(tmp_path)
  sample = ["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.5", "--output=out", "--num_shards=3"]
  sample.append("--direct_num_workers=1")
  namespace, beam_arguments = parsing.parse(command_names.SAMPLE, sample[1:])
  _, sampling_jobs = plan_output.plan_drawing(namespace, planning.make_launcher(namespace, beam_arguments))
  (output,) = watching.watched([], sampling_jobs, None, recipe=1, parallelism=1)
  assert [stage.title for stage in output.stages][1:] == ["collecting the sample", "writing the sample"]
  all_, half = SHARDS * ROWS, SHARDS * ROWS // 2
  for module, name, after, found in (
    (sampling.writing, "write_run", 0, [(None, True), (0, False), (0, False)]),
    (sampling.writing, "write_run", 2, [(None, False), (2 * ROWS, True), (0, False)]),
    (sampling.writing, "write_shard", 0, [(None, False), (all_, False), (0, True)]),
    (manifests, "publish", 0, [(None, False), (all_, False), (half, True)]),
  ):
    interrupted(tmp_path, sample, module, name, after)
    assert output.look() == found, (name, after)
  assert main.main(sample) == 0
  assert output.look() == [(None, False), (all_, False), (half, False)]
