"""A corpus in folders that hold files of the same names, as FineWeb's do: known by their paths, all the way.

Twenty-seven shards in all formats with bad records in the middle, some reached through links, one with a name of 240
bytes, and one whose name is what another's becomes when its slash is replaced.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import corpora
import numpy as np
import pyarrow.parquet as pq
import pytest
from running import content, run_in

from pipelines.corpus import blocks, fixed_width
from pipelines.scoring import stored_blocks
from pipelines.store.score_store import ScoreStore

BIG_ROWS, SMALL_ROWS, DIMENSIONS = 600, 60, 8
LONG = "l" * 234 + ".jsonl"
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"
RECIPE = """
num_clusters: 8
kmeans_sample: 50
stages:
- {scorer: minhash, threshold: 1}
- {scorer: semdedup, rate: 0.75}
- {scorer: prototypes, rate: 0.5, group_by: domain, group_max: 500}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("layouts")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  (folder / "recipe.yaml").write_text(RECIPE)
  corpora.write_model(folder / "model")
  return folder


@pytest.fixture(scope="module")
def texts(place) -> dict[tuple[str, int], str]:
  """By shard and row; all shards of one base name have as many rows, so that mixing them up breaks no count."""
  found = {}
  for seed, dump in enumerate(("dump=A", "dump=B")):
    folder = place / "corpus" / dump
    rows = {"big_rows": BIG_ROWS, "small_rows": SMALL_ROWS}
    corpus = corpora.write_corpus(folder, **rows, make=lambda count, of, n=seed: corpora.sentences(count, 50 * n + of))
    found |= {(f"{dump}/{shard}", row): text for (shard, row), text in corpus.texts.items()}
  (place / "disk").mkdir()
  (place / "corpus/dump=C").symlink_to("../disk")
  for seed, name in enumerate((f"dump=B/{LONG}", "dump=A_a.jsonl", "dump=C/a.jsonl")):
    lines = corpora.sentences(SMALL_ROWS, 200 + seed)
    found |= {(name, row): text for row, text in enumerate(lines)}
    (place / "corpus" / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
  return found


def score_command(place: pathlib.Path, *flags: str) -> list[str]:
  asking = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32", "--name=tiny"]
  return [
    *("score", f"--input={place}/corpus/**", *asking, "--scores=scores", "--block_rows=50"),
    *("--max_bad_fraction=0.1", *flags),
  ]


@pytest.fixture(scope="module")
def undisturbed(place, texts) -> pathlib.Path:
  assert run_in(place / "undisturbed", [*score_command(place), ONE]) == 0
  return place / "undisturbed"


def scores_of(folder: pathlib.Path) -> dict[tuple[str, int], float]:
  tables = [pq.read_table(path).to_pydict() for path in (folder / "scores/tiny/shards").iterdir()]
  return {
    (shard, row): score
    for table in tables
    for shard, row, score in zip(table["shard"], table["row"], table["score"], strict=True)
  }


def drawn(folder: pathlib.Path) -> dict[tuple[str, int], str]:
  import tensorflow_datasets as tfds

  examples = tfds.as_numpy(tfds.builder_from_directory(str(folder)).as_dataset(split="train"))
  sources = [(example["source"].decode().rpartition("#"), example["text"].decode()) for example in examples]
  return {(shard, int(row)): text for (shard, _, row), text in sources}


def test_every_document_has_a_score_of_its_own(place, texts, undisturbed):
  """Kills the mutants: a file of scores that two shards share; a shard without its folder in `source`."""
  scores = scores_of(undisturbed)
  assert scores.keys() == texts.keys()
  assert len(list((undisturbed / "scores/tiny/shards").iterdir())) == 27
  flat = place / "flat"
  flat.mkdir()
  shutil.copytree(place / "corpus/dump=A", flat / "corpus")
  (flat / "prompt.txt").symlink_to(place / "prompt.txt")
  (flat / "model").symlink_to(place / "model")
  assert run_in(flat, [*score_command(flat), ONE]) == 0
  assert scores_of(flat) == {
    (shard.removeprefix("dump=A/"), row): score for (shard, row), score in scores.items() if shard.startswith("dump=A/")
  }


@pytest.mark.long
def test_killed_with_two_workers_it_goes_on_to_the_same_bytes(place, undisturbed, capsys):
  folder, store = place / "killed", place / "killed/scores/tiny"
  folder.mkdir()
  process = subprocess.Popen(
    [sys.executable, "-m", "pipelines.main", *score_command(place), TWO], cwd=folder, start_new_session=True
  )
  while process.poll() is None and len(list(store.glob("blocks/*/*.parquet"))) < 40:
    time.sleep(0.01)
  assert process.poll() is None
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  capsys.readouterr()
  assert run_in(folder, ["status", "scores/tiny"]) == 0
  assert "  shards to do: " in capsys.readouterr().out
  assert run_in(folder, [*score_command(place), TWO]) == 0
  ours, theirs = content(folder), content(undisturbed)
  assert ours == {name: data for name, data in theirs.items() if name in ours} and len(ours) > 30


@pytest.mark.long
def test_samples_are_drawn_verified_and_explained(place, texts, undisturbed, capsys):
  scores = scores_of(undisturbed)
  sample = ["sample", "--scores=scores", "--rate=0.3", "--num_shards=3"]
  asked = ["--sampler=ask_llm", "--output=ask_llm", "--rejected=rest", TWO]
  assert run_in(undisturbed, [*sample, *asked]) == 0
  assert run_in(undisturbed, [*sample, "--sampler=random", "--output=random", ONE]) == 0
  kept, rest = drawn(undisturbed / "ask_llm"), drawn(undisturbed / "rest")
  assert kept | rest == texts and not kept.keys() & rest.keys()
  for found in (kept, drawn(undisturbed / "random")):
    assert len(found) == int(0.3 * len(texts) + 0.5) and found.items() <= texts.items()
    assert {shard.split("/")[0] for shard, _ in found} >= {"dump=A", "dump=B", "dump=C", "dump=A_a.jsonl"}
  assert run_in(undisturbed, ["verify", "ask_llm", ONE]) == 0
  assert min(scores[document] for document in kept) >= max(s for d, s in scores.items() if d not in kept)
  for shard, row in (("dump=A/a.jsonl", 5), ("dump=A_a.jsonl", 5), ("dump=C/a.jsonl", 5), (f"dump=B/{LONG}", 5)):
    capsys.readouterr()
    assert run_in(undisturbed, ["explain", f"{shard}#{row}", "--scores=scores", "--output=ask_llm"]) == 0
    told = capsys.readouterr().out
    assert f"{scores[shard, row]:.6g}"[:6] in told and ("not selected" in told) == ((shard, row) not in kept)
  report = ["report", "--scores=scores", "--output=ask_llm,random", "--report=report"]
  assert run_in(undisturbed, report) == 0


def test_a_corpus_that_moves_is_the_same(place, texts, undisturbed, tmp_path):
  """Kills the mutants: names with the whole path in them, or from a pattern's own folders."""
  shutil.copytree(place / "corpus", tmp_path / "other/deeper [1]", symlinks=False)
  moved = f"--input={tmp_path}/*/deeper [1]/**"
  sample = ["sample", "--scores=scores", "--sampler=random", "--rate=0.1", "--output=moved", ONE]
  assert run_in(undisturbed, [*sample, moved]) == 2  # `other` is a part of their names
  assert run_in(undisturbed, [*sample, moved.replace("*/d", "other/d")]) == 0


@pytest.fixture(scope="module")
def numbers(place, texts) -> dict[str, np.ndarray]:
  """Embeddings in made/, by shard."""
  found = {}
  for path in [*sorted((place / "corpus").glob("*/*")), place / "corpus/dump=A_a.jsonl"]:
    name = str(path.relative_to(place / "corpus"))
    base = path.name
    rows = corpora.rows_of(base, big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
    found[name] = np.random.default_rng(list(name.encode())).standard_normal((rows, DIMENSIONS)).astype(np.float32)
    target = place / "made" / (f"{name[:-40]}.npy" if base == LONG else f"{name}.npy")
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, found[name])
  return found


def assert_embedded(folder: pathlib.Path, numbers: dict[str, np.ndarray], count: int) -> None:
  store = ScoreStore.at(str(folder / "scores/embeddings_made"))
  seen = 0
  for shard in store.shards():
    for block in stored_blocks.StoredEmbeddings(store, "float16").read(shard, blocks.every):
      rows_N = block.documents["row"].to_numpy()
      wanted_ND = numbers[shard.name][rows_N]
      wanted_ND /= np.linalg.norm(wanted_ND, axis=1, keepdims=True)
      got_ND = fixed_width.array(block.documents["embedding"], "float16")
      np.testing.assert_allclose(got_ND, wanted_ND, atol=2e-3)
      seen += len(rows_N)
  assert seen == count


def reading(place: pathlib.Path, made: pathlib.Path) -> list[str]:
  where = [f"--input={place}/corpus/**", f"--embeddings={made}/**", "--scores=scores"]
  return [*where, "--block_rows=50", "--max_bad_fraction=0.1", ONE]


def test_embeddings_made_elsewhere_are_those_of_their_shards(place, texts, numbers, tmp_path, capsys):
  """Kills the mutant that gives one shard's embeddings to another of the same rows."""
  assert run_in(tmp_path, ["embed", *reading(place, place / "made")]) == 0
  assert_embedded(tmp_path, numbers, len(texts))
  shutil.copytree(place / "made", tmp_path / "moved")
  (tmp_path / "moved/dump=A").rename(tmp_path / "moved/dump=AA")
  capsys.readouterr()
  assert run_in(tmp_path, ["embed", *reading(place, tmp_path / "moved"), "--name=other"]) == 2
  assert "would belong to the shard dump=A/a.jsonl, which lies in another folder" in capsys.readouterr().err


@pytest.mark.long
def test_a_recipe_of_stages_with_embeddings_made_elsewhere(place, texts, numbers, tmp_path):
  """Joins, comparisons, quotas, survivors and run files go by shards."""
  curate = ["curate", f"--recipe={place}/recipe.yaml", *reading(place, place / "made")]
  assert run_in(tmp_path, [*curate, "--output=out", "--num_shards=2"]) == 0
  assert run_in(tmp_path, ["verify", "out", ONE]) == 0
  kept = drawn(tmp_path / "out")
  assert kept.items() <= texts.items() and 50 < len(kept) < len(texts) / 2
  assert_embedded(tmp_path, numbers, len(texts))


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(place, tmp_path, capsys):
  """Kills the mutant that leaves it to JSON, which ends in a traceback."""
  (tmp_path / "good").mkdir()
  for name in (b"a.jsonl", b"b\xff.jsonl"):
    with open(os.fsencode(tmp_path) + b"/good/" + name, "wb") as file:
      file.write(b'{"text": "some words"}\n')
  asking = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32"]
  where = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")
  for flags in (
    [f"--input={tmp_path}/good/*", "--scores=scores"],
    [f"--input={tmp_path}/good/a*", f"--scores={where}"],
    [f"--input={where}/*", "--scores=scores"],
  ):
    capsys.readouterr()
    assert run_in(tmp_path, ["score", *flags, *asking, ONE]) == 2
    told = capsys.readouterr().err
    assert "\\udcff" in told and "is not UTF-8" in told and told.count("\n") == 1
  assert os.listdir(tmp_path) == ["good"]


def test_stores_and_outputs_behind_links_are_found_from_both_sides(undisturbed, tmp_path):
  """Kills the mutants: a place of the scores that is right from the link alone, or from the folder alone; a store that
  is looked for without following links; an output that cannot be started over, since a folder of it is a link."""
  for folder in ("home", "disk/out"):
    (tmp_path / folder).mkdir(parents=True)
  (tmp_path / "home/scores").mkdir()
  (tmp_path / "home/scores/tiny").symlink_to(undisturbed / "scores/tiny")
  (tmp_path / "home/out").symlink_to(tmp_path / "disk/out")
  sample = ["sample", "--scores=scores", "--sampler=ask_llm", "--num_shards=2", "--output=out", ONE]
  assert run_in(tmp_path / "home", [*sample, "--rate=0.1"]) == 0
  for output in ("home/out", "disk/out"):
    assert run_in(tmp_path, ["verify", output, ONE]) == 0
  assert run_in(tmp_path, ["status", "home/scores"]) == 0
  (tmp_path / "elsewhere").mkdir()
  shutil.move(tmp_path / "disk/out/.winnow", tmp_path / "elsewhere/work")
  (tmp_path / "disk/out/.winnow").symlink_to(tmp_path / "elsewhere/work")
  assert run_in(tmp_path / "home", [*sample, "--rate=0.2", "--overwrite"]) == 0
  report = ["report", "--scores=home/scores", "--output=*/out", "--report=report"]
  assert run_in(tmp_path, report) == 2  # the output twice
  assert run_in(tmp_path, [*report, "--output=h*/out"]) == 0
