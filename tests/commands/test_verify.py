"""`winnow verify`: an output that is as it should be passes, and the first lie in any other is named."""

import json
import os
import pathlib
import re
import shutil
import time
import types

import corpora
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import content, run_in

from pipelines.files import fingerprints, storage
from pipelines.output import manifests, tfrecords
from pipelines.output.formats.format import SCHEMA
from pipelines.output.formats.registry import FORMATS

SCORE = ["--max_input_tokens=32", "--scores=scores", "--name=tiny", "--block_rows=50"]
SAMPLE = ["sample", "--scores=scores", "--rate=0.3", "--num_shards=3", "--direct_num_workers=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """A store of twelve shards in all formats, and samples of it by all sorts of requests."""
  folder = tmp_path_factory.mktemp("verify")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=1_500, small_rows=200)
  reading = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt"]
  assert run_in(folder, ["score", *reading, *SCORE, "--max_bad_fraction=0.1", "--direct_num_workers=1"]) == 0
  for output_format in FORMATS:
    arguments = ["--sampler=ask_llm", f"--output={output_format}", f"--output_format={output_format}"]
    assert run_in(folder, [*SAMPLE, *arguments]) == 0
  for name, flags in {
    "tokens": ["--sampler=ask_llm", "--num_tokens=9000"],
    "bottom": ["--sampler=ask_llm", "--method=bottom_k", "--num_examples=100"],
    "above": ["--sampler=ask_llm", "--threshold=-3.9"],
    "random": ["--sampler=random", "--rate=0.1", "--rejected=rest"],
  }.items():
    command = ["sample", "--scores=scores", *flags, f"--output={name}", "--direct_num_workers=1"]
    assert run_in(folder, command) == 0
  counting = ["sample", "--sampler=random", f"--input={folder}/corpus/*", "--rate=0.1", "--output=counted"]
  assert run_in(folder, [*counting, "--max_bad_fraction=0.1", "--direct_num_workers=1"]) == 0
  return folder


@pytest.mark.parametrize("name", [*FORMATS, "tokens", "bottom", "above", "random", "rest", "counted"])
def test_what_is_so_passes(place, name, capsys):
  before = content(place / name)
  assert run_in(place, ["verify", name, "--direct_num_workers=1"]) == 0
  said = capsys.readouterr().out
  selected = json.loads((place / name / "manifest.json").read_text())["counts"]["selected"]
  assert f"{selected:,} documents in " in said
  assert "their texts are those of the input" in said
  assert content(place / name) == before  # it writes nothing


def test_two_processes_verify_too(place):
  assert run_in(place, ["verify", "tfrecord", "--direct_num_workers=2"]) == 0


@pytest.fixture
def copy(place, tmp_path) -> pathlib.Path:
  """Store and output in another place, to be spoilt."""
  for name in ("tfrecord", "scores"):
    shutil.copytree(place / name, tmp_path / name)
  return tmp_path


def verify(folder: pathlib.Path, *flags: str) -> int:
  return run_in(folder, ["verify", "tfrecord", "--direct_num_workers=1", *flags])


def test_an_output_that_moved_with_its_scores_passes(copy):
  assert verify(copy) == 0


def test_scores_that_moved_are_named_by_a_flag(copy, capsys):
  (copy / "scores").rename(copy / "moved")
  assert verify(copy) == 2
  assert "name its folder: --scores=" in capsys.readouterr().err
  assert verify(copy, "--scores=moved") == 0


def test_without_the_input_all_but_texts_is_compared(place, copy, capsys):
  (copy / "scores/tiny/input.json").write_text(json.dumps({"input": "/nowhere/*", "tfds_data_dir": None}))
  assert verify(copy) == 0
  told = capsys.readouterr().out
  assert "their texts were not compared: the input of " in told
  assert "scores/tiny was /nowhere/*, and no file is there now; say where it is: --input=" in told
  assert verify(copy, f"--input={place}/corpus/*") == 0
  assert "their texts are those of the input" in capsys.readouterr().out


def rewrite(folder: pathlib.Path, change, *, shard: int = 0, also=lambda manifest: None) -> None:
  """Rewrites one output shard, and the manifest so that it agrees: whoever lies does it well."""
  path = folder / f"tfrecord/tfrecord-train.tfrecord-{shard:05d}-of-00003"
  table = change(pa.concat_tables(FORMATS["tfrecord"].read(str(path))))
  path.write_bytes(b"".join(tfrecords.encode_examples(table).to_pylist()))
  manifest = json.loads((folder / "tfrecord/manifest.json").read_text())
  also(manifest)
  about = {"bytes": path.stat().st_size, "checksum": storage.checksum(str(path)), "documents": len(table)}
  manifest["shards"][shard] |= about
  (folder / "tfrecord/manifest.json").write_bytes(fingerprints.to_json(manifest))
  request = types.SimpleNamespace(sampler="ask_llm")
  config = types.SimpleNamespace(name="tfrecord", request=request, rejected=False)
  for name, metadata in manifests.dataset_metadata(config, manifest).items():
    (folder / "tfrecord" / name).write_bytes(metadata)


def changed(table: pa.Table, column: str, value) -> pa.Table:
  place = table.schema.get_field_index(column)
  values = pa.array([value, *table[column].to_pylist()[1:]], table.schema.field(column).type)
  return table.set_column(place, column, values)


def twice(table: pa.Table) -> pa.Table:
  return pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)])


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda table: changed(table, "score", 0.5), "is not as it was: its score"),
    (lambda table: changed(table, "text", "nothing of the kind"), "is not as it was: its score, text"),
    (lambda table: changed(table, "url", "http://elsewhere"), "is not as it was: its score, text, url"),
    (lambda table: changed(table, "source", "nonsense"), "'nonsense' is not the source of a document"),
    (lambda table: table.take([1, 0, *range(2, len(table))]), "is out of order"),
    (twice, "is there twice"),
  ],
)
def test_a_lie_in_a_document_is_named(copy, capsys, change, told):
  """The manifest agrees with the lie. Kills the mutants: counts without contents; a set in place of a multiset."""
  rewrite(copy, change)
  assert verify(copy) == 1
  assert told in capsys.readouterr().err


def test_a_document_in_the_wrong_shard_is_named(copy, capsys):
  path = copy / "tfrecord/tfrecord-train.tfrecord-00001-of-00003"
  other = pa.concat_tables(FORMATS["tfrecord"].read(str(path)))
  rewrite(copy, lambda table: pa.concat_tables([other.slice(0, 1), table.slice(1)]))
  assert verify(copy) == 1
  assert f"{other['source'][0]} belongs in another shard" in capsys.readouterr().err


def test_a_document_that_is_missing_is_named(copy, capsys):
  """Counts in the manifest agree with one document less."""
  path = copy / "tfrecord/tfrecord-train.tfrecord-00000-of-00003"
  lost = pa.concat_tables(FORMATS["tfrecord"].read(str(path)))["source"][0].as_py()

  def one_less(manifest: dict) -> None:
    manifest["counts"]["selected"] -= 1
    (entry,) = [entry for entry in manifest["inputs"] if entry["name"] == lost.partition("#")[0]]
    entry["selected"] -= 1

  rewrite(copy, lambda table: table.slice(1), also=one_less)
  assert verify(copy) == 1
  # Whichever is found first: the shard's count, the threshold, or the document.
  assert re.search(f"selected is|selects another number|{lost} is selected", capsys.readouterr().err)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda m: m["counts"].update(read=m["counts"]["read"] + 1), "counts.read is"),
    (lambda m: m["inputs"][2].update(selected=m["inputs"][2]["selected"] + 1), "the inputs' selected do not add up"),
    (lambda m: m["tokens"].update(selected=m["tokens"]["selected"] - 1), "the inputs' tokens do not add up"),
    (lambda m: m["threshold"].update(rank="0" * 32), "threshold.score is"),
    (lambda m: m["threshold"].update(rank=m["threshold"]["rank"][:16] + "f" * 16), "selected is"),
    (lambda m: m["shards"][1].update(checksum="crc32c:00000000"), "checksum is crc32c:"),
    (lambda m: m["shards"].pop(), "do not add up"),
    (lambda m: m["inputs"].reverse(), "the inputs differ"),
    (lambda m: m["threshold"].update(score=m["threshold"]["score"] + 1e-6), "threshold.score is "),
    (lambda m: m["tokens"].update(scored=1), "tokens.scored is 1, but "),
    (lambda m: m["counts"]["bad_reasons"].update(no_json=1), "counts.bad_reasons.no_json is 1"),
    (lambda m: m["inputs"][3].update(checksum="crc32c:00000000"), "inputs.c.json.gz.checksum is"),
    (lambda m: m["inputs"][3].update(bytes=7), "inputs.c.json.gz.bytes is 7"),
    (lambda m: m["scores"]["engine"].update(dtype="float64"), 'scores.engine.dtype is "float64"'),
    (lambda m: m["scores"]["request"].update(block_rows=1), "scores.request.block_rows is 1"),
    (lambda m: m.update(fingerprint="0" * 32), "fingerprint is"),
    (lambda m: m.update(split="test"), 'split is "test"'),
    (lambda m: m.update(author="somebody"), 'author is "somebody", but absent'),
  ],
)
def test_a_lie_in_the_manifest_is_named(copy, capsys, change, told):
  path = copy / "tfrecord/manifest.json"
  manifest = json.loads(path.read_text())
  change(manifest)
  path.write_bytes(fingerprints.to_json(manifest))
  assert verify(copy) == 1
  assert told in capsys.readouterr().err


def test_files_that_should_not_be_there_are_named(copy, capsys):
  stale = copy / "tfrecord/tfrecord-train.tfrecord-00004-of-00005"
  stale.write_bytes(b"")
  assert verify(copy) == 1
  assert f"{stale.name} is not among the shards" in capsys.readouterr().err
  stale.unlink()
  for name in ("README.md", "stats.txt"):  # which are nobody's shards
    (copy / "tfrecord" / name).write_bytes(b"")
  assert verify(copy) == 0
  (copy / "tfrecord/dataset_info.json").write_text("{}")
  assert verify(copy) == 1
  assert "dataset_info.json is missing, or differs from what manifest.json says" in capsys.readouterr().err


def test_what_a_killed_verification_left_is_removed_after_a_day(copy):
  """Another one may be at work. Kills the mutant that removes that one's files."""
  old, new = (copy / f"tfrecord/.winnow/verify-{name}/runs/file" for name in ("old", "new"))
  for path in (old, new):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
  os.utime(old, (0, time.time() - 25 * 3600))
  assert verify(copy) == 0
  assert new.exists() and not old.parents[1].exists()


def test_a_local_folder_is_refused_where_workers_do_not_see_it(copy, capsys):
  flags = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]
  assert run_in(copy, ["verify", "tfrecord", *flags]) == 2
  assert "FOLDER=tfrecord is on this machine" in capsys.readouterr().err


