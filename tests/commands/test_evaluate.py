"""`winnow evaluate`: figures beside the scorer's own sums, kills, damage, checkpoints that come and go."""

import csv
import json
import math
import pathlib
import shutil
import xml.etree.ElementTree

import corpora
import jax
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import t5x_files
from running import content, run_in, take_turns

from curation.models import checkpoints
from curation.scorers import perplexity
from curation.selection import hashing
from pipelines.files import damage
from pipelines.reports import evaluation
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.scoring import scoring

LIMITS = {"max_input_tokens": 40, "batch_tokens": 400}
VALIDATION, NEWS = "val", "corpus_news_jsonl"


def write_checkpoint(place: pathlib.Path, step: int) -> None:
  """Of T5X; all checkpoints of a run have one vocabulary."""
  with_weights = place / f"hugging_face/{step}"
  corpora.write_model(with_weights, seed=step)
  shutil.copyfile(with_weights / "spiece.model", place / "t5.model")
  tensors = safetensors.numpy.load_file(with_weights / "model.safetensors")
  t5x_files.write_legacy(place / f"run/checkpoint_{step}", t5x_files.to_arrays(tensors))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("evaluate")
  for step in (1000, 200):
    write_checkpoint(folder, step)
  for name in ("checkpoint_1200.tmp-1700000000", "checkpoint_50.orbax-checkpoint-tmp"):
    shutil.copytree(folder / "run/checkpoint_200", folder / "run" / name)
  (folder / "run/checkpoint_9").write_text("no folder")
  return folder


@pytest.fixture(scope="module")
def corpus(place) -> corpora.Corpus:
  return corpora.write_corpus(place / "corpus/val", big_rows=300, small_rows=40)


@pytest.fixture(scope="module")
def news(place) -> dict[tuple[str, int], str]:
  """Long documents, of several windows."""
  texts = [" ".join(corpora.sentences(30, row)) for row in range(20)]
  lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
  (place / "corpus").mkdir(exist_ok=True)
  (place / "corpus/news.jsonl").write_text(lines)
  return {("news.jsonl", row): text for row, text in enumerate(texts)}


def command(place: pathlib.Path, *flags: str, models: str = "run/checkpoint_*", parts: str = "val/*") -> list[str]:
  sources = ",".join(f"{place}/corpus/{part}" for part in parts.split(","))
  model = ",".join(f"{place}/{of}" for of in models.split(","))
  where = [f"--models={model}", f"--vocabulary={place}/t5.model", f"--input={sources}", "--scores=scores"]
  limits = [f"--{name}={value}" for name, value in LIMITS.items()]
  return ["evaluate", *where, *limits, "--max_bad_fraction=1", "--block_rows=64", "--direct_num_workers=1", *flags]


def direct(
  place: pathlib.Path, step: int, texts: dict, objective: str = "span_corruption", seed: int = 0
) -> tuple[int, float]:
  """Target tokens and their NLL, of the scorer alone and the whole corpus at once."""
  checkpoint = checkpoints.load_checkpoint(place / f"hugging_face/{step}", "float32")
  scorer = perplexity.PerplexityScorer(checkpoint, objective=objective, **LIMITS)
  keys = [hashing.hash_documents("mask", seed, shard, np.array([row])) for shard, row in texts]
  prepared = scorer.prepare(pa.array(list(texts.values())), np.concatenate(keys))
  nll_W = scorer.engine.run(prepared.batches)
  return int(prepared.batches.target_lengths_N.sum()), math.fsum(nll_W.tolist())


def figures(folder: pathlib.Path) -> dict[str, dict]:
  """By model."""
  found = json.loads((folder / "scores/evaluation.json").read_text())["models"]
  return {of["model"]: of["corpora"] for of in found}


@pytest.fixture(scope="module")
def evaluated(place, corpus, news) -> pathlib.Path:
  folder = place / "evaluated"
  assert run_in(folder, command(place, parts="val/*,news.jsonl")) == 0
  return folder


