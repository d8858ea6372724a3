"""`--part`: what is refused, what a part says that waits in vain, and the division of every step."""

import pathlib
import re

import corpora
import dividing
import numpy as np
import pytest
from asking import score, told
from running import content, run_in, take_turns

from pipelines import main
from pipelines.runners import part_records
from pipelines.runners.parts import Part
from pipelines.scorers.density.preparation import SketchPreparation
from pipelines.scorers.minhash.preparation import JoinPreparation

ONE = "--direct_num_workers=1"


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--part=2/2"], "write I/N with I from 0 to N-1"),
    (["--part=0/2", "--part_timeout=-1"], "--part_timeout=-1 is below 0"),
    (["--part=0/2", "--overwrite"], "would remove what other parts have done"),
    (["--part=0/2", "--estimate"], "estimates the whole"),
    (["--part_steal"], "--part_steal is for a command with --part=I/N"),
    (["--part_timeout=5"], "--part_timeout is for a command with --part=I/N"),
    (["--part=0/2", "--runner=PrismRunner"], "--runner=PrismRunner divides it already"),
  ],
)
def test_what_parts_cannot_do_is_refused_in_one_sentence(place, model, capsys, flags, sentence):
  """Kills the mutant that ignores the flag: N tasks would each do all of the work, or wait for each other forever."""
  assert main.main(score(model, "--name=one", *flags)) == 2
  assert sentence in told(capsys)
  assert not (place / "scores").exists()


def test_a_part_that_never_comes_is_named_and_may_come_later(place, model, scored, capsys):
  """Kills the mutants: a part that does all; one that waits for itself; a store that is sealed without the others; a
  status that shows a part as it was when it began.
  """
  assert main.main(score(model, "--name=cut", "--part=1/2", "--part_timeout=1.5")) == 1
  lines = capsys.readouterr().err.splitlines()
  assert [line for line in lines if "waits" in line] == ["winnow: part 1/2 waits for 2 shards of part 0/2"]
  assert lines[-1].startswith("winnow: part 1/2 has waited 1.5 s without anything new for 2 shards of part 0/2: start")
  assert {path.name for path in (place / "scores/cut/shards").iterdir()} == {"1.jsonl.parquet"}
  assert main.main(["status", str(place / "scores")]) == 0
  said = capsys.readouterr().out
  assert "  parts of 2: 1 ended with an error (1/2); 1 not begun (0/2)\n  part 1/2: part 1/2 has waited 1.5 s" in said
  assert main.main(score(model, "--name=cut", "--part=0/2", "--part_timeout=0")) == 0
  assert content(place / "scores/cut") == content(place / "scores/one")


def test_another_number_of_parts_goes_on_and_one_that_steals_does_all(place, model, scored, capsys):
  """Kills the mutants whose records know the number of parts, and whose status shows an earlier number."""
  for part in ("1/3", "2/7"):
    assert main.main(score(model, "--name=cut", f"--part={part}", "--part_timeout=0")) == 1
  assert main.main(["status", str(place / "scores")]) == 0
  expected = "parts of 7: 1 ended with an error (2/7); 6 not begun (0/7, 1/7, 3/7, 4/7, 5/7, ...)\n"
  assert expected in capsys.readouterr().out
  assert main.main(score(model, "--name=cut", "--part=3/5", "--part_timeout=0", "--part_steal")) == 0
  assert content(place / "scores/cut") == content(place / "scores/one")


def test_a_part_that_steals_does_not_wait_for_those_that_are_not_at_work(place, model, scored, capsys):
  """One part of three draws a whole sample. It waits once for one that has begun, and whose end is not on record.

  Kills the mutants: a thief that waits for parts that never began, or that have ended; one that does at once what
  others are at work on.
  """
  sample = ["sample", f"--scores={place}/scores", "--sampler=ask_llm", "--rate=0.4", "--num_shards=6", "--output=out"]
  assert run_in(place / "whole", sample) == 0
  assert run_in(place / "alone", [*sample, "--part=2/3", "--part_timeout=0", ONE]) == 1
  steals = ["--part=1/3", "--part_steal", "--part_timeout=20", ONE]
  assert run_in(place / "alone", [*sample, *steals]) == 0
  assert "waits" not in capsys.readouterr().err
  with part_records.recording([str(place / "beside")], Part(0, 3, limit=1)):
    (begun,) = (place / "beside/log/parts").iterdir()
    (place / "after/out/log/parts").mkdir(parents=True)
    begun.rename(place / "after/out/log/parts" / begun.name)
  assert run_in(place / "after", [*sample, *steals]) == 0
  assert re.search(r"part 1/3 waits for \d files? of part 0/3\n", capsys.readouterr().err)
  assert content(place / "alone") == content(place / "after") == content(place / "whole")


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> pathlib.Path:
  """A corpus of twelve shards in all formats with near-copies, bad rows, and embeddings that were made elsewhere."""
  folder = tmp_path_factory.mktemp("parts")

  def embed(shard: str, rows: int) -> np.ndarray:
    generator = np.random.default_rng(list(shard.encode()))
    centres_KD = np.random.default_rng(1).standard_normal((20, 12))
    of_N = np.where(generator.random(rows) < 0.5, 0, generator.integers(1, 20, rows))
    return (centres_KD[of_N] + 0.1 * generator.standard_normal((rows, 12))).astype(np.float32)

  corpora.write_with_embeddings(folder, embed, big_rows=600, small_rows=100, bad_row=30, make=corpora.repeating_texts)
  return folder


@pytest.mark.long
@pytest.mark.parametrize("name", ["minhash", "density"])
def test_every_step_is_divided_and_gives_the_bytes_of_one_machine(larger, name):
  """Kills the mutants: a step whose results other parts do not get; one that ends before the others' files are there; a
  part that does all of a step, so that one run is enough."""
  reading = [f"--input={larger}/corpus/*", "--block_rows=50", "--scores=scores", "--max_bad_fraction=0.3"]
  arguments = {
    "minhash": ["score", "--scorer=minhash", *reading],
    "density": [
      *("score", "--scorer=density", *reading, f"--embeddings={larger}/made/*"),
      *("--sketch_rows=50", "--sketch_counters=500"),
    ],
  }[name]
  with (
    dividing.divided(JoinPreparation, group=150),  # a dozen groups
    dividing.divided(SketchPreparation, group=150),
  ):
    assert run_in(larger / f"{name}_alone", [*arguments, ONE]) == 0
    assert take_turns(larger / f"{name}_parts", arguments, 2) > 3
  assert content(larger / f"{name}_parts") == content(larger / f"{name}_alone")
