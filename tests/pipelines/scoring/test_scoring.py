"""Scores of documents through the command: independent of blocks and neighbours, and no number is no score."""

import json
import pathlib

import apache_beam as beam
import corpora
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from curation.errors import WinnowError
from pipelines import main
from pipelines.corpus import sources, stripes
from pipelines.corpus.blocks import Fields, Shard
from pipelines.scorers.count import Count
from pipelines.scorers.t5.ask_llm import AskLlm
from pipelines.scoring import scoring
from pipelines.store import score_files, score_store, sealing
from pipelines.store.score_store import ScoreStore


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("scoring")
  corpora.write_model(folder / "model")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


def score(place: pathlib.Path, name: str, texts: list[str], *flags: str) -> dict[int, float]:
  (place / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  command = ["score", f"--input={place}/{name}.jsonl", f"--name={name}", f"--scores={place}/scores", *flags]
  command += [f"--prompt_file={place}/prompt.txt", "--max_input_tokens=48", "--max_bad_fraction=1"]
  if not any(flag.startswith("--model=") for flag in flags):
    command.append(f"--model={place}/model")
  assert main.main(command) == 0
  table = pq.read_table(place / f"scores/{name}/shards/{name}.jsonl.parquet").to_pydict()
  return dict(zip(table["row"], table["score"], strict=True))


def test_a_score_does_not_depend_on_blocks_or_neighbours(place):
  """Invariant 1, bit for bit. Kills the mutant that pads a batch to its own longest row."""
  texts = corpora.sentences(700, 3)
  whole = score(place, "whole", texts)
  small_blocks = score(place, "small", texts, "--block_rows=13")
  backwards = score(place, "backwards", texts[::-1])
  some = score(place, "some", texts[::7])
  assert len(set(whole.values())) > 600
  assert whole == small_blocks
  assert whole == {699 - row: value for row, value in backwards.items()}
  assert {row: whole[row] for row in range(0, 700, 7)} == {7 * row: value for row, value in some.items()}


def test_a_document_without_a_number_is_dead_and_its_neighbours_live(place):
  """The row of unknown pieces is NaN in this model. Kills the mutant that writes NaN scores into the store."""
  weights = safetensors.numpy.load_file(place / "model/model.safetensors")
  weights["shared.weight"] = weights["shared.weight"].copy()
  weights["shared.weight"][2] = np.nan
  corpora.write_model(place / "broken")
  safetensors.numpy.save_file(weights, place / "broken/model.safetensors", metadata={"format": "pt"})
  texts = corpora.sentences(60, 4)
  expected = score(place, "sound", texts)
  texts[10] += " 漢字"
  texts[59] = "漢字 " * 2000
  found = score(place, "nan", texts, f"--model={place}/broken")
  assert found == {row: value for row, value in expected.items() if row not in (10, 59)}
  dead = [json.loads(line) for line in (place / "scores/nan/dead_letter/nan.jsonl.jsonl").read_text().splitlines()]
  assert [(entry["row"], entry["reason"], len(entry["text"])) for entry in dead] == [
    (10, "score_is_nan", len(texts[10])),
    (59, "score_is_nan", 1000),
  ]


class Touchy:
  """A real scorer that cannot bear some texts, as a tokenizer might, or breaks for good."""

  def __init__(self, scorer, breaks):
    self.describe, self.warm_up, self._scorer, self._breaks = scorer.describe, scorer.warm_up, scorer, breaks

  def prepare(self, column):
    return column, self._scorer.prepare(column)

  def run(self, prepared, on_batch=None):
    column, ready = prepared
    self._breaks(column.to_pylist())
    return self._scorer.run(ready, on_batch)


def scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, breaks, flags=("--max_bad_fraction=1",)):
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  load = getattr(AskLlm.load, "of_old", AskLlm.load)
  monkeypatch.setattr(AskLlm, "load", touchy := lambda self: Touchy(load(self), breaks))
  touchy.of_old = load
  command = ["score", f"--input={tmp_path}/a.jsonl", "--name=a", f"--scores={tmp_path}/scores", "--block_rows=100"]
  command += [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=48"]
  return main.main([*command, *flags, "--direct_num_workers=1"])


def test_a_document_that_breaks_the_scorer_falls_alone(place, tmp_path, monkeypatch):
  """Kills the mutants: a block that falls as a whole; neighbours that are scored otherwise for having been apart."""
  texts = corpora.sentences(300, 5)
  expected = score(place, "unbroken", texts)
  wicked = {texts[row] for row in (0, 150, 151, 299)}

  def breaks(column):
    if wicked & set(column):
      raise RuntimeError("cannot tokenize this")

  assert scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, breaks) == 0
  table = pq.read_table(tmp_path / "scores/a/shards/a.jsonl.parquet").to_pydict()
  found = dict(zip(table["row"], table["score"], strict=True))
  assert found == {row: value for row, value in expected.items() if row not in (0, 150, 151, 299)}
  dead = [json.loads(line) for line in (tmp_path / "scores/a/dead_letter/a.jsonl.jsonl").read_text().splitlines()]
  assert [(entry["row"], entry["reason"]) for entry in dead] == [(r, "scorer_failed") for r in (0, 150, 151, 299)]


