"""Sorted runs: how selected records get to their output shards without a shuffle of text.

A run holds the selected records of some blocks sorted by (output shard, hash); an output shard is the merge of its
ranges of all runs. The file:

    b'WINNOWR2' | uint32 header length | header (a JSON object, UTF-8)
    | uint64 offsets[num_shards + 1] | uint64 counts[num_shards] | uint32 checksums[num_shards]
    | uint32 checksum of all before
    | for each output shard an Arrow IPC stream of `hash` uint64 or fixed_size_binary[16], `record` large_binary
      (nothing where it has no record)

All integers are little-endian; offsets are bytes from the start of the file, counts are records, checksums the
CRC32C of each output shard's range. What is called a hash here is what records are sorted by: 64 bits, or 128 as the
bytes of a big-endian number (S16 in NumPy). Shapes: N records.
"""

import contextlib
import io
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import DamagedError, WinnowError
from pipelines import damage, storage
from pipelines.merging import Batch, merge_batches

BATCH_BYTES = 256 << 10  # of records in one batch of a run, or one record where that is larger
BUDGET_BYTES = 16 << 20  # of records that a RunWriter holds
FAN_IN = 32  # runs merged at once: each is read two batches at a time

_MAGIC = b"WINNOWR2"
_MAX_HEADER_BYTES = 1 << 20
_SHARD_BYTES, _FIXED_BYTES = 8 + 8 + 4, 8 + 4  # of the tables, for each output shard and besides
_RECORD = pa.field("record", pa.large_binary(), nullable=False)
_SCHEMAS = [pa.schema([pa.field("hash", kind, nullable=False), _RECORD]) for kind in (pa.uint64(), pa.binary(16))]
_BUFFER_BYTES = 1 << 20  # of an object store, at once
_ROW_BYTES = 48  # of a record, besides its own: hash, shard, size, and their copies as they are sorted


def write_run(
  file: IO[bytes], *, header: dict, num_shards: int, shard_N: np.ndarray, hash_N: np.ndarray, record_N: pa.Array
) -> None:
  """Sorts records by (shard, hash) and writes them as one run to a seekable file that is empty.

  `shard_N` is uint32 (below `num_shards`), `hash_N` uint64 or S16, `record_N` binary or large_binary. Equal
  ones keep their order. `header` is a small JSON object; `num_shards` is added to it.
  """
  if len(shard_N) and int(shard_N.max()) >= num_shards:
    raise ValueError(f"output shard {shard_N.max()}, but there are {num_shards}")
  record_N = record_N.cast(pa.large_binary())
  order_N = np.lexsort((hash_N, shard_N))
  borders = np.searchsorted(shard_N[order_N], np.arange(num_shards + 1))
  size_N = _sizes(record_N)

  def take(rows: np.ndarray) -> Iterator[Batch]:
    # By batches, so that the run's records are never there twice.
    for part in _cut(size_N[rows]):
      yield hash_N[rows[part]], record_N.take(pa.array(rows[part]))

  _write(file, header, (take(order_N[start:stop]) for start, stop in itertools.pairwise(borders)), num_shards)


def merge_runs(readers: Sequence["RunReader"], file: IO[bytes], header: dict, num_shards: int) -> None:
  """Merges runs of the same output shards into one, in memory for a few batches of each reader."""
  for reader in readers:
    if reader.num_shards != num_shards:
      raise WinnowError(
        f"{reader.name} is a run for {reader.num_shards} output shards, not {num_shards}: delete it and run the same "
        "command again"
      )
  merged = (merge_batches([reader.batches(shard) for reader in readers]) for shard in range(num_shards))
  _write(file, header, merged, num_shards)


def merge_shard(readers: Iterable["RunReader"], shard: int, *, temporary_folder: str | None = None) -> Iterator[Batch]:
  """The records of one output shard, in order, from its ranges of all runs.

  Equal hashes keep the order of the readers, so readers in the order of their blocks
  make the result independent of how blocks were spread over runs. At most FAN_IN runs are merged directly. More are
  sorted through temporary files, so that memory does not grow with their number; `readers` may then be a generator that
  opens them one by one.
  """
  readers = iter(readers)
  first = list(itertools.islice(readers, FAN_IN + 1))
  if len(first) <= FAN_IN:
    yield from merge_batches([reader.batches(shard) for reader in first])
    return
  with RunWriter(num_shards=1, temporary_folder=temporary_folder) as writer:
    for reader in itertools.chain(first, readers):
      for hash_N, record_N in reader.batches(shard):
        writer.add(np.zeros(len(hash_N), np.uint32), hash_N, record_N)
    yield from merge_batches([run.batches(0) for run in writer.spilled_runs()])