def test_figures_are_those_of_whole_corpora(place, corpus, news, evaluated):
  """Exact to float32's rounding of a document's mean. Kills the mutants that average documents, weigh by num_tokens,
  count a long document as one window, or take a mixture's parts for equally large."""
  found = figures(evaluated)
  assert list(found) == ["run_checkpoint_200", "run_checkpoint_1000"]
  for step in (200, 1000):
    sums = []
    for name, texts in ((VALIDATION, corpus.texts), (NEWS, news)):
      of = found[f"run_checkpoint_{step}"][name]
      tokens, nll = direct(place, step, texts)
      sums.append((tokens, nll))
      assert (of["documents"], of["target_tokens"]) == (len(texts), tokens)
      assert of["nll"] == pytest.approx(nll, rel=1e-7)
      assert of["nll_per_token"] == pytest.approx(nll / tokens, rel=1e-7)
      assert of["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-6)
    tokens, nll = map(sum, zip(*sums, strict=True))
    of_all = found[f"run_checkpoint_{step}"]["all"]
    assert (of_all["documents"], of_all["target_tokens"]) == (len(corpus.texts) + len(news), tokens)
    assert of_all["nll_per_token"] == pytest.approx(nll / tokens, rel=1e-7)
  assert found["run_checkpoint_200"]["all"]["nll"] != found["run_checkpoint_1000"]["all"]["nll"]


@pytest.mark.long
def test_parts_give_the_bytes_and_figures_of_one_machine(place, corpus, news, evaluated):
  """Kills the mutants: a part that evaluates everything; figures of the parts' own shares."""
  assert take_turns(place / "in_parts", command(place, parts="val/*,news.jsonl"), 2) > 1
  assert content(place / "in_parts") == content(evaluated)


def test_the_table_and_the_curve_say_what_the_sums_say(evaluated):
  with (evaluated / "scores/evaluation.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [(row["run"], row["step"], row["corpus"]) for row in rows] == [
    ("run", step, corpus) for step in ("200", "1000") for corpus in (VALIDATION, NEWS, "all")
  ]
  for row in rows:
    of = figures(evaluated)[row["model"]][row["corpus"]]
    assert float(row["perplexity"]) == of["perplexity"] and float(row["nll per token"]) == of["nll_per_token"]
    assert (int(row["documents"]), int(row["target tokens"])) == (of["documents"], of["target_tokens"])
  svg = (evaluated / "scores/evaluation.svg").read_text()
  xml.etree.ElementTree.fromstring(svg)
  assert "perplexity on all 2 corpora" in svg and ">step<" in svg and "> run<" in svg


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(place, corpus, news, evaluated, tmp_path, monkeypatch, capsys):
  """Invariant 4, over the two models' stores: killed in the first one, and between the two. Kills the mutants whose
  figures hang on how shards were divided, and those that keep what an earlier run wrote of them."""
  compact, count = scoring.block_files.compact_shard, 0

  def interrupted(*arguments, **keywords):
    nonlocal count
    count += 1
    if count == 5:
      raise KeyboardInterrupt
    return compact(*arguments, **keywords)

  both = command(place, parts="val/*,news.jsonl")
  with monkeypatch.context() as patch:
    patch.setattr(scoring.block_files, "compact_shard", interrupted)
    assert run_in(tmp_path, both) == 130
  assert not (tmp_path / "scores/evaluation.json").exists()
  read_loss = evaluation.read_loss

  def stop_in_the_second_model(store):
    if "run_checkpoint_1000" in store.folder:
      raise KeyboardInterrupt
    return read_loss(store)

  with monkeypatch.context() as patch:
    patch.setattr(evaluation, "read_loss", stop_in_the_second_model)
    assert run_in(tmp_path, both) == 130
  assert run_in(tmp_path, both) == 0
  assert content(tmp_path) == content(evaluated)
  told = capsys.readouterr().out.splitlines()
  end = told.index(f"figures: {tmp_path}/scores")
  columns = ["model", "corpus", "documents", "target", "tokens", "nll", "per", "token", "perplexity"]
  assert told[end - 8].split() == columns and told[end - 2].split()[:2] == ["run_checkpoint_1000", "all"]
  assert told[end - 1] == "2 models on 2 corpora"
  assert told[end + 1 :][:2] == ["next, once there are more checkpoints:", "  winnow evaluate \\"]


@pytest.fixture
def done(place, corpus, news, evaluated, tmp_path) -> pathlib.Path:
  """A copy of what was evaluated."""
  shutil.copytree(evaluated / "scores", tmp_path / "scores")
  return tmp_path


def test_checkpoints_come_and_go(place, corpus, done, monkeypatch):
  """Kills the mutants that score again what is complete, and that forget a point whose checkpoint is gone."""
  loaded, load = [], Perplexity.load

  def counting(self):
    loaded.append(self.model)
    return load(self)

  monkeypatch.setattr(Perplexity, "load", counting)
  before = content(done)
  assert run_in(done, command(place, parts="val/*,news.jsonl")) == 0
  assert content(done) == before and loaded == []
  write_checkpoint(done, 3000)
  shutil.copytree(place / "run/checkpoint_1000", done / "run/checkpoint_1000")
  models = [f"--models={done}/run/checkpoint_*"]
  assert run_in(done, [*command(place, parts="val/*,news.jsonl"), *models]) == 0
  assert {pathlib.Path(model).name for model in loaded} == {"checkpoint_3000"}
  found = figures(done)
  assert list(found) == [f"run_checkpoint_{step}" for step in (200, 1000, 3000)]
  tokens, nll = direct(done, 3000, corpus.texts)
  assert found["run_checkpoint_3000"][VALIDATION]["nll_per_token"] == pytest.approx(nll / tokens, rel=1e-7)


def test_corpora_may_count_equally(place, corpus, news, done, capsys):
  """Kills: the parts' perplexities averaged in place of their losses, and a flag that only some of the files follow."""
  before, other = figures(done), [*command(place, parts="val/*,news.jsonl"), "--weigh_by=corpus"]
  assert run_in(done, other) == 0
  for model, of in figures(done).items():
    parts = [of[name]["nll_per_token"] for name in (VALIDATION, NEWS)]
    assert of["all"]["nll_per_token"] == pytest.approx(sum(parts) / 2, rel=1e-12)
    assert of["all"]["perplexity"] == pytest.approx(math.exp(sum(parts) / 2), rel=1e-12)
    assert of["all"]["nll"] is None and of["all"] != before[model]["all"]
    assert {name: of[name] for name in (VALIDATION, NEWS)} == {name: before[model][name] for name in (VALIDATION, NEWS)}
  with (done / "scores/evaluation.csv").open(newline="") as file:
    rows = {(row["model"], row["corpus"]): float(row["perplexity"]) for row in csv.DictReader(file)}
  assert rows["run_checkpoint_200", "all"] == figures(done)["run_checkpoint_200"]["all"]["perplexity"]
  assert "each counting as much" in (done / "scores/evaluation.svg").read_text()


def test_the_ghost_of_an_unfinished_checkpoint_leaves_the_curve(place, corpus, news, done, capsys):
  """An older Winnow evaluated it. Kills: a row for each store that there is."""
  before = figures(done)
  for part in (VALIDATION, NEWS):
    stores = done / "scores" / part
    shutil.copytree(stores / "run_checkpoint_200", stores / "checkpoint_50_orbax_checkpoint_tmp")
  assert run_in(done, command(place, parts="val/*,news.jsonl")) == 0
  assert figures(done) == before
  told = capsys.readouterr().err
  assert "checkpoint_50_orbax_checkpoint_tmp is left out: its checkpoint was not finished" in told
  assert "winnow: left out: " in told and "run/checkpoint_50.orbax-checkpoint-tmp is not called checkpoint_N" in told


def test_a_damaged_store_is_mended(place, done, capsys):
  """Kills the mutant that takes a shard for whole because its store is complete."""
  before = content(done)
  shard = done / f"scores/{VALIDATION}/run_checkpoint_200/shards/big.jsonl.gz.parquet"
  data = bytearray(shard.read_bytes())
  data[len(data) // 3] ^= 0x20
  shard.write_bytes(bytes(data))
  assert run_in(done, command(place, parts="val/*,news.jsonl")) == 0
  assert content(done) == before
  assert len(damage.records(str(shard.parent.parent))) == 1


def test_a_model_that_fails_takes_nothing_from_the_others(place, corpus, done, capsys):
  """Kills the mutants that stop at it, that end with status 0, and that drop the others' figures."""
  shutil.copytree(place / "run", done / "run")
  (done / "run/checkpoint_200/target.encoder.layers_0.mlp.wo.kernel/0.0").unlink()
  shutil.copytree(place / "run/checkpoint_200", done / "run/checkpoint_100")
  (done / "run/checkpoint_100/checkpoint").write_bytes(b"\x00")
  models = [f"--models={done}/run/checkpoint_*"]
  before = figures(done)
  shutil.rmtree(done / f"scores/{VALIDATION}/run_checkpoint_1000")
  assert run_in(done, [*command(place, parts="val/*,news.jsonl"), *models]) == 1
  said = capsys.readouterr()
  assert "run_checkpoint_100 was not evaluated" in said.err and "0.0" in said.err
  assert (
    "2 of 3 models were not evaluated: run_checkpoint_100, run_checkpoint_200; run the same command again" in said.err
  )
  assert figures(done) == before and "run_checkpoint_1000" in said.out


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    (["--models=run/checkpoint_7*"], "--models=run/checkpoint_7* matches no folder of a checkpoint; quote"),
    (["--models=,"], "names no model"),
    (["--models=run/checkpoint_200,other/run/checkpoint_200"], "would both be called run_checkpoint_200"),
    (["--models=nowhere/checkpoint_1,./nothing"], "none of the 2 models can be evaluated"),
    (["--input=nowhere/*.jsonl"], "matches no file"),
    (["--input=a/val/*,b/val/*"], "would be called val, as another one is"),
    (["--max_input_tokens=4096"], "T5 has 100 sentinels"),
    (["--scorer=ask_llm"], "--scorer"),
  ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(place, corpus, tmp_path, capsys, flags, told):
  shutil.copytree(place / "run", tmp_path / "run")
  assert run_in(tmp_path, [*command(place), *flags]) == 2
  assert told in capsys.readouterr().err
  assert not (tmp_path / "scores").exists()


@pytest.mark.long
def test_prefixes_of_another_seed(place, news, tmp_path, capsys):
  """Where targets follow from keys. Kills keys of another seed or purpose, which only the count of tokens tells."""
  flags = ["--objective=prefix_lm", "--mask_seed=5"]
  once = command(place, *flags, models="run/checkpoint_200", parts="news.jsonl")
  assert run_in(tmp_path, once) == 0
  tokens, nll = direct(place, 200, news, "prefix_lm", 5)
  of = figures(tmp_path)["run_checkpoint_200"][NEWS]
  assert (of["target_tokens"], of["nll"]) == (tokens, pytest.approx(nll, rel=1e-7))
  assert not (tmp_path / "scores/evaluation.svg").exists()

  capsys.readouterr()
  assert run_in(tmp_path, command(place, *flags[:1], models="run/checkpoint_1000", parts="news.jsonl")) == 0
  assert "is left out, since its mask_seed is 5, but 0 here" in capsys.readouterr().err
  assert list(figures(tmp_path)) == ["run_checkpoint_1000"]


def test_the_papers_mixture_has_a_name_for_each_part():
  """Kills the mutant that names parts by their files: C4's parts have files of the same names."""
  specs = ["wiki40b/en:1.3.0#validation", "c4/realnewslike:3.1.0#validation", "lm1b:1.1.0#test"]
  names = ["wiki40b_en_1_3_0_validation", "c4_realnewslike_3_1_0_validation", "lm1b_1_1_0_test"]
  specs = [f"tfds:{spec}" for spec in specs]
  assert evaluation.find_corpora(",".join(specs)) == dict(zip(names, specs, strict=True))


def test_another_validation_set_needs_a_word(place, news, tmp_path, capsys):
  """Kills the mutants that keep figures of the old set, and that warn of what is made again anyway."""
  once = [*command(place), "--input=set.jsonl"]
  lines = (place / "corpus/news.jsonl").read_text().splitlines(keepends=True)
  (tmp_path / "set.jsonl").write_text("".join(lines))
  assert run_in(tmp_path, once) == 0
  (tmp_path / "set.jsonl").write_text("".join(lines[:10]))
  assert run_in(tmp_path, once) == 2
  assert "inputs.set.jsonl.bytes is" in capsys.readouterr().err
  assert run_in(tmp_path, [*once, "--overwrite"]) == 0
  assert "warning" not in capsys.readouterr().err
  (corpus,) = {name for of in figures(tmp_path).values() for name in of} - {"all"}
  tokens, nll = direct(place, 200, {("set.jsonl", row): news["news.jsonl", row] for row in range(10)})
  of = figures(tmp_path)["run_checkpoint_200"][corpus]
  assert (of["documents"], of["target_tokens"], of["nll"]) == (10, tokens, pytest.approx(nll, rel=1e-7))
  assert len(figures(tmp_path)) == 2


def test_models_that_were_asked_for_other_tokens_are_told(place, news, tmp_path, capsys):
  """One has no number for some documents. Kills the mutant that compares means over different documents in silence."""
  shutil.copytree(place / "hugging_face/200", tmp_path / "broken")
  weights = safetensors.numpy.load_file(tmp_path / "broken/model.safetensors")
  weights["shared.weight"] = weights["shared.weight"].copy()
  weights["shared.weight"][2] = np.nan  # of unknown pieces
  safetensors.numpy.save_file(weights, tmp_path / "broken/model.safetensors", metadata={"format": "pt"})
  (tmp_path / "odd.jsonl").write_text('{"text": "river stone"}\n{"text": "\u6f22\u5b57"}\n{"text": "house"}\n')
  both = [f"--models={place}/run/checkpoint_200,broken", "--input=odd.jsonl"]
  assert run_in(tmp_path, [*command(place), *both]) == 0
  assert "predicted" in (told := capsys.readouterr().err) and "broken" in told and "3 documents" in told
  assert "their figures do not compare" in told


def test_a_process_holds_one_model_at_a_time(place, news, tmp_path, monkeypatch):
  """Kills the mutant that loads the next model before it lets go of the last one."""
  held, load = [], Perplexity.load

  def looking(self):
    held.append(sum(array.nbytes for array in jax.live_arrays()))
    return load(self)

  monkeypatch.setattr(Perplexity, "load", looking)
  scoring.release_model()
  idle = sum(array.nbytes for array in jax.live_arrays())
  assert run_in(tmp_path, command(place, parts="news.jsonl")) == 0
  assert held == [idle, idle]
  assert sum(array.nbytes for array in jax.live_arrays()) > idle + 10_000
