"""Parquet: whole columns through Arrow, with streamed row groups.

Legend for array names: N = rows of one batch.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import blanks
from curation.errors import WinnowError
from pipelines.corpus.blocks import (
  DEAD_TEXT_CHARACTERS,
  MAX_RECORD_BYTES,
  BrokenShardError,
  Chunk,
  Fields,
  Parsed,
  as_string,
  parsed_rows,
)
from pipelines.corpus.readers.reader import OpenShard, Reader

_BATCH_BYTES = 4 << 20
_MAX_BATCH_ROWS = 1024
# Column chunks are read through a buffer of this size. Otherwise the whole text of a row group (1 GB is common) is
# held.
_BUFFER_BYTES = 1 << 20


def parquet_chunks(file: BinaryIO, path: str, fields: Fields) -> Iterator[Chunk]:
  """Yields chunks of the rows of a Parquet file: the text column and, if they exist, url and timestamp.

  Raises WinnowError if the file has no text column, or one that does not hold text.
  """
  try:
    parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    schema = parquet.schema_arrow
    names = _columns(schema, path, fields)
    text_column = [column.path for column in parquet.schema].index(fields.text)
    batch_rows = _batch_rows(parquet.metadata, text_column)
    for columns in parquet.iter_batches(batch_rows, columns=names, use_threads=False):
      batch = pa.RecordBatch.from_arrays([_column(columns, _find_field(schema, name)) for name in names], names)
      lengths_N = _lengths(batch.column(fields.text))
      if len(lengths_N) and lengths_N.max() > MAX_RECORD_BYTES:
        raise BrokenShardError(f"a text is longer than {MAX_RECORD_BYTES >> 20} MiB")
      yield _batch_chunk(batch, lengths_N, fields)
  except (pa.ArrowException, OSError) as error:
    if (
      isinstance(error, OSError) and error.errno is not None
    ):  # an error of the disk; Arrow's own errors have no number
      raise
    raise BrokenShardError(f"it is not a complete Parquet file ({error})") from error


def _find_field(schema: pa.Schema, name: str) -> list[str]:
  """Returns the path of a field: its column, then the fields within structs, as in `content.text`; empty if missing.

  A column or field whose own name contains the dot takes precedence.
  """
  path: list[str] = []
  fields: pa.Schema | pa.StructType = schema
  while True:
    names = [field.name for field in fields]
    outer, _, inner = (name, "", "") if name in names else name.partition(".")
    if names.count(outer) != 1:
      return []
    path.append(outer)
    if not inner:
      return path if outer == name else []
    fields, name = fields.field(outer).type, inner
    if not pa.types.is_struct(fields):
      return []


def field_names(file: BinaryIO) -> list[str]:
  """Returns the names of a file's fields, in the notation of `Fields`, including those in structs."""
  return _names(pq.read_schema(file))


def _names(schema: pa.Schema) -> list[str]:
  def names(field: pa.Field, prefix: str) -> list[str]:
    name = prefix + field.name
    if not pa.types.is_struct(field.type):
      return [name]
    return [nested for inner in field.type for nested in names(inner, f"{name}.")]

  return [name for field in schema for name in names(field, "")]


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
  column = batch.column(path[0])
  return column if len(path) == 1 else pc.struct_field(column, path[1:])  # null if an enclosing struct is null


def _columns(schema: pa.Schema, path: str, fields: Fields) -> list[str]:
  place = _find_field(schema, fields.text)
  if not place:
    raise WinnowError(
      f"{path} does not have one column {fields.text!r}; its columns are {', '.join(_names(schema))}: "
      "name the text's column with --text_field"
    )
  column_type = _field(schema, place).type
  value_type = column_type.value_type if pa.types.is_dictionary(column_type) else column_type
  if not (_is_text(value_type) or pa.types.is_null(value_type)):
    is_struct = pa.types.is_struct(column_type) and column_type.num_fields
    such = f", such as {fields.text}.{column_type.field(0).name}" if is_struct else ""
    raise WinnowError(
      f"{path}: column {fields.text!r} holds {column_type}, not text: name the text's column with --text_field{such}"
    )
  return [name for name in {fields.text: 0, fields.url: 0, fields.timestamp: 0} if _find_field(schema, name)]


def _field(schema: pa.Schema, place: list[str]) -> pa.Field:
  field = schema.field(place[0])
  for name in place[1:]:
    field = field.type.field(name)
  return field


def _is_text(value_type: pa.DataType) -> bool:
  types = pa.types
  return any(
    is_type(value_type)
    for is_type in (
      types.is_string,
      types.is_large_string,
      types.is_string_view,
      types.is_binary,
      types.is_large_binary,
      types.is_binary_view,
    )
  )


def _batch_rows(metadata: pq.FileMetaData, text_column: int) -> int:
  """Returns how many rows to read at a time, so that a batch has about the same size for long and short texts."""
  columns = [metadata.row_group(index).column(text_column) for index in range(metadata.num_row_groups)]
  row_bytes = max((column.total_uncompressed_size / max(column.num_values, 1) for column in columns), default=1.0)
  return int(min(max(_BATCH_BYTES / max(row_bytes, 1.0), 1), _MAX_BATCH_ROWS))


