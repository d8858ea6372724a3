"""Percentile ranges, through the commands, against sorting: twelve shards in all formats, bad records in the middle."""

import collections
import csv
import json
import pathlib
import re
import shutil

import corpora
import numpy as np
import pyarrow.parquet as pq
import pytest
from running import content, run_in

from curation.selection import selection
from pipelines.files import damage
from pipelines.output import manifests
from pipelines.output.formats.registry import FORMATS

RANGES = {"low": "0:0.3", "middle": "0.3:0.7", "high": "0.7:1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("percentiles")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=2_000, small_rows=150)
  reading = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt"]
  score = ["score", *reading, "--max_input_tokens=32", "--scores=scores", "--name=tiny", "--block_rows=100"]
  assert run_in(folder, [*score, "--max_bad_fraction=0.1", "--direct_num_workers=1"]) == 0
  for name in RANGES:
    assert run_in(folder, [*command(name), "--direct_num_workers=1"]) == 0
  return folder


def command(name: str) -> list[str]:
  rejected = ["--rejected=rest"] if name == "middle" else []
  wanted = f"--percentile_range={RANGES[name]}"
  return ["sample", "--scores=scores", "--sampler=ask_llm", wanted, f"--output={name}", "--num_shards=2", *rejected]


def ranked(place: pathlib.Path) -> list[str]:
  """Returns the sources of all scored documents, the lowest rank first."""
  request, found = selection.SelectionRequest("ask_llm", percentile_range="0:1"), []
  for path in (place / "scores/tiny/shards").iterdir():
    table = pq.read_table(path).to_pydict()
    shard, rows = table["shard"][0], np.array(table["row"])
    keys = selection.document_keys(request, shard, rows, np.array(table["score"], np.float32))
    ties = selection.tie_hashes(0, shard, rows)
    found += [(int(k) << 64 | int(t), f"{shard}#{row}") for k, t, row in zip(keys, ties, rows, strict=True)]
  return [source for _, source in sorted(found)]


def drawn(folder: pathlib.Path) -> list[str]:
  tables = [table for path in folder.glob("*tfrecord-*") for table in FORMATS["tfrecord"].read(str(path))]
  return [source for table in tables for source in table["source"].to_pylist()]


def test_ranges_are_what_sorting_gives_and_part_the_corpus(place):
  """Kills the mutants: a range that counts from the highest score; an end that belongs to both ranges, or to none;
  percentiles among only the documents within the limits."""
  order = ranked(place)
  borders = [0, round(0.3 * len(order)), round(0.7 * len(order)), len(order)]
  for name, start, stop in zip(RANGES, borders, borders[1:], strict=False):
    assert sorted(drawn(place / name)) == sorted(order[start:stop])
    assert manifests.read(str(place / name))["counts"]["selected"] == stop - start
  assert sorted(drawn(place / "rest")) == sorted(order[: borders[1]] + order[borders[2] :])


def test_a_report_draws_and_tells_both_ends(place, tmp_path):
  """Kills the mutants: the highest score of an output for the lowest above it; an upper end of a range up to 1; one
  line for two ends; examples of the other end."""
  report = ["report", "--scores=scores", "--output=low,middle,rest,high", f"--report={tmp_path}/page"]
  assert run_in(place, [*report, "--direct_num_workers=1"]) == 0
  order, scores = ranked(place), {}
  for path in (place / "scores/tiny/shards").iterdir():
    scores |= {f"{row['shard']}#{row['row']}": row["score"] for row in pq.read_table(path).to_pylist()}
  low, high = (scores[order[round(share * len(order))]] for share in (0.3, 0.7))
  rows = {row["output"]: row for row in csv.DictReader((tmp_path / "page/news.csv").read_text().splitlines())}
  assert {name: (row["threshold"], row["upper end"]) for name, row in rows.items()} == {
    "low": (str(min(scores.values())), str(low)),
    "middle": (str(low), str(high)),
    "rest": (str(low), str(high)),
    "high": (str(high), ""),
  }
  assert float(rows["middle"]["percentile of the upper end"]) == pytest.approx(70, abs=0.2)
  page = (tmp_path / "page/report.html").read_text()
  for name, ends in (("low", 2), ("middle", 2), ("high", 1)):
    title = f"Scores by tiny, and what {name} kept"
    (chart,) = re.findall(rf"<svg(?:(?!</svg>).)*>{title}</title>.*?</svg>", page, re.DOTALL)
    assert chart.count("stroke-dasharray") == ends and chart.count("(percentile ") == ends
  assert "are the ends of the range by tiny, at percentiles 30 and 70." in page
  groups = collections.defaultdict(list)
  for row in csv.DictReader((tmp_path / "page/examples.csv").read_text().splitlines()):
    groups[row["group"]].append(row["source"])
  border = round(0.7 * len(order))
  below, above = (groups[f"just {side} the upper end of middle"] for side in ("below", "above"))
  assert below and set(below) <= set(order[:border]) and above and set(above) <= set(order[border:])
  card = (tmp_path / "page/dataset_card.md").read_text()
  assert (
    card.count(f"- Ends of the range of scores: {low:.6g} and {high:.6g}\n") == 2
  )  # of what is kept and of the rest


@pytest.mark.long
def test_it_is_verified_and_explained(place, capsys):
  order = ranked(place)
  for name in ("middle", "rest"):
    assert run_in(place, ["verify", name, "--direct_num_workers=1"]) == 0
  capsys.readouterr()
  for source, said in ((order[0], "not selected"), (order[len(order) // 2], "selected"), (order[-1], "not selected")):
    assert run_in(place, ["explain", source, "--scores=scores", "--output=middle"]) == 0
    assert f"middle: {said}: number " in (message := capsys.readouterr().out)
    assert "are above --percentile_range=0.3:0.7" in message


def test_two_processes_and_a_run_that_was_interrupted_give_the_same_bytes(place, tmp_path, monkeypatch):
  """Its ceiling is damaged meanwhile. Kills the mutant that trusts the file."""
  shutil.copytree(place / "scores", tmp_path / "scores")

  def interrupted(*_, **__):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(manifests, "publish", interrupted)
    assert run_in(tmp_path, [*command("middle"), "--direct_num_workers=1"]) != 0
  ceilings = list((tmp_path / "middle").rglob("ceiling.json"))
  assert len(ceilings) == 1
  ceilings[0].write_text(json.dumps({"rank": "0" * 32, "seal": "0"}))
  assert run_in(tmp_path, [*command("middle"), "--direct_num_workers=2"]) == 0
  assert len(damage.records(str(tmp_path / "middle"))) == 1
  assert content(tmp_path / "middle") == content(place / "middle")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--sampler=ask_llm", "--percentile_range=0.7:0.3"], "is not a range in [0, 1]"),
    (["--sampler=ask_llm", "--percentile_range=0.5"], "is not LOW:HIGH"),
    (["--sampler=ask_llm", "--percentile_range=a:b"], "is not a number"),
    (["--sampler=ask_llm", "--percentile_range=0.5:0.50001"], "documents is none; widen it"),
    (["--sampler=ask_llm", "--percentile_range=0:0.5", "--rate=0.1"], "give one of --rate"),
    (["--sampler=random", "--percentile_range=0:0.5"], "--sampler=random"),
    (["--sampler=ask_llm", "--method=bottom_k", "--percentile_range=0:0.5"], "--method=bottom_k"),
    (
      ["--sampler=ask_llm", "--percentile_range=0:0.5", "--group_by=domain", "--group_max=1"],
      "does not go with --sampler=random, --group_by",
    ),
  ],
)
def test_what_does_not_fit_is_refused(place, capsys, flags, message):
  assert run_in(place, ["sample", "--scores=scores", *flags, "--output=never"]) == 2
  assert message in capsys.readouterr().err
  assert not (place / "never").exists()
