"""Parquet: column types, invalid UTF-8, timestamps, files without a text column."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import bad, documents, places, read, shard_of

from curation.errors import WinnowError
from pipelines.corpus.blocks import Fields


def test_a_text_inside_a_struct(tmp_path):
  """Kills the mutants: a text in a null struct; a path that takes precedence over a column of that name."""
  inside = [
    {"text": "a", "more": {"url": "u"}},
    None,
    {"text": None, "more": None},
    {"text": "d", "more": {"url": None}},
  ]
  table = pa.table({"content": inside, "content.more.url": ["v", "w", "x", None], "at": [1, 2, 3, 4]})
  pq.write_table(table.drop_columns("content.more.url"), tmp_path / "a.parquet")
  blocks = read(shard_of(tmp_path / "a.parquet"), fields=Fields("content.text", "content.more.url", "at"), block_rows=3)
  assert [tuple(row.values()) for row in documents(blocks)] == [(0, "a", "u", "1"), (3, "d", "", "4")]
  assert bad(blocks) == [(1, "missing_text", ""), (2, "missing_text", "")]
  pq.write_table(table, tmp_path / "b.parquet")
  blocks = read(shard_of(tmp_path / "b.parquet"), fields=Fields("content.text", "content.more.url", "at.none"))
  assert [tuple(row.values()) for row in documents(blocks)] == [(0, "a", "v", ""), (3, "d", "", "")]
  with pytest.raises(
    WinnowError, match=r"one column 'text'; its columns are content\.text, content\.more\.url, content\.more\.url, at"
  ):
    read(shard_of(tmp_path / "b.parquet"))


def test_what_lies_beside_a_text_in_its_struct_is_not_read(tmp_path):
  """Kills the mutant that reads the whole struct: here the page of the other field has a wrong checksum."""
  path = tmp_path / "a.parquet"
  table = pa.table({"content": [{"other": f"secret {row}", "text": f"the river {row}"} for row in range(50)]})
  pq.write_table(table, path, compression="none", write_page_checksum=True, use_dictionary=False)
  data = path.read_bytes()
  path.write_bytes(data.replace(b"secret 17", b"secret 71"))
  assert len(documents(read(shard_of(path), fields=Fields("content.text")))) == 50
  with pytest.raises(WinnowError, match="cannot be read beyond row 0"):
    read(shard_of(path), fields=Fields("content.other"))


@pytest.mark.parametrize(
  "text_type",
  [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
  ],
  ids=str,
)
def test_parquet_texts_of_every_type(tmp_path, text_type):
  texts = ["a", None, "", " \n", "b" * 50, "é"] * 20
  table = pa.table({"id": range(120), "text": pa.array(texts).cast(text_type), "url": pa.array(texts).cast(text_type)})
  pq.write_table(table, tmp_path / "a.parquet", row_group_size=50)
  blocks = read(shard_of(tmp_path / "a.parquet"), block_rows=1000, block_text_bytes=200)
  assert documents(blocks) == [
    {"row": row, "text": text, "url": text, "timestamp": ""} for row, text in enumerate(texts) if text and text.strip()
  ]
  reasons = {None: "missing_text", "": "empty_text", " \n": "empty_text"}
  assert bad(blocks) == [(row, reasons[text], text or "") for row, text in enumerate(texts) if text in reasons]
  skipped = read(shard_of(tmp_path / "a.parquet"), block_rows=1000, block_text_bytes=200, want=lambda index: False)
  assert places(skipped) == places(blocks)
  assert len(blocks) > 4


@pytest.mark.parametrize("declared", [pa.binary(), pa.string()], ids=str)
def test_parquet_bytes_that_are_no_utf8(tmp_path, declared):
  """Parquet's string type promises UTF-8 but does not ensure it. Kills: a reader that trusts it."""
  values = pa.array([b"ok", b"caf\xe9", "\ufffd".encode(), None])
  table = pa.table({"text": values.view(declared), "url": values.view(declared)})
  pq.write_table(table, tmp_path / "a.parquet")
  blocks = read(shard_of(tmp_path / "a.parquet"))
  assert [(row["row"], row["text"], row["url"]) for row in documents(blocks)] == [
    (0, "ok", "ok"),
    (2, "\ufffd", "\ufffd"),
  ]
  assert bad(blocks) == [(1, "invalid_utf8", "caf\ufffd"), (3, "missing_text", "")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_parquet_timestamps_are_iso_8601_in_utc(tmp_path, unit, zone):
  times = [datetime.datetime(2019, 4, 25, 12, 57, 50), None, datetime.datetime(2019, 4, 25, 12, 57, 54, 120_000)]
  if unit == "s":
    times[2] = None
  stamps = pa.array(times, pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
  pq.write_table(pa.table({"text": ["a", "b", "c"], "timestamp": stamps, "url": [1, None, 3]}), tmp_path / "a.parquet")
  rows = documents(read(shard_of(tmp_path / "a.parquet")))
  assert [row["timestamp"] for row in rows[:2]] == ["2019-04-25T12:57:50Z", ""]
  if unit != "s":
    assert rows[2]["timestamp"].rstrip("0Z") == "2019-04-25T12:57:54.12"
  assert [row["url"] for row in rows] == ["1", "", "3"]


@pytest.mark.parametrize(
  ("table", "said"),
  [
    ({"content": ["a"], "id": [1]}, "content, id"),
    ({"text": [1]}, "int64"),
    ({"text": [["a"]]}, "list"),
  ],
)
def test_parquet_without_a_text_column(tmp_path, table, said):
  pq.write_table(pa.table(table), tmp_path / "a.parquet")
  with pytest.raises(WinnowError, match=rf"a\.parquet.*{said}.*--text_field"):
    read(shard_of(tmp_path / "a.parquet"))


def test_a_struct_in_place_of_a_text_is_refused_with_a_field_of_it(tmp_path):
  table = pa.table({"content": pa.array([{"text": "a", "lang": "en"}]), "url": ["b"]})
  pq.write_table(table, tmp_path / "a.parquet")
  with pytest.raises(WinnowError, match=r"with --text_field, such as content\.text"):
    read(shard_of(tmp_path / "a.parquet"), fields=Fields("content"))
