"""Parquet files of ours, with checksums of their pages, of their metadata, and of each file as a whole.

Parquet itself protects only pages, and only if the writer asks for it. So the metadata that we add have a checksum of
their own, and the whole file has a seal: the CRC32C of all its other bytes. The seal lies in the four bytes before the
footer. No reader looks there, since the footer holds the offsets of everything that is read. Code that reads numbers
from a file verifies the pages that it reads; code that decides whether a file must be remade verifies the seal.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

import google_crc32c
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import storage

_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}
_DESCRIPTION, _CHECKSUM = b"winnow", b"winnow_crc32c"
_SEAL_BYTES, _TAIL_BYTES = 4, 8  # the tail: the footer's size, then Parquet's magic


@contextlib.contextmanager
def create(path: str, schema: pa.Schema, *, must_agree: bool = False, **options: Any) -> Iterator[pq.ParquetWriter]:
  """Opens a writer of tables to a new file, as `storage.create_file` does; `describe` adds metadata at the end."""
  with storage.create_file(path, must_agree=must_agree) as file:
    with pq.ParquetWriter(file, schema, **_OPTIONS | options) as writer:
      yield writer
    _seal(file)


def describe(writer: pq.ParquetWriter, value: Any) -> None:
  """Adds a JSON value to the metadata of the file."""
  encoded = orjson.dumps(value)
  writer.add_key_value_metadata({_DESCRIPTION: encoded, _CHECKSUM: b"%08x" % google_crc32c.value(encoded)})


def description(parquet: pq.ParquetFile) -> Any:
  """Returns the value that `describe` added; raises ValueError or KeyError if it is not as written."""
  metadata = parquet.metadata.metadata or {}
  if metadata[_CHECKSUM] != b"%08x" % google_crc32c.value(metadata[_DESCRIPTION]):
    raise ValueError("its metadata do not fit their checksum")
  return orjson.loads(metadata[_DESCRIPTION])


def check(file: IO[bytes]) -> None:
  """Reads the whole file, whatever its position; raises ValueError unless every byte is as written."""
  start = _footer_start(file) - _SEAL_BYTES
  if start < 0:
    raise ValueError("it is cut short")
  checksum = _checksum(file, start)
  seal = file.read(_SEAL_BYTES)
  if seal != google_crc32c.extend(checksum, file.read()).to_bytes(_SEAL_BYTES, "little"):
    raise ValueError("its bytes do not fit their checksum")
  file.seek(0)


def _seal(file: IO[bytes]) -> None:
  start = _footer_start(file)
  checksum = _checksum(file, start)
  footer = file.read()
  file.seek(start)
  file.write(google_crc32c.extend(checksum, footer).to_bytes(_SEAL_BYTES, "little") + footer)


def _footer_start(file: IO[bytes]) -> int:
  """Returns the offset of Parquet's footer; raises ValueError if the file has none."""
  size = file.seek(0, os.SEEK_END)
  if size >= _TAIL_BYTES:
    file.seek(size - _TAIL_BYTES)
    start = size - _TAIL_BYTES - int.from_bytes(file.read(4), "little")
    if start >= 0:
      return start
  raise ValueError("it is cut short")


def _checksum(file: IO[bytes], stop: int) -> int:
  """Returns the CRC32C of a file's first `stop` bytes, and leaves the file behind them."""
  file.seek(0)
  checksum, left = 0, stop
  while left and (data := file.read(min(left, storage.COPY_BYTES))):
    checksum, left = google_crc32c.extend(checksum, data), left - len(data)
  return checksum
