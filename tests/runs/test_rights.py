"""Stores and outputs of another user: complete ones are used as they are, and others are refused at launch."""

import pathlib

import corpora
import pytest
from rights import readable_folder, without_rights
from running import content, run_in

from pipelines.runners import commands

FLAGS = ["--direct_num_workers=1"]


@pytest.fixture(scope="module")
def theirs():
  """A store and two outputs, one with a quota, of several shards with bad lines."""
  with readable_folder() as place:
    corpora.write_corpus(place / "corpus", big_rows=600, small_rows=150)
    corpora.write_model(place / "model")
    (place / "model/model.safetensors").chmod(0o644)  # which that format's library keeps to its user
    (place / "prompt.txt").write_text(corpora.PROMPT)
    assert run_in(place, score(place)) == 0
    for output, flags in OUTPUTS.items():
      assert run_in(place, [*sample(place), *flags, f"--output={output}"]) == 0
    yield place


OUTPUTS = {"plain": ["--rate=0.3"], "quota": ["--rate=0.1", "--group_by=domain", "--group_max=10"]}


def score(place: pathlib.Path, name: str = "tiny") -> list[str]:
  asking = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32", f"--name={name}"]
  where = [f"--input={place}/corpus/*", f"--scores={place}/scores", "--block_rows=100", "--max_bad_fraction=0.1"]
  return ["score", *asking, *where, *FLAGS]


def sample(place: pathlib.Path) -> list[str]:
  return ["sample", f"--scores={place}/scores", "--sampler=ask_llm", "--num_shards=2", *FLAGS]


def test_a_complete_store_and_output_of_another_user_are_used_as_they_are(theirs, tmp_path, capsys):
  """Kills the mutants: a claim that writes what is there already; a verification that settles quotas in the output."""
  before = content(theirs)
  with readable_folder() as ours:
    ours.chmod(0o777)
    report = ["report", f"--scores={theirs}/scores", f"--output={theirs}/quota", *FLAGS]
    assert run_in(ours, [*report, "--report=first"]) == 0  # loads modules that may be for this user alone
    with without_rights(theirs):
      assert run_in(ours, score(theirs)) == 0
      for output, flags in OUTPUTS.items():
        assert run_in(ours, [*sample(theirs), *flags, f"--output={theirs}/{output}"]) == 0
        assert run_in(ours, ["verify", f"{theirs}/{output}", *FLAGS]) == 0
      assert run_in(ours, [*sample(theirs), "--rate=0.3", "--output=plain"]) == 0
      assert run_in(ours, ["status", f"{theirs}/scores"]) == 0
      assert run_in(ours, ["explain", "a.jsonl#1", f"--scores={theirs}/scores", f"--output={theirs}/plain"]) == 0
      assert run_in(ours, [*report, "--report=second"]) == 0
    told = capsys.readouterr().err
    assert "Traceback" not in told and "cannot" not in told
    shards = [name for name in before if name.startswith("plain/plain-train")]
    assert len(shards) == 2 and all((ours / name).read_bytes() == before[name] for name in shards)
  assert content(theirs) == before


def test_what_another_user_has_not_finished_is_refused_at_launch(theirs, capsys):
  """Kills the mutant that finds out when it claims the folder, as a failure."""
  with readable_folder() as ours, without_rights(theirs):
    assert run_in(ours, score(theirs, "another")) == 2
    assert f"{theirs}/scores/another cannot be written by this user" in capsys.readouterr().err
    assert run_in(ours, [*sample(theirs), "--rate=0.3", f"--output={theirs}/another"]) == 2
    assert f"{theirs}/another cannot be written by this user" in capsys.readouterr().err


def test_a_damaged_file_of_another_user_is_named(theirs, capsys):
  """Kills the mutant that tells of the log that it cannot write."""
  shard = next((theirs / "scores/tiny/shards").iterdir())
  data = shard.read_bytes()
  shard.write_bytes(data[:-100] + bytes(100))
  try:
    with readable_folder() as ours:
      ours.chmod(0o777)
      with without_rights(theirs):
        assert run_in(ours, [*sample(theirs), "--rate=0.3", "--output=plain"]) == 1
  finally:
    shard.write_bytes(data)
  told = capsys.readouterr().err
  assert f"{shard} is missing or damaged" in told and "this user cannot remove it" in told


def test_a_log_that_cannot_be_written_is_told_in_a_line(capsys):
  """Kills the mutant that ends a run well done with an error."""
  with readable_folder() as folder:
    with without_rights(folder), commands.Log(str(folder), ["winnow", "score"]):
      pass
    assert list(folder.iterdir()) == []
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("winnow: no log was written: ") and "Permission denied" in line
