"""The keys of elements in pipelines of one's own, hashed as the commands hash documents."""

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from curation.errors import WinnowError
from curation.selection import hashing


def hash_keys(purpose: str, seed: int, keys: Iterable[Any], what_for: str) -> np.ndarray:
  """Hashes keys: uint64 [N], for a pair (shard, row) the hash of that document (`hashing.hash_documents`).

  Other keys are strings, bytes and integers from 0 on. Raises WinnowError for a key of another type, which has no hash
  that is the same on all machines; the message says `what_for` the hash is needed.
  """
  identities = [_identity(key, what_for) for key in keys]
  keys_N = hashing.shard_keys(purpose, seed, (shard for shard, _ in identities))
  return hashing.hash_numbers(keys_N, np.array([row for _, row in identities], np.uint64))


def _identity(key: Any, what_for: str) -> tuple[str, int]:
  """Returns the shard and row that a key stands for."""
  if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and _is_row(key[1]):
    return key[0], int(key[1])
  if isinstance(key, str):
    return key, 0
  if isinstance(key, bytes):
    return key.hex(), 0
  if _is_row(key):
    return "", int(key)
  raise WinnowError(
    f"{what_for} by the key {key!r}: take strings, bytes, integers from 0 on, or pairs of a string and such an integer "
    "for keys"
  )


def _is_row(value: Any) -> bool:
  return isinstance(value, numbers.Integral) and 0 <= int(value) < 1 << 63
