"""`read_documents`: the documents behind scores, from inputs of several formats, as a user joins them."""

import gzip
import json
import pathlib
import shutil

import corpora
import duckdb
import numpy as np
import once
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import Hub
from huggingface_hub import constants

import pipelines.api as winnow
from pipelines import main

ROWS, BLOCK_ROWS = 120, 7  # 18 blocks a shard
SHARDS = ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.jsonl")
BAD, BLANK = 31, 60  # rows of the shards of JSON lines
UNKNOWN = 5  # each fifth row has neither url nor timestamp


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """A folder with a corpus in three formats, whose fields have other names than ours, and its scores."""
  return once.made(tmp_path_factory, "datasets", write_place)


def write_place(folder: pathlib.Path) -> None:
  corpora.write_model(folder / "model")
  (folder / "in").mkdir()
  for name in SHARDS:
    records = records_of(name)
    if name.endswith(".parquet"):
      pq.write_table(pa.Table.from_pylist(records), folder / "in" / name, row_group_size=50)
      continue
    lines = [json.dumps(record).encode() for record in records]
    lines[BAD], lines[BLANK] = b'{"body": 7}', b""
    data = b"\n".join(lines) + b"\n"
    (folder / "in" / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  command = ["score", f"--input={folder}/in/*", f"--scores={folder}/scores", "--name=one", f"--model={folder}/model"]
  command += ["--text_field=body", "--url_field=link", "--timestamp_field=crawled", f"--block_rows={BLOCK_ROWS}"]
  assert (
    main.main([*command, "--max_bad_fraction=1", "--max_input_tokens=32", f"--prompt_file={folder}/prompt.txt"]) == 0
  )


def records_of(shard: str) -> list[dict]:
  texts = corpora.sentences(ROWS, SHARDS.index(shard))
  records = []
  for row, text in enumerate(texts):
    is_known = row % UNKNOWN != 0
    about = {"link": f"http://{shard}/{row}", "crawled": f"2019-{row}"} if is_known else {"link": None, "crawled": None}
    records.append({"body": text, "text": "another field", **about})
  return records


def document(shard: str, row: int) -> dict:
  """What the corpus says of a document, as `read_documents` gives it."""
  record = records_of(shard)[row]
  return {"url": record["link"], "text": record["body"], "timestamp": record["crawled"]}


def read(place: pathlib.Path, rows, **options) -> pa.Table:
  return winnow.read_documents(place / "scores/one", rows, **options)


@pytest.fixture
def copy(place, tmp_path) -> pathlib.Path:
  """A folder with the same store, whose input is a copy beside it that a test may spoil."""
  for name in ("in", "scores"):
    shutil.copytree(place / name, tmp_path / name)
  source = tmp_path / "scores/one/input.json"
  source.write_text(source.read_text().replace(str(place), str(tmp_path)))
  return tmp_path


def test_documents_come_in_the_order_of_the_rows(place):
  """Every document of four shards in a random order, and a third of them again.

  Kills: documents in the order of their files; a document that is named twice given once; a row that is counted among
  good documents only; fields by our names instead of the store's; an empty url that looks like one.
  """
  scored = winnow.read_scores(place / "scores/one").to_table()
  assert len(scored) == ROWS * len(SHARDS) - 6
  generator = np.random.default_rng(0)
  order_N = generator.permutation(np.concatenate([np.arange(len(scored)), generator.choice(len(scored), 150)]))
  rows = scored.take(pa.array(order_N))
  found = read(place, rows)
  assert found.schema.names == [*rows.schema.names, "url", "text", "timestamp"]
  assert found.select(rows.schema.names) == rows
  expected = [document(row["shard"], row["row"]) for row in rows.select(["shard", "row"]).to_pylist()]
  assert found.select(["url", "text", "timestamp"]).to_pylist() == expected
  assert 0 < found["url"].null_count < len(found)


@pytest.mark.parametrize(
  "as_rows",
  [
    lambda pairs: pairs,
    iter,
    lambda pairs: pd.DataFrame(pairs, columns=["shard", "row"]),
    lambda pairs: pl.DataFrame(pairs, schema=["shard", "row"], orient="row"),
    lambda pairs: pl.DataFrame(pairs, schema={"shard": pl.Categorical, "row": pl.UInt8}, orient="row"),
    lambda pairs: duckdb.sql(f"SELECT * FROM (VALUES {', '.join(map(str, pairs))}) AS rows (shard, row)"),
    lambda pairs: pa.record_batch({"row": [row for _, row in pairs], "shard": [shard for shard, _ in pairs]}),
  ],
  ids=["pairs", "iterator", "pandas", "polars", "categories", "duckdb", "batch"],
)
def test_rows_come_from_any_library(place, as_rows):
  """Kills: a library whose strings Arrow has another type for."""
  pairs = [("d.jsonl", 119), ("a.jsonl", 30), ("d.jsonl", 0), ("c.parquet", 33), ("a.jsonl", 30)]
  found = read(place, as_rows(pairs))
  assert found.select(["url", "text", "timestamp"]).to_pylist() == [document(*pair) for pair in pairs]


def test_the_index_of_a_frame_comes_back(place):
  """Kills: the values of a frame without its metadata, so that the results cannot be joined by index."""
  frame = pd.DataFrame({"shard": ["a.jsonl"] * 4, "row": [3, 1, 4, 2]}, index=list("pqrs")).sort_values("row")
  found = read(place, frame).to_pandas()
  assert found.index.tolist() == ["q", "s", "p", "r"]
  assert found["text"].tolist() == [document("a.jsonl", row)["text"] for row in (1, 2, 3, 4)]


def test_no_rows_are_no_documents(place):
  """Kills: a reading of the input, or an error of Arrow, where nothing was asked for."""
  for nothing in ([], pl.DataFrame(schema={"shard": pl.String, "row": pl.Int64})):
    found = read(place, nothing, input="/nowhere/*")
    assert (len(found), found.schema.names) == (0, ["shard", "row", "url", "text", "timestamp"])


def test_only_the_named_files_are_read_and_each_once(place, monkeypatch):
  """The input has moved to a hub, which counts the requests.

  Kills: a file that is read once for each row or block; checksums or texts of files that nobody asked for; a moved
  input that is refused because its new place makes checksums of another kind, or taken without a look at its texts.
  """
  pairs = [(shard, row) for shard in ("c.parquet", "b.jsonl.gz") for row in range(1, ROWS, 6) if row != BAD]
  with Hub() as hub:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    hub.files = {f"in/{path.name}": path.read_bytes() for path in (place / "in").iterdir()}
    moved = "hf://datasets/owner/name/in/*"

    def requests(some: list) -> list[str]:
      hub.asked.clear()
      found = read(place, some, input=moved)
      assert found["text"].to_pylist() == [document(*pair)["text"] for pair in some]
      return sorted(path for path in hub.asked if "/resolve/" in path)

    asked = requests(pairs)
    assert {path.rpartition("/")[2] for path in asked} == {"b.jsonl.gz", "c.parquet"}
    assert asked == requests([pairs[-1], pairs[0]])
    hub.files["in/a.jsonl"] = hub.files["in/a.jsonl"].replace(b"river", b"RIVER")
    with pytest.raises(winnow.WinnowError, match=r"a\.jsonl, block 2: its documents are not those that were scored"):
      read(place, [("a.jsonl", 15)], input=moved)


def test_an_input_that_moved_is_named(copy, monkeypatch):
  """Kills: an input that is sought only where it was, and a path that is taken from another folder."""
  (copy / "in").rename(copy / "moved")
  refuse(copy, [("a.jsonl", 3)], f"scores/one was {copy}/in/*, and no file is there now; say where it is: --input=")
  monkeypatch.chdir(copy)
  assert read(copy, [("a.jsonl", 3)], input="moved/*")["text"].to_pylist() == [document("a.jsonl", 3)["text"]]
  refuse(copy, [("a.jsonl", 3)], "--input=nowhere/* matches no file", input="nowhere/*")
  refuse(copy, [("a.jsonl", 3)], "a.jsonl was ", input="moved/b*")


def test_an_input_that_changed_is_refused_and_other_files_do_not_matter(copy):
  """Kills: texts of a file that is no longer what was scored; files that are looked at and were not asked for."""
  path = copy / "in/a.jsonl"
  path.write_bytes(path.read_bytes().replace(b"river", b"RIVER"))
  (copy / "in/d.jsonl").unlink()
  (copy / "in/new.jsonl").write_text("nothing of the store")
  refuse(copy, [("b.jsonl.gz", 3), ("a.jsonl", 3)], "the input is not what ")
  refuse(copy, [("d.jsonl", 3)], "the input is not what ")
  assert read(copy, [("b.jsonl.gz", 3), ("c.parquet", 3)])["text"].null_count == 0


@pytest.mark.parametrize(
  "rows, told",
  [
    ([("a.json", 1)], "has no shard called a.json; did you mean a.jsonl"),
    ([("a.jsonl", 5), ("a.jsonl", ROWS)], "a.jsonl has 120 rows, numbered from 0, and so no row 120"),
    ([("c.parquet", -1)], "c.parquet has 120 rows, numbered from 0, and so no row -1"),
    ([("b.jsonl.gz", 30), ("b.jsonl.gz", BAD)], "b.jsonl.gz#31 is a bad document (text_not_a_string), which has no"),
    ([("d.jsonl", BLANK)], "d.jsonl#60 is a blank line"),
    ([("a.jsonl", 1, 0.5)], "rows name no documents; give pairs (shard, row)"),
    ([("a.jsonl", "one")], "rows have a column row of the type string, not int64"),
    ([("a.jsonl", 1.5)], "rows have a column row of the type double, not int64"),
    ([("a.jsonl", None), ("a.jsonl", 1)], "rows have no row at 0; leave such rows out"),
    ([(7, 1)], "rows name no documents"),
    ("a.jsonl#1", "rows name no documents"),
    (7, "rows name no documents"),
    (pa.table({"shard": ["a.jsonl"], "place": [1]}), "rows have the columns shard, place; give pairs (shard, row)"),
    (pa.table({"shard": ["a.jsonl"], "row": [1], "text": [""]}), "rows have a column text already; leave it out"),
  ],
)
def test_rows_that_name_no_document_are_refused(place, rows, told):
  """Kills: a neighbour's text, a row counted from the end, a traceback of Arrow."""
  refuse(place, rows, told)


def test_a_dataset_is_no_choice_of_rows(place):
  refuse(place, winnow.read_scores(place / "scores/one"), "rows.to_table()")


def test_a_document_that_only_its_scorer_refused_has_a_text(place, tmp_path, monkeypatch):
  """Also a store of embeddings has documents. Kills: rows that are sought among the scores."""
  monkeypatch.chdir(tmp_path)
  embeddings_ND = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
  embeddings_ND[4] = 0
  np.save("d.npy", embeddings_ND)
  command = ["embed", f"--input={place}/in/d.jsonl", "--embeddings=*.npy", "--scores=scores", "--name=made"]
  assert main.main([*command, "--text_field=body", "--max_bad_fraction=1"]) == 0
  assert "embedding_is_zero" in (tmp_path / "scores/made/dead_letter/d.jsonl.jsonl").read_text()
  found = winnow.read_documents("scores/made", [("d.jsonl", 4)])
  assert found["text"].to_pylist() == [document("d.jsonl", 4)["text"]]


def test_an_incomplete_store_is_refused(copy):
  (copy / "scores/one/summary.json").unlink()
  refuse(copy, [("a.jsonl", 1)], "is incomplete; run its command again")
  with pytest.raises(winnow.WinnowError, match="holds no score store"):
    winnow.read_documents(copy / "scores", [("a.jsonl", 1)])


def refuse(place: pathlib.Path, rows, told: str, **options) -> None:
  with pytest.raises(winnow.WinnowError, match=r"^[^\n]+$") as raised:
    read(place, rows, **options)
  assert told in str(raised.value)
