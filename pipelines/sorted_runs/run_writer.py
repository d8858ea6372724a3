"""Sorted runs, which bring selected records to their output shards without a shuffle of text.

A run holds the selected records of some blocks, sorted by (output shard, hash), in the format of `run_files`. An output
shard is the merge of its ranges of all runs. Shapes: N records.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.sorted_runs import run_files
from pipelines.sorted_runs.merging import Batch, merge_batches

BUDGET_BYTES = 16 << 20  # of records that a RunWriter keeps in memory
FAN_IN = 32  # runs merged at once; two batches of each are in memory

_BUFFER_BYTES = 1 << 20  # of one request to an object store


def write_run(
  file: IO[bytes],
  *,
  header: dict[str, int],
  num_shards: int,
  shard_N: np.ndarray,
  hash_N: np.ndarray,
  record_N: pa.Array,
) -> None:
  """Sorts records by (shard, hash) and writes them as one run to a seekable file that is empty.

  `shard_N` is uint32 (below `num_shards`), `hash_N` uint64 or S16, `record_N` binary or large_binary. Records with
  equal shard and hash keep their order. `header` is a small JSON object; `num_shards` is added to it.
  """
  if len(shard_N) and int(shard_N.max()) >= num_shards:
    raise ValueError(f"output shard {shard_N.max()}, but there are {num_shards}")
  record_N = record_N.cast(pa.large_binary())
  order_N = np.lexsort((hash_N, shard_N))
  borders = np.searchsorted(shard_N[order_N], np.arange(num_shards + 1))
  size_N = run_files.sizes(record_N)

  def take(rows: np.ndarray) -> Iterator[Batch]:
    # In batches, so that memory never holds two copies of all records.
    for part in run_files.cut(size_N[rows]):
      yield hash_N[rows[part]], record_N.take(pa.array(rows[part]))

  run_files.write(file, header, (take(order_N[start:stop]) for start, stop in itertools.pairwise(borders)), num_shards)


def merge_runs(
  readers: Sequence[run_files.RunReader], file: IO[bytes], header: dict[str, int], num_shards: int
) -> None:
  """Merges runs of the same output shards into one; memory is a few batches of each reader."""
  for reader in readers:
    if reader.num_shards != num_shards:
      raise WinnowError(
        f"{reader.name} is a run for {reader.num_shards} output shards, not {num_shards}: delete it and run the same "
        "command again"
      )
  merged = (merge_batches([reader.batches(shard) for reader in readers]) for shard in range(num_shards))
  run_files.write(file, header, merged, num_shards)


def merge_shard(
  readers: Iterable[run_files.RunReader], shard: int, *, temporary_folder: str | None = None
) -> Iterator[Batch]:
  """Yields the records of one output shard in order, from its ranges of all runs.

  Records with equal hashes keep the order of the readers. So with readers in the order of their blocks, the result does
  not depend on the division of blocks among runs. Up to FAN_IN runs are merged directly. More runs are sorted through
  temporary files, so that memory does not grow with their number; `readers` may then be a generator that opens them one
  by one.
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


@contextlib.contextmanager
def opened(paths: Iterable[str], *, buffer_bytes: int = _BUFFER_BYTES) -> Iterator[Iterator[run_files.RunReader]]:
  """Opens the runs in files, one by one, as `merge_shard` asks for them."""
  files: list[IO[bytes]] = []

  def readers() -> Iterator[run_files.RunReader]:
    for path in paths:
      if len(files) > FAN_IN + 1:
        files.pop().close()  # beyond this number, each run has been read before the next is requested
      files.append(storage.open_input(path, buffer_bytes=buffer_bytes))
      yield run_files.RunReader(files[-1], path)

  try:
    yield readers()
  finally:
    for file in files:
      file.close()


def check(path: str) -> None:
  """Raises DamagedError unless every byte of a run file is as written."""
  with storage.open_input(path) as file:
    run_files.RunReader(file, path).check()


