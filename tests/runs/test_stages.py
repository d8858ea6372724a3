"""Recipes of stages: each scores and selects what the one before has selected, and text moves once, at the end."""

import csv
import json
import pathlib
import re
import shutil

import corpora
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import content, logs, run_in

from curation.errors import WinnowError
from pipelines.flags import parsing
from pipelines.registry import command_names
from pipelines.reports import material, passes
from pipelines.scoring import scoring
from pipelines.selection import survivors

BIG_ROWS, SMALL_ROWS, DIMENSIONS = 1_500, 200, 8
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"
D4 = pathlib.Path(__file__).parents[2] / "recipes/d4.yaml"
RECIPE = """
num_clusters: 12
kmeans_sample: 100
stages:
- {scorer: minhash, threshold: 1}
- {scorer: semdedup, rate: 0.75, keep: farthest}
- {scorer: prototypes, rate: 0.5}
"""


def embed(shard: str, rows: int) -> np.ndarray:
  generator = np.random.default_rng(list(shard.encode()))
  centres = np.random.default_rng(1).standard_normal((10, DIMENSIONS))
  points_ND = centres[generator.integers(0, 10, rows)] + 0.3 * generator.standard_normal((rows, DIMENSIONS))
  return points_ND.astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("stages")
  corpora.write_with_embeddings(
    folder, embed, big_rows=BIG_ROWS, small_rows=SMALL_ROWS, bad_row=90, make=corpora.repeating_texts
  )
  (folder / "recipe.yaml").write_text(RECIPE)
  return folder


def curate(place: pathlib.Path, *more: str) -> list[str]:
  return [
    *("curate", f"--recipe={place}/recipe.yaml", f"--input={place}/corpus/*", f"--embeddings={place}/made/*"),
    *("--scores=scores", "--block_rows=50", "--max_bad_fraction=0.1", "--output=out", "--num_shards=3", *more),
  ]


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  folder = place / "undisturbed"
  assert run_in(folder, [*curate(place), ONE]) == 0
  return folder


def scores_of(folder: pathlib.Path, name: str) -> dict[tuple[str, int], float]:
  table = pa.concat_tables(pq.read_table(path) for path in sorted((folder / "scores" / name / "shards").iterdir()))
  column = "score" if "score" in table.schema.names else "cosine"
  documents = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  return dict(zip(documents, table[column].to_pylist(), strict=True))


def best(scores: dict[tuple[str, int], float], share: float) -> tuple[set[tuple[str, int]], float]:
  """Those above the score that a share reaches, which ties must not decide, and that score."""
  count = int(share * len(scores) + 0.5)
  floor = sorted(scores.values(), reverse=True)[count - 1]
  return {document for document, score in scores.items() if score > floor}, floor


def test_each_stage_sees_what_the_one_before_has_selected(undisturbed):
  """Kills the mutants: a stage that scores all documents; clusters of all documents in a later stage; a selection by
  another stage's scores; survivors of one shard for another's."""
  first, clustered = scores_of(undisturbed, "minhash"), scores_of(undisturbed, "clusters_made_stage2")
  kept = {document for document, score in first.items() if score == 1}
  without_use = {("a.jsonl", 90), ("a.jsonl", 91)}  # embeddings that are none
  assert 0 < len(kept) < 0.8 * len(first)
  second = scores_of(undisturbed, "semdedup_made_stage2")
  assert second.keys() == clustered.keys() == kept - without_use
  third = scores_of(undisturbed, "prototypes_made_stage3")
  certain, floor = best(second, 0.75)
  assert len(third) == int(0.75 * len(second) + 0.5)
  assert certain <= third.keys() <= certain | {d for d, score in second.items() if score == floor}
  certain, floor = best(third, 0.5)
  import tensorflow_datasets as tfds

  drawn = tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train")
  sources = [example["source"].decode().rpartition("#") for example in tfds.as_numpy(drawn)]
  found = {(shard, int(row)) for shard, _, row in sources}
  assert len(found) == len(sources) == int(0.5 * len(third) + 0.5)
  assert certain <= found <= certain | {d for d, score in third.items() if score == floor}
  # All are embedded, once; no text was written but that of the last stage.
  embedded = sum(pq.read_metadata(path).num_rows for path in undisturbed.glob("scores/embeddings_made/shards/*"))
  assert embedded == len(first) - len(without_use)
  assert {path.name for path in (undisturbed / "scores").iterdir()} == {
    *("signatures_128", "minhash", "embeddings_made", "clusters_made_stage2", "semdedup_made_stage2"),
    *("clusters_made_stage3", "prototypes_made_stage3"),
  }