def test_the_errors_of_a_scorer_are_shown_with_the_file_of_their_traceback(place, tmp_path, monkeypatch, capsys):
  """Kills the mutants: a file for each document; a line that only a log has; errors that outlive their scores."""
  texts = corpora.sentences(300, 5)
  wicked = {texts[row]: error for row, error in ((0, RuntimeError), (150, RuntimeError), (299, ValueError))}

  def breaks(column):
    for text in column:
      if text in wicked:
        raise wicked[text](f"cannot tokenize {text}")

  runs = [("--max_bad_fraction=0",), ("--max_bad_fraction=1",)]
  assert [scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, breaks, flags) for flags in runs] == [1, 0]
  paths = sorted((tmp_path / "scores/a/log").glob("scorer_failed-*"))
  entries = {entry["row"]: entry for entry in (json.loads(path.read_text()) for path in paths)}
  assert sorted(entries) == [0, 299]
  assert "in breaks\n" in entries[299]["error"] and entries[299]["error"].endswith(f"cannot tokenize {texts[299]}\n")
  said = capsys.readouterr()
  assert main.main(["status", f"{tmp_path}/scores"]) == 0
  for shown in map(_unwrapped, (said.out, said.err, capsys.readouterr().out)):
    for path in paths:
      entry = json.loads(path.read_text())
      sentence = f"the scorer failed on a.jsonl row {entry['row']} with {entry['reason']}; the traceback is in {path}"
      assert sentence in shown
    assert "a.jsonl row 0 (scorer_failed)" in shown and f"{tmp_path}/scores/a/dead_letter" in shown
  again = ("--overwrite",)
  assert scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, lambda column: None, again) == 0
  assert not list((tmp_path / "scores/a/log").glob("scorer_failed-*"))
  assert "bad ones" not in capsys.readouterr().out


def _unwrapped(text):
  return " ".join(text.split())


@pytest.mark.parametrize("count", [1, 3])
def test_a_block_of_nothing_but_culprits_has_no_scores(place, tmp_path, monkeypatch, count):
  """Kills the mutant that has no scores to join where nobody is left."""
  texts = corpora.sentences(count, 5)

  def breaks(column):
    if set(texts) & set(column):
      raise RuntimeError("cannot tokenize this")

  assert scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, breaks) == 0
  summary = json.loads((tmp_path / "scores/a/summary.json").read_text())
  assert (summary["scored"], summary["reasons"]) == (0, {"scorer_failed": count})


@pytest.mark.parametrize("how", ["everything", "most", "its device", "memory"])
def test_a_scorer_that_is_broken_blames_no_document(place, tmp_path, monkeypatch, capsys, how):
  """Kills the mutant that takes a broken worker for a bad document, and would score a corpus to nothing."""
  texts = corpora.sentences(120, 5)

  def breaks(column):
    if how == "everything" or (how == "most" and set(column) & set(texts[:90])):
      raise RuntimeError("out of order")
    if how == "its device" and texts[3] in column:
      raise jax.errors.JaxRuntimeError("INTERNAL: out of order")
    if how == "memory" and texts[3] in column:
      raise MemoryError("out of order")

  assert scored_by_a_touchy_scorer(place, tmp_path, monkeypatch, texts, breaks) == 1
  assert "out of order" in capsys.readouterr().err
  assert not list((tmp_path / "scores/a/blocks").rglob("00000000.parquet"))


def test_figures_are_beam_metrics(place, tmp_path):
  """Kills the mutant that tells the time of loading in the thread that reads ahead, where Beam hears nothing."""
  texts = corpora.sentences(50, 6)
  path = tmp_path / "a.jsonl"
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  scorer = AskLlm(model=str(place / "model"), template=corpora.PROMPT, yes_token="yes", max_input_tokens=48).checked()
  shard = Shard("a.jsonl", str(path), "jsonl", "", path.stat().st_size)
  config = scoring.ScoringConfig(
    ScoreStore.for_request(str(tmp_path / "store"), {}), scorer, sources.Texts(Fields(), 20), 0.0
  )
  pipeline = beam.Pipeline("FnApiRunner")
  _ = pipeline | beam.Impulse() | scoring.Score(config, [stripes.Stripe(shard, 0, 1)], [])
  metrics = pipeline.run().metrics().query()
  counters = {counter.key.metric.name: counter.result for counter in metrics["counters"]}
  assert (counters["documents_read"], counters["documents_scored"], counters["blocks_scored"]) == (50, 50, 3)
  loaded = scorer.load()
  direct = [loaded.run(loaded.prepare(pa.chunked_array([texts[row : row + 20]]))) for row in (0, 20, 40)]
  assert counters["tokens_useful"] == sum(scores.useful_tokens for scores in direct)
  assert counters["tokens_padding"] == sum(scores.computed_tokens - scores.useful_tokens for scores in direct) > 0
  distributions = {entry.key.metric.name: entry.result for entry in metrics["distributions"]}
  assert distributions["block_latency_ms"].count == 3
  assert distributions["model_load_ms"].count == 1
  assert distributions["model_load_ms"].sum > 0


