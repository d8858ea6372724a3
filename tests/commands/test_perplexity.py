"""`winnow score --scorer=perplexity` and what is drawn by it, beside the scorer itself on whole shards."""

import json
import math
import pathlib
import re

import corpora
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from running import run_in

from curation.models import checkpoints
from curation.scorers import perplexity
from curation.selection import hashing
from pipelines.scorers.t5.perplexity import Perplexity

# A sentence becomes one window or several.
LIMITS = {"max_input_tokens": 40, "batch_tokens": 400}
FLAGS = ["--scorer=perplexity", *(f"--{name}={value}" for name, value in LIMITS.items())]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("perplexity_command")
  corpora.write_model(folder / "model")
  return folder


@pytest.fixture(scope="module")
def corpus(place) -> corpora.Corpus:
  return corpora.write_corpus(place / "corpus", big_rows=700, small_rows=60)


def score(place: pathlib.Path, pattern: str, *flags: str) -> list[str]:
  model = [] if any(flag.startswith("--model=") for flag in flags) else [f"--model={place}/model"]
  return ["score", f"--input={pattern}", "--scores=scores", "--max_bad_fraction=1", *FLAGS, *model, *flags]


def scores_in(store: pathlib.Path) -> dict[tuple[str, int], float]:
  tables = [pq.read_table(path).to_pydict() for path in (store / "shards").iterdir()]
  return {
    (shard, row): value
    for table in tables
    for shard, row, value in zip(table["shard"], table["row"], table["score"], strict=True)
  }


def direct(place: pathlib.Path, texts: dict[tuple[str, int], str], objective: str, seed: int) -> dict:
  """Of the scorer alone, a shard at once."""
  checkpoint = checkpoints.load_checkpoint(place / "model", "float32")
  scorer = perplexity.PerplexityScorer(checkpoint, objective=objective, **LIMITS)
  found = {}
  for shard in {name for name, _ in texts}:
    rows = [row for name, row in texts if name == shard]
    keys_N = hashing.hash_documents("mask", seed, shard, np.array(rows))
    prepared = scorer.prepare(pa.array([texts[shard, row] for row in rows]), keys_N)
    found |= {(shard, row): value for row, value in zip(rows, scorer.run(prepared).scores.tolist(), strict=True)}
  return found


@pytest.fixture(scope="module")
def scored(place, corpus) -> pathlib.Path:
  assert run_in(place, score(place, corpus.pattern, "--block_rows=90", "--direct_num_workers=2")) == 0
  return place / "scores/perplexity_model"


def test_scores_are_the_scorers_whatever_the_blocks_and_workers(place, corpus, scored):
  """Invariants 1 and 3, in all formats with bad rows. Kills: keys by a document's place in its block, or among the good
  ones, and keys without the shard."""
  found = scores_in(scored)
  assert found == direct(place, corpus.texts, "span_corruption", 0)
  assert len(set(found.values())) > 0.9 * len(found)
  summary = json.loads((scored / "summary.json").read_text())
  assert (summary["scored"], summary["bad"]) == (len(corpus.texts), corpus.bad)
  assert summary["num_tokens"] > 10 * summary["scored"]


def test_prefixes_of_another_seed(place, corpus):
  flags = ["--objective=prefix_lm", "--mask_seed=5", "--name=prefix", "--direct_num_workers=1"]
  assert run_in(place, score(place, f"{place}/corpus/[a-e].*", *flags)) == 0
  texts = {place: text for place, text in corpus.texts.items() if place[0][:2] in ("a.", "b.", "c.", "d.", "e.")}
  assert scores_in(place / "scores/prefix") == direct(place, texts, "prefix_lm", 5)
  request = json.loads((place / "scores/prefix/request.json").read_text())
  assert (request["objective"], request["mask_seed"]) == ("prefix_lm", 5)


def test_another_request_is_refused_by_the_name_of_what_differs(place, corpus, scored, capsys):
  for flag, told in (
    ("--mask_seed=1", "mask_seed is 0 there and 1 now"),
    ("--objective=prefix_lm", 'objective is "span_corruption" there and "prefix_lm" now'),
    ("--max_input_tokens=4096", "T5 has 100 sentinels"),
    ("--prompt_file=p", "--prompt_file is for --scorer=ask_llm"),
  ):
    assert run_in(place, score(place, corpus.pattern, "--block_rows=90", flag)) == 2
    assert told in capsys.readouterr().err
  assert run_in(place, ["score", "--mask_seed=1", f"--input={corpus.pattern}", "--scores=s", "--model=model"]) == 2
  assert "--mask_seed is for --scorer=perplexity" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["top_k", "bottom_k"])
def test_the_lowest_perplexities_are_kept_or_the_highest(place, scored, method):
  """Kills the mutant that keeps what surprises the model most."""
  output = ["--rate=0.2", f"--output={method}", "--output_format=jsonl", "--num_shards=2", "--direct_num_workers=2"]
  flags = [] if method == "top_k" else ["--method=bottom_k"]
  assert run_in(place, ["sample", "--scores=scores", "--sampler=perplexity", *named(), *output, *flags]) == 0
  found = scores_in(scored)
  perplexities = sorted((np.exp(-value), place) for place, value in found.items())
  k = int(0.2 * len(found) + 0.5)
  expected = perplexities[:k] if method == "top_k" else perplexities[-k:]
  drawn = [json.loads(line) for path in (place / method).glob("*.jsonl") for line in path.read_text().splitlines()]
  assert {record["source"] for record in drawn} == {f"{shard}#{row}" for _, (shard, row) in expected}


def named() -> list[str]:
  return ["--name=perplexity_model"]


