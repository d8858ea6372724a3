"""MinHash: finds documents that repeat another almost word for word (Broder 1997), without comparing all pairs.

A document is the set of its runs of five words. Its signature is the smallest value of each of H hash functions over
that set. The share of equal positions in two signatures estimates the sets' Jaccard similarity s, with a standard
deviation of sqrt(s (1 - s) / H). Two documents share a bucket if all r positions of one of b bands are equal, which
happens with probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman 2014, section 3.4). Documents of a bucket whose
signatures agree in enough positions are joined, and the first document of each connected component is kept.

A job over a corpus numbers its documents in order, and needs no text after the first step:

1. `signatures` of each block;
2. their `band_keys`, sorted, of which `shared_keys` picks those of more than one document;
3. edges, as `Buckets` joins the documents of those keys by their signatures;
4. `components` of all edges, of parts first and then together, since the result is edges again, at most one per
   document.

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

SIGNATURE_VERSION = 2  # of the words and hashes of a text; stores of another version are refused
_LARGEST = np.uint32(0xFFFFFFFF)
_CODE_POINTS = 0x10000
_MOST_HASHES = 4_096
_MOST_COMPARED = 1_000  # takes 20 µs per document if many share one bucket and no two have the same signature
_MOST_EDGES = 1 << 20


@dataclasses.dataclass(frozen=True)
class MinHashConfig:
  """The Jaccard similarity from which documents are joined, and the `bands` bands of `rows` hashes that find pairs.

  With the defaults, 16 x 8 = 128 hashes, a pair shares a bucket with probability 0.06 at a Jaccard similarity of 0.5,
  0.48 at 0.67, 0.95 at 0.8 and 0.9999 at 0.9. Comparing signatures then rejects pairs below `similarity`. Raises
  WinnowError for values out of range.
  """

  similarity: float = 0.8
  bands: int = 16
  rows: int = 8

  def __post_init__(self):
    if not 0 < self.similarity <= 1:
      raise WinnowError(f"the similarity of near-copies must be in (0, 1], not {self.similarity!r}: give 0.8, say")
    for name in ("bands", "rows"):
      value = getattr(self, name)
      if type(value) is not int or value < 1:
        raise WinnowError(f"the {name} of MinHash must be a whole number of at least 1, not {value!r}")
    if self.hashes > _MOST_HASHES:
      raise WinnowError(f"{self.bands} bands of {self.rows} rows are more than {_MOST_HASHES:,} hashes: take fewer")

  @property
  def hashes(self) -> int:
    """The number of hash functions."""
    return self.bands * self.rows

  def candidate_probability(self, similarity: float) -> float:
    """Returns the probability that two documents of this similarity share a bucket, and so are compared."""
    return 1 - (1 - similarity**self.rows) ** self.bands


def signatures(texts: pa.Array | pa.ChunkedArray, hashes: int) -> np.ndarray:
  """Computes MinHash signatures of strings of any Arrow type: uint32 [N, H]. A null counts as an empty text.

  Words are runs of letters, marks and digits (see `_codes`). Case and characters between words are ignored. In a text
  of fewer than five words, each symbol is a word as well. In a text without any letter or digit, so is each punctuation
  mark, since nothing else tells such texts apart. A text that still has fewer than five words, or none, is one shingle.
  The first values of a signature do not depend on H. Signatures are the same on every machine.
  """
  from curation.coverage import minhash_loops  # loads the compiler

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
  """Returns the buckets of documents, one per band: uint64 [N, B]. No bucket belongs to two bands."""
  bands_NBR = signatures_NH[:, : config.hashes].reshape(len(signatures_NH), config.bands, config.rows)
  keys_NB = np.broadcast_to(hashing.mix(np.arange(config.bands, dtype=np.uint64)), bands_NBR.shape[:2])
  for row in range(config.rows):
    keys_NB = hashing.mix(keys_NB ^ bands_NBR[:, :, row])
  return keys_NB


def bucket_edges(
  keys_M: np.ndarray, rows_M: np.ndarray, signatures_NH: np.ndarray, config: MinHashConfig
) -> np.ndarray:
  """Joins documents that share a bucket and are as similar as `config` asks; returns edges, int64 [C, 2].

  Member m of the buckets has the key `keys_M[m]`, of `band_keys`, and the signature in row `rows_M[m]`. An edge goes
  from a row to the first row of its component, as in `components`. In a large bucket, a document is compared with the
  last 1,000 before it that differ from one another. So the result depends on whole buckets being given, with rows in
  the order of documents.
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
  """Finds the connected components of a graph of numbered documents, from edges int64 [E, 2].

  Returns each document that is not the first of its component, with that first document: int64 [C, 2], sorted. The
  result is again edges of the same components. So parts of a graph may be connected first and then together, in any
  grouping: a CombineFn whose accumulators hold 16 bytes per near-copy.
  """
  from curation.coverage import minhash_loops

  numbers_N, places_E2 = np.unique(edges_E2, return_inverse=True)
  places_E2 = places_E2.reshape(-1, 2)
  firsts_N = np.arange(len(numbers_N))
  minhash_loops.join_pairs(places_E2[:, 0], places_E2[:, 1], firsts_N)
  others_C = np.flatnonzero(firsts_N != np.arange(len(firsts_N)))
  return np.stack([numbers_N[others_C], numbers_N[firsts_N[others_C]]], axis=1)