def test_the_books_balance_in_each_stage(undisturbed, capsys):
  """Kills: what was left out counted as read, as bad, or into the dead letter; a blank line that is left out."""
  ledgers = {path.parent.name: json.loads(path.read_text()) for path in undisturbed.glob("scores/*/summary.json")}
  blank = ledgers["minhash"]["blank"]
  rows = ledgers["minhash"]["read"] + blank
  assert all(ledger["read"] == ledger["scored"] + ledger["bad"] for ledger in ledgers.values())
  assert all(sum(sum(s["block_rows"]) for s in ledger["shards"]) == rows for ledger in ledgers.values())
  assert [ledger["blank"] for ledger in ledgers.values()] == [blank] * len(ledgers) == [7] * len(ledgers)
  for name in ("semdedup_made_stage2", "prototypes_made_stage3"):
    assert ledgers[name]["read"] < rows - blank and "left_out" not in ledgers[name]["reasons"]
  kept = {document for document, score in scores_of(undisturbed, "minhash").items() if score == 1}
  without_use = kept & {("a.jsonl", 90), ("a.jsonl", 91)}
  second = ledgers["semdedup_made_stage2"]
  assert (second["read"], second["bad"]) == (len(kept), len(without_use))
  assert ledgers["prototypes_made_stage3"]["bad"] == 0
  for name, ledger in ledgers.items():
    letters = [path.read_text().splitlines() for path in undisturbed.glob(f"scores/{name}/dead_letter/*")]
    assert sum(map(len, letters)) == ledger["bad"], name
  manifest = json.loads((undisturbed / "out/manifest.json").read_text())
  assert manifest["counts"]["scored"] == ledgers["prototypes_made_stage3"]["scored"]
  within = manifest["scores"]["request"]["within"]
  assert (within["scores"]["scorer"], within["selection"]["rate"]) == ("semdedup", "0.75")
  within = within["scores"]["within"]
  assert (within["scores"]["scorer"], within["selection"]["threshold"]) == ("minhash", 1.0)
  assert run_in(undisturbed, ["verify", "out", ONE]) == 0
  left_out = next(d for d, score in scores_of(undisturbed, "minhash").items() if score == 0)
  capsys.readouterr()
  assert run_in(undisturbed, ["explain", f"{left_out[0]}#{left_out[1]}", "--scores=scores", "--output=out"]) == 0
  told = capsys.readouterr().out
  assert "semdedup_made_stage2: left out by a stage before" in told and "minhash: minhash 0" in told


def test_a_stages_scores_are_scores_as_others(place, undisturbed):
  """Kills: a report that takes a stage's documents for the corpus, in its ledger or in its sample; a score of
  a stage beside another document; a store that cannot be drawn from."""
  report = ["report", f"--scores={undisturbed}/scores", f"--output={undisturbed}/out", f"--report={place}/report"]
  assert run_in(place, report) == 0
  with open(place / "report/ledger.csv") as file:
    read = {row["name"]: int(row["read"]) for row in csv.DictReader(file)}
  ledgers = {path.parent.name: json.loads(path.read_text()) for path in undisturbed.glob("scores/*/summary.json")}
  assert read == {name: ledgers[name]["read"] for name in read if name != "out"} | {
    "out": ledgers["prototypes_made_stage3"]["read"]
  }
  assert next(iter(read)) == "minhash" and len(read) == 4
  with open(place / "report/quantiles.csv") as file:
    assert {row["scorer"]: int(row["documents"]) for row in csv.DictReader(file)} == {
      name: ledgers[name]["scored"] for name in read if name != "out"
    }
  flags = [f"--scores={undisturbed}/scores", f"--output={undisturbed}/out", "--report=none"]
  sources = material.find(parsing.parse(command_names.REPORT, flags)[0])
  sample = passes.draw_sample(sources, 0)
  documents = [
    (sources.shards[shard].name, row)
    for shard, row in zip(sample.table["shard"].to_pylist(), sample.table["row"].to_pylist(), strict=True)
  ]
  assert set(documents) == set(scores_of(undisturbed, "minhash"))
  for name, scores_N in zip(sources.scorers, sample.scores_SN, strict=True):
    found = scores_of(undisturbed, name)
    np.testing.assert_array_equal(scores_N, np.array([found.get(of, np.nan) for of in documents], np.float32))
  drawing = ["--sampler=semdedup", "--num_examples=50", f"--output={place}/drawn"]
  assert run_in(place, ["sample", f"--scores={undisturbed}/scores", *drawing, ONE]) == 0
  assert run_in(place, ["verify", f"{place}/drawn", ONE]) == 0


