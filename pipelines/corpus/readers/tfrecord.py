"""TFRecord files of tf.train.Example, without TensorFlow."""

import contextlib
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import google_crc32c

from pipelines.corpus.blocks import (
  MAX_RECORD_BYTES,
  BadRowError,
  BrokenShardError,
  Chunk,
  Fields,
  as_string,
  records_chunk,
)
from pipelines.corpus.readers.reader import OpenShard, Reader
from pipelines.corpus.readers.tf_example import feature_values, parse_example

_HEAD = struct.Struct("<QI")  # length of the data, masked CRC32C of these 8 bytes
_CRC = struct.Struct("<I")  # masked CRC32C of the data, behind them
_CHUNK_BYTES = 1 << 20
_LOOKED_AT = 100  # records that are parsed to find the names of features


def tfrecord_chunks(stream: Iterable[bytes], fields: Fields) -> Iterator[Chunk]:
  """Yields chunks of the records of a decompressed stream. Wrong data is a bad row; a broken frame is an error."""
  for frames in read_frames(stream):
    yield records_chunk(frames, lambda frame: _parse_frame(frame, fields))


def field_names(records: Iterable[bytes]) -> list[str]:
  """Returns the names of the features of some records."""
  names: dict[str, None] = {}
  for record in itertools.islice(records, _LOOKED_AT):
    with contextlib.suppress(ValueError):
      names |= dict.fromkeys(sorted(parse_example(record)))
  return list(names)


def read_frames(stream: Iterable[bytes]) -> Iterator[list[bytes]]:
  """Yields the data of each record with its CRC, about one piece of the stream at a time.

  A frame is a little-endian uint64 length, its masked CRC32C, the data, and its masked CRC32C.
  """
  parts: list[bytes] = []
  size, needed = 0, _HEAD.size
  for piece in stream:
    parts.append(piece)
    size += len(piece)
    if size < needed:
      continue
    buffer = b"".join(parts)
    frames = []
    at, needed = 0, _HEAD.size
    while size - at >= needed:
      length, crc = _HEAD.unpack_from(buffer, at)
      if _masked_crc(buffer[at : at + 8]) != crc:
        raise BrokenShardError(
          "the head of a record does not fit its checksum, so this is no TFRecord file or it is damaged"
        )
      if length > MAX_RECORD_BYTES:
        raise BrokenShardError(f"a record is longer than {MAX_RECORD_BYTES >> 20} MiB")
      end = at + _HEAD.size + length + _CRC.size
      if end > size:
        needed = end - at
        break
      frames.append(buffer[at + _HEAD.size : end])
      at = end
    parts, size = [buffer[at:]], size - at
    if frames:
      yield frames
  if size:
    raise BrokenShardError("it ends inside a record")


def _parse_frame(frame: bytes, fields: Fields) -> tuple[str, str, str]:
  try:
    data = checked_data(frame)
  except ValueError as error:
    raise BadRowError("corrupt_record", frame[: -_CRC.size].decode(errors="replace")) from error
  return parse_record(data, fields)


def without_checksum(frame: bytes) -> bytes:
  """Returns the data of a frame from `read_frames`, unverified."""
  return frame[: -_CRC.size]


def checked_data(frame: bytes) -> bytes:
  """Returns the data of a frame from `read_frames`; raises ValueError if it does not fit its checksum."""
  data = without_checksum(frame)
  if _masked_crc(data) != _CRC.unpack_from(frame, len(data))[0]:
    raise ValueError("a record does not fit its checksum")
  return data


def parse_record(data: bytes, fields: Fields) -> tuple[str, str, str]:
  try:
    features = parse_example(data)
  except ValueError as error:
    raise BadRowError("invalid_example", data.decode(errors="replace")) from error
  values = _values(features, fields.text)
  if not values:
    raise BadRowError("missing_text", "")
  if len(values) > 1 or not isinstance(values[0], bytes):
    raise BadRowError("text_not_a_string", _as_string(values))
  try:
    text = values[0].decode()
  except UnicodeDecodeError as error:
    raise BadRowError("invalid_utf8", values[0].decode(errors="replace")) from error
  return text, _as_string(_values(features, fields.url)), _as_string(_values(features, fields.timestamp))


def _values(features: Any, name: str) -> list[Any]:
  # Looking up a missing key in a protobuf map would add it.
  if name not in features:
    name = name.replace(".", "/")  # as TFDS writes nested features
  return feature_values(features[name]) if name in features else []


def _as_string(values: list[Any]) -> str:
  strings = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
  return as_string(strings[0] if len(strings) == 1 else strings or None)


def _masked_crc(data: bytes) -> int:
  crc = google_crc32c.value(data)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class TFRecord(Reader):
  """Frames with checksums, each of which holds a tf.train.Example."""

  suffixes = ("tfrecord", "tfrecords")
  is_stream = True

  def chunks(self, shard: OpenShard, fields: Fields) -> Iterator[Chunk]:
    return tfrecord_chunks(shard.pieces(), fields)

  def field_names(self, shard: OpenShard) -> list[str]:
    return field_names(map(without_checksum, next(read_frames(shard.pieces()), [])))

  def count(self, head: bytes, is_whole: bool) -> int:
    del is_whole
    place = records = 0
    while place + _HEAD.size <= len(head):
      place += _HEAD.size + _CRC.size + int.from_bytes(head[place : place + 8], "little")
      records += place <= len(head)
    return records


READER = TFRecord()