def test_a_folder_that_is_no_output_is_refused(tmp_path, capsys):
  assert run_in(tmp_path, ["verify", "out"]) == 2
  assert "out does not exist; name the folder that winnow sample wrote to" in capsys.readouterr().err
  assert run_in(tmp_path, ["verify"]) == 2
  assert "FOLDER" in capsys.readouterr().err


def test_other_formats_are_what_everybody_reads(place):
  """Kills the mutants: a Parquet file of another order, lines that are no JSON."""
  paths = sorted((place / "tfrecord").glob("*tfrecord-*"))
  rows = [row for path in paths for table in FORMATS["tfrecord"].read(str(path)) for row in table.to_pylist()]
  lines = [line for path in sorted((place / "jsonl").glob("*.jsonl")) for line in path.read_text().splitlines()]
  assert [json.loads(line) for line in lines] == rows
  tables = [pq.read_table(path) for path in sorted((place / "parquet").glob("*.parquet"))]
  assert pa.concat_tables(tables).select(SCHEMA.names).to_pylist() == rows
  assert [path.name for path in sorted((place / "jsonl").iterdir()) if path.is_file()] == [
    *(f"jsonl-train-{index:05d}-of-00003.jsonl" for index in range(3)),
    "manifest.json",
  ]


def test_rejected_documents_are_the_others(place, capsys):
  """Kills the mutants: documents in both, or in neither."""

  def sources(name: str) -> set[str]:
    tables = [t for path in (place / name).glob("*tfrecord-*") for t in FORMATS["tfrecord"].read(str(path))]
    found = [source for table in tables for source in table["source"].to_pylist()]
    assert len(found) == len(set(found))
    return set(found)

  chosen, others = sources("random"), sources("rest")
  tables = [pq.read_table(path).to_pydict() for path in (place / "scores/tiny/shards").iterdir()]
  everything = {f"{shard}#{row}" for t in tables for shard, row in zip(t["shard"], t["row"], strict=True)}
  assert not chosen & others and chosen | others == everything
  manifest = json.loads((place / "rest/manifest.json").read_text())
  assert manifest["rejected"] and manifest["counts"]["selected"] == len(others)
  source = min(others)
  assert run_in(place, ["explain", source, "--scores=scores", "--output=rest"]) == 0
  said = capsys.readouterr().out
  assert "rest: not selected" in said and "in rest-train.tfrecord-0000" in said
  assert run_in(place, ["explain", source, "--scores=scores", "--output=random"]) == 0
  assert "random: not selected" in capsys.readouterr().out


def test_a_folder_for_both_is_refused(place, capsys):
  flags = ["--sampler=random", "--rate=0.1", "--output=same", "--rejected=./same"]
  assert run_in(place, ["sample", "--scores=scores", *flags]) == 2
  assert "--rejected=./same is --output" in capsys.readouterr().err
