"""Three small shards, and one store of their scores that the tests of a session copy."""

import json
import os
import pathlib
import shutil

import corpora
import once
import pytest
from asking import score

from pipelines import main


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
  return str(once.made(tmp_path_factory, "rater", lambda folder: corpora.write_model(folder / "rater")) / "rater")


def write_place(folder: pathlib.Path) -> None:
  (folder / "in").mkdir()
  for shard in range(3):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(40, shard)]
    (folder / f"in/{shard}.jsonl").write_text("\n".join(lines) + "\n")
  (folder / "prompt.txt").write_text(corpora.PROMPT)


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
  """A folder with three small shards, which is the current one."""
  monkeypatch.chdir(tmp_path)
  write_place(tmp_path)
  return tmp_path


@pytest.fixture
def scored(place, model, tmp_path_factory) -> pathlib.Path:
  """The same folder with a complete store in it."""

  def make(folder: pathlib.Path) -> None:
    write_place(folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
      assert main.main(score(model, "--name=one")) == 0
    finally:
      os.chdir(before)

  folder = once.made(tmp_path_factory, "scored", make)
  shutil.copytree(folder / "scores", place / "scores")
  source = place / "scores/one/input.json"  # where the corpus lies
  source.write_text(source.read_text().replace(str(folder), str(place)))
  return place
