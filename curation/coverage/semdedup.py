"""SemDeDup: scores how closely a document repeats another of its cluster (paper, B.3; Abbas et al. 2023, section 3).

The documents of a cluster are ranked, and a document's score is -(its largest cosine to any that is ranked before it).
Keeping scores above -(1 - epsilon) is SemDeDup at that epsilon: it keeps a document unless an earlier one is as
similar.

The documents of a cluster are compared in tiles of `TILE_ROWS` ranked documents, each with each earlier tile and with
itself. Such a tile pair is the unit of work, so a giant cluster divides over workers and fits into any worker's memory.
A job for one cluster has these steps, which `score_cluster` does alone:

1. `rank_documents`;
2. divide `range(count_tile_pairs(size))` among workers;
3. for each of `tile_pairs(start, stop)`, load the documents that `tile_places` names, and compute `largest_cosines` of
   their `unit_vectors`;
4. combine the results for the same documents by `np.maximum`, starting from `NOTHING_BEFORE`;
5. `to_scores`.

On one kind of processor the scores are the same to the last bit for any division and any number of threads.

Shape suffixes: N documents of a cluster, D dimensions, P tile pairs; R documents of a tile, C of an earlier one.
"""

import concurrent.futures
import threading
from typing import Literal, get_args

import numpy as np

from curation import blas
from curation.errors import WinnowError
from curation.models.vocabulary import usable_cores

Keep = Literal["nearest", "farthest", "random"]
"""The documents of a cluster that are ranked first, and so kept: the nearest to the centroid, as in this paper's
baseline, the farthest, as Abbas et al. write, or random ones."""

TILE_ROWS = 1_024
HASH_PURPOSE = "semdedup"
"""The purpose of the hashes that break ties of ranks: `hashing.hash_documents(HASH_PURPOSE, seed, shard, rows_N)`."""
NOTHING_BEFORE = np.float32(-1)
"""The largest cosine of a document that no other is ranked before; neutral under `np.maximum`."""

# OpenBLAS adds up longer products in parts.
_TERMS_AT_ONCE = 256
# A product is divided among threads here, in strips, and not by OpenBLAS: on CPUs without AVX-512 the last bits of a
# number depend on its place in the part that a thread computes.
_STRIP_ROWS = 128
_HELD_TILES = 8
_CORNER_ROWS = 128
_NOT_BEFORE = ~np.tri(_CORNER_ROWS, k=-1, dtype=bool)
_CACHE_LINE = 16  # numbers of padding, since rows of exactly 4 KB would crowd a column into few lines of the cache
_thread = threading.local()


def rank_documents(cosines_N: np.ndarray, hashes_N: np.ndarray, keep: Keep = "nearest") -> np.ndarray:
  """Ranks the documents of a cluster: int64 [N], positions in the arrays given, first to last.

  `cosines_N` are the cosines to the centroid, float32. Ties, and all documents if `keep` is random, are ordered by
  `hashes_N`, uint64 (see `HASH_PURPOSE`). Raises WinnowError for NaN and for another `keep`.
  """
  if len(cosines_N) != len(hashes_N):
    raise ValueError(f"{len(cosines_N)} cosines and {len(hashes_N)} hashes are not of the same documents")
  if keep not in get_args(Keep):
    raise WinnowError(f"cannot keep the {keep!r} documents of a cluster: give {' or '.join(get_args(Keep))}")
  if np.isnan(cosines_N).any():
    place = int(np.flatnonzero(np.isnan(cosines_N))[0])
    raise WinnowError(f"document {place} of the cluster has NaN as its cosine to the centroid: assign clusters again")
  if keep == "random":
    return np.argsort(hashes_N, kind="stable")
  return np.lexsort((hashes_N, cosines_N if keep == "farthest" else -cosines_N))


def unit_vectors(embeddings_ND: np.ndarray) -> np.ndarray:
  """Scales embeddings of any float dtype to length 1: float32 [N, D], row by row, whatever the other rows are.

  Raises WinnowError for embeddings without a cosine: NaN, infinite, zero, or with a length beyond float32.
  """
  from curation.coverage import halves  # loads the compiler

  return _scale(halves.to_float32(np.asarray(embeddings_ND)))


def _scale(vectors_ND: np.ndarray) -> np.ndarray:
  """Scales rows to length 1 in place, since allocating memory for every tile costs more than the arithmetic."""
  lengths_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
  if (wrong_N := ~((lengths_N > 0) & (lengths_N < np.inf))).any():
    place = int(np.flatnonzero(wrong_N)[0])
    raise WinnowError(
      f"embedding {place} of {len(vectors_ND)} has length {lengths_N[place]}, so its cosines are undefined: leave its "
      "document out, or embed it again"
    )
  vectors_ND /= lengths_N[:, None]
  return vectors_ND


