"""Blocks: consecutive rows of one shard as Arrow tables, and the rule that sets their borders.

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
# No web document is this long. A longer record means a file of another format, and reading on would fill the memory.
MAX_RECORD_BYTES = 256 << 20
DEAD_TEXT_CHARACTERS = 1000
LEFT_OUT = "left_out"  # the reason for rows that an earlier stage has not selected
BLANK = "blank"  # the reason for blank lines
NOT_READ = (LEFT_OUT, BLANK)  # reasons for rows that are no documents, and so count as neither read nor bad

DOCUMENT_SCHEMA = pa.schema(
  [("row", pa.int64()), ("text", pa.string()), ("url", pa.string()), ("timestamp", pa.string())]
)
BAD_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("text", pa.string())])


@dataclasses.dataclass(frozen=True)
class Shard:
  """An input file, with all that a worker needs to read it; `name` is the identity of its documents (`shard_names`)."""

  name: str
  path: str
  format: str  # 'jsonl', 'parquet', 'tfrecord' or 'array_record'
  compression: str  # '', 'gzip' or 'zstd'
  size: int  # bytes
  checksum: str = ""  # of the file; '' before `inputs.identify`
  max_window: int = 1 << 31  # limit in bytes on the window of its zstd stream

  @property
  def file_name(self) -> str:
    """The name, or the beginning of the name, of files that belong to the shard."""
    return shard_names.file_name(self.name)

  def identity(self) -> dict[str, str | int]:
    """Returns the part of a request that names the shard, wherever it lies."""
    return {"name": self.name, "bytes": self.size, "checksum": self.checksum}


@dataclasses.dataclass(frozen=True)
class Fields:
  """The names of an input's fields for the text, url and timestamp of a document."""

  text: str = "text"
  url: str = "url"
  timestamp: str = "timestamp"


@dataclasses.dataclass(frozen=True)
class SkippedBlock:
  """The place of a block that was not read."""

  index: int
  first_row: int
  num_rows: int


@dataclasses.dataclass(frozen=True)
class Block:
  """One block: its place in the shard, and its rows.

  `documents` holds the good rows as `DOCUMENT_SCHEMA`, `bad` all other rows as `BAD_SCHEMA`, both in row order; rows
  are numbered from 0 over all records of the shard. The others include rows that are not read at all, with reasons in
  `NOT_READ`. `text_bytes` is the number of UTF-8 bytes of the good texts, `checksum` covers the content of all rows,
  and `nonstandard` counts the good rows that are `Nonstandard`.
  """

  index: int
  first_row: int
  num_rows: int
  documents: pa.Table
  bad: pa.Table
  text_bytes: int
  checksum: int
  nonstandard: int = 0

  @property
  def not_read(self) -> int:
    """The number of rows that are no documents (`NOT_READ`)."""
    return pc.sum(pc.is_in(self.bad["reason"], pa.array(NOT_READ))).as_py() or 0


AnyBlock = Block | SkippedBlock


class BrokenShardError(Exception):
  """An error for a file that cannot be read further. It says why; `reading` adds file, row and `advice`."""

  def __init__(self, reason: str, *, advice: str = "replace the file"):
    super().__init__(reason)
    self.advice = advice


class BadRowError(Exception):
  """An error for one record that is not a document; its neighbours are not affected."""

  def __init__(self, reason: str, text: str):
    super().__init__(reason)
    self.reason = reason
    self.text = text[:DEAD_TEXT_CHARACTERS]


class Nonstandard(NamedTuple):
  """The document of a record that breaks the rules of its format but can still be read."""

  text: str
  url: str
  timestamp: str