class RunReader:
  """A run in a seekable file, read range by range: `header`, `num_shards`, `counts` (of each shard), `batches(shard)`.

  A range's checksum is compared when its last batch has been taken: what was made of the others counts only then.

  `name` is for messages. The file stays the caller's to close. Raises WinnowError where the file is not a whole run.
  """

  def __init__(self, file: IO[bytes], name: str | None = None):
    self._file = file
    of_file = getattr(file, "name", None)  # of a temporary file: its descriptor
    self.name = name or (of_file if isinstance(of_file, str) else "a run file")
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
    """Reads the whole run; raises WinnowError unless every byte of it is as written."""
    for shard in range(self.num_shards):
      for _ in self.batches(shard):
        pass

  def batches(self, shard: int) -> Iterator[Batch]:
    """The batches of one output shard, ascending by hash; reads nothing but its range."""
    left, last = self.counts[shard], None
    if not left:
      return
    window = _Window(self._file, *self._offsets[shard : shard + 2])
    with damage.told(self.name, self._corrupt), pa.ipc.open_stream(pa.PythonFile(window, mode="r")) as stream:
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
    window.read()  # what Arrow had no need of
    if window.checksum != self._checksums[shard]:
      raise self._corrupt("its records do not fit their checksum")

  def _read(self, size: int) -> bytes:
    data = self._file.read(size)
    if len(data) != size:
      raise self._corrupt("it is cut short")
    return data

  def _corrupt(self, what: str) -> DamagedError:
    return DamagedError(f"{self.name} is not a whole run of records ({what}): delete it and run the same command again")


@contextlib.contextmanager
def opened(paths: Iterable[str], *, buffer_bytes: int = _BUFFER_BYTES) -> Iterator[Iterator[RunReader]]:
  """The runs in files, which are opened one by one as `merge_shard` asks for them."""
  files: list[IO[bytes]] = []

  def readers() -> Iterator[RunReader]:
    for path in paths:
      if len(files) > FAN_IN + 1:
        files.pop().close()  # of more runs than this, each has been read when the next one is asked for
      files.append(storage.open_input(path, buffer_bytes=buffer_bytes))
      yield RunReader(files[-1], path)

  try:
    yield readers()
  finally:
    for file in files:
      file.close()


def check(path: str) -> None:
  """Raises DamagedError unless every byte of a run's file is as written."""
  with storage.open_input(path) as file:
    RunReader(file, path).check()


class RunWriter:
  """Collects records in any order and writes them as one run, in `budget_bytes` of memory and a few MB for merging.

  Records are copied into one buffer. When it is full they are spilled as a sorted run to an unnamed file in
  `temporary_folder` (the system's where None), which a killed process leaves no trace of. `finish` closes those files,
  and so does the end of a `with` block.
  """

  def __init__(self, *, num_shards: int, budget_bytes: int = BUDGET_BYTES, temporary_folder: str | None = None):
    self._temporary_folder, self._num_shards = temporary_folder, num_shards
    self._buffer = np.empty(budget_bytes, np.uint8)
    self._used = self._rows = 0
    # Output shard, hash and size of the records in the buffer.
    self._collected: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    self._files = contextlib.ExitStack()
    # In the order in which the records came, each with the number of merges that it went through.
    self._spills: list[tuple[int, IO[bytes]]] = []

  def __enter__(self) -> "RunWriter":
    return self

  def __exit__(self, *_) -> None:
    self._files.close()

  def add(self, shard_N: np.ndarray, hash_N: np.ndarray, record_N: pa.Array) -> None:
    """Adds records as for `write_run`."""
    record_N = record_N.cast(pa.large_binary())
    data = np.frombuffer(content(record_N), np.uint8)
    if self._used + len(data) + self._rows * _ROW_BYTES > len(self._buffer):
      self._spill()
    if len(data) > len(self._buffer):
      self._spill_run(shard_N, hash_N, record_N)
      return
    self._buffer[self._used : self._used + len(data)] = data
    self._used += len(data)
    self._collected.append((shard_N, hash_N, _sizes(record_N)))
    self._rows += len(hash_N)

  def finish(self, file: IO[bytes], header: dict) -> None:
    """Writes all that was added as one run to an empty seekable file."""
    with self._files:
      if self._spills:
        merge_runs(self.spilled_runs(), file, header, self._num_shards)
      else:
        shard_N, hash_N, record_N = self._take_collected()
        write_run(file, header=header, num_shards=self._num_shards, shard_N=shard_N, hash_N=hash_N, record_N=record_N)

  def spilled_runs(self) -> list[RunReader]:
    """At most FAN_IN runs that hold all that was added, in the order of adding; they live as long as the writer."""
    self._spill()
    self._buffer = self._buffer[:0].copy()  # merging needs the room
    while len(self._spills) > FAN_IN:
      self._merge_spills()
    return [RunReader(file) for _, file in self._spills]

  def _spill(self) -> None:
    if self._collected:
      self._spill_run(*self._take_collected())

  def _spill_run(self, shard_N: np.ndarray, hash_N: np.ndarray, record_N: pa.LargeBinaryArray) -> None:
    file = self._files.enter_context(_temporary_file(self._temporary_folder))
    write_run(file, header={}, num_shards=self._num_shards, shard_N=shard_N, hash_N=hash_N, record_N=record_N)
    self._spills.append((0, file))
    # Levels as in a log-structured merge tree, so that a record is rewritten log(N) times, not N.
    while len(self._spills) >= FAN_IN and self._spills[-FAN_IN][0] == self._spills[-1][0]:
      self._merge_spills()

  def _merge_spills(self) -> None:
    levels, parts = zip(*self._spills[-FAN_IN:], strict=True)
    file = self._files.enter_context(_temporary_file(self._temporary_folder))
    merge_runs([RunReader(part) for part in parts], file, {}, self._num_shards)
    self._spills[-FAN_IN:] = [(max(levels) + 1, file)]
    for part in parts:
      part.close()

  def _take_collected(self) -> tuple[np.ndarray, np.ndarray, pa.LargeBinaryArray]:
    """What was collected, in the buffer: to be written before more is added."""
    collected = self._collected or [(np.zeros(0, np.uint32), np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    shard_N, hash_N, size_N = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    offsets = np.concatenate([[0], np.cumsum(size_N)])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self._buffer[: self._used])]
    self._collected, self._used, self._rows = [], 0, 0
    return shard_N, hash_N, pa.Array.from_buffers(pa.large_binary(), len(size_N), buffers)


