"""The file format of a run: records sorted by (output shard, hash), with the byte range of each output shard.

    b'WINNOWR2' | uint32 header length | header (a JSON object, UTF-8)
    | uint64 offsets[num_shards + 1] | uint64 counts[num_shards] | uint32 checksums[num_shards]
    | uint32 checksum of all before
    | for each output shard an Arrow IPC stream of `hash` uint64 or fixed_size_binary[16], `record` large_binary
      (nothing where it has no record)

Arrow's own file format is not used: its footer knows neither output shards nor checksums (`docs/design.md`).

All integers are little-endian; offsets are bytes from the start of the file, counts are records, checksums the
CRC32C of each output shard's range. A hash here is the sort key of a record: 64 bits, or 128 bits as the bytes of a
big-endian number (S16 in NumPy). Shapes: N records.
"""

import io
import json
import os
import struct
from collections.abc import Iterable, Iterator
from typing import IO

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import DamagedError
from pipelines.files import damage
from pipelines.sorted_runs.merging import Batch

BATCH_BYTES = 256 << 10  # of the records in one batch of a run, or of one record if that is larger
ROW_BYTES = 48  # overhead of a record in memory: hash, shard, size, and their copies during sorting

_MAGIC = b"WINNOWR2"
_MAX_HEADER_BYTES = 1 << 20
_SHARD_BYTES, _FIXED_BYTES = 8 + 8 + 4, 8 + 4  # of the tables: for each output shard, and in total besides
_RECORD = pa.field("record", pa.large_binary(), nullable=False)
_SCHEMAS = [pa.schema([pa.field("hash", kind, nullable=False), _RECORD]) for kind in (pa.uint64(), pa.binary(16))]


