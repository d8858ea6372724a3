"""Folders of another kind than a command wants, and `winnow` without a command."""

import shutil

import pytest
from asking import DRAWING, sample, told

from pipelines import main

OTHER_KINDS = [
  (["sample", *DRAWING, "--scores=scores/one", "--output=new"], "--scores=scores/one is one score store, one; name"),
  (["sample", *DRAWING, "--scores=out", "--output=new"], "--scores=out is an output of winnow sample and holds no"),
  (["sample", *DRAWING, "--scores=in", "--output=new"], "--scores=in holds no score stores; name the folder that"),
  (["sample", *DRAWING, "--scores=nowhere", "--output=new"], "--scores=nowhere does not exist; name the folder that"),
  (["sample", *DRAWING, "--scores=scores", "--output=scores/one"], "--output=scores/one is a score store; choose"),
  (["sample", *DRAWING, "--scores=scores", "--output=new", "--rejected=scores/one"], "--rejected=scores/one is a sc"),
  (
    ["sample", "--sampler=random", "--rate=1", "--input=in/*", "--output=new", "--name=one"],
    "--name=one names a store in --scores, which is not given",
  ),
  (["score", "--scores=scores/one", "--input=in/*", "--model=m"], "--scores=scores/one is one score store, one"),
  (["report", "--scores=scores/one", "--report=new"], "--scores=scores/one is one score store, one; name the folder"),
  (["report", "--scores=scores", "--report=new", "--output=scores"], "--output=scores is a folder of score stores ("),
  (["report", "--scores=scores", "--report=new", "--output=in"], "--output=in is no output of winnow sample, since"),
  (["explain", "0.jsonl#3", "--scores=scores/one"], "--scores=scores/one is one score store, one; name the folder"),
  (["explain", "0.jsonl#3", "--scores=scores", "--output=scores/one"], "scores/one is a score store, which winnow"),
  (["verify", "scores/one"], "scores/one is a score store, which winnow status looks at; name the folder that"),
  (["verify", "scores"], "scores is a folder of score stores (one); name the folder that winnow sample wrote to"),
  (["verify", "begun"], "begun is an incomplete output, since it has no manifest.json; run its command"),
  (["verify", "out", "--scores=scores/one"], "--scores=scores/one is one score store, one; name the folder above"),
  (["status", "out"], "out is an output of winnow sample and holds no score stores; name"),
  (["cluster", "--embeddings=scores/one"], "--embeddings=scores/one is no store of embeddings; name the folder"),
  (
    ["score", "--scorer=density", "--embeddings=scores/one", "--scores=scores", "--input=in/*"],
    "--embeddings=scores/one is a store; repeat the --model= or the --embeddings= that it was made with, and name it",
  ),
  (["evaluate", "--scores=scores/one", "--models=m", "--input=in/*"], "--scores=scores/one is one score store, one"),
]


@pytest.mark.local_runner
def test_a_folder_of_another_kind_is_refused_with_the_right_one(scored, capsys):
  """Kills the mutants: a store that is searched for stores below it; an output whose folder of work passes for one."""
  assert main.main(sample(*DRAWING)) == 0
  (scored / "begun").mkdir()
  shutil.copytree(scored / "out/.winnow", scored / "begun/.winnow")
  before = sorted(scored.rglob("*"))
  failed = []
  for arguments, words in OTHER_KINDS:
    capsys.readouterr()
    status = main.main(arguments)
    error = capsys.readouterr().err
    if status != 2 or words not in error:
      failed.append((arguments, status, error))
  assert not failed
  assert main.main(["status", "out"]) == 2
  assert told(capsys).endswith(f"holds no score stores; name {scored}/scores")
  assert sorted(scored.rglob("*")) == before


def test_help_names_every_command_and_flag(capsys):
  assert main.main([]) == 0
  text = capsys.readouterr().out
  assert all(command in text for command in ("score", "sample", "curate", "demo"))
  assert main.main(["scoer"]) == 2
  with pytest.raises(SystemExit, match="0"):
    main.main(["score", "--help"])
  assert "--max_input_tokens" in capsys.readouterr().out
