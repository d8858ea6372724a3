"""Blocks: runs of consecutive rows of one shard, held as Arrow tables, and the rule that sets their borders.

Legend for array names: N = rows of one chunk.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import blanks
from pipelines.corpus import shard_names

BLOCK_ROWS = 4096
BLOCK_TEXT_BYTES = 32 << 20
# No web document is this long: a longer record is a file of another format, and reading on would fill the memory.
MAX_RECORD_BYTES = 256 << 20
DEAD_TEXT_CHARACTERS = 1000
LEFT_OUT = "left_out"  # the reason of rows that a stage before has not selected
BLANK = "blank"  # and of lines with nothing on them
NOT_READ = (LEFT_OUT, BLANK)  # reasons of rows that are no documents, and so neither read nor bad

DOCUMENT_SCHEMA = pa.schema(
  [("row", pa.int64()), ("text", pa.string()), ("url", pa.string()), ("timestamp", pa.string())]
)
BAD_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("text", pa.string())])


@dataclasses.dataclass(frozen=True)
class Shard:
  """What a worker needs to read one input file; `name` is the identity of its documents (see `shard_names`)."""

  name: str
  path: str
  format: str  # 'jsonl', 'parquet', 'tfrecord' or 'array_record'
  compression: str  # '', 'gzip' or 'zstd'
  size: int  # bytes
  checksum: str = ""  # of the file; '' until `inputs.identify` has read it
  max_window: int = 1 << 31  # bytes of memory that its zstd stream may need

  @property
  def file_name(self) -> str:
    """What files are called that belong to the shard, or how their names begin."""
    return shard_names.file_name(self.name)

  def identity(self) -> dict[str, Any]:
    """What the shard is, wherever it lies."""
    return {"name": self.name, "bytes": self.size, "checksum": self.checksum}


@dataclasses.dataclass(frozen=True)
class Fields:
  """The names under which an input keeps a document's three fields."""

  text: str = "text"
  url: str = "url"
  timestamp: str = "timestamp"


@dataclasses.dataclass(frozen=True)
class Block:
  """One block: its place in the shard and, unless it was skipped, its rows.

  `documents` holds the good rows as `DOCUMENT_SCHEMA`, `bad` the others as `BAD_SCHEMA`, both in row order; rows count
  every record of the shard from 0. Among the others are rows that are not read at all, whose reasons are `NOT_READ`.
  `text_bytes` are the UTF-8 bytes of the good texts, `checksum` tells what all rows say, and `nonstandard` counts the
  good rows that are `Nonstandard`. A skipped block has its place and `num_rows` alone: None, None, 0, 0.
  """

  index: int
  first_row: int
  num_rows: int
  documents: pa.Table | None
  bad: pa.Table | None
  text_bytes: int
  checksum: int
  nonstandard: int = 0

  @property
  def not_read(self) -> int:
    """How many of its rows are no documents (`NOT_READ`); 0 where it was skipped."""
    return 0 if self.bad is None else pc.sum(pc.is_in(self.bad["reason"], pa.array(NOT_READ))).as_py() or 0


class BrokenShardError(Exception):
  """The file cannot be read beyond this place; the message says why, and `readers` adds file, row and `advice`."""

  def __init__(self, reason: str, *, advice: str = "replace the file"):
    super().__init__(reason)
    self.advice = advice


class BadRowError(Exception):
  """One record that holds no document; its neighbours are unharmed."""

  def __init__(self, reason: str, text: str):
    super().__init__(reason)
    self.reason = reason
    self.text = text[:DEAD_TEXT_CHARACTERS]


class Nonstandard(NamedTuple):
  """The document of a record that breaks the rules of its format in a way that can be read all the same."""

  text: str
  url: str
  timestamp: str


@dataclasses.dataclass(frozen=True)
class Parsed:
  """Documents and bad rows of a run of records, the UTF-8 bytes of the good texts, and how many are nonstandard."""

  documents: pa.Table
  bad: pa.Table
  text_bytes: int
  nonstandard: int = 0


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Consecutive records of a shard as they lie in the file, not parsed yet.

  `bounds_N` (int64) is at least the text bytes of each record, known without parsing. `parse(start, stop, first_row)`
  parses a run of them whose first is row `first_row` of the shard.
  """

  bounds_N: np.ndarray
  parse: Callable[[int, int, int], Parsed]


def every(index: int) -> bool:
  return True


def as_string(value: Any) -> str:
  """A url or timestamp as a string: '' where there is none, numbers and the rest as Python writes them."""
  if type(value) is str:
    return value
  is_missing = value is None or (type(value) is float and math.isnan(value))  # as tables say that there is none
  return "" if is_missing else str(value)


def parsed_rows(documents: list[list[Any]], bad: list[list[Any]], *, nonstandard: int = 0) -> Parsed:
  """A `Parsed` from columns: [row, text, url, timestamp] and [row, reason, text]."""
  table = _table(documents, DOCUMENT_SCHEMA)
  return Parsed(table, _table(bad, BAD_SCHEMA), text_bytes(table), nonstandard)


def text_bytes(documents: pa.Table) -> int:
  """UTF-8 bytes of the texts, from Arrow's offsets alone."""
  return sum(_content(chunk).size for chunk in documents.column("text").chunks)


def checksum(documents: pa.Table, bad: pa.Table) -> int:
  """CRC32C of good and bad rows: their numbers, and texts, urls, timestamps and reasons, each with its length."""
  found = 0
  for table, names in ((documents, ("text", "url", "timestamp")), (bad, ("reason", "text"))):
    for column in table.column("row").chunks:
      found = google_crc32c.extend(found, column.to_numpy())
    for name in names:
      for column in table.column(name).chunks:
        found = google_crc32c.extend(found, pc.binary_length(column).to_numpy(zero_copy_only=False))
        found = google_crc32c.extend(found, _content(column))
  return found


