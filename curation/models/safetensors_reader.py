"""Opens a safetensors file as NumPy views, bfloat16 included (which safetensors' own NumPy reader lacks).

The format (github.com/huggingface/safetensors): 8 bytes with the header's length, little-endian; the header, a JSON
object of name -> {dtype, shape, data_offsets}; then the tensors' bytes, without gaps.
"""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np

from curation.errors import WinnowError

_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}

# The reference reader's limit.
_MAX_HEADER_BYTES = 100_000_000


def open_tensors(path: Path) -> dict[str, np.ndarray]:
  """Tensors by name, read-only views of the mapped file: float32, float16 or bfloat16.

  Raises WinnowError if the file is truncated or corrupt, or holds another dtype.
  """
  size = path.stat().st_size
  header, start = _read_header(path, size)
  header.pop("__metadata__", None)
  spans = []
  for name, entry in header.items():
    try:
      dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
      raise _corrupt(path, f"its entry for {name!r} is malformed") from error
    if not isinstance(dtype, str):
      raise _corrupt(path, f"its entry for {name!r} is malformed")
    if dtype not in _DTYPES:
      raise WinnowError(f"{path} holds {name!r} as {dtype!r}: convert it to float32, bfloat16 or float16.")
    numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= 8 else [None]
    if not all(type(n) is int and n >= 0 for n in numbers):
      raise _corrupt(path, f"its entry for {name!r} is malformed")
    if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
      raise _corrupt(path, f"{name!r} has {end - begin:,} bytes, which do not fit its shape {shape}")
    spans.append((begin, end, name))
  expected = 0
  for begin, end, name in sorted(spans):
    if begin != expected:
      raise _corrupt(path, f"{name!r} does not follow the tensor before it")
    expected = end
  if start + expected != size:
    raise _corrupt(path, f"it has {size:,} bytes where its header calls for {start + expected:,}")
  if not expected:
    return {name: np.zeros(header[name]["shape"], _DTYPES[header[name]["dtype"]]) for _, _, name in spans}
  data = np.memmap(path, np.uint8, mode="r", offset=start)
  return {
    name: data[begin:end].view(_DTYPES[header[name]["dtype"]]).reshape(header[name]["shape"])
    for begin, end, name in spans
  }


def _read_header(path: Path, size: int) -> tuple[dict, int]:
  """The header and where the tensors' bytes start."""
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
      raise _corrupt(path, "its header does not fit into it")
    try:
      header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
      raise _corrupt(path, "its header is not valid JSON") from error
  if not isinstance(header, dict):
    raise _corrupt(path, "its header is not a JSON object")
  return header, 8 + length


def _corrupt(path: Path, what: str) -> WinnowError:
  return WinnowError(f"{path} is truncated or not a safetensors file ({what}): download it again.")
