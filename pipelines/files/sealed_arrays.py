"""Files of NumPy arrays. Headers are checked before memory is allocated; the files that we write have a checksum."""

import math
import os
import threading
from typing import IO

import google_crc32c
import numpy as np

from curation.errors import DamagedError
from pipelines.files import damage, storage

_MAX_HEADER_BYTES = 1 << 16
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NumPy parses headers with Python's own parser. Python 3.11 counts that parser's depth for all threads together, so two
# threads that parse at once may end in a SystemError.
_PARSING = threading.Lock()


def write(path: str, *arrays: np.ndarray) -> None:
  """Writes arrays and their checksum to a durable file."""
  with storage.create_file(path) as file:
    for array in arrays:
      np.save(file, array, allow_pickle=False)
    np.save(file, _checksum(arrays), allow_pickle=False)


def read(path: str, count: int) -> list[np.ndarray]:
  """Returns the `count` arrays that `write` wrote to a file; raises DamagedError if they are not as written."""

  def refusal(cause: str) -> DamagedError:
    return DamagedError(f"{path} is damaged ({cause}); run the same command again to remake it")

  with storage.open_input(path) as file, damage.naming_file(path, refusal):
    arrays = [_load(file) for _ in range(count)]
    if _checksum(arrays) != _load(file):
      raise ValueError("it does not fit its checksum")
  return arrays


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads the header of the array that begins here: its shape, whether it is in Fortran order, and its dtype.

  The file is left where the numbers begin. Raises ValueError, or what NumPy's parser raises, if the rest of the file
  cannot hold such an array.
  """
  parse = _HEADERS[np.lib.format.read_magic(file)]
  with _PARSING:
    shape, is_fortran, dtype = parse(file, max_header_size=_MAX_HEADER_BYTES)
  start = file.tell()
  size = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or (not dtype.hasobject and size > file.seek(0, os.SEEK_END) - start):
    raise ValueError("its size is not what its header says")
  file.seek(start)
  return shape, is_fortran, dtype


def _load(file: IO[bytes]) -> np.ndarray:
  start = file.tell()
  read_header(file)
  file.seek(start)
  with _PARSING:
    return np.load(file, allow_pickle=False)


def _checksum(arrays) -> np.uint32:
  checksum = 0
  for array in arrays:
    checksum = google_crc32c.extend(checksum, f"{array.dtype.str} {array.shape}".encode())
    checksum = google_crc32c.extend(checksum, np.ascontiguousarray(array).view(np.uint8).reshape(-1))
  return np.uint32(checksum)
