"""Files of a few NumPy arrays and a checksum of them."""

import tokenize

import google_crc32c
import numpy as np

from curation.errors import DamagedError
from pipelines import storage


def write(path: str, *arrays: np.ndarray) -> None:
  """Makes arrays durable."""
  with storage.create_file(path) as file:
    for array in arrays:
      np.save(file, array, allow_pickle=False)
    np.save(file, _checksum(arrays), allow_pickle=False)


def read(path: str, count: int) -> list[np.ndarray]:
  """What `write` wrote; DamagedError where it is not that."""
  try:
    with storage.open_input(path) as file:
      arrays = [np.load(file, allow_pickle=False) for _ in range(count)]
      if _checksum(arrays) != np.load(file, allow_pickle=False):
        raise ValueError("it does not fit its checksum")
  except (ValueError, TypeError, EOFError, MemoryError, SyntaxError, tokenize.TokenError) as error:
    raise DamagedError(f"{path} is damaged ({error}); run the same command again, which makes it again") from error
  return arrays


def _checksum(arrays) -> np.uint32:
  checksum = 0
  for array in arrays:
    checksum = google_crc32c.extend(checksum, f"{array.dtype.str} {array.shape}".encode())
    checksum = google_crc32c.extend(checksum, np.ascontiguousarray(array).view(np.uint8).reshape(-1))
  return np.uint32(checksum)
