"""MinHash through the commands: what it finds in memory, however the work is cut, shared out and resumed.

Twelve shards in all formats, dozens of blocks, bad records in the middle; a third of the documents repeat others of all
shards, word for word or nearly, and a text of no words at all is in every shard.
"""

import json
import pathlib
import shutil

import corpora
import dividing
import pytest
from running import content, logs, run_in, shards_of

from curation.coverage import minhash
from pipelines.scorers.minhash import joining
from pipelines.scorers.minhash.preparation import JoinPreparation
from pipelines.scoring import scoring

BIG_ROWS, SMALL_ROWS = 2_000, 250
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("minhash")


@pytest.fixture(scope="module")
def corpus(place) -> corpora.Corpus:
  return corpora.write_corpus(place / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS, make=corpora.repeating_texts)


def score_command(corpus: corpora.Corpus, *more: str) -> list[str]:
  return ["score", "--scorer=minhash", f"--input={corpus.pattern}", "--scores=scores", "--block_rows=50", *BAD, *more]


BAD = ["--max_bad_fraction=0.1"]
SAMPLE = ["sample", "--scores=scores", "--sampler=minhash", "--threshold=1", "--output=out", "--num_shards=3"]


@pytest.fixture(scope="module")
def undisturbed(place, corpus) -> pathlib.Path:
  """Signatures, scores and a sample, in one process."""
  folder = place / "undisturbed"
  for command in (score_command(corpus), SAMPLE):
    assert run_in(folder, [*command, ONE]) == 0
  return folder


@pytest.fixture
def signed(tmp_path, undisturbed) -> pathlib.Path:
  """The same folder before anything was joined."""
  shutil.copytree(undisturbed / "scores/signatures_128", tmp_path / "scores/signatures_128")
  return tmp_path


def store_of(folder: pathlib.Path) -> pathlib.Path:
  return folder / "scores/minhash"


def expected(corpus: corpora.Corpus, config: minhash.MinHashConfig | None = None) -> dict[tuple[str, int], float]:
  """Scores of all documents, found in memory."""
  texts = dict(sorted(corpus.texts.items()))
  return dict(zip(texts, 1.0 - minhash.near_copies(list(texts.values()), config), strict=True))


def test_scores_are_those_found_in_memory_and_the_books_balance(corpus, undisturbed):
  """Kills the mutants: a part or a group that is left out; numbers that are rows of a shard, so that documents of two
  shards are taken for one; bad rows that shift those behind them; edges of one part alone."""
  table = shards_of(store_of(undisturbed))
  documents = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  found = dict(zip(documents, table["score"].to_pylist(), strict=True))
  assert found == expected(corpus)
  summary = json.loads((store_of(undisturbed) / "summary.json").read_text())
  assert (summary["read"], summary["bad"]) == (summary["scored"] + corpus.bad, corpus.bad)
  repeats = sum(score == 0 for score in found.values())
  told = joining.read_near_copies(str(store_of(undisturbed) / "joined/near_copies.json"))
  assert told["near_copies"] == repeats > len(found) / 5
  assert corpora.POOL <= told["groups"] < corpora.POOL + 20 and told["largest"] > 20
  assert [path.name for path in (store_of(undisturbed) / "joined").iterdir()] == ["near_copies.json"]


def test_scores_are_whole_without_the_figures(corpus, undisturbed, tmp_path):
  """Kills: a complete store whose command fails for ever, since a file that only tells is gone."""
  shutil.copytree(undisturbed / "scores", tmp_path / "scores")
  (store_of(tmp_path) / "joined/near_copies.json").unlink()
  assert run_in(tmp_path, [*score_command(corpus), ONE]) == 0


def test_the_sample_is_of_first_documents(corpus, undisturbed):
  """Kills: the last of a group kept; what repeats nothing left out."""
  import tensorflow_datasets as tfds

  drawn = tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train")
  texts = sorted(example["text"].decode() for example in tfds.as_numpy(drawn))
  assert texts == sorted(corpus.texts[document] for document, score in expected(corpus).items() if score)
  assert texts.count("...") == 1


@pytest.mark.local_runner
def test_one_command_in_two_processes_gives_the_same(place, corpus, undisturbed):
  """Kills: anything that depends on which worker did it."""
  folder = place / "two"
  assert run_in(folder, [*score_command(corpus), TWO]) == 0
  assert content(folder / "scores") == content(undisturbed / "scores")
  (log,) = logs(store_of(folder))
  signing, scoring_them = "computing MinHash signatures", "scoring (minhash)"
  for stage in (signing, "looking for near-copies", scoring_them):
    assert sum(log["documents_by_process"][stage].values()) >= len(corpus.texts), stage
  assert {len(log["documents_by_process"][stage]) for stage in (signing, scoring_them)} == {2}


@pytest.fixture
def small_units():
  """Dozens of groups and parts, more runs than are merged at once, and batches of a few keys."""
  with dividing.divided(JoinPreparation, group=130, part_keys=2_100, merged_at_once=7, keys_at_once=10):
    yield


