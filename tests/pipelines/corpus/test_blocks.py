"""Borders of blocks against a plain loop over rows, and the content of a block."""

import json
from collections.abc import Iterator

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.blocks import (
  BAD_SCHEMA,
  DOCUMENT_SCHEMA,
  BadRowError,
  Block,
  Chunk,
  SkippedBlock,
  cut_blocks,
  records_chunk,
)

PADDING = b"\0"

# A record is a text and other bytes around it; None stands for a bad text, which counts nothing.
_texts = st.one_of(
  st.none(), st.integers(1, 60).map(lambda size: "a" * size), st.text("aé語😀", min_size=1, max_size=15)
)
_records = st.lists(st.tuples(_texts, st.integers(0, 40)), max_size=60)


def _encode(text: str | None, padding: int) -> bytes:
  return PADDING * padding + (b"!" * 30 if text is None else text.encode())


def _parse(record: bytes) -> tuple[str, str, str]:
  text = record.strip(PADDING).decode()
  if text.startswith("!"):
    raise BadRowError("missing_text", text)
  return text, f"url of {text}", ""


def _chunks(records: list[bytes], sizes: list[int]) -> Iterator[Chunk]:
  """Returns the records in chunks of the given sizes, over and over."""
  start = turn = 0
  while start < len(records):
    size = sizes[turn % len(sizes)]
    yield records_chunk(records[start : start + size], _parse)
    start, turn = start + size, turn + 1


def _borders_by_loop(texts: list[str | None], block_rows: int, limit: int) -> list[tuple[int, int, int]]:
  """Returns (first row, rows, text bytes) of every block, straight from the definition."""
  blocks, first, size = [], 0, 0
  for row, text in enumerate(texts):
    size += len(text.encode()) if text is not None else 0
    if row + 1 - first == block_rows or size >= limit:
      blocks.append((first, row + 1 - first, size))
      first, size = row + 1, 0
  if first < len(texts):
    blocks.append((first, len(texts) - first, size))
  return blocks


@settings(max_examples=300)
@given(
  records=_records,
  sizes=st.lists(st.integers(1, 25), min_size=1, max_size=4),
  block_rows=st.integers(1, 20),
  limit=st.integers(1, 300),
  wanted=st.sets(st.integers(0, 60)),
)
def test_borders_are_those_of_a_plain_loop_whatever_is_skipped(records, sizes, block_rows, limit, wanted):
  """Kills: skipping only by the bytes of records (no `tighten`); a limit that is one byte higher; a bound below the
  text."""
  chunks = _chunks([_encode(*record) for record in records], sizes)
  blocks = list(cut_blocks(chunks, block_rows=block_rows, block_text_bytes=limit, want=lambda index: index in wanted))
  texts = [text for text, _ in records]
  expected = _borders_by_loop(texts, block_rows, limit)
  assert [(block.index, block.first_row, block.num_rows) for block in blocks] == [
    (index, first, rows) for index, (first, rows, _) in enumerate(expected)
  ]
  for block, (first, rows, size) in zip(blocks, expected, strict=True):
    if block.index not in wanted:
      assert isinstance(block, SkippedBlock)
      continue
    of_block = list(enumerate(texts))[first : first + rows]
    assert block.text_bytes == size
    assert block.documents.to_pylist() == [
      {"row": row, "text": text, "url": f"url of {text}", "timestamp": ""} for row, text in of_block if text is not None
    ]
    assert block.bad.column("row").to_pylist() == [row for row, text in of_block if text is None]


@settings(max_examples=200)
@given(st.text(), st.booleans())
def test_no_text_is_longer_than_the_json_that_holds_it(text, ascii_only):
  """Skipping by a bound depends on this."""
  assert len(json.dumps(text, ensure_ascii=ascii_only).encode()) >= len(text.encode()) + 2


def test_a_row_that_alone_reaches_the_limit_ends_its_block():
  blocks = list(cut_blocks(_chunks([b"aa", b"a" * 100, b"a"], [3]), block_rows=10, block_text_bytes=50))
  assert [(block.first_row, block.num_rows, block.text_bytes) for block in blocks] == [(0, 2, 102), (2, 1, 1)]


def test_no_rows_make_no_block():
  assert list(cut_blocks([])) == []
  assert list(cut_blocks([records_chunk([], _parse)])) == []


def test_a_skipped_block_that_stays_below_the_limit_is_never_parsed():
  """Kills: a reader that parses every block and drops the unwanted ones."""

  def refuse(record: bytes) -> tuple[str, str, str]:
    raise AssertionError("parsed")

  chunks = [records_chunk([b"a" * 10] * 8, refuse)] * 2
  assert [block.num_rows for block in cut_blocks(chunks, block_rows=6, want=lambda index: False)] == [6, 6, 4]


def test_blank_texts_are_bad_and_tables_are_whole_and_compact():
  def parse(record: bytes) -> tuple[str, str, str]:
    return record.decode(), "u", "t"

  (block,) = cut_blocks([records_chunk([b"a", b" \n\xc2\xa0", b""], parse), records_chunk([b"b" * 10], parse)])
  assert block.documents.schema == DOCUMENT_SCHEMA
  assert block.bad.schema == BAD_SCHEMA
  assert block.documents.column("row").to_pylist() == [0, 3]
  assert block.bad.to_pylist() == [
    {"row": 1, "reason": "empty_text", "text": " \n\xa0"},
    {"row": 2, "reason": "empty_text", "text": ""},
  ]
  assert all(column.num_chunks == 1 for column in block.documents.columns)


def test_a_block_where_every_row_is_bad_has_empty_tables():
  (block,) = cut_blocks([records_chunk([b"!", b"!"], _parse)])
  assert isinstance(block, Block)
  assert block.documents.schema == DOCUMENT_SCHEMA
  assert (block.documents.num_rows, block.bad.num_rows, block.text_bytes) == (0, 2, 0)
  assert isinstance(block.documents, pa.Table)


def test_dead_text_is_cut():
  def parse(record: bytes) -> tuple[str, str, str]:
    raise BadRowError("invalid_json", "語" * 5000)

  (block,) = cut_blocks([records_chunk([b"x"], parse)])
  assert block.bad.column("text").to_pylist() == ["語" * 1000]