def test_a_run_that_was_stopped_gives_the_same(place, undisturbed, monkeypatch):
  """Stopped before each of the last stages in turn. Kills: survivors that are taken because they are there."""
  folder = place / "stopped"
  for name in ("semdedup", "prototypes"):
    with monkeypatch.context() as patch:
      run = scoring.bisection.run

      def stopped(scorer, *rest, name=name, run=run, **options):
        if type(scorer).__name__.lower() == name:
          raise KeyboardInterrupt
        return run(scorer, *rest, **options)

      patch.setattr(scoring.bisection, "run", stopped)
      assert run_in(folder, [*curate(place), ONE]) != 0
    assert not (folder / "out/manifest.json").exists()
    damaged = sorted(folder.glob("scores/*/selected/*/rows/big.jsonl.gz"))
    assert len(damaged) == (1 if name == "semdedup" else 2)
    if name == "semdedup":  # what MinHash selected, which the next run reads
      data = bytearray(damaged[0].read_bytes())
      data[-9] ^= 1
      damaged[0].write_bytes(data)
  assert run_in(folder, [*curate(place), ONE]) == 0
  assert content(folder) == content(undisturbed)


@pytest.mark.long
@pytest.mark.local_runner
def test_two_processes_give_the_same(place, undisturbed):
  folder = place / "two"
  assert run_in(folder, [*curate(place), TWO]) == 0
  assert content(folder) == content(undisturbed)
  workers = [
    log.get("documents_by_process", {}).get("stage 3 of 3: scoring (prototypes)", {}) for log in logs(folder / "out")
  ]
  assert max(map(len, workers)) == 2


def test_another_rate_of_the_last_stage_needs_no_scores_again(place, undisturbed, monkeypatch):
  """Kills: names or fingerprints of stages that depend on what is asked of the last one."""
  folder = place / "again"
  shutil.copytree(undisturbed, folder)
  monkeypatch.setattr(scoring, "score_blocks", None)
  monkeypatch.setattr(survivors.Survivors, "select_shard", None)
  command = [argument for argument in curate(place) if "--output" not in argument]
  assert run_in(folder, [*command, "--rate=0.1", "--output=smaller", ONE]) == 0
  manifest = json.loads((folder / "smaller/manifest.json").read_text())
  assert manifest["counts"]["selected"] == int(0.1 * manifest["counts"]["scored"] + 0.5)


def test_other_survivors_are_another_request(place, undisturbed, capsys):
  """Kills: a fingerprint of a stage that says nothing of those before it."""
  before = content(undisturbed)
  assert run_in(undisturbed, [*curate(place, "--similarity=0.7", "--scores=scores"), ONE]) == 2
  assert "minhash belongs to another request: similarity is 0.8 there and 0.7 now" in capsys.readouterr().err
  (place / "other.yaml").write_text(RECIPE.replace("threshold: 1", "rate: 0.3"))
  assert run_in(undisturbed, [*curate(place), f"--recipe={place}/other.yaml", "--output=other", ONE]) == 2
  assert "clusters_made_stage2 belongs to another request: within.selection" in capsys.readouterr().err
  assert content(undisturbed) == before