def records_chunk(records: list[bytes], parse_record: Callable[[bytes], tuple[str, str, str]]) -> Chunk:
  """A chunk of records that are parsed one by one to (text, url, timestamp) or `Nonstandard`, or raise `BadRowError`.

  No text is longer than the record that holds it: a JSON escape takes at least as many bytes as what it stands for
  (6 for at most 3, a surrogate pair 12 for 4), and an Example holds the text's bytes as they are. One byte more, as
  for a line's end, keeps a run of empty records from costing nothing.
  """

  def parse(start: int, stop: int, first_row: int) -> Parsed:
    rows: list[int] = []
    texts: list[str] = []
    urls: list[str] = []
    timestamps: list[str] = []
    bad: list[list[Any]] = [[], [], []]
    nonstandard = 0
    # A loop over documents, since a bad record must fall alone: see readers_jsonl for what it costs.
    for row, record in enumerate(records[start:stop], first_row):
      try:
        document = parse_record(record)
        text, url, timestamp = document
        if blanks.is_blank(text):
          raise BadRowError("empty_text", text)
      except BadRowError as error:
        for column, value in zip(bad, (row, error.reason, error.text), strict=True):
          column.append(value)
        continue
      if type(document) is Nonstandard:
        nonstandard += 1
      rows.append(row)
      texts.append(text)
      urls.append(url)
      timestamps.append(timestamp)
    return parsed_rows([rows, texts, urls, timestamps], bad, nonstandard=nonstandard)

  bounds_N = np.fromiter(map(len, records), np.int64, len(records))
  return Chunk(bounds_N + 1, parse)


def cut_blocks(
  chunks: Iterable[Chunk],
  *,
  block_rows: int = BLOCK_ROWS,
  block_text_bytes: int = BLOCK_TEXT_BYTES,
  want: Callable[[int], bool] = every,
) -> Iterator[Block]:
  """Cuts a shard's records into blocks; those that `want(index)` refuses are counted, not parsed, and still yielded.

  A block ends at `block_rows` rows or with the row whose text brings it to `block_text_bytes`. Both are decided on an
  upper bound of the text seen so far: parsed runs count exactly, others by their bounds. Where the bound reaches the
  limit, the rows pending are parsed and the exact sum decides; before its last row the bound was below the limit, so
  only that row can be the border. A wanted block differs in nothing but when its rows are parsed, hence the borders
  never depend on `want`. At most one block's records are held.
  """
  index = row = 0
  block: _OpenBlock | None = None
  for chunk in chunks:
    ends_N = np.cumsum(chunk.bounds_N)
    start = 0
    while start < len(ends_N):
      if block is None:
        block = _OpenBlock(index, row, want(index))
      before = int(ends_N[start - 1]) if start else 0
      reaches = int(np.searchsorted(ends_N, before + block_text_bytes - block.bound)) + 1
      stop = min(len(ends_N), reaches, start + block_rows - block.num_rows)
      block.add(chunk, start, stop, bound=int(ends_N[stop - 1]) - before)
      if block.bound >= block_text_bytes:
        block.tighten()
      row += stop - start
      start = stop
      if block.num_rows == block_rows or block.bound >= block_text_bytes:
        yield block.close()
        index += 1
        block = None
  if block is not None:
    yield block.close()


class _OpenBlock:
  """The block being filled: what is parsed, what is pending, and the bound of their text."""

  def __init__(self, index: int, first_row: int, wanted: bool):
    self.index = index
    self.first_row = first_row
    self.wanted = wanted
    self.num_rows = 0
    self.bound = 0
    self._exact = 0
    self._parsed: list[Parsed] = []
    self._pending: list[tuple[Chunk, int, int, int]] = []

  def add(self, chunk: Chunk, start: int, stop: int, *, bound: int) -> None:
    self._pending.append((chunk, start, stop, self.first_row + self.num_rows))
    self.num_rows += stop - start
    self.bound += bound
    if self.wanted:
      self.tighten()

  def tighten(self) -> None:
    """Parses what is pending, after which the bound is exact; a block that nobody wants keeps only the sum."""
    for chunk, start, stop, first_row in self._pending:
      parsed = chunk.parse(start, stop, first_row)
      self._exact += parsed.text_bytes
      if self.wanted:
        self._parsed.append(parsed)
    self._pending.clear()
    self.bound = self._exact

  def close(self) -> Block:
    if not self.wanted:
      return Block(self.index, self.first_row, self.num_rows, None, None, 0, 0)
    documents = pa.concat_tables([parsed.documents for parsed in self._parsed]).combine_chunks()
    bad = pa.concat_tables([parsed.bad for parsed in self._parsed]).combine_chunks()
    return Block(
      self.index,
      self.first_row,
      self.num_rows,
      documents,
      bad,
      self._exact,
      checksum(documents, bad),
      sum(parsed.nonstandard for parsed in self._parsed),
    )


def _table(columns: list[Any], schema: pa.Schema) -> pa.Table:
  arrays = [
    column if isinstance(column, pa.Array) else pa.array(column, field.type)
    for column, field in zip(columns, schema, strict=True)
  ]
  return pa.Table.from_arrays(arrays, schema=schema)


def _content(column: pa.StringArray) -> pa.Buffer:
  """The bytes of all values, one after the other; no copy."""
  if not len(column) or column.buffers()[2] is None:
    return pa.py_buffer(b"")
  start, stop = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][[0, len(column)]]
  return column.buffers()[2].slice(int(start), int(stop - start))
