"""`--part`: what is refused, and what a part says that waits in vain."""

import pytest
from asking import score, told
from running import content

from pipelines import main


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
  """Kills the mutants: a part that does all; one that waits for itself; a store that is sealed without the others."""
  assert main.main(score(model, "--name=cut", "--part=1/2", "--part_timeout=1.5")) == 1
  lines = capsys.readouterr().err.splitlines()
  assert [line for line in lines if "waits" in line] == ["winnow: part 1/2 waits for 2 shards of part 0/2"]
  assert lines[-1].startswith("winnow: part 1/2 has waited 1.5 s without anything new for 2 shards of part 0/2: start")
  assert {path.name for path in (place / "scores/cut/shards").iterdir()} == {"1.jsonl.parquet"}
  assert main.main(score(model, "--name=cut", "--part=0/2", "--part_timeout=0")) == 0
  assert content(place / "scores/cut") == content(place / "scores/one")


def test_another_number_of_parts_goes_on_and_one_that_steals_does_all(place, model, scored, capsys):
  """Kills the mutant whose records know the number of parts."""
  assert main.main(score(model, "--name=cut", "--part=1/3", "--part_timeout=0")) == 1
  assert main.main(score(model, "--name=cut", "--part=3/5", "--part_timeout=0", "--part_steal")) == 0
  assert content(place / "scores/cut") == content(place / "scores/one")