def test_a_worker_without_the_accelerator_that_was_asked_for_scores_nothing(place, tmp_path):
  """Kills the mutant that scores a corpus on CPUs at a GPU's price, and binds the store to them."""
  (tmp_path / "a.jsonl").write_text('{"text": "the river"}\n')
  shard = Shard("a.jsonl", str(tmp_path / "a.jsonl"), "jsonl", "", 24)
  scorer = AskLlm(model=str(place / "model"), template=corpora.PROMPT, yes_token="yes", max_input_tokens=48).checked()
  store = ScoreStore.for_request(str(tmp_path / "store"), {})
  config = scoring.ScoringConfig(store, scorer, sources.Texts(Fields(), 20), 0.0, accelerator="nvidia-l4")
  with pytest.raises(WinnowError, match="--accelerator=nvidia-l4 was asked for, but JAX finds only a CPU on"):
    list(scoring.ScoreBlocks(config).process(stripes.Stripe(shard, 0, 1)))
  assert not (tmp_path / "store").exists()


def test_workers_log_what_they_did_by_shard_and_row(tmp_path, caplog):
  """Kills the mutants: the row within the block in place of the shard's; the first good row in place of a bad one."""
  path = tmp_path / "100%d.jsonl"
  lines = [json.dumps({"text": text}) for text in corpora.sentences(50, 6)]
  lines[27], lines[31] = "{", "[]"
  path.write_text("\n".join(lines))
  shard = Shard(path.name, str(path), "jsonl", "", path.stat().st_size)
  store = ScoreStore.for_request(str(tmp_path / "store"), {})
  config = scoring.ScoringConfig(store, Count(), sources.Texts(Fields(), 20), 0.0)
  caplog.set_level("INFO", "winnow")
  scored = scoring.ScoreBlocks(config)
  ((_, done),) = scored.process(stripes.Stripe(shard, 0, 1))
  sealing.finish_shard(store, [done])
  told = [(record.levelname, json.loads(record.getMessage())) for record in caplog.records if record.name == "winnow"]
  events = {entry["event"]: entry for _, entry in told}
  assert events["model_loaded"]["stage"] == "score"
  where = [(entry["shard"], entry["block"], entry["row"]) for _, entry in told if entry["event"] == "block_done"]
  assert where == [(path.name, 0, 0), (path.name, 1, 20), (path.name, 2, 40)]
  bad = {"event": "bad_documents", "shard": path.name, "block": 1, "row": 27}
  assert events["bad_documents"] == bad | {"reasons": {"invalid_json": 1, "not_an_object": 1}}
  assert [level for level, entry in told if entry["event"] == "bad_documents"] == ["WARNING"]
  assert events["shard_done"] == {"event": "shard_done", "shard": path.name, "read": 50, "scored": 48, "bad": 2}


def test_a_summary_of_another_run_is_noticed(tmp_path):
  """Kills the mutant that takes whatever completes the store: another request would speak for this one."""
  store = ScoreStore.for_request(str(tmp_path), {"model": "a"})
  summary = score_files.ShardSummary("s", [3], [0], 3, 3, 0, 9, 30, {}, [], "fingerprint", store.engine(), "")
  sealing.seal(store, [summary], [], max_bad_fraction=0.0, work=())
  assert sealing.seal(store, [summary], [], max_bad_fraction=0.0, work=()) == score_store.Ledger(3, 9, 30)
  with pytest.raises(WinnowError, match="a run of another request has written there too"):
    sealing.seal(ScoreStore.for_request(str(tmp_path), {"model": "b"}), [summary], [], max_bad_fraction=0.0, work=())


def test_stripes_hold_every_block_once_however_they_are_divided():
  """Kills the mutant that leaves out the blocks behind the last whole share."""
  shards = [Shard(f"{size}", "", "jsonl", "", size) for size in (0, 1, 1 << 20, 100 << 20, 3 << 30)]
  for parallelism in (1, 2, 7, 64, 5000):
    divided = list(stripes.divide(shards, parallelism))
    assert len(set(map(str, divided))) == len(divided)
    for shard in shards:
      own = [stripe for stripe in divided if stripe.shard is shard]
      assert len(own) <= 16
      assert all(sum(stripe.holds(block) for stripe in own) == 1 for block in range(100))
  assert len(list(stripes.divide(shards, 1))) == len(shards)
