"""Parquet files of ours: their pages, their metadata and each file as a whole have checksums.

Parquet guards pages alone, and those only where a writer asks for it. So the metadata that we add have a checksum of
their own, and the whole file a seal: the CRC32C of all its other bytes, in the four bytes before the footer, which
no reader looks at since a footer names places. Who reads a file for its numbers compares the pages that it reads; who
decides that a file need not be made again compares the seal.
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
_ABOUT, _CHECKSUM = b"winnow", b"winnow_crc32c"
_SEAL_BYTES, _TAIL_BYTES = 4, 8  # the tail: the footer's size, then Parquet's magic


@contextlib.contextmanager
def create(path: str, schema: pa.Schema, *, must_agree: bool = False, **options: Any) -> Iterator[pq.ParquetWriter]:
  """`storage.create_file` for tables; whoever writes them tells `describe` at the end what else there is to say."""
  with storage.create_file(path, must_agree=must_agree) as file:
    with pq.ParquetWriter(file, schema, **_OPTIONS | options) as writer:
      yield writer
    _seal(file)


def describe(writer: pq.ParquetWriter, about: Any) -> None:
  """Adds a JSON value as the file's own metadata."""
  value = orjson.dumps(about)
  writer.add_key_value_metadata({_ABOUT: value, _CHECKSUM: b"%08x" % google_crc32c.value(value)})


def description(parquet: pq.ParquetFile) -> Any:
  """What `describe` added; ValueError or KeyError where it is not as written."""
  metadata = parquet.metadata.metadata or {}
  if metadata[_CHECKSUM] != b"%08x" % google_crc32c.value(metadata[_ABOUT]):
    raise ValueError("its metadata do not fit their checksum")
  return orjson.loads(metadata[_ABOUT])


def check(file: IO[bytes]) -> None:
  """Reads a file whole, from anywhere in it; ValueError unless every byte is as written."""
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
  """Where Parquet's footer starts; ValueError where it cannot."""
  size = file.seek(0, os.SEEK_END)
  if size >= _TAIL_BYTES:
    file.seek(size - _TAIL_BYTES)
    start = size - _TAIL_BYTES - int.from_bytes(file.read(4), "little")
    if start >= 0:
      return start
  raise ValueError("it is cut short")


def _checksum(file: IO[bytes], stop: int) -> int:
  """CRC32C of a file's first bytes, after which it stands."""
  file.seek(0)
  checksum, left = 0, stop
  while left and (data := file.read(min(left, storage.COPY_BYTES))):
    checksum, left = google_crc32c.extend(checksum, data), left - len(data)
  return checksum
