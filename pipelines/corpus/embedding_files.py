"""Files of external embeddings: .npy files of [N, D] numbers, or Parquet files with a column of lists.

These files are not trusted: pickles are refused, and headers are checked before memory is allocated.
"""

import concurrent.futures
import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.files import damage, sealed_arrays, storage

Rows = Callable[[int, int], np.ndarray]
_MAX_DIMENSIONS = 16_384
_BATCH_ROWS = 1_024
_NAMES = ("embedding", "embeddings")


@dataclasses.dataclass(frozen=True)
class EmbeddingFile:
  """A file of embeddings: its path, rows, dimensions and checksum."""

  path: str
  rows: int
  dimensions: int
  checksum: str

  def identity(self) -> dict[str, str | int]:
    """Returns the part of a request that names this file, wherever it lies."""
    return {"name": storage.base_name(self.path), "rows": self.rows, "checksum": self.checksum}


def find(pattern: str, shards: list[blocks.Shard]) -> dict[str, EmbeddingFile]:
  """Returns the files that match a glob by the name of their shard, paired in the order of both names.

  If files in several folders share names, shards and embeddings must lie in folders of the same names. Raises
  WinnowError if numbers, folders or dimensions do not agree, or if one of the files holds no embeddings.
  """
  files = inputs.find_files(pattern)
  if len(files) != len(shards):
    raise WinnowError(
      f"--embeddings={pattern} matches {len(files)} files, but the input has {len(shards)} shards: give one file for "
      "each shard, with names that sort alike"
    )
  names, shard_names = [file.name for file in files], sorted(shard.name for shard in shards)
  for file, shard in zip(files, shard_names, strict=True):
    if file.name.rpartition("/")[0] != shard.rpartition("/")[0]:
      raise WinnowError(
        f"--embeddings={pattern}: by the order of names {file.path} would belong to the shard {shard}, which lies in "
        "another folder: give the folders of embeddings the same names as those of the shards"
      )
  if _sorts_by_number(names) != _sorts_by_number(shard_names):
    raise WinnowError(
      f"--embeddings={pattern}: the numbers in the names of the files ({names[0]}, {names[1]}, ...) and of the shards "
      "sort differently, so that the pairs would be wrong: pad the numbers with zeros"
    )
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    by_shard = dict(zip(shard_names, pool.map(_identify, (file.path for file in files)), strict=True))
  first = next((file for file in by_shard.values() if file.dimensions), None)
  if first is None:
    raise WinnowError(f"--embeddings={pattern}: none of the files holds an embedding")
  for other in by_shard.values():
    if other.dimensions not in (0, first.dimensions):
      raise WinnowError(
        f"{first.path} has {first.dimensions} dimensions and {other.path} {other.dimensions}: use files of one model"
      )
  return {shard: dataclasses.replace(file, dimensions=first.dimensions) for shard, file in by_shard.items()}


def _identify(path: str) -> EmbeddingFile:
  with storage.open_input(path) as file:
    rows, dimensions = _shape(file, path)
  return EmbeddingFile(path, rows, dimensions, storage.version(path))


def _sorts_by_number(names: list[str]) -> bool:
  """Tells whether names sort as their numbers do."""
  by_number = sorted(names, key=lambda name: [part.zfill(20) for part in re.split(r"(\d+)", name)])
  return sorted(names) == by_number


@contextlib.contextmanager
def opened(file: EmbeddingFile) -> Iterator[Rows]:
  """Opens a file as a function of (start, stop) that returns rows, float32 [stop - start, D]; null becomes NaN.

  Successive calls must not go back. Raises WinnowError if the file is not as it was when it was identified.
  """
  with storage.open_input(file.path) as stream:
    rows, dimensions = _shape(stream, file.path)
    if rows != file.rows or dimensions not in (0, file.dimensions):
      raise WinnowError(f"{file.path} has changed since the run began: run the command again")
    yield _parquet_rows(stream, file) if _is_parquet(file.path) else _npy_rows(stream, file.path)


def _is_parquet(path: str) -> bool:
  return path.endswith(".parquet")


