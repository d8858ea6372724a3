"""JSON lines: one record a line, parsed by orjson line by line."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from pipelines.corpus.blocks import (
  BLANK,
  DEAD_TEXT_CHARACTERS,
  MAX_RECORD_BYTES,
  BadRowError,
  BrokenShardError,
  Chunk,
  Fields,
  Nonstandard,
  as_string,
  records_chunk,
)
from pipelines.corpus.readers.reader import OpenShard, Reader

_LOOKED_AT = 100  # lines that are parsed to find the names of fields
_DEPTH = 8  # the deepest nesting of objects in which fields are named
# At the start of a file, and so also within a file that was concatenated from several.
_BOMS = re.compile(rb"\A(?:\xef\xbb\xbf)+")
# Strings are matched in order to skip them. No byte can match in two ways, so the time is linear in the line.
_STRING_OR_NOT_A_NUMBER = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|NaN|-?Infinity', re.DOTALL)


def jsonl_chunks(stream: Iterable[bytes], fields: Fields) -> Iterator[Chunk]:
  """Yields chunks of the lines of a decompressed stream. A blank line is a row; a newline at the end begins no line.

  Splitting and orjson parse 450 MB/s of C4 on one core (gunzip alone: 770), Arrow's JSON reader 660 to 700. But Arrow
  skips blank lines, accepts two objects on a line or one object on two lines as rows, and fails a whole chunk for one
  bad line, so that the result for a row would depend on its neighbours.
  """
  for lines in read_lines(stream):
    yield records_chunk(lines, lambda line: parse_line(line, fields))


def read_lines(stream: Iterable[bytes]) -> Iterator[list[bytes]]:
  """Yields the lines of a stream without their newlines, about one piece of the stream at a time."""
  parts: list[bytes] = []
  for piece in stream:
    parts.append(piece)
    if b"\n" in piece:
      lines = b"".join(parts).split(b"\n")
      parts = [lines.pop()]
      yield lines
    if sum(map(len, parts)) > MAX_RECORD_BYTES:
      raise BrokenShardError(f"a line is longer than {MAX_RECORD_BYTES >> 20} MiB, so this is hardly JSON lines")
  if last := b"".join(parts):
    yield [last]


def parse_line(line: bytes, fields: Fields) -> tuple[str, str, str]:
  """Parses a line that holds one JSON object to (text, url, timestamp); raises `BadRowError`.

  Python programs write NaN and Infinity, which JSON does not have. They are read as null, and such a document is
  `Nonstandard`.
  """
  is_standard = True
  try:
    record = orjson.loads(line)
  except orjson.JSONDecodeError as error:
    line = _BOMS.sub(b"", line, count=1)
    record, is_standard = _parse_refused(line, fields, error)
  if type(record) is not dict:
    raise BadRowError("not_an_object", _beginning(line))
  text = record.get(fields.text)
  if type(text) is not str:
    text = _nested(record, fields.text)
    if type(text) is not str:
      raise BadRowError("missing_text" if text is None else "text_not_a_string", _beginning(line))
  url, timestamp = record.get(fields.url), record.get(fields.timestamp)
  if url is None and "." in fields.url:
    url = _nested(record, fields.url)
  if timestamp is None and "." in fields.timestamp:
    timestamp = _nested(record, fields.timestamp)
  if is_standard:
    return text, as_string(url), as_string(timestamp)
  return Nonstandard(text, as_string(url), as_string(timestamp))


def field_names(lines: Iterable[bytes]) -> list[str]:
  """Returns the names of the fields in some lines, in the notation of `Fields`, including those of nested objects."""
  names: dict[str, None] = {}

  def add(record: dict[str, Any], prefix: str) -> None:
    for name, value in record.items():
      if type(value) is dict and value and prefix.count(".") < _DEPTH:
        add(value, f"{prefix}{name}.")
      else:
        names[prefix + name] = None

  for line in itertools.islice(lines, _LOOKED_AT):
    with contextlib.suppress(orjson.JSONDecodeError):
      record = orjson.loads(_BOMS.sub(b"", line, count=1))
      if type(record) is dict:
        add(record, "")
  return list(names)


def _parse_refused(line: bytes, fields: Fields, error: orjson.JSONDecodeError) -> tuple[Any, bool]:
  """Parses a line that orjson refused, now without its byte order mark; also tells whether it is standard JSON.

  Python's own parser is not used: the nesting that it accepts depends on the depth of its caller, and it accepts
  unpaired surrogates.
  """
  if not line.strip():
    raise BadRowError(BLANK, "") from error
  try:
    return orjson.loads(line), True
  except orjson.JSONDecodeError:
    if b"NaN" in line or b"Infinity" in line:
      with_null = _STRING_OR_NOT_A_NUMBER.sub(lambda match: match[0] if match[0][:1] == b'"' else b"null", line)
      try:
        return orjson.loads(with_null), False
      except orjson.JSONDecodeError:
        pass
  raise _unreadable(line, fields) from error


def _nested(value: Any, name: str) -> Any:
  """Returns a field of a record, which may be nested as in `content.text`; None if it is missing.

  A field whose own name contains the dot takes precedence.
  """
  while type(value) is dict:
    if name in value:
      return value[name]
    outer, _, name = name.partition(".")
    value = value.get(outer) if name else None
  return None


def _unreadable(line: bytes, fields: Fields) -> BadRowError:
  try:
    line.decode()
  except UnicodeDecodeError:
    replaced = line.decode(errors="replace")
    try:
      text = _nested(orjson.loads(replaced), fields.text)
    except orjson.JSONDecodeError:
      text = replaced
    return BadRowError("invalid_utf8", text if isinstance(text, str) else replaced)
  return BadRowError("invalid_json", _beginning(line))


def _beginning(line: bytes) -> str:
  # A character has at most 4 bytes.
  return line[: 4 * DEAD_TEXT_CHARACTERS].decode(errors="replace")


class JSONLines(Reader):
  """One JSON object a line."""

  suffixes = ("jsonl", "json")
  is_stream = True

  def chunks(self, shard: OpenShard, fields: Fields) -> Iterator[Chunk]:
    return jsonl_chunks(shard.pieces(), fields)

  def field_names(self, shard: OpenShard) -> list[str]:
    return field_names(next(read_lines(shard.pieces()), []))

  def count(self, head: bytes, is_whole: bool) -> int:
    *lines, last = head.split(b"\n")
    return sum(1 for line in lines if line.strip()) + (is_whole and bool(last.strip()))


READER = JSONLines()
