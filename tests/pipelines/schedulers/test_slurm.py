"""`winnow launch slurm`: what is refused, what sbatch gets, and the processes that its scripts start."""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest
from schedulers import Array, Slurm

from pipelines import main
from pipelines.schedulers import steps

FOLDER, NAME = "a 'b' $(touch c)\n\"d\" \\e", 'f "g" $HOME `h` *.jsonl'
RECORDER = """#!{python}
import json, os, pathlib, sys, time
part = sys.argv[-1].removeprefix("--part=").replace("/", "-")
record = {{"words": sys.argv[1:], "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}}
record |= {{"process": os.getpid(), "folder": os.getcwd()}}
pathlib.Path({folder!r}, f"{{sys.argv[1]}}-{{part}}").write_text(json.dumps(record))
if part == os.environ.get("FAILS"):
  sys.exit(3)
time.sleep(float(os.environ.get("SECONDS_EACH", 0)))
pathlib.Path({folder!r}, f"{{sys.argv[1]}}-{{part}}-ended").touch()
"""


class Launched:
  """A corpus in a folder with a difficult name, a stand-in of Slurm, and a program that records how it is started."""

  def __init__(self, folder: pathlib.Path, monkeypatch):
    self.folder = folder
    self.place, self.records = folder / FOLDER, folder / "records"
    self.place.mkdir()
    self.records.mkdir()
    (self.place / NAME.replace("*", "0")).write_text('{"text": "a"}\n')
    monkeypatch.chdir(self.place)
    self.slurm = Slurm(folder)
    program = folder / "winnow it"
    program.write_text(RECORDER.format(python=sys.executable, folder=str(self.records)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(steps, "program", lambda: [str(program)])

  def submit(self, script: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash"], input=script, capture_output=True, text=True, env=self.slurm.environment)

  def run(self, array: Array, task: int, **environment: str) -> int:
    return self.slurm.start(array, task, self.place, environment).wait(60)

  def records_of(self, command: str) -> dict[str, dict]:
    found = {p.name: json.loads(p.read_text()) for p in self.records.glob(f"{command}-*") if "ended" not in p.name}
    return {name.removeprefix(f"{command}-"): record for name, record in found.items()}

  def refuse_living(self) -> None:
    """Fails if a process that left a record still lives, and removes the records."""
    for record in self.records.iterdir():
      with pytest.raises(ProcessLookupError):
        os.kill(json.loads(record.read_text())["process"], 0)
      record.unlink()


@pytest.fixture
def launched(tmp_path, monkeypatch) -> Launched:
  return Launched(tmp_path, monkeypatch)


SCORE = ["--", "score", f"--input={NAME}", "--model=org/model", "--scores=scores", "--max_bad_fraction", "0.5"]
SAMPLE = ["--", "sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.2", "--output=best"]


@pytest.mark.parametrize(
  ("argv", "sentence"),
  [
    (["slurm", "--parts=2"], "there is no command to launch"),
    (["slurm", "--parts=2", "--"], "a command is missing behind --"),
    (["slurm", "--parts=2", "--", "status", "scores"], "'status' is no command that can be cut into parts"),
    (["slurm", "--parts=2", "--", "scroe"], "did you mean score?"),
    (["slurm", "--parts=2", *SCORE, "--scoers=x"], "did you mean --scores?"),
    (["slurm", "--parts=2", *SCORE, "--", *SAMPLE], "a command is missing behind --"),
    (["slurm", "--parts=2", *SCORE, *SCORE], "two of the commands are the same"),
    (["slurm", "--parts=2", *SCORE, "--part=0/2"], "score --part: a task gets its part from winnow launch"),
    (["slurm", "--parts=2", *SCORE, "--overwrite"], "score --overwrite: would remove what other parts have done"),
    (["slurm", "--parts=2", *SCORE, "--estimate"], "write it before --"),
    (["slurm", "--parts=2", *SCORE, "--runner=PrismRunner"], "winnow launch names the runner itself"),
    (["slurm", "--parts=2", "--runner=PrismRunner", *SCORE], "write it behind the command that it is for"),
    (["slurm", "--parts=6", "--gpus_per_task=4", *SCORE], "--parts=6 is no multiple of --gpus_per_task=4"),
    (["slurm", "--parts=4", "--gpus_per_task=4", *SAMPLE], "none of the commands runs a model"),
    (
      ["slurm", "--parts=4", "--gpus_per_task=4", *SCORE, "--direct_num_workers", "4"],
      "load the model several times onto one GPU",
    ),
    (["slurm", "--parts=0", *SCORE], "--parts=0 is below 1"),
    (["slurm", "--parts=2", "--hours=nan", *SCORE], "--hours=nan is no time limit"),
    (["slurm", "--parts=2", "--image=x", *SCORE], "--image is for winnow launch k8s and flink"),
    (["slurm", "--parts=2", "--sbatch_options=-p gpu", *SCORE], "'gpu' is no option: write --NAME=VALUE"),
    (["slurm", "--parts=2", "--accelerator=nvidia-l4", *SCORE], "is for --estimate"),
    (["slurm", "--parts=2", "--estimate", *SAMPLE], "--estimate is for score, embed, curate"),
    (
      ["slurm", "--parts=2", "--estimate", "--accelerator=nvidia-l4", *SCORE],
      "takes --accelerator= with --gpus_per_task",
    ),
    (["slurm", "--parts=2", "--", "score", "--input=none*", "--model=m", "--scores=s"], "none* matches no file"),
    (["slurm", "--parts=2", "--submit", *SCORE], "--submit needs sbatch"),
    (["slurm", "--parts=2", *SCORE[:3], "--model=/none", "--scores=s"], "--model=/none is not there"),
    (["slurm", "--parts=2", *SCORE, "--prompt_file=none"], "--prompt_file=none is not there"),
    (["pbs", "--parts=2", *SCORE], "invalid choice: 'pbs'"),
    (["slurm", *SCORE], "--parts= must be given"),
  ],
)
def test_what_no_task_could_do_is_refused_in_one_sentence(launched, capsys, argv, sentence):
  """Kills the mutants that pass it on: each of N tasks would say so, after hours in a queue, or ruin others' work."""
  assert main.main(["launch", *argv]) == 2
  printed = capsys.readouterr()
  assert sentence in printed.err and printed.err.count("\n") == 1
  assert not printed.out


def test_every_part_gets_the_words_that_were_typed_with_paths_from_the_root(launched, capsys):
  """Kills the mutants: a word that is not quoted, a path that stays relative, a name on the hub that becomes a path, a
  part that nobody does, a step that does not wait for the one before it.
  """
  options = "--partition=cpu '--comment=one # two'"
  assert main.main(["launch", "slurm", "--parts=3", f"--sbatch_options={options}", *SCORE, *SAMPLE]) == 0
  script = capsys.readouterr().out
  done = launched.submit(script)
  assert (done.returncode, done.stderr) == (0, "")
  assert [line.rsplit("-", 1)[0] for line in done.stdout.splitlines()] == [
    "score: job 1, winnow-score",
    "sample: job 2, winnow-sample",
  ]
  scoring, sampling = launched.slurm.arrays()
  assert (scoring.after, sampling.after, sampling.options["kill-on-invalid-dep"]) == (None, 1, "yes")
  for array, gigabytes in ((scoring, 48), (sampling, 8)):
    expected = {"cpus-per-task": "8", "mem": f"{gigabytes}G", "time": "24:00:00", "array": "0-2", "requeue": ""}
    assert expected.items() <= array.options.items() and "gres" not in array.options
    assert (array.options["partition"], array.options["comment"]) == ("cpu", "one # two")
    assert subprocess.run(["bash", "-n"], input=array.script, text=True).returncode == 0
    assert [launched.run(array, task) for task in array.tasks] == [0, 0, 0]
  here = str(launched.place)
  assert launched.records_of("score").keys() == launched.records_of("sample").keys() == {"0-3", "1-3", "2-3"}
  for part, record in launched.records_of("score").items():
    paths = [f"--input={here}/{NAME}", "--model=org/model", f"--scores={here}/scores"]
    rest = ["--max_bad_fraction=0.5", "--part_steal", f"--part={part.replace('-', '/')}"]
    assert record["words"] == ["score", *paths, *rest]
  assert f"--output={here}/best" in launched.records_of("sample")["2-3"]["words"]
  assert {path.name for path in launched.place.iterdir() if "log" not in path.name} == {NAME.replace("*", "0")}


def test_a_task_runs_one_part_on_each_of_its_gpus(launched, capsys):
  """Kills the mutants: parts that share a GPU, GPUs counted from 0 where Slurm gives others, memory for one part."""
  assert main.main(["launch", "slurm", "--parts=4", "--gpus_per_task=2", "--hours=1.5", *SCORE, *SAMPLE]) == 0
  assert launched.submit(capsys.readouterr().out).returncode == 0
  scoring, sampling = launched.slurm.arrays()
  expected = {"gres": "gpu:2", "cpus-per-task": "16", "mem": "96G", "array": "0-1", "time": "1:30:00"}
  assert expected.items() <= scoring.options.items()
  assert "gres" not in sampling.options and sampling.options["array"] == "0-3"
  assert launched.run(scoring, 0, CUDA_VISIBLE_DEVICES="5,GPU-7") == 0
  assert launched.run(scoring, 1, CUDA_VISIBLE_DEVICES="0,1,2") == 0
  assert {part: record["gpu"] for part, record in launched.records_of("score").items()} == {
    "0-4": "5",
    "1-4": "GPU-7",
    "2-4": "0",
    "3-4": "1",
  }
  assert launched.run(scoring, 1, CUDA_VISIBLE_DEVICES="3") == 1


def test_a_part_that_fails_ends_its_task_with_its_status(launched, capsys):
  """Kills the mutants: a task that succeeds though a part failed; one whose other parts wait for hours for that part,
  which Slurm could only start again with them.
  """
  assert main.main(["launch", "slurm", "--parts=2", "--gpus_per_task=2", *SCORE]) == 0
  assert launched.submit(capsys.readouterr().out).returncode == 0
  (array,) = launched.slurm.arrays()
  started = time.monotonic()
  assert launched.run(array, 0, FAILS="1-2", SECONDS_EACH="50") == 3
  assert time.monotonic() - started < 40
  launched.refuse_living()
  task = launched.slurm.start(array, 0, launched.place, {"SECONDS_EACH": "50"})
  while sum(record.stat().st_size > 0 for record in launched.records.iterdir()) < 2:
    assert task.poll() is None
    time.sleep(0.01)
  os.kill(task.pid, signal.SIGTERM)
  assert task.wait(40) == 143
  launched.refuse_living()


def test_all_arrays_are_submitted_or_none(launched, capsys):
  """Kills the mutant that leaves the first array in the queue, which would keep the script from being run again."""
  assert main.main(["launch", "slurm", "--parts=2", *SCORE, *SAMPLE]) == 0
  script = capsys.readouterr().out
  refused = Slurm(launched.folder / "strict", refused=("--sampler",))
  done = subprocess.run(["bash"], input=script, capture_output=True, text=True, env=refused.environment)
  assert done.returncode == 1 and "Batch job submission failed" in done.stderr
  assert done.stdout.startswith("score: job 1,") and not refused.arrays()


def test_paths_are_found_from_the_root_however_they_are_given(launched, capsys, monkeypatch):
  """Kills the mutants: one path in place of several, a table of TFDS or a recipe of Winnow's that becomes a file, a `~`
  that a task would not expand, a file that the recipe names from the folder in which it was typed.
  """
  monkeypatch.setenv("HOME", "/home/me")
  (launched.place / "folder").mkdir()
  (launched.place / "recipe.yaml").write_text("rate: 0.5")
  evaluate = [
    "--",
    "evaluate",
    "--models=org/m,folder,run/checkpoint_*",
    "--input=a.jsonl,tfds:c4,gs://b/c",
    "--scores=~/s",
  ]
  mine = ["--", "curate", "--model=folder", f"--input={NAME}", "--scores=s", "--output=o", "--rate=0.1"]
  for proxy, place in (("dense", "--proxy=dense"), ("s/dense", f"--proxy={launched.place}/s/dense")):
    (step,) = steps.read([*mine, f"--proxy={proxy}"], "slurm", None)
    assert place in step.arguments
  own = ["--", "curate", "--recipe=d4", "--model=folder", f"--input={NAME}", "--scores=s", "--output=o"]
  assert main.main(["launch", "slurm", "--parts=1", *evaluate, *own, *own[:2], "--recipe=recipe.yaml", *own[3:]]) == 0
  assert launched.submit(capsys.readouterr().out).returncode == 0
  here, (evaluating, curating, other) = str(launched.place), launched.slurm.arrays()
  for array in (evaluating, curating, other):
    elsewhere = launched.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    assert launched.slurm.start(array, 0, elsewhere).wait(60) == 0
  words = launched.records_of("evaluate")["0-1"]
  assert words["folder"] == here
  assert words["words"][1:4] == [
    f"--models=org/m,{here}/folder,{here}/run/checkpoint_*",
    f"--input={here}/a.jsonl,tfds:c4,gs://b/c",
    "--scores=/home/me/s",
  ]
  assert f"--recipe={here}/recipe.yaml" in launched.records_of("curate")["0-1"]["words"]
  assert "'--recipe=d4'" in curating.script or "--recipe=d4 " in curating.script


def test_jobs_that_are_queued_are_not_submitted_twice(launched, capsys, monkeypatch):
  """Kills the mutant that submits them: every part would run twice, and do all of its work twice."""
  monkeypatch.setenv("PATH", launched.slurm.environment["PATH"])
  assert main.main(["launch", "slurm", "--parts=2", "--submit", *SCORE]) == 0
  assert main.main(["launch", "slurm", "--parts=4", "--submit", *SCORE, *SAMPLE]) == 1
  assert "sbatch did not take all jobs" in capsys.readouterr().err
  (array,) = launched.slurm.arrays()
  launched.slurm.remove(array)
  assert main.main(["launch", "slurm", "--parts=4", "--submit", *SCORE, *SAMPLE]) == 0
  assert [len(array.tasks) for array in launched.slurm.arrays()] == [4, 4]
