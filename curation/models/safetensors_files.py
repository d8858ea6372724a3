"""Safetensors files: reads and checks headers, maps tensors, and writes one array with a description.

The format (github.com/huggingface/safetensors): 8 bytes with the header's length, little-endian; the header, a JSON
object of name -> {dtype, shape, data_offsets}; then the tensors' bytes, without gaps.

The library itself writes checkpoints (`checkpoint_writer`). But it reads only local paths and whole byte strings, and
copies each tensor: that takes 0.35 s and 400 MB of memory for a file of 400 MB, whereas this module's views of the
mapped file take 1 ms and no memory (safetensors 0.8 on NumPy, two cores). Sketches are read by rows from the file
object of an object store. The library's writer also spaces its header differently, and resumed stores compare these
files.
"""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from curation import errors
from curation.errors import DamagedError, WinnowError

_FLOATS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
_DTYPES = _FLOATS | {"I32": np.dtype("<i4")}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"

# The reference reader's limit.
_MAX_HEADER_BYTES = 100_000_000


class Entry(NamedTuple):
  """A header's entry for one tensor; `begin` and `end` count from the first byte after the header."""

  dtype: str
  shape: tuple[int, ...]
  begin: int
  end: int


class Header(NamedTuple):
  """A header that fits its file: the tensors' entries by name, and `start`, the first byte after the header."""

  metadata: Any
  entries: dict[str, Entry]
  start: int

  def content(self, key: str, version: int) -> dict[str, Any]:
    """Returns the JSON object that `write_array` put under `key`; raises ValueError if it has another version.

    Other errors are those that `refusing` turns into a DamagedError.
    """
    content = json.loads(self.metadata[key])
    if content["version"] != version:
      raise ValueError(f"it is of version {content['version']}, and this is version {version}")
    return content


def open_tensors(path: Path) -> dict[str, np.ndarray]:
  """Maps tensors by name, as read-only views of the file: float32, float16 or bfloat16.

  Raises WinnowError if the file is truncated or corrupt, or holds another dtype.
  """
  try:
    with path.open("rb") as file:
      header = read_header(file)
  except ValueError as error:
    raise WinnowError(f"{path} is truncated or not a safetensors file ({error}): download it again.") from error
  for name, entry in header.entries.items():
    if entry.dtype not in _FLOATS:
      raise WinnowError(f"{path} holds {name!r} as {entry.dtype!r}: convert it to float32, bfloat16 or float16.")
  if not any(entry.end for entry in header.entries.values()):
    return {name: np.zeros(entry.shape, _FLOATS[entry.dtype]) for name, entry in header.entries.items()}
  data = np.memmap(path, np.uint8, mode="r", offset=header.start)
  return {
    name: data[entry.begin : entry.end].view(_FLOATS[entry.dtype]).reshape(entry.shape)
    for name, entry in header.entries.items()
  }


def write_array(file: IO[bytes], array: np.ndarray, *, name: str, key: str, content: dict[str, Any]) -> None:
  """Writes a file of one tensor, int32 or float32, with the JSON object `content` under `key` of the metadata."""
  array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
  entry = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [0, array.nbytes]}
  header = json.dumps({_METADATA: {key: json.dumps(content, sort_keys=True)}, name: entry}).encode()
  header += b" " * (-len(header) % 8)
  file.write(len(header).to_bytes(8, "little") + header)
  file.write(array.data)


def read_header(file: BinaryIO, max_bytes: int = _MAX_HEADER_BYTES) -> Header:
  """Reads the header of a seekable file, and nothing else of it.

  Raises ValueError with the cause unless the tensors fill the file without gaps, and each tensor of a known dtype has
  the bytes that its shape calls for. Nothing is allocated for a size that only the header claims.
  """
  size = file.seek(0, io.SEEK_END)
  file.seek(0)
  length = int.from_bytes(file.read(8), "little")
  if size < 8 or length > min(size - 8, max_bytes):
    raise ValueError("its header does not fit into it")
  try:
    header = json.loads(file.read(length))
  except (ValueError, RecursionError) as error:
    raise ValueError("its header is not valid JSON") from error
  if not isinstance(header, dict):
    raise ValueError("its header is not a JSON object")
  metadata = header.pop(_METADATA, None)
  entries = {name: _read_entry(name, fields) for name, fields in header.items()}
  expected = 0
  for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end, item[0])):
    if entry.begin != expected:
      raise ValueError(f"{name!r} does not follow the tensor before it")
    expected = entry.end
  start = 8 + length
  if start + expected != size:
    raise ValueError(f"it has {size:,} bytes where its header calls for {start + expected:,}")
  return Header(metadata, entries, start)


def _read_entry(name: str, fields: Any) -> Entry:
  """Checks one entry of a header; raises ValueError with the cause if it is malformed."""
  malformed = f"its entry for {name!r} is malformed"
  try:
    dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(malformed) from error
  numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= 8 else [None]
  if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in numbers):
    raise ValueError(malformed)
  if dtype in _DTYPES and end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
    raise ValueError(f"{name!r} has {end - begin:,} bytes, which do not fit its shape {shape}")
  return Entry(dtype, tuple(shape), begin, end)


@contextlib.contextmanager
def refusing(path: str, what: str, *others: type[Exception]) -> Iterator[None]:
  """Raises a DamagedError that says `what` is wrong with the file at `path`, for errors that untrusted bytes cause.

  `others` are further such errors. Errors of a store that cannot be read just now pass, since they say nothing about
  the file.
  """
  faults: tuple[type[Exception], ...] = (ValueError, KeyError, TypeError, AttributeError, RecursionError, *others)
  try:
    yield
  except faults as error:
    raise DamagedError(f"{path} {what} ({errors.first_line(error)}): delete it and make it anew") from error