def count_tile_pairs(size: int) -> int:
  """Counts the tile pairs of a cluster of `size` documents. Any range of their numbers is a share of the work."""
  tiles = -(-size // TILE_ROWS)
  return tiles * (tiles + 1) // 2


def tile_pairs(start: int, stop: int) -> np.ndarray:
  """Returns the tile pairs numbered from `start` up to `stop`: int64 [P, 2], a tile and an earlier one or itself.

  Clusters of every size have the same sequence: (0, 0), (1, 0), (1, 1), (2, 0), ... So neighbours mostly share their
  first tile.
  """
  numbers_P = np.arange(start, stop, dtype=np.int64)
  # Exact below 2**50, clusters of 10**10 documents, since float64 can tell the roots of 8 P + 1 apart.
  tiles_P = ((np.sqrt(8 * numbers_P + 1) - 1) / 2).astype(np.int64)
  return np.stack([tiles_P, numbers_P - tiles_P * (tiles_P + 1) // 2], axis=1)


def tile_places(tile: int, size: int) -> slice:
  """Returns the positions in rank order of a tile's documents, in a cluster of `size`."""
  return slice(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, size))


def largest_cosines(tile_RD: np.ndarray, earlier_CD: np.ndarray | None = None) -> np.ndarray:
  """Computes each document's largest cosine to any document of an earlier tile: float32 [R], at least -1.

  Without an earlier tile, computes the largest cosine to the documents ranked before it in its own tile, which is
  `NOTHING_BEFORE` for the first. Both tiles are `unit_vectors` in rank order, at most `TILE_ROWS`. Takes 8 MB besides.
  """
  if earlier_CD is not None:
    return np.maximum(np.max(_cosines(tile_RD, earlier_CD), axis=1), NOTHING_BEFORE)
  cosines_RR, largest_R = _cosines(tile_RD, tile_RD, triangle=True), np.empty(len(tile_RD), np.float32)
  for start in range(0, len(tile_RD), _CORNER_ROWS):
    rows_XC = cosines_RR[start : start + _CORNER_ROWS, : start + _CORNER_ROWS]
    np.copyto(rows_XC[:, start:], NOTHING_BEFORE, where=_NOT_BEFORE[: len(rows_XC), : len(rows_XC)])
    np.max(rows_XC, axis=1, out=largest_R[start : start + _CORNER_ROWS])
  return np.maximum(largest_R, NOTHING_BEFORE)


def to_scores(largest_N: np.ndarray) -> np.ndarray:
  """Returns the scores for largest cosines to earlier documents: float32 [N] in [-1, 1], +1 for the first document."""
  return -np.minimum(largest_N, np.float32(1))  # the product of unit vectors may slightly exceed 1


def score_cluster(
  embeddings_ND: np.ndarray, cosines_N: np.ndarray, hashes_N: np.ndarray, *, keep: Keep = "nearest"
) -> np.ndarray:
  """Scores all documents of a cluster, in the order given: float32 [N].

  The embeddings may have any float dtype, in memory or mapped. Takes 40 MB besides them (at 768 dimensions), whatever
  their number. See `rank_documents` and `unit_vectors` for `cosines_N`, `hashes_N` and errors.
  """
  if len(embeddings_ND) != len(cosines_N):
    raise ValueError(f"{len(embeddings_ND)} embeddings and {len(cosines_N)} cosines are not of the same documents")
  size, order_N = len(embeddings_ND), rank_documents(cosines_N, hashes_N, keep)
  largest_N = np.full(size, NOTHING_BEFORE)

  def load(tile: int) -> np.ndarray:
    return unit_vectors(embeddings_ND[order_N[tile_places(tile, size)]])

  tiles = -(-size // TILE_ROWS)
  for first in range(0, tiles, _HELD_TILES):  # each earlier tile is loaded once for all tiles that are held
    held = {tile: load(tile) for tile in range(first, min(first + _HELD_TILES, tiles))}
    for earlier in range(first + len(held)):
      earlier_CD = held[earlier] if earlier in held else load(earlier)
      for tile in range(max(first, earlier), first + len(held)):
        largest_R = largest_N[tile_places(tile, size)]
        np.maximum(largest_R, largest_cosines(held[tile], None if tile == earlier else earlier_CD), out=largest_R)
  scores_N = np.empty(size, np.float32)
  scores_N[order_N] = to_scores(largest_N)
  return scores_N


def _cosines(left_RD: np.ndarray, right_CD: np.ndarray, *, triangle: bool = False) -> np.ndarray:
  """Computes all cosines of two tiles: float32 [R, C], valid until the thread's next call.

  Of a tile with itself, only strips up to the diagonal are computed for a `triangle`; what is above them is undefined.
  """
  sums_RC, terms_RC = _buffers()[:, : len(left_RD), : len(right_CD)]

  def multiply(first: int) -> None:
    rows, columns = slice(first, first + _STRIP_ROWS), slice(0, first + _STRIP_ROWS if triangle else None)
    for start in range(0, left_RD.shape[1], _TERMS_AT_ONCE):
      terms = slice(start, start + _TERMS_AT_ONCE)
      out = (terms_RC if start else sums_RC)[rows, columns]
      np.matmul(left_RD[rows, terms], right_CD[columns, terms].T, out=out)
      if start:
        np.add(sums_RC[rows, columns], out, out=sums_RC[rows, columns])

  with (
    blas.one_thread(),
    concurrent.futures.ThreadPoolExecutor(usable_cores(), "winnow-semdedup", blas.limit_this_thread) as pool,
  ):
    for _ in pool.map(multiply, range(0, len(left_RD), _STRIP_ROWS)):
      pass
  return sums_RC


def _buffers() -> np.ndarray:
  """Returns the thread's memory for two tile pairs; allocating it for each would take a fifth of the product's time."""
  if not hasattr(_thread, "buffers"):
    _thread.buffers = np.empty((2, TILE_ROWS, TILE_ROWS + _CACHE_LINE), np.float32)
  return _thread.buffers