class _Window(io.RawIOBase):
  """Bytes [start, stop) of a file, as a file, and the checksum of those read; no read asks for more than is there."""

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
  """The end of a file that is written, and the checksum of what is written through here."""

  def __init__(self, file: IO[bytes]):
    self._file, self.checksum, self.closed = file, 0, False

  def write(self, data: Any) -> int:
    self.checksum = google_crc32c.extend(self.checksum, bytes(data))
    return self._file.write(data)

  def flush(self) -> None:
    """Nothing is held."""

  def close(self) -> None:
    self.closed = True


@contextlib.contextmanager
def _temporary_file(folder: str | None) -> Iterator[IO[bytes]]:
  with tempfile.TemporaryFile(dir=folder) as file:
    yield file


def _write(file: IO[bytes], header: dict, shards: Iterable[Iterator[Batch]], num_shards: int) -> None:
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
  """Writes one output shard's records: how many, and the checksum of their range."""
  writer, count, checked = None, 0, _Checked(file)
  for hash_N, record_N in batches:
    for part in _cut(_sizes(record_N)):
      schema = _SCHEMAS[hash_N.dtype != np.uint64]
      writer = writer or pa.ipc.new_stream(pa.PythonFile(checked, mode="w"), schema)
      writer.write_batch(pa.record_batch([_to_column(hash_N[part]), record_N[part]], schema=schema))
    count += len(hash_N)
  if writer:
    writer.close()
  return count, checked.checksum


def write_records(batches: Iterator[Batch], file: IO[bytes]) -> int:
  """Writes records one after the other; returns how many."""
  num_records = 0
  for hash_N, record_N in batches:
    num_records += len(hash_N)
    file.write(content(record_N))
  return num_records


def content(record_N: pa.LargeBinaryArray) -> pa.Buffer:
  """The bytes of all records, one after the other; no copy."""
  if not len(record_N):
    return pa.py_buffer(b"")
  _, offsets, data = record_N.buffers()
  start, stop = np.frombuffer(offsets, np.int64)[record_N.offset :][[0, len(record_N)]]
  return data.slice(int(start), int(stop - start)) if data else pa.py_buffer(b"")


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


def _sizes(record_N: pa.LargeBinaryArray) -> np.ndarray:
  return pc.binary_length(record_N).to_numpy()


def _cut(size_N: np.ndarray) -> Iterator[slice]:
  """Consecutive slices of at most BATCH_BYTES, or of one record where that is larger."""
  size_N = size_N + _ROW_BYTES
  end_N = np.cumsum(size_N)
  start = 0
  while start < len(size_N):
    limit = end_N[start] - size_N[start] + BATCH_BYTES
    stop = max(start + 1, int(np.searchsorted(end_N, limit, side="right")))
    yield slice(start, stop)
    start = stop