def test_a_threshold_keeps_every_score_of_it_or_more(place, scored):
  command = ["sample", "--scores=scores", "--sampler=perplexity", *named(), "--output=above", "--output_format=jsonl"]
  found = scores_in(scored)
  middle = np.median(list(found.values()))
  assert run_in(place, [*command, f"--threshold={middle}"]) == 0
  drawn = [json.loads(line) for path in (place / "above").glob("*.jsonl") for line in path.read_text().splitlines()]
  assert {record["source"] for record in drawn} == {f"{s}#{r}" for (s, r), value in found.items() if value >= middle}


def test_inverse_propensity_draws_by_the_perplexity(place, scored):
  """The sample is the k largest of log perplexity + Gumbel noise. Kills: the logarithm of a score that is one already,
  p proportional to the likelihood, and weights of the whole text's likelihood."""
  command = ["sample", "--scores=scores", "--sampler=perplexity", *named(), "--method=ips", "--rate=0.2"]
  assert run_in(place, [*command, "--output=drawn", "--output_format=jsonl", "--direct_num_workers=2"]) == 0
  keys = {}
  for (shard, row), value in scores_in(scored).items():
    uniform = (int(hashing.hash_documents("ips", 0, shard, np.array([row]))[0] >> np.uint64(12)) + 0.5) / 2**52
    keys[f"{shard}#{row}"] = math.log(1 / math.exp(value)) - math.log(-math.log(uniform))
  wanted = sorted(keys, key=keys.__getitem__, reverse=True)[: int(0.2 * len(keys) + 0.5)]
  drawn = [json.loads(line) for path in (place / "drawn").glob("*.jsonl") for line in path.read_text().splitlines()]
  assert {record["source"] for record in drawn} == set(wanted)
  manifest = json.loads((place / "drawn/manifest.json").read_text())
  assert manifest["request"]["method"] == "ips" and "score" not in manifest["threshold"]


class Touchy:
  """A real scorer that cannot bear some texts."""

  def __init__(self, scorer, wicked):
    self.describe, self.warm_up, self._scorer, self._wicked = scorer.describe, scorer.warm_up, scorer, wicked

  def prepare(self, column):
    return column, self._scorer.prepare(column)

  def run(self, prepared, on_batch=None):
    column, ready = prepared
    if any(isinstance(value, dict) and value["text"] in self._wicked for value in column.to_pylist()):
      raise RuntimeError("cannot tokenize this")
    return self._scorer.run(ready, on_batch)


def test_a_document_that_breaks_the_scorer_falls_alone(place, tmp_path, monkeypatch):
  """Kills the mutants: neighbours that lose their keys, or get those of their places in what is left."""
  texts = corpora.sentences(150, 5)
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  load, wicked = Perplexity.load, {texts[row] for row in (0, 70, 71, 149)}
  monkeypatch.setattr(Perplexity, "load", lambda self: Touchy(load(self), wicked))
  command = score(place, f"{tmp_path}/a.jsonl", "--name=a", "--block_rows=100", "--direct_num_workers=1")
  assert run_in(tmp_path, command) == 0
  expected = direct(place, {("a.jsonl", row): text for row, text in enumerate(texts)}, "span_corruption", 0)
  for row in (0, 70, 71, 149):
    del expected["a.jsonl", row]
  assert scores_in(tmp_path / "scores/a") == expected
  reasons = json.loads((tmp_path / "scores/a/summary.json").read_text())["reasons"]
  assert reasons == {"scorer_failed": 4}


def test_a_document_without_a_number_is_dead_and_its_neighbours_live(place, tmp_path):
  """The row of unknown pieces is NaN in this model; of the long one, in some windows alone."""
  weights = safetensors.numpy.load_file(place / "model/model.safetensors")
  weights["shared.weight"] = weights["shared.weight"].copy()
  weights["shared.weight"][2] = np.nan
  corpora.write_model(tmp_path / "broken")
  safetensors.numpy.save_file(weights, tmp_path / "broken/model.safetensors", metadata={"format": "pt"})
  texts = corpora.sentences(30, 4)
  expected = direct(place, {("a.jsonl", row): text for row, text in enumerate(texts)}, "span_corruption", 0)
  texts[10] = "漢字 " + texts[10]
  texts[29] = " ".join([*corpora.sentences(20, 6), "漢字", *corpora.sentences(20, 7)])
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  command = score(place, f"{tmp_path}/a.jsonl", f"--model={tmp_path}/broken", "--name=a", "--direct_num_workers=1")
  assert run_in(tmp_path, command) == 0
  dead = [json.loads(line) for line in (tmp_path / "scores/a/dead_letter/a.jsonl.jsonl").read_text().splitlines()]
  assert [(entry["row"], entry["reason"]) for entry in dead] == [(10, "score_is_nan"), (29, "score_is_nan")]
  del expected["a.jsonl", 10], expected["a.jsonl", 29]
  assert scores_in(tmp_path / "scores/a") == expected


def test_an_estimate_counts_inputs_and_targets(place, corpus, scored, tmp_path, capsys):
  """Of the whole corpus but for what a sample leaves out, beside what scoring it counted."""
  assert run_in(tmp_path, [*score(place, corpus.pattern), "--estimate"]) == 0
  told = capsys.readouterr().out
  assert "measured here on" in told and list(tmp_path.iterdir()) == []
  found = re.search(r"tokens of the model's inputs\s+([\d,]+) ± ([\d,]+)", told)
  assert found is not None
  value, error = (float(number.replace(",", "")) for number in found.groups())
  counters = json.loads(next((scored / "log").iterdir()).read_text())["this_run"]
  assert abs(value - counters["tokens_useful"]) < 4 * error + 0.03 * value
