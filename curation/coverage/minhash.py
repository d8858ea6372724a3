"""MinHash: documents that repeat another almost word for word (Broder 1997), found without comparing all pairs.

A document is the set of its runs of five words, and its signature the smallest value of each of H hash functions over
that set: the share of equal places in two signatures estimates the sets' Jaccard similarity s, with a standard
deviation of sqrt(s (1 - s) / H). Documents meet in a bucket if all r places of one of b bands are equal, which happens
with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman 2014, section 3.4); of those that do, pairs whose
signatures agree in enough places are joined, and of each connected component the first document is kept.

A job over a corpus numbers its documents in their order, and needs no text after the first step: `signatures` of each
block; their `band_keys`, sorted, of which `shared_keys` picks those that more than one document has; `Buckets` joins
those, once their signatures are there, to edges; and `components` of all edges, in parts and then together, since it
gives edges again, at most one a document.

Shape suffixes: N texts or documents, H hash functions, B bands, M members of buckets, E edges, C documents that are not
the first of their component, U code points.
"""

import dataclasses
import functools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import blanks
from curation.errors import WinnowError
from curation.selection import hashing

SIGNATURE_VERSION = 2  # of what the words and the hashes of a text are: stores of another one are refused
_LARGEST = np.uint32(0xFFFFFFFF)
_CODE_POINTS = 0x10000
_MOST_HASHES = 4_096
_MOST_COMPARED = 1_000  # 20 µs a document, where many meet in one bucket and no two have the same signature
_MOST_EDGES = 1 << 20


@dataclasses.dataclass(frozen=True)
class MinHashConfig:
  """How similar documents must be to be joined, and how they meet: in one of `bands` bands of `rows` hashes each.

  The defaults, 16 x 8 = 128 hashes, have pairs meet with probability 0.06 at a Jaccard similarity of 0.5, 0.48 at 0.67,
  0.95 at 0.8 and 0.9999 at 0.9; those below `similarity` are told apart then. Raises WinnowError for what cannot be.
  """

  similarity: float = 0.8
  bands: int = 16
  rows: int = 8

  def __post_init__(self):
    if not 0 < self.similarity <= 1:
      raise WinnowError(f"near-copies have a similarity above 0 and at most 1, not {self.similarity!r}: give 0.8, say")
    for name in ("bands", "rows"):
      value = getattr(self, name)
      if type(value) is not int or value < 1:
        raise WinnowError(f"the {name} of MinHash must be a whole number from 1 on, not {value!r}")
    if self.hashes > _MOST_HASHES:
      raise WinnowError(f"{self.bands} bands of {self.rows} rows are more than {_MOST_HASHES:,} hashes: take fewer")

  @property
  def hashes(self) -> int:
    return self.bands * self.rows

  def candidate_probability(self, similarity: float) -> float:
    """The probability that two documents of a similarity are compared at all."""
    return 1 - (1 - similarity**self.rows) ** self.bands


def signatures(texts: pa.Array | pa.ChunkedArray, hashes: int) -> np.ndarray:
  """MinHash signatures: uint32 [N, H], of strings of any Arrow type; a null is an empty text.

  Words are runs of letters, marks and digits (see `_codes`); neither case nor anything between words counts. In a text
  of fewer than five words, though, each symbol is a word as well, and in one without any letter or digit each
  punctuation mark too: it has nothing else to be told apart by. What is then still of fewer than five words is one
  shingle, an empty text too. The first places do not depend on H. The same everywhere.
  """
  from curation.coverage import minhash_loops  # brings the compiler

  strings = pc.fill_null(texts.cast(pa.large_string()), "")
  if isinstance(strings, pa.ChunkedArray):
    strings = strings.combine_chunks()
  signatures_NH = np.full((len(strings), hashes), _LARGEST)
  if len(strings):
    _, starts, bytes_ = strings.buffers()
    starts_N = np.frombuffer(starts, np.int64)[strings.offset : strings.offset + len(strings) + 1]
    text_B = np.frombuffer(bytes_, np.uint8) if bytes_ else np.zeros(0, np.uint8)
    drawn_H = hashing.hash_documents("minhash", 0, "", np.arange(hashes))
    multipliers_H, offsets_H = (drawn_H >> np.uint64(32)).astype(np.uint32) | np.uint32(1), drawn_H.astype(np.uint32)
    minhash_loops.compute_signatures(text_B, starts_N, _codes(), multipliers_H, offsets_H, signatures_NH)
  return signatures_NH


