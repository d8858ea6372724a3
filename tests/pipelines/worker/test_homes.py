"""Expansion of `~` in flags, and users without a home folder."""

import os
import pathlib
import subprocess
import sys

import corpora
import pytest
from running import run_in

from curation.errors import WinnowError
from pipelines.flags import declarations, parsing
from pipelines.registry import command_names, flag

PROJECT = pathlib.Path(__file__).parents[3]
PATHS = [one for one in declarations.FLAGS if one.type in (flag.path, flag.paths)]
# A user without HOME and without an entry in passwd, as in some containers.
HOMELESS = """
import os, pwd, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
from pipelines import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("one", PATHS, ids=lambda one: one.name)
def test_every_flag_that_names_files_knows_home_folders(one, monkeypatch, tmp_path):
  """Kills the mutants: a `~` that becomes the name of a folder; a `~` that only some flags expand."""
  monkeypatch.setenv("HOME", str(tmp_path))
  command = command_names.CURATE if command_names.CURATE in one.commands else one.commands[-1]
  others = [
    f"--{o.name}=x" for o in declarations.FLAGS if command in o.required and o is not one and o.name != "sampler"
  ]
  others += ["--sampler=random", "--rate=1"] if command == command_names.SAMPLE else []
  others += (
    ["x"]
    if not one.positional and command in (command_names.STATUS, command_names.VERIFY, command_names.EXPLAIN)
    else []
  )
  if one.scorers and command in (command_names.SCORE, command_names.CURATE):
    others.append(f"--scorer={one.scorers[0]}")
  if one.name == "recipe":
    (tmp_path / "a").write_text("seed: 3")

  def parsed(value: str) -> str:
    argument = value if one.positional else f"--{one.name}={value}"
    return getattr(parsing.parse(command, [argument, *others])[0], one.name)

  assert parsed("~/a") == f"{tmp_path}/a"
  if one.name != "recipe":
    assert parsed("./~/a") == "./~/a" and parsed("gs://b/~/a") == "gs://b/~/a"
    assert parsed("~/a,~/b*") == (f"{tmp_path}/a,{tmp_path}/b*" if one.type is flag.paths else f"{tmp_path}/a,~/b*")
  with pytest.raises(WinnowError, match="there is no user 'nobody-of-that-name'"):
    parsed("~nobody-of-that-name/a")


def test_every_flag_that_a_bucket_fits_is_declared_a_path():
  """Kills the mutant that declares a flag for a file or a folder as plain text."""
  assert all(
    one in PATHS
    for one in declarations.FLAGS
    if one.pattern and one.pattern.startswith((flag.BUCKET, "(gs://", "gs://"))
  )


def test_a_recipe_may_say_home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "r.yaml").write_text(
    "input: ~/c4/*\nscores: ~/scores\nstages:\n- {scorer: minhash, threshold: 1}\n- {}\n"
  )
  argv = ["--recipe=~/r.yaml", "--output=~/out", "--model=m", "--rate=1"]
  stages, _ = parsing.parse_stages(command_names.CURATE, argv)
  found = {(stage.input, stage.scores, stage.output) for stage in stages}
  assert found == {(f"{tmp_path}/c4/*", f"{tmp_path}/scores", f"{tmp_path}/out")}


@pytest.mark.local_runner
def test_home_is_read_from_and_written_to(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  corpora.write_corpus(tmp_path / "corpus", big_rows=200, small_rows=60)
  arguments = ["sample", "--input=~/corpus/*", "--output=~/out", "--sampler=random", "--rate=0.5"]
  assert run_in(tmp_path / "here", [*arguments, "--max_bad_fraction=1", "--direct_num_workers=1"]) == 0
  assert (tmp_path / "out/manifest.json").exists()
  assert list((tmp_path / "here").iterdir()) == []
  assert run_in(tmp_path / "here", ["verify", "~/out", "--direct_num_workers=1"]) == 0


def homeless(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
  environment = {name: value for name, value in os.environ.items() if name not in ("WINNOW_CACHE", "XDG_CACHE_HOME")}
  return subprocess.run(
    [sys.executable, "-c", HOMELESS, *arguments],
    cwd=folder,
    env=environment | {"PYTHONPATH": str(PROJECT)},
    capture_output=True,
    text=True,
  )


@pytest.mark.local_runner
def test_a_user_without_a_home_keeps_caches_in_a_temporary_folder(tmp_path):
  """Kills the mutant that caches compiled programs in a folder called `~` in the working directory."""
  corpora.write_corpus(tmp_path / "corpus", big_rows=60, small_rows=40)
  corpora.write_model(tmp_path / "rater")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  before = set(os.listdir(tmp_path))
  scoring = ["score", "--model=rater", "--prompt_file=prompt.txt", "--max_input_tokens=32", "--max_bad_fraction=1"]
  done = homeless(tmp_path, *scoring, "--input=corpus/*", "--scores=scores", "--direct_num_workers=1")
  assert done.returncode == 0, done.stderr
  assert set(os.listdir(tmp_path)) - before == {"scores"}
  (message,) = [line for line in done.stderr.splitlines() if "no home folder" in line]
  made = message.partition("caches go to ")[2].partition(" ")[0]
  assert made.startswith("/") and not os.path.exists(made)
  refused = homeless(tmp_path, "status", "~/scores")
  assert refused.returncode == 2
  assert "~/scores: this user has no home folder; set HOME, or write the full path" in refused.stderr