def _shape(file: BinaryIO, path: str) -> tuple[int, int]:
  """Returns rows and dimensions; 0 dimensions if every row is null or empty."""
  if _is_parquet(path):
    with _naming_file(path):
      parquet = pq.ParquetFile(file)
      column = _list_column(parquet.schema_arrow, path)
      rows, dimensions = parquet.metadata.num_rows, getattr(parquet.schema_arrow.field(column).type, "list_size", 0)
      if dimensions <= 0:  # Parquet does not record the length of lists, so the first filled one decides
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=[column]):
          lengths = pc.list_value_length(batch[0].drop_null())
          if len(filled := lengths.filter(pc.greater(lengths, 0))):
            dimensions = filled[0].as_py()
            break
  elif path.endswith(".npy"):
    shape, _ = _npy_header(file, path)
    rows, dimensions = shape
  else:
    raise WinnowError(f"--embeddings: {path} is neither .npy nor .parquet")
  if dimensions > _MAX_DIMENSIONS:
    raise WinnowError(f"{path} has embeddings of {dimensions:,} dimensions; the limit is {_MAX_DIMENSIONS:,}")
  return rows, dimensions


def _npy_header(file: BinaryIO, path: str) -> tuple[tuple[int, int], np.dtype]:
  """Returns shape and dtype, and leaves the file where the numbers begin."""
  with _naming_file(path):
    file.seek(0)
    shape, is_fortran, dtype = sealed_arrays.read_header(file)
    if len(shape) != 2 or is_fortran or dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
      order = " in Fortran order" if is_fortran else ""
      raise ValueError(f"it holds {dtype} {list(shape)}{order}, not floats [N, D] row by row")
    start = file.tell()
    if file.seek(0, 2) - start != shape[0] * shape[1] * dtype.itemsize:
      raise ValueError("its size is not what its header says")
    file.seek(start)
  return shape, dtype


def _npy_rows(file: BinaryIO, path: str) -> Rows:
  (_, dimensions), dtype = _npy_header(file, path)
  begin, width = file.tell(), dimensions * dtype.itemsize

  def rows(start: int, stop: int) -> np.ndarray:
    file.seek(begin + start * width)
    with _naming_file(path):
      values = np.frombuffer(file.read((stop - start) * width), dtype).reshape(stop - start, dimensions)
    return _as_float32(values)

  return rows


def _parquet_rows(stream: BinaryIO, file: EmbeddingFile) -> Rows:
  path, dimensions = file.path, file.dimensions
  with _naming_file(path):
    parquet = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)
    column = _list_column(parquet.schema_arrow, path)
    batches = parquet.iter_batches(_BATCH_ROWS, columns=[column], use_threads=False)
  place, held = 0, np.empty((0, dimensions), np.float32)

  def rows(start: int, stop: int) -> np.ndarray:
    nonlocal place, held
    parts = []
    while place < stop:
      if not len(held):
        with _naming_file(path):
          held = _lists(next(batches)[0], dimensions, place)
      skipped = min(max(start - place, 0), len(held))
      taken = held[skipped : stop - place]
      parts.append(taken)
      place, held = place + skipped + len(taken), held[skipped + len(taken) :]
    return np.concatenate(parts) if parts else np.empty((0, dimensions), np.float32)

  return rows


def _lists(column: pa.Array, dimensions: int, first_row: int) -> np.ndarray:
  """Returns a column of lists as float32 [N, D]; a list that is null or contains a null becomes NaN."""
  missing = column.is_null().to_numpy(zero_copy_only=False)
  values = column.filter(pa.array(~missing)).flatten()
  lengths = np.full(len(column), dimensions)
  if not pa.types.is_fixed_size_list(column.type):
    lengths = column.value_lengths().fill_null(dimensions).to_numpy(zero_copy_only=False)
  if (odd := np.flatnonzero(lengths != dimensions)).size:
    raise ValueError(f"row {first_row + odd[0]} has {lengths[odd[0]]} numbers, but others have {dimensions}")
  embeddings_ND = np.full((len(column), dimensions), np.nan, np.float32)
  embeddings_ND[~missing] = _as_float32(values.to_numpy(zero_copy_only=False)).reshape(-1, dimensions)
  return embeddings_ND


def _as_float32(values: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):  # infinite values go to the dead letter
    return values.astype(np.float32)


def _list_column(schema: pa.Schema, path: str) -> str:
  def holds_lists(field: pa.Field) -> bool:
    is_list = (
      pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type)
    )
    return is_list and pa.types.is_floating(field.type.value_type)

  names = [field.name for field in schema if holds_lists(field)]
  named = [name for name in names if name in _NAMES]
  if len(named or names) != 1:
    raise WinnowError(
      f"{path} does not have one column of lists of floats, such as {_NAMES[0]!r}; its columns are "
      f"{', '.join(schema.names)}"
    )
  return (named or names)[0]


def _naming_file(path: str) -> contextlib.AbstractContextManager[None]:
  return damage.naming_file(path, lambda cause: WinnowError(f"{path} holds no embeddings, or is damaged ({cause})"))