def _lengths(text: pa.Array) -> np.ndarray:
  """Returns the bytes of each text, int64 [N], 0 for null; a dictionary is not decoded, its texts are measured once."""
  if pa.types.is_dictionary(text.type):
    lengths = pc.take(_lengths_array(text.dictionary), text.indices)
  else:
    lengths = _lengths_array(text)
  return lengths.fill_null(0).to_numpy(zero_copy_only=False)


def _lengths_array(text: pa.Array) -> pa.Array:
  if pa.types.is_null(text.type):
    return pa.nulls(len(text), pa.int64())
  return pc.binary_length(_as_binary(text)).cast(pa.int64())


def _batch_chunk(batch: pa.RecordBatch, lengths_N: np.ndarray, fields: Fields) -> Chunk:
  def parse(start: int, stop: int, first_row: int) -> Parsed:
    return _parse(batch.slice(start, stop - start), first_row, fields)

  return Chunk(lengths_N, parse)


def _parse(batch: pa.RecordBatch, first_row: int, fields: Fields) -> Parsed:
  binary = _as_binary(batch.column(fields.text))
  text, invalid_N = _decode(binary)
  missing_N = text.is_null().to_numpy(zero_copy_only=False)
  empty_N = _to_numpy(blanks.are_blank(text))
  good_N = ~(invalid_N | missing_N | empty_N)
  row_N = np.arange(first_row, first_row + batch.num_rows)
  bad: list[list[Any]] = [[], [], []]
  for at in np.flatnonzero(~good_N):
    reason = "invalid_utf8" if invalid_N[at] else "missing_text" if missing_N[at] else "empty_text"
    bad_text = as_string(text[at].as_py())[:DEAD_TEXT_CHARACTERS]
    for column, value in zip(bad, (row_N[at], reason, bad_text), strict=True):
      column.append(value)
  # Filtering copies, so the result does not keep the batch alive, which may be far larger.
  keep = pa.array(good_N)
  others = [_column_strings(batch, name) for name in (fields.url, fields.timestamp)]
  return parsed_rows([pa.array(row_N[good_N]), *(column.filter(keep) for column in (text, *others))], bad)


def _decode(binary: pa.Array) -> tuple[pa.Array, np.ndarray]:
  """Decodes UTF-8; returns strings, and bool [N]: which were not valid UTF-8 and are decoded with replacement."""
  try:
    return binary.cast(pa.string()), np.zeros(len(binary), bool)
  except pa.ArrowInvalid:
    # Arrow does not say which value is invalid. Only batches with an invalid text come here.
    values = binary.to_pylist()
  strings = [None if value is None else value.decode(errors="replace") for value in values]
  invalid = [string is not None and string.encode() != value for value, string in zip(values, strings, strict=True)]
  return pa.array(strings, pa.string()), np.array(invalid)


def _column_strings(batch: pa.RecordBatch, name: str) -> pa.Array:
  """Returns a url or timestamp column as strings: '' for missing values, timestamps in ISO 8601 and UTC."""
  if name not in batch.schema.names:
    return pa.array([""] * batch.num_rows, pa.string())
  column = batch.column(name)
  if pa.types.is_dictionary(column.type):
    column = column.dictionary_decode()
  if _is_text(column.type):
    strings = _decode(_as_binary(column))[0]
  elif pa.types.is_timestamp(column.type):
    # Without the zone the values are UTC as Arrow stores them, and need no time zone database.
    utc = column.cast(pa.timestamp(column.type.unit))
    written = pc.strftime(utc, format="%Y-%m-%dT%H:%M:%SZ", locale="C")
    strings = pc.replace_substring_regex(written, pattern=r"\.0+Z$", replacement="Z")
  else:
    strings = pa.array([as_string(value) for value in column.to_pylist()], pa.string())
  return strings.fill_null("")


def _as_binary(text: pa.Array) -> pa.Array:
  """Returns any kind of text as binary or large_binary, without a copy unless it is a dictionary or a view."""
  if pa.types.is_dictionary(text.type):
    text = text.dictionary_decode()
  return text.cast(pa.large_binary() if text.type in (pa.large_string(), pa.large_binary()) else pa.binary())


def _to_numpy(mask: pa.Array) -> np.ndarray:
  return mask.fill_null(False).to_numpy(zero_copy_only=False)


class Parquet(Reader):
  """Parquet with columns of text."""

  suffixes = ("parquet",)

  def chunks(self, shard: OpenShard, fields: Fields) -> Iterator[Chunk]:
    return parquet_chunks(shard.file, shard.shard.path, fields)

  def field_names(self, shard: OpenShard) -> list[str]:
    return field_names(shard.file)

  def num_rows(self, shard: OpenShard) -> int:
    return pq.ParquetFile(shard.file).metadata.num_rows


READER = Parquet()