class RunReader:
  """A run in a seekable file, read range by range: `header`, `num_shards`, `counts` (of each shard), `batches(shard)`.

  The checksum of a range is compared after its last batch. Discard all results from a range if that raises.

  `name` is for messages. The caller closes the file. Raises WinnowError if the file is not a complete run.
  """

  def __init__(self, file: IO[bytes], name: str | None = None):
    self._file = file
    file_name = getattr(file, "name", None)  # a descriptor if the file is temporary
    self.name = name or (file_name if isinstance(file_name, str) else "a run file")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = self._read(len(_MAGIC) + 4)
    (header_bytes,) = struct.unpack("<I", start[len(_MAGIC) :])
    if start[: len(_MAGIC)] != _MAGIC or header_bytes > min(size, _MAX_HEADER_BYTES):
      raise self._corrupt("it does not start like one")
    try:
      self.header = json.loads(self._read(header_bytes))
      self.num_shards = self.header["num_shards"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
      raise self._corrupt("its header cannot be read") from error
    head = len(start) + header_bytes
    if type(self.num_shards) is not int or not 0 <= self.num_shards <= (size - head - _FIXED_BYTES) // _SHARD_BYTES:
      raise self._corrupt("its header names an impossible number of output shards")
    file.seek(0)
    table = self._read(head + self.num_shards * _SHARD_BYTES + 8)
    if google_crc32c.value(table) != int.from_bytes(self._read(4), "little"):
      raise self._corrupt("its table does not fit its checksum")
    offsets = np.frombuffer(table, "<u8", self.num_shards + 1, head)
    counts = np.frombuffer(table, "<u8", self.num_shards, head + offsets.nbytes)
    if offsets[0] != len(table) + 4 or offsets[-1] != size or (offsets[1:] < offsets[:-1]).any():
      raise self._corrupt("its table of offsets does not fit its size")
    self.counts: list[int] = counts.tolist()
    self._offsets: list[int] = offsets.tolist()
    self._checksums = np.frombuffer(table, "<u4", self.num_shards, head + offsets.nbytes + counts.nbytes)

  def check(self) -> None:
    """Reads the whole run; raises WinnowError unless every byte is as written."""
    for shard in range(self.num_shards):
      for _ in self.batches(shard):
        pass

  def batches(self, shard: int) -> Iterator[Batch]:
    """Yields the batches of one output shard, ascending by hash; reads only its byte range."""
    left, last = self.counts[shard], None
    if not left:
      return
    window = _Window(self._file, *self._offsets[shard : shard + 2])
    with damage.naming_file(self.name, self._corrupt), pa.ipc.open_stream(pa.PythonFile(window, mode="r")) as stream:
      if stream.schema not in _SCHEMAS:
        raise self._corrupt("its columns are not a run's")
      for batch in stream:
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
          raise self._corrupt("a value is missing")
        hash_N = _from_column(batch.column(0))
        if len(hash_N) and ((last is not None and hash_N[0] < last) or (hash_N[1:] < hash_N[:-1]).any()):
          raise self._corrupt("its hashes are not in order")
        left, last = left - len(hash_N), hash_N[-1] if len(hash_N) else last
        yield hash_N, batch.column(1)
    if left:
      raise self._corrupt("it does not hold as many records as it says")
    window.read()  # the bytes that Arrow did not need, for the checksum
    if window.checksum != self._checksums[shard]:
      raise self._corrupt("its records do not fit their checksum")

  def _read(self, size: int) -> bytes:
    data = self._file.read(size)
    if len(data) != size:
      raise self._corrupt("it is cut short")
    return data

  def _corrupt(self, what: str) -> DamagedError:
    return DamagedError(
      f"{self.name} is not a complete run of records ({what}): delete it and run the same command again"
    )


def write(file: IO[bytes], header: dict[str, int], shards: Iterable[Iterator[Batch]], num_shards: int) -> None:
  """Writes a run to an empty seekable file, from one stream of batches for each output shard, ascending by hash."""
  text = json.dumps(header | {"num_shards": num_shards}, sort_keys=True).encode()
  if len(text) > _MAX_HEADER_BYTES:
    raise ValueError(f"a run's header is counts, at most {_MAX_HEADER_BYTES} bytes, not {len(text)}")
  head = _MAGIC + struct.pack("<I", len(text)) + text
  file.write(head + bytes(_FIXED_BYTES + num_shards * _SHARD_BYTES))
  offsets, counts, checksums = [file.tell()], [], []
  for batches in shards:
    count, checksum = _write_range(file, batches)
    counts.append(count)
    checksums.append(checksum)
    offsets.append(file.tell())
  table = head + np.array(offsets + counts, "<u8").tobytes() + np.array(checksums, "<u4").tobytes()
  file.seek(0)
  file.write(table + google_crc32c.value(table).to_bytes(4, "little"))
  file.seek(0, os.SEEK_END)


def _write_range(file: IO[bytes], batches: Iterator[Batch]) -> tuple[int, int]:
  """Writes the records of one output shard; returns their number and the checksum of their range."""
  writer, count, checked = None, 0, _Checked(file)
  for hash_N, record_N in batches:
    for part in cut(sizes(record_N)):
      schema = _SCHEMAS[hash_N.dtype != np.uint64]
      writer = writer or pa.ipc.new_stream(pa.PythonFile(checked, mode="w"), schema)
      writer.write_batch(pa.record_batch([_to_column(hash_N[part]), record_N[part]], schema=schema))
    count += len(hash_N)
  if writer:
    writer.close()
  return count, checked.checksum


def write_records(batches: Iterator[Batch], file: IO[bytes]) -> int:
  """Writes records one after the other; returns their number."""
  num_records = 0
  for hash_N, record_N in batches:
    num_records += len(hash_N)
    file.write(content(record_N))
  return num_records


def content(record_N: pa.LargeBinaryArray) -> pa.Buffer:
  """Returns the bytes of all records, one after the other, without a copy."""
  if not len(record_N):
    return pa.py_buffer(b"")
  _, offsets, data = record_N.buffers()
  start, stop = np.frombuffer(offsets, np.int64)[record_N.offset :][[0, len(record_N)]]
  return data.slice(int(start), int(stop - start)) if data else pa.py_buffer(b"")


def to_records(record_N: np.ndarray) -> pa.LargeBinaryArray:
  """Returns the items of an array as records, without a copy."""
  offsets = np.arange(len(record_N) + 1, dtype=np.int64) * record_N.itemsize
  data = pa.py_buffer(np.ascontiguousarray(record_N).view(np.uint8))
  return pa.Array.from_buffers(pa.large_binary(), len(record_N), [None, pa.py_buffer(offsets), data])


def _to_column(hash_N: np.ndarray) -> pa.Array:
  if hash_N.dtype == np.uint64:
    return pa.array(hash_N)
  return pa.Array.from_buffers(pa.binary(16), len(hash_N), [None, pa.py_buffer(np.ascontiguousarray(hash_N))])


def _from_column(column: pa.Array) -> np.ndarray:
  if column.type == pa.uint64():
    return column.to_numpy()
  if not len(column):
    return np.empty(0, "S16")
  return np.frombuffer(column.buffers()[1], "S16", len(column), column.offset * 16)


def sizes(record_N: pa.LargeBinaryArray) -> np.ndarray:
  """Returns the bytes of each record, int64 [N]."""
  return pc.binary_length(record_N).to_numpy()


def cut(size_N: np.ndarray) -> Iterator[slice]:
  """Yields consecutive slices of at most BATCH_BYTES, or of one record if that is larger."""
  size_N = size_N + ROW_BYTES
  end_N = np.cumsum(size_N)
  start = 0
  while start < len(size_N):
    limit = end_N[start] - size_N[start] + BATCH_BYTES
    stop = max(start + 1, int(np.searchsorted(end_N, limit, side="right")))
    yield slice(start, stop)
    start = stop


class _Window(io.RawIOBase):
  """Bytes [start, stop) of a file, as a file of their own, and the checksum of the bytes read so far."""

  def __init__(self, file: IO[bytes], start: int, stop: int):
    self._file, self.position, self._stop = file, start, stop
    self.checksum = 0

  def readable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    left = self._stop - self.position
    self._file.seek(self.position)  # several windows take turns on one file
    data = self._file.read(left if size < 0 else min(size, left))
    self.position += len(data)
    self.checksum = google_crc32c.extend(self.checksum, data)
    return data


class _Checked:
  """A writer to the end of a file, and the checksum of the bytes that were written through it."""

  def __init__(self, file: IO[bytes]):
    self._file, self.checksum, self.closed = file, 0, False

  def write(self, data: bytes | pa.Buffer) -> int:
    self.checksum = google_crc32c.extend(self.checksum, bytes(data))
    return self._file.write(data)

  def flush(self) -> None:
    """Does nothing, since no bytes are buffered."""

  def close(self) -> None:
    self.closed = True