class RunWriter:
  """A writer that collects records in any order and writes them as one run, with bounded memory.

  Memory is `budget_bytes`, and a few MB for merging. Records are copied into one buffer. When the buffer is full, it is
  spilled as a sorted run to an unnamed file in `temporary_folder` (None: the system's), of which a killed process
  leaves no trace. `finish` closes these files, and so does the end of a `with` block.
  """

  def __init__(self, *, num_shards: int, budget_bytes: int = BUDGET_BYTES, temporary_folder: str | None = None):
    self._temporary_folder, self._num_shards = temporary_folder, num_shards
    self._buffer = np.empty(budget_bytes, np.uint8)
    self._used = self._rows = 0
    # Output shard, hash and size of the records in the buffer.
    self._collected: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    self._files = contextlib.ExitStack()
    # In the order of adding, each with the number of merges behind it.
    self._spills: list[tuple[int, IO[bytes]]] = []

  def __enter__(self) -> "RunWriter":
    return self

  def __exit__(self, *_) -> None:
    self._files.close()

  def add(self, shard_N: np.ndarray, hash_N: np.ndarray, record_N: pa.Array) -> None:
    """Adds records, with arrays as in `write_run`."""
    record_N = record_N.cast(pa.large_binary())
    data = np.frombuffer(run_files.content(record_N), np.uint8)
    if self._used + len(data) + self._rows * run_files.ROW_BYTES > len(self._buffer):
      self._spill()
    if len(data) > len(self._buffer):
      self._spill_run(shard_N, hash_N, record_N)
      return
    self._buffer[self._used : self._used + len(data)] = data
    self._used += len(data)
    self._collected.append((shard_N, hash_N, run_files.sizes(record_N)))
    self._rows += len(hash_N)

  def finish(self, file: IO[bytes], header: dict[str, int]) -> None:
    """Writes all added records as one run to an empty seekable file."""
    with self._files:
      if self._spills:
        merge_runs(self.spilled_runs(), file, header, self._num_shards)
      else:
        shard_N, hash_N, record_N = self._take_collected()
        write_run(file, header=header, num_shards=self._num_shards, shard_N=shard_N, hash_N=hash_N, record_N=record_N)

  def spilled_runs(self) -> list[run_files.RunReader]:
    """Returns at most FAN_IN runs with all added records, in the order of adding; they live as long as the writer."""
    self._spill()
    self._buffer = self._buffer[:0].copy()  # merging needs the memory
    while len(self._spills) > FAN_IN:
      self._merge_spills()
    return [run_files.RunReader(file) for _, file in self._spills]

  def _spill(self) -> None:
    if self._collected:
      self._spill_run(*self._take_collected())

  def _spill_run(self, shard_N: np.ndarray, hash_N: np.ndarray, record_N: pa.LargeBinaryArray) -> None:
    file = self._files.enter_context(_temporary_file(self._temporary_folder))
    write_run(file, header={}, num_shards=self._num_shards, shard_N=shard_N, hash_N=hash_N, record_N=record_N)
    self._spills.append((0, file))
    # Levels as in a log-structured merge tree: a record is rewritten log(N) times, not N times.
    while len(self._spills) >= FAN_IN and self._spills[-FAN_IN][0] == self._spills[-1][0]:
      self._merge_spills()

  def _merge_spills(self) -> None:
    levels, parts = zip(*self._spills[-FAN_IN:], strict=True)
    file = self._files.enter_context(_temporary_file(self._temporary_folder))
    merge_runs([run_files.RunReader(part) for part in parts], file, {}, self._num_shards)
    self._spills[-FAN_IN:] = [(max(levels) + 1, file)]
    for part in parts:
      part.close()

  def _take_collected(self) -> tuple[np.ndarray, np.ndarray, pa.LargeBinaryArray]:
    """Returns the collected records, which lie in the buffer: write them before adding more."""
    collected = self._collected or [(np.zeros(0, np.uint32), np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    shard_N, hash_N, size_N = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    offsets = np.concatenate([[0], np.cumsum(size_N)])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self._buffer[: self._used])]
    self._collected, self._used, self._rows = [], 0, 0
    return shard_N, hash_N, pa.Array.from_buffers(pa.large_binary(), len(size_N), buffers)


@contextlib.contextmanager
def _temporary_file(folder: str | None) -> Iterator[IO[bytes]]:
  with tempfile.TemporaryFile(dir=folder) as file:
    yield file