def band_keys(signatures_NH: np.ndarray, config: MinHashConfig) -> np.ndarray:
  """The buckets that documents fall into, one of each band: uint64 [N, B]; no bucket belongs to two bands."""
  bands_NBR = signatures_NH[:, : config.hashes].reshape(len(signatures_NH), config.bands, config.rows)
  keys_NB = np.broadcast_to(hashing.mix(np.arange(config.bands, dtype=np.uint64)), bands_NBR.shape[:2])
  for row in range(config.rows):
    keys_NB = hashing.mix(keys_NB ^ bands_NBR[:, :, row])
  return keys_NB


def bucket_edges(
  keys_M: np.ndarray, rows_M: np.ndarray, signatures_NH: np.ndarray, config: MinHashConfig
) -> np.ndarray:
  """Joins documents that met in these buckets and are as similar as `config` asks: edges, int64 [C, 2].

  Member m of the buckets has the key `keys_M[m]`, of `band_keys`, and the signature in row `rows_M[m]`. An edge goes
  from a row to the first of its component, as `components` has it. In a bucket of many a document is compared with the
  last 1,000 before it that differ from one another: whole buckets, and rows in the documents' order, then give the same
  everywhere.
  """
  from curation.coverage import minhash_loops

  order_M = np.lexsort((rows_M, keys_M))
  firsts_N = np.arange(len(signatures_NH))
  needed = math.ceil(config.similarity * config.hashes - 1e-9)
  minhash_loops.join_buckets(
    keys_M[order_M], rows_M[order_M], signatures_NH[:, : config.hashes], needed, _MOST_COMPARED, firsts_N
  )
  others_C = np.flatnonzero(firsts_N != np.arange(len(firsts_N)))
  return np.stack([others_C, firsts_N[others_C]], axis=1)


def components(edges_E2: np.ndarray) -> np.ndarray:
  """Connected components of a graph of numbered documents: each document but the first of its own, and that first.

  Both int64 [E, 2] and [C, 2], sorted. The result is edges of the same components, so parts of a graph may be connected
  first and then together, in any grouping: a CombineFn whose accumulators hold 16 bytes for each near-copy.
  """
  from curation.coverage import minhash_loops

  numbers_N, places_E2 = np.unique(edges_E2, return_inverse=True)
  places_E2 = places_E2.reshape(-1, 2)
  firsts_N = np.arange(len(numbers_N))
  minhash_loops.join_pairs(places_E2[:, 0], places_E2[:, 1], firsts_N)
  others_C = np.flatnonzero(firsts_N != np.arange(len(firsts_N)))
  return np.stack([numbers_N[others_C], numbers_N[firsts_N[others_C]]], axis=1)


def connected(parts: Iterable[np.ndarray]) -> np.ndarray:
  """`components` of edges that come in parts, in memory for two or three times as many as documents are joined."""
  total_C2 = np.empty((0, 2), np.int64)
  pending: list[np.ndarray] = []
  for part_E2 in parts:
    pending.append(part_E2)
    if sum(map(len, pending)) > max(_MOST_EDGES, len(total_C2)):
      total_C2, pending = components(np.concatenate([total_C2, *pending])), []
  return components(np.concatenate([total_C2, *pending]))


def to_order(high_M: np.ndarray, low_M: np.ndarray) -> np.ndarray:
  """What sorts by one number and then by another, both of 64 bits: S16 [M]."""
  both_M2 = np.empty((len(high_M), 2), ">u8")
  both_M2[:, 0], both_M2[:, 1] = high_M, low_M
  return both_M2.reshape(-1).view("S16")


