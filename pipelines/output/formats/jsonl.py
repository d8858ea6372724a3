"""JSON Lines, which most tools read."""

from collections.abc import Iterator
from typing import IO

import orjson
import pyarrow as pa

from pipelines.corpus.readers import jsonl
from pipelines.output.formats.format import SCHEMA, Format

_PIECE_BYTES = 4 << 20


class JSONLines(Format):
  """One object per line, with the columns of SCHEMA in order."""

  def encode(self, documents: pa.Table) -> pa.LargeBinaryArray:
    rows = documents.select(SCHEMA.names).to_pylist()
    return pa.array([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows], pa.large_binary())

  def read_tables(self, file: IO[bytes]) -> Iterator[pa.Table]:
    for lines in jsonl.read_lines(iter(lambda: file.read(_PIECE_BYTES), b"")):
      yield pa.Table.from_pylist([orjson.loads(line) for line in lines], schema=SCHEMA)


FORMAT = JSONLines("jsonl")