@dataclasses.dataclass(frozen=True)
class Parsed:
  """The documents and bad rows of consecutive records, with the UTF-8 bytes of the good texts."""

  documents: pa.Table
  bad: pa.Table
  text_bytes: int
  nonstandard: int = 0


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Consecutive records of a shard that have not been parsed yet.

  `bounds_N` (int64) is an upper bound on the text bytes of each record, known without parsing. `parse(start, stop,
  first_row)` parses some of them, the first of which is row `first_row` of the shard.
  """

  bounds_N: np.ndarray
  parse: Callable[[int, int, int], Parsed]


def every(index: int) -> bool:
  """Wants every block, for `cut_blocks`."""
  return True


def as_string(value: object) -> str:
  """Returns a url or timestamp as a string: '' for a missing one, and `str` of numbers and other values."""
  if type(value) is str:
    return value
  is_missing = value is None or (type(value) is float and math.isnan(value))  # NaN marks missing values in tables
  return "" if is_missing else str(value)


def parsed_rows(documents: list[list[Any]], bad: list[list[Any]], *, nonstandard: int = 0) -> Parsed:
  """Builds a `Parsed` from columns: [row, text, url, timestamp] and [row, reason, text]."""
  table = _table(documents, DOCUMENT_SCHEMA)
  return Parsed(table, _table(bad, BAD_SCHEMA), text_bytes(table), nonstandard)


def text_bytes(documents: pa.Table) -> int:
  """Returns the number of UTF-8 bytes of the texts, from Arrow's offsets alone."""
  return sum(_content(chunk).size for chunk in documents.column("text").chunks)


def checksum(documents: pa.Table, bad: pa.Table) -> int:
  """Returns a CRC32C over good and bad rows: row numbers, texts, urls, timestamps and reasons, each with its length."""
  crc = 0
  for table, names in ((documents, ("text", "url", "timestamp")), (bad, ("reason", "text"))):
    for column in table.column("row").chunks:
      crc = google_crc32c.extend(crc, column.to_numpy())
    for name in names:
      for column in table.column(name).chunks:
        crc = google_crc32c.extend(crc, pc.binary_length(column).to_numpy(zero_copy_only=False))
        crc = google_crc32c.extend(crc, _content(column))
  return crc


def records_chunk(records: list[bytes], parse_record: Callable[[bytes], tuple[str, str, str]]) -> Chunk:
  """Builds a chunk of records; `parse_record` returns (text, url, timestamp) or `Nonstandard`, or raises `BadRowError`.

  No text is longer than its record: a JSON escape takes at least as many bytes as its character (6 for at most 3, a
  surrogate pair 12 for 4), and an Example holds the bytes of the text as they are. One byte more, as for the end of a
  line, makes a series of empty records count too.
  """

  def parse(start: int, stop: int, first_row: int) -> Parsed:
    rows: list[int] = []
    texts: list[str] = []
    urls: list[str] = []
    timestamps: list[str] = []
    bad: list[list[Any]] = [[], [], []]
    nonstandard = 0
    # A loop over documents, since a bad record must not affect others; `readers.jsonl` says what it costs.
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
) -> Iterator[AnyBlock]:
  """Cuts a shard's records into blocks. Blocks that `want(index)` refuses are yielded without being parsed.

  A block ends at `block_rows` rows or with the row whose text brings it to `block_text_bytes`. The decision uses an
  upper bound on the text so far: parsed records count exactly, others by their bounds. When the bound reaches the
  limit, the pending rows are parsed and the exact sum decides. The bound was below the limit before the last row, so
  only that row can be the border. A wanted block differs only in when its rows are parsed, so borders never depend on
  `want`. At most one block's records are held.
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
  """A block that is being filled: its parsed rows, its pending records, and the bound on their text."""

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
    """Adds records of a chunk, whose bounds sum up to `bound`."""
    self._pending.append((chunk, start, stop, self.first_row + self.num_rows))
    self.num_rows += stop - start
    self.bound += bound
    if self.wanted:
      self.tighten()

  def tighten(self) -> None:
    """Parses the pending records, which makes the bound exact; a block that nobody wants keeps only the sum."""
    for chunk, start, stop, first_row in self._pending:
      parsed = chunk.parse(start, stop, first_row)
      self._exact += parsed.text_bytes
      if self.wanted:
        self._parsed.append(parsed)
    self._pending.clear()
    self.bound = self._exact

  def close(self) -> AnyBlock:
    """Returns the finished block."""
    if not self.wanted:
      return SkippedBlock(self.index, self.first_row, self.num_rows)
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
  """Returns the bytes of all values, one after the other, without a copy."""
  if not len(column) or column.buffers()[2] is None:
    return pa.py_buffer(b"")
  start, stop = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][[0, len(column)]]
  return column.buffers()[2].slice(int(start), int(stop - start))