def test_density_and_random_may_be_later_stages(place, undisturbed):
  """Kills: a sketch of all documents; a count that forgets the stage before."""
  folder = place / "others"
  shutil.copytree(undisturbed / "scores", folder / "scores")
  recipe = "stages:\n- {scorer: minhash, threshold: 1}\n- {scorer: density, rate: 0.5, sketch_rows: 20}\n"
  (place / "density.yaml").write_text(recipe + "- {sampler: random, num_examples: 100}\n")
  command = [argument for argument in curate(place) if "--recipe" not in argument and "--embeddings" not in argument]
  recipe = (place / "density.yaml").read_text().replace("density,", f"density, embeddings: '{place}/made/*',")
  (place / "density.yaml").write_text(recipe)
  assert run_in(folder, [*command, f"--recipe={place}/density.yaml", ONE]) == 0
  densities = scores_of(folder, "density_made_stage2")
  assert densities.keys() == scores_of(undisturbed, "semdedup_made_stage2").keys()
  drawn = json.loads((folder / "out/manifest.json").read_text())["counts"]
  assert (drawn["scored"], drawn["selected"]) == (int(0.5 * len(densities) + 0.5), 100)


def test_a_corpus_that_grows_has_other_survivors(place, tmp_path):
  """Stages of texts alone. Kills: scores of a later stage that stay, since the shard that they are of is the same."""
  stages = "stages:\n- {sampler: random, num_examples: 300}\n- {sampler: random, seed: 1}\n"
  (tmp_path / "recipe.yaml").write_text(stages)
  names = ("a.jsonl", "b.json", "i.jsonl")

  def run(folder: str, shards: tuple[str, ...]) -> None:
    for name in shards:
      shutil.copy(place / "corpus" / name, tmp_path / folder / "in")
    flags_ = ["--block_rows=50", "--max_bad_fraction=0.1", "--rate=0.5", "--scores=scores", "--output=out", ONE]
    command = ["curate", "--recipe=../recipe.yaml", f"--input={tmp_path / folder}/in/*", *flags_, "--overwrite"]
    assert run_in(tmp_path / folder, command) == 0

  for folder in ("grown", "fresh"):
    (tmp_path / folder / "in").mkdir(parents=True)
  run("grown", names[:2])
  run("grown", names)
  run("fresh", names)
  for path in (tmp_path / "fresh/scores/random_stage2/shards").iterdir():
    grown = pq.read_table(tmp_path / "grown/scores/random_stage2/shards" / path.name)
    assert grown == pq.read_table(path), path.name
  (path,) = (tmp_path / "fresh/out").glob("*tfrecord-*")
  assert (tmp_path / "grown/out" / path.name).read_bytes() == path.read_bytes()


def test_survivors_that_are_lost_are_found_again(place, undisturbed, tmp_path):
  """Kills: a stage that waits for ever for bits that their summary says are there."""
  shutil.copytree(undisturbed, tmp_path / "lost")
  for path in (tmp_path / "lost/scores/minhash/selected").glob("*/rows/*"):
    path.unlink()
  for path in (tmp_path / "lost/scores/clusters_made_stage2").rglob("b.json*"):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
  shutil.rmtree(tmp_path / "lost/scores/semdedup_made_stage2")
  shutil.rmtree(tmp_path / "lost/scores/prototypes_made_stage3")
  shutil.rmtree(tmp_path / "lost/out")
  assert run_in(tmp_path / "lost", [*curate(place), ONE]) == 0
  assert content(tmp_path / "lost") == content(undisturbed)


def test_stages_of_one_scorer_have_stores_of_their_own(place, undisturbed, tmp_path, capsys):
  """Kills: steps of two stages that a pipeline takes for one; a store that two stages fill."""
  shutil.copytree(undisturbed / "scores", tmp_path / "scores")
  lax = "{scorer: minhash, threshold: 1, similarity: 0.5, minhash_bands: 32, minhash_rows: 4}"
  (tmp_path / "twice.yaml").write_text(f"stages:\n- {{scorer: minhash, threshold: 1, minhash_bands: 32}}\n- {lax}\n")
  command = [argument for argument in curate(place) if "--recipe" not in argument and "--embeddings" not in argument]
  assert run_in(tmp_path, [*command, "--recipe=twice.yaml", "--scores=scores_too", ONE]) == 0
  first, second = (scores_of(tmp_path, f"../scores_too/{name}") for name in ("minhash", "minhash_stage2"))
  assert second.keys() == {document for document, score in first.items() if score == 1}
  assert sum(score == 0 for score in second.values()) > 0
  told = capsys.readouterr().out
  assert "stage 2 of 2 (minhash), of the documents that earlier stages selected:\n" in told
  read = json.loads((tmp_path / "scores_too/minhash/summary.json").read_text())["read"]
  assert f"\n{sum(score == 1 for score in second.values()):,} of {read:,} documents of the corpus are left (" in told
  before = content(tmp_path)
  assert run_in(tmp_path, [*curate(place), "--clusters=scores/clusters", ONE]) == 2
  assert "two stages of the recipe would fill" in capsys.readouterr().err
  assert content(tmp_path) == before