def from_order(order_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The numbers that `to_order` was given, uint64 and int64 [M]."""
  both_M2 = np.ascontiguousarray(order_M).view(">u8").reshape(-1, 2)
  return both_M2[:, 0].astype(np.uint64), both_M2[:, 1].astype(np.int64)


def shared_keys(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Of keys and numbers (`to_order`) that come sorted in batches, those whose key is not theirs alone: S16 [M] each."""
  last, has_met = np.empty(0, "S16"), False  # the last one so far may meet the next
  for order_M in batches:
    order_M = np.concatenate([last, order_M])
    if not len(order_M):
      continue
    keys_M, _ = from_order(order_M)
    is_as_next_M = np.append(keys_M[1:] == keys_M[:-1], False)
    has_met_M = is_as_next_M | np.append(has_met, is_as_next_M[:-1])
    last, has_met = order_M[-1:], bool(has_met_M[-1])
    yield order_M[:-1][has_met_M[:-1]]
  yield last if has_met else last[:0]


class Buckets:
  """Joins documents that met, whose keys, numbers and signatures come in batches, sorted by key and then by number.

  Holds at most 1,000 members of the last bucket, and 16 bytes for each document that was joined.
  """

  def __init__(self, config: MinHashConfig):
    self._config = config
    self._keys_M, self._numbers_M = np.empty(0, np.uint64), np.empty(0, np.int64)
    self._signatures_MH = np.empty((0, config.hashes), np.uint32)
    self._edges: list[np.ndarray] = []

  def add(self, keys_M: np.ndarray, numbers_M: np.ndarray, signatures_MH: np.ndarray) -> None:
    from curation.coverage import minhash_loops

    keys_M, numbers_M = np.concatenate([self._keys_M, keys_M]), np.concatenate([self._numbers_M, numbers_M])
    signatures_MH = np.concatenate([self._signatures_MH, signatures_MH])
    if not len(keys_M):
      return
    numbers_N, first_N, rows_M = np.unique(numbers_M, return_index=True, return_inverse=True)
    edges_C2 = numbers_N[bucket_edges(keys_M, rows_M, signatures_MH[first_N], self._config)]
    self._edges.append(edges_C2)
    if sum(map(len, self._edges)) > max(_MOST_EDGES, 2 * len(self._edges[0])):
      self._edges = [self.edges()]
    # What of the last bucket the next members would still be compared with.
    start = int(np.searchsorted(keys_M, keys_M[-1]))
    last_M = start + minhash_loops.latest_different(signatures_MH[start:], _MOST_COMPARED)
    self._keys_M, self._numbers_M, self._signatures_MH = keys_M[last_M], numbers_M[last_M], signatures_MH[last_M]

  def edges(self) -> np.ndarray:
    """As `components`, of all that was added: int64 [C, 2]."""
    return components(np.concatenate([np.empty((0, 2), np.int64), *self._edges]))


def near_copies(texts: Sequence[str], config: MinHashConfig | None = None) -> np.ndarray:
  """Which texts are near-copies of an earlier one, or of a near-copy of it: bool [N]; what could be left out of them.

  In memory: 1.2 KB a text with the default configuration.
  """
  config = config or MinHashConfig()
  signatures_NH = signatures(pa.array(texts, pa.large_string()), config.hashes)
  keys_NB = band_keys(signatures_NH, config)
  rows_NB = np.broadcast_to(np.arange(len(keys_NB))[:, None], keys_NB.shape)
  copies_N = np.zeros(len(keys_NB), bool)
  copies_N[bucket_edges(keys_NB.ravel(), rows_NB.ravel(), signatures_NH, config)[:, 0]] = True
  return copies_N


@functools.cache
def _codes() -> np.ndarray:
  """What `minhash_loops.compute_signatures` wants to know of each code point: uint32 [U]. What lies beyond is a letter.

  By Unicode 3.2, which Python keeps for domain names: another Python, of a later Unicode, sees the same words. What is
  younger than that counts as a letter without case; emoji are letters.
  """
  from curation.coverage import minhash_loops

  codes_U = np.zeros(_CODE_POINTS, np.uint32)
  for point in range(_CODE_POINTS):  # 20 ms, once a process
    category = unicodedata.ucd_3_2_0.category(chr(point))
    if category == "Cn":
      codes_U[point] = point | minhash_loops.LETTER
    elif category[0] in "LMN":
      kind = minhash_loops.MARK if category[0] == "M" else minhash_loops.LETTER
      codes_U[point] = ord(chr(point).lower()[0]) | kind
    elif not blanks.is_blank(chr(point)):
      codes_U[point] = point | (minhash_loops.PUNCTUATION if category[0] == "P" else minhash_loops.SYMBOL)
  return codes_U
