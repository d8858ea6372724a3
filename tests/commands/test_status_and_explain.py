"""`winnow status` and `winnow explain`: what they say is what stores and outputs hold."""

import json
import os
import pathlib
import re
import shutil
import time

import corpora
import numpy as np
import pyarrow.parquet as pq
import pytest
from running import content, run_in

from pipelines.files import fingerprints
from pipelines.output.formats.registry import FORMATS
from pipelines.scoring import scoring
from pipelines.store import on_record
from pipelines.store.score_store import ScoreStore

SAMPLE = ["sample", "--scores=scores", "--sampler=ask_llm", "--name=tiny", "--direct_num_workers=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("told")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=1_000, small_rows=200)
  assert run_in(folder, score(folder)) == 0
  return folder


def score(folder: pathlib.Path, *flags: str) -> list[str]:
  reading = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt"]
  limits = ["--max_input_tokens=32", "--block_rows=50", "--max_bad_fraction=0.1", "--direct_num_workers=1"]
  return ["score", *reading, *limits, "--scores=scores", "--name=tiny", *flags]


def all_scores(folder: pathlib.Path) -> dict[str, float]:
  tables = [pq.read_table(path).to_pydict() for path in (folder / "scores/tiny/shards").glob("*.parquet")]
  rows = (zip(t["shard"], t["row"], t["score"], strict=True) for t in tables)
  return {f"{shard}#{row}": score for of_shard in rows for shard, row, score in of_shard}


def test_a_complete_store_tells_its_figures(place, capsys):
  summary = json.loads((place / "scores/tiny/summary.json").read_text())
  for folder in ("scores", "scores/tiny"):
    assert run_in(place, ["status", folder]) == 0
    said = capsys.readouterr().out
    assert "tiny: ask_llm scores, complete" in said
    assert f"{summary['read']:,} documents read = {summary['scored']:,} scored + {summary['bad']:,} bad" in said
    assert "  the first bad ones: a.jsonl row 100 (invalid_json), a.jsonl row 103 (missing_text), " in said
    assert f"), ...\n  all of them: {place}/scores/tiny/dead_letter\n" in said
    assert f"{summary['blank']} blank lines, which are no documents" in said and summary["blank"] == 7
  assert run_in(place, ["explain", "a.jsonl#112", "--scores=scores"]) == 0
  assert "tiny: a blank line\n" in capsys.readouterr().out


def test_an_interrupted_store_tells_what_is_there_and_what_is_missing(place, tmp_path, capsys, monkeypatch):
  """Kills the mutants: shards counted as finished by their folders; documents of the finished ones alone."""
  compacted = []

  def compact_three(*arguments, **keywords):
    if len(compacted) == 3:
      raise KeyboardInterrupt
    compacted.append(compact(*arguments, **keywords))
    return compacted[-1]

  compact = scoring.block_files.compact_shard
  with monkeypatch.context() as patch:
    patch.setattr(scoring.block_files, "compact_shard", compact_three)
    assert run_in(tmp_path, score(place)) != 0
  capsys.readouterr()
  assert run_in(tmp_path, ["status", "scores"]) == 0
  said = capsys.readouterr().out
  assert "tiny: ask_llm scores, incomplete" in said
  assert "3 of 12 shards finished, 9 partly done, 0 not started" in said
  read, scored = sum(s.read for s in compacted), sum(s.scored for s in compacted)
  blocks = len(list((tmp_path / "scores/tiny/blocks").glob("*/*.parquet")))
  per_block = read / sum(len(s.block_rows) for s in compacted)
  assert f"about {read + blocks * per_block:,.0f} documents done" in said
  assert f"documents in finished shards: {scored:,} scored, {read - scored:,} bad" in said
  missing = {path.name for path in (place / "corpus").iterdir()} - {s.shard for s in compacted}
  assert re.search(r"shards to do: (\S+), \S+, \S+ and 6 more", said)[1] in missing
  # A shard that is damaged is missing, too.
  path = tmp_path / f"scores/tiny/shards/{compacted[0].shard}.parquet"
  path.write_bytes(path.read_bytes()[:100])
  assert run_in(tmp_path, ["status", "scores"]) == 0
  said = capsys.readouterr().out
  assert "2 of 12 shards finished" in said and f"damaged: {path} is missing or damaged" in said


def test_rates_are_those_since_the_last_pause(place, tmp_path):
  """Ten blocks within 90 seconds after a pause of a day. Kills the mutant that divides by all the time there was."""
  assert run_in(tmp_path, score(place)) == 0
  folder = tmp_path / "scores/tiny"
  (folder / "summary.json").unlink()
  now = time.time()
  shards = sorted((folder / "shards").iterdir())
  for place_, path in enumerate(shards):
    written = now - 86_400 if place_ < 2 else now - 90 + 9 * (place_ - 2)
    os.utime(path, (written, written))
  store = ScoreStore.for_request(str(folder), json.loads((folder / "request.json").read_text()))
  found = on_record.Record(store).look(now)
  reads = {s.shard: s.read for s in found.finished}
  expected = sum(reads[path.name.removesuffix(".parquet")] for path in shards[3:]) / 81
  assert found.rate == pytest.approx(expected, rel=1e-3)
  assert found.silent_seconds == pytest.approx(9, abs=0.1)
  assert on_record.Record(store).look(now + 7_200).silent_seconds == pytest.approx(7_209, abs=0.1)


def test_a_folder_without_stores_is_refused(tmp_path, capsys):
  assert run_in(tmp_path, ["status", "nothing"]) == 2
  assert "nothing does not exist; name the folder that winnow score wrote to" in capsys.readouterr().err


def test_a_document_is_explained_as_it_is(place, capsys):
  """Selected ones, others, and the borders. Kills the mutants: a percentile by <=; a number that counts from zero."""
  assert run_in(place, [*SAMPLE, "--num_examples=300", "--output=best"]) == 0
  expected = all_scores(place)
  ranked = sorted(expected, key=expected.__getitem__, reverse=True)
  values = np.array(list(expected.values()))
  written = {}
  for path in (place / "best").glob("*-train.*"):
    for table in FORMATS["tfrecord"].read(str(path)):
      written |= dict.fromkeys(table["source"].to_pylist(), path.name)
  assert len(written) == 300
  for number in (0, 1, 150, 299, 300, len(ranked) - 1):
    source = ranked[number]
    capsys.readouterr()
    assert run_in(place, ["explain", source, "--scores=scores", "--output=best"]) == 0
    said = capsys.readouterr().out
    below = (values < expected[source]).mean()
    assert f"tiny: ask_llm {expected[source]:.6g}" in said
    assert f"above {below:.2%} of {len(values):,} documents" in said
    if (values == expected[source]).sum() == 1:
      assert f"number {number + 1:,} of {len(values):,} in the order of --sampler=ask_llm --method=top_k" in said
    if source in written:
      assert "best: selected" in said and f"in {written[source]}" in said
    else:
      assert "best: not selected" in said and "; the first 300 are selected, so this output does not have it" in said


def test_a_bad_document_is_explained_by_its_reason(place, capsys):
  assert run_in(place, [*SAMPLE, "--rate=0.5", "--output=half"]) == 0
  entry = json.loads((place / "scores/tiny/dead_letter/big.jsonl.gz.jsonl").read_text().splitlines()[0])
  capsys.readouterr()
  assert run_in(place, ["explain", f"big.jsonl.gz#{entry['row']}", "--scores=scores", "--output=half"]) == 0
  said = capsys.readouterr().out
  assert f"tiny: a bad document ({entry['reason']})" in said
  assert f"half: not selected: a bad document ({entry['reason']})" in said


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (["big.jsonl.gz", "--scores=scores"], "write SHARD#ROW"),
    (["big.jsonl.gz#x", "--scores=scores"], "write SHARD#ROW"),
    (["small.jsonl#1", "--scores=scores"], "has a shard called small.jsonl; did you mean "),
    (["big.jsonl.gz#1000", "--scores=scores"], "has 1,000 rows, numbered from 0, and so no row 1,000"),
    (["big.jsonl.gz#1", "--scores=nowhere"], "--scores=nowhere does not exist; name"),
    (["big.jsonl.gz#1"], "--scores= must be given"),
  ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(place, capsys, arguments, told):
  assert run_in(place, ["explain", *arguments]) == 2
  assert told in capsys.readouterr().err


def test_a_store_of_another_version_is_refused_and_nothing_in_it_removed(place, tmp_path, capsys):
  """Kills the mutant that takes what is only older for damaged, and removes it."""
  shutil.copytree(place / "scores", tmp_path / "scores")
  path = tmp_path / "scores/tiny/request.json"
  path.write_bytes(fingerprints.to_json(json.loads(path.read_text()) | {"format": 2}))
  before = content(tmp_path)
  told = "has format 2, and this version of Winnow reads|format is 2 there"
  sample = [*(flag for flag in SAMPLE if "name" not in flag), "--rate=0.5", "--output=out"]
  explain = ["explain", "a.jsonl#1", "--scores=scores"]
  for command in (sample, score(place), [*sample, "--name=tiny"], explain):
    assert run_in(tmp_path, command) == 2
    assert re.search(told, capsys.readouterr().err)
  assert run_in(tmp_path, ["status", "scores"]) == 0
  assert re.search(told, capsys.readouterr().out)
  assert content(tmp_path) == before
  shutil.copytree(place / "scores/tiny", tmp_path / "scores/new")  # beside which it is in nobody's way
  for command in (sample, explain, ["status", "scores"]):
    assert run_in(tmp_path, command) == 0


def test_looking_removes_nothing(place, tmp_path, capsys):
  """Kills the mutant whose verification or explanation mends what it should only tell."""
  for name in ("scores", "best"):
    shutil.copytree(place / name, tmp_path / name)
  path = tmp_path / "scores/tiny/shards/a.jsonl.parquet"
  path.write_bytes(path.read_bytes()[:-50])
  before = content(tmp_path)
  explain = ["explain", "a.jsonl#1", "--scores=scores"]
  for command in (["verify", "best", "--direct_num_workers=1"], explain, ["status", "scores"]):
    run_in(tmp_path, command)
    told = capsys.readouterr()
    assert command[0] == "status" or f"{path} is missing or damaged" in told.err
  assert content(tmp_path) == before