def connected(parts: Iterable[np.ndarray]) -> np.ndarray:
  """Computes `components` of edges that come in parts, in memory for two or three edges per joined document."""
  total_C2 = np.empty((0, 2), np.int64)
  pending: list[np.ndarray] = []
  for part_E2 in parts:
    pending.append(part_E2)
    if sum(map(len, pending)) > max(_MOST_EDGES, len(total_C2)):
      total_C2, pending = components(np.concatenate([total_C2, *pending])), []
  return components(np.concatenate([total_C2, *pending]))


def to_order(high_M: np.ndarray, low_M: np.ndarray) -> np.ndarray:
  """Returns keys that sort by one 64-bit number and then by another: S16 [M]."""
  both_M2 = np.empty((len(high_M), 2), ">u8")
  both_M2[:, 0], both_M2[:, 1] = high_M, low_M
  return both_M2.reshape(-1).view("S16")


def from_order(order_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the numbers that `to_order` was given: uint64 and int64 [M]."""
  both_M2 = np.ascontiguousarray(order_M).view(">u8").reshape(-1, 2)
  return both_M2[:, 0].astype(np.uint64), both_M2[:, 1].astype(np.int64)


def shared_keys(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the keys and numbers (`to_order`) whose key occurs more than once, from sorted batches: S16 [M] each."""
  last, is_shared = np.empty(0, "S16"), False  # the last one may share its key with the next batch
  for order_M in batches:
    order_M = np.concatenate([last, order_M])
    if not len(order_M):
      continue
    keys_M, _ = from_order(order_M)
    is_as_next_M = np.append(keys_M[1:] == keys_M[:-1], False)
    is_shared_M = is_as_next_M | np.append(is_shared, is_as_next_M[:-1])
    last, is_shared = order_M[-1:], bool(is_shared_M[-1])
    yield order_M[:-1][is_shared_M[:-1]]
  yield last if is_shared else last[:0]


class Buckets:
  """Joins documents that share buckets, given in batches of keys, numbers and signatures, sorted by key and number.

  Holds at most 1,000 members of the last bucket, and 16 bytes per joined document.
  """

  def __init__(self, config: MinHashConfig):
    self._config = config
    self._keys_M, self._numbers_M = np.empty(0, np.uint64), np.empty(0, np.int64)
    self._signatures_MH = np.empty((0, config.hashes), np.uint32)
    self._edges: list[np.ndarray] = []

  def add(self, keys_M: np.ndarray, numbers_M: np.ndarray, signatures_MH: np.ndarray) -> None:
    """Adds a batch: keys uint64 [M], document numbers int64 [M] and signatures uint32 [M, H]."""
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
    # Keep the members of the last bucket that the next members will be compared with.
    start = int(np.searchsorted(keys_M, keys_M[-1]))
    last_M = start + minhash_loops.latest_different(signatures_MH[start:], _MOST_COMPARED)
    self._keys_M, self._numbers_M, self._signatures_MH = keys_M[last_M], numbers_M[last_M], signatures_MH[last_M]

  def edges(self) -> np.ndarray:
    """Returns the edges of all batches, in the form of `components`: int64 [C, 2]."""
    return components(np.concatenate([np.empty((0, 2), np.int64), *self._edges]))


def near_copies(texts: Sequence[str], config: MinHashConfig | None = None) -> np.ndarray:
  """Tells which texts are near-copies of an earlier text, or of a near-copy of it: bool [N].

  Takes 1.2 KB of memory per text with the default configuration.
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
  """Returns the code that `minhash_loops.compute_signatures` needs for each code point below U: uint32 [U].

  Code points from U on are letters. Codes follow Unicode 3.2, which Python keeps for domain names, so that a Python
  with a later Unicode sees the same words. Younger characters count as letters without case; so do emoji.
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