def test_any_division_of_the_work_gives_the_same_bytes(corpus, signed, undisturbed, small_units, monkeypatch):
  """Kills the mutants: a bucket that is cut where batches end; the last key forgotten; documents of another group."""
  cut, key_group = [], joining.key_group

  def counted(config, group):
    work = joining.Work.for_config(config)
    cut.append((len(work.groups()), work.num_parts))
    key_group(config, group)

  monkeypatch.setattr(joining, "key_group", counted)
  assert run_in(signed, [*score_command(corpus), ONE, "--runner=DirectRunner", "--direct_running_mode=in_memory"]) == 0
  assert content(store_of(signed)) == content(store_of(undisturbed))
  assert all(min(both) > 32 for both in cut)


def test_another_similarity_reads_the_same_signatures(corpus, signed, undisturbed, monkeypatch):
  """Kills: a flag that is not heeded; signing again."""
  monkeypatch.setattr(minhash, "signatures", None)
  more = ["--name=other", "--similarity=0.5", "--minhash_bands=32", "--minhash_rows=4"]
  assert run_in(signed, [*score_command(corpus, *more), ONE]) == 0
  table = shards_of(signed / "scores/other")
  documents = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  found = dict(zip(documents, table["score"].to_pylist(), strict=True))
  monkeypatch.undo()
  assert found == expected(corpus, minhash.MinHashConfig(0.5, 32, 4)) != expected(corpus)


def test_signatures_of_another_version_are_refused(corpus, signed, undisturbed, capsys, monkeypatch):
  """Kills the mutant: near-copies found among signatures of two kinds."""
  monkeypatch.setattr(minhash, "SIGNATURE_VERSION", 1)
  before = content(signed)
  for folder, more in ((signed, []), (undisturbed, ["--name=again"])):
    assert run_in(folder, [*score_command(corpus, *more), ONE]) == 2
    assert (
      "signatures_128 belongs to another request: signature_version is 2 there and 1 now" in capsys.readouterr().err
    )
  assert content(signed) == before and not (undisturbed / "scores/again").exists()


@pytest.mark.parametrize(
  "how", ["damaged", *(pytest.param(how, marks=pytest.mark.long) for how in ("whole", "damaged last"))]
)
def test_what_a_killed_run_left_is_used_unless_it_is_damaged(
  corpus, signed, undisturbed, small_units, capsys, monkeypatch, how
):
  """Kills the mutants: runs and edges that are taken because they are there; what is there and made again all the
  same."""
  with monkeypatch.context() as patch:
    patch.setattr(scoring, "score_blocks", None)
    assert run_in(signed, [*score_command(corpus), ONE]) != 0
  left = sorted(path for path in (store_of(signed) / "joined").rglob("*") if path.is_file())
  assert {path.parent.name for path in left} == {"joined", "keyed", "met", "signed", "edges", "merged", "repeats"}
  if how == "whole":
    for name in ("key_group", "join_part", "settle"):
      monkeypatch.setattr(joining, name, None)
  for number, path in enumerate(left if how != "whole" else ()):
    if how != "damaged last" or path.parent.name == "repeats":
      data = bytearray(path.read_bytes())
      data[-9] ^= 1
      path.write_bytes(data[:-8] if number % 2 else data)
  capsys.readouterr()
  assert run_in(signed, [*score_command(corpus), ONE]) == 0
  assert ("damaged files were found" in capsys.readouterr().err) == (how != "whole")
  assert content(store_of(signed)) == content(store_of(undisturbed))


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--similarity=0"], "the similarity of near-copies must be in (0, 1], not 0.0"),
    (["--minhash_bands=0"], "bands of MinHash must be a whole number of at least 1, not 0"),
    (["--minhash_bands=1000"], "1000 bands of 8 rows are more than 4,096 hashes"),
    (["--similarity=0.7"], "minhash belongs to another request: similarity is 0.8 there and 0.7 now"),
    (["--name=signatures_128"], "--name=signatures_128 is the name of another store too"),
    (["--scorer=random_words"], "invalid choice"),
    (["--kernel=l1"], "--kernel is for --scorer=density, and this is --scorer=minhash"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(corpus, undisturbed, capsys, more, told):
  before = content(undisturbed)
  assert run_in(undisturbed, [*score_command(corpus), *more, ONE]) == 2
  assert told in capsys.readouterr().err
  assert content(undisturbed) == before


@pytest.mark.long
def test_curate_gives_what_score_and_sample_give(place, corpus, undisturbed, capsys):
  folder = place / "curated"
  drawing = ["--threshold=1", "--output=out", "--num_shards=3"]
  command = ["curate", "--scorer=minhash", f"--input={corpus.pattern}", "--scores=scores", "--block_rows=50", *BAD]
  assert run_in(folder, [*command, *drawing, ONE]) == 0
  assert "documents repeat an earlier one, in" in capsys.readouterr().out
  shards = sorted(path.name for path in (folder / "out").glob("*.tfrecord*"))
  assert len(shards) == 3
  for name in shards:
    assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
