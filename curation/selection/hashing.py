"""Randomness as a function: a named 64-bit hash of (seed, shard, row), never a stream.

The hash of a document depends on its identity and the seed alone. So samples, ties and output positions are the same on
every runner. The tests hold golden values: changing a hash changes every sample ever drawn.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash_documents(purpose: str, seed: int, shard: str, rows_N: np.ndarray) -> np.ndarray:
  """Hashes the documents of one shard: uint64 [N], uniform over all 64 bits.

  `purpose` names the use ('tie', 'random', 'place', ...); hashes for two purposes are independent. `rows_N` are row
  numbers of any integer dtype. Purpose, seed and shard name give a 64-bit key (BLAKE2b), to which SplitMix64 (Steele,
  Lea and Flood 2014) adds the row. For one key the map from rows to hashes is a bijection, so documents of one shard
  never collide.
  """
  return hash_numbers(shard_keys(purpose, seed, [shard])[0], rows_N)


def shard_keys(purpose: str, seed: int, shards: Iterable[str]) -> np.ndarray:
  """Returns the key of each shard for `hash_numbers`: uint64 [N]. A key takes a microsecond."""
  identities = ("\0".join((purpose, str(seed), shard)).encode() for shard in shards)
  digests = (hashlib.blake2b(identity, digest_size=8).digest() for identity in identities)
  return np.frombuffer(b"".join(digests), "<u8")


def hash_numbers(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
  """Hashes numbers >= 0 under keys, which are hashes themselves: uint64, in the shape that both broadcast to.

  For one key this is a bijection, as `hash_documents` is for its rows.
  """
  return _finalise((np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * _GOLDEN_RATIO + keys)


def mix(state_N: np.ndarray) -> np.ndarray:
  """Applies one step of SplitMix64, a bijection, to states: uint64 [N]."""
  return _finalise(state_N + _GOLDEN_RATIO)


def _finalise(state_N: np.ndarray) -> np.ndarray:
  state_N = (state_N ^ (state_N >> np.uint64(30))) * _MIX_1
  state_N = (state_N ^ (state_N >> np.uint64(27))) * _MIX_2
  return state_N ^ (state_N >> np.uint64(31))


def uniforms(purpose: str, seed: int, start: int, stop: int) -> np.ndarray:
  """Returns uniform numbers in (0, 1), those from `start` to `stop` of a purpose and seed: float64 [stop - start]."""
  return to_uniforms(hash_documents(purpose, seed, "", np.arange(start, stop)))


def to_uniforms(hashes_N: np.ndarray) -> np.ndarray:
  """Maps hashes (uint64) to numbers in (0, 1): float64 [N]."""
  return ((hashes_N >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