def test_d4_is_a_recipe_of_stages():
  """Kills: a typed rate that goes to another stage than the last; flags of another stage's scorer that are refused."""
  needed = ["--input=in", "--scores=scores", "--output=out"]
  stages, _ = parsing.parse_stages(
    command_names.CURATE, [f"--recipe={D4}", *needed, "--rate", "0.1", "--similarity=0.9"]
  )
  assert [(s.scorer, s.rate, s.threshold) for s in stages] == [
    ("minhash", None, 1.0),
    ("semdedup", "0.75", None),
    ("prototypes", "0.1", None),
  ]
  assert [s.similarity for s in stages] == [0.9, 0.8, 0.8]
  assert [s.num_clusters for s in stages][1:] == [11_000, 11_000]
  stages, _ = parsing.parse_stages(command_names.CURATE, [f"--recipe={D4}", *needed, "--num_clusters=30", "--seed=4"])
  assert [s.num_clusters for s in stages][1:] == [30, 30] and {s.seed for s in stages} == {4}
  assert [s.rate for s in stages] == [None, "0.75", "0.267"]
  stages, _ = parsing.parse_stages(command_names.CURATE, [f"--recipe={D4}", *needed, "--num_examples=5"])
  assert [(s.rate, s.num_examples) for s in stages] == [(None, None), ("0.75", None), (None, 5)]


def test_random_sampling_in_a_stage_needs_no_model(tmp_path):
  """Kills: a model of all stages that has a rater score what is drawn at random."""
  (tmp_path / "recipe.yaml").write_text("model: m\nstages:\n- {sampler: random, rate: 0.5}\n- {scorer: density}\n")
  given = [f"--recipe={tmp_path}/recipe.yaml", "--input=i", "--scores=s", "--output=o", "--rate=0.2"]
  stages, _ = parsing.parse_stages(command_names.CURATE, given)
  assert [(s.sampler, s.scorer, s.model) for s in stages] == [("random", "ask_llm", None), (None, "density", "m")]


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("stages: 3", "stages is no list of stages"),
    ("stages: []", "stages is no list of stages"),
    ("stages: [minhash]", "stages is no list of stages"),
    ("stages: [{scorer: minhash, modle: x}]", "'modle', which is no flag of this command; did you mean model?"),
    ("stages: [{stages: []}]", "'stages', which is no flag"),
    ("stages: [" + "{scorer: minhash}," * 9 + "]", "has 9 stages, and 8 are the most"),
    ("stages: [{scorer: minhash, rejected: r}]", "rejected is no flag of one stage; write it above stages"),
    ("stages: [{scorer: minhash, kernel: l1}, {scorer: minhash}]", "--kernel is for --scorer=density"),
  ],
)
def test_stages_that_cannot_be_are_refused_in_a_sentence(tmp_path, text, told):
  path = tmp_path / "recipe.yaml"
  path.write_text(text)
  with pytest.raises(WinnowError, match=re.escape(told)):
    parsing.parse_stages(
      command_names.CURATE, [f"--recipe={path}", "--input=i", "--scores=s", "--output=o", "--rate=0.2"]
    )


def test_a_stage_that_selects_nothing_ends_in_a_sentence(place, tmp_path, capsys):
  """Kills: a later stage that looks for documents where there are none."""
  (tmp_path / "none.yaml").write_text("stages:\n- {scorer: minhash, threshold: 2}\n- {sampler: random, rate: 0.5}\n")
  where = [f"--input={place}/corpus/a.jsonl", "--scores=scores", "--output=out", "--max_bad_fraction=0.1"]
  assert run_in(tmp_path, ["curate", "--recipe=none.yaml", *where, ONE]) == 1
  assert "scores/minhash selects no document; lower its threshold, or raise its rate" in capsys.readouterr().err
