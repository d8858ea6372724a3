"""SemDeDup: how closely a document repeats another of its cluster (paper, B.3; Abbas et al. 2023, section 3).

The documents of a cluster are ranked, and a document's score is -(its largest cosine to any that is ranked before it).
To keep scores above -(1 - epsilon) is SemDeDup at that epsilon: it keeps a document unless one before it is as similar.

A cluster's pairs are worked off in tiles of `TILE_ROWS` ranked documents, each by each tile before it and by itself.
Such a tile pair is the unit of work, so that a giant cluster divides over workers and fits into the memory of any. A
job for one cluster: `rank_documents`; share out `range(count_tile_pairs(size))`; for each of `tile_pairs(start, stop)`
load the documents that `tile_places` names, and take `largest_cosines` of their `unit_vectors`; combine what belongs to
the same documents by `np.maximum`, from `NOTHING_BEFORE` on; then `to_scores`. That is what `score_cluster` does alone.
On one kind of processor the scores are the same to the last bit for any sharing and any number of threads.

Shape suffixes: N documents of a cluster, D dimensions, P tile pairs; R documents of a tile, C of an earlier one.
"""

import threading
from typing import Literal, get_args

import numpy as np

from curation.errors import WinnowError

Keep = Literal["nearest", "farthest", "random"]
"""Which documents of a cluster are ranked first, and so kept: the nearest to the centroid, as this paper's baseline has
it, the farthest, which Abbas et al. write, or any."""

TILE_ROWS = 1_024
HASH_PURPOSE = "semdedup"
"""Of the hashes that ranks are decided by: `hashing.hash_documents(HASH_PURPOSE, seed, shard, rows_N)`."""
NOTHING_BEFORE = np.float32(-1)
"""The largest cosine of a document that none is ranked before: what `np.maximum` changes nothing with."""

# OpenBLAS adds up longer products in parts, whose borders differ with the number of threads, and then the last bits do.
_TERMS_AT_ONCE = 256
_HELD_TILES = 8
_CORNER_ROWS = 128
_NOT_BEFORE = ~np.tri(_CORNER_ROWS, k=-1, dtype=bool)
_CACHE_LINE = 16  # numbers; but for these, rows of 4 KB would crowd a column into few lines of the cache
_thread = threading.local()


def rank_documents(cosines_N: np.ndarray, hashes_N: np.ndarray, keep: Keep = "nearest") -> np.ndarray:
  """The documents of a cluster as they are ranked, first to last: int64 [N], places in the arrays given.

  `cosines_N` are those to the centroid, float32; equal ones, and all if `keep` is random, fall by `hashes_N`, uint64
  (see `HASH_PURPOSE`). Raises WinnowError for NaN and for another `keep`.
  """
  if len(cosines_N) != len(hashes_N):
    raise ValueError(f"{len(cosines_N)} cosines and {len(hashes_N)} hashes are not of the same documents")
  if keep not in get_args(Keep):
    raise WinnowError(f"{keep!r} does not say which documents of a cluster to keep: give {' or '.join(get_args(Keep))}")
  if np.isnan(cosines_N).any():
    place = int(np.flatnonzero(np.isnan(cosines_N))[0])
    raise WinnowError(f"document {place} of the cluster has NaN as its cosine to the centroid: assign clusters again")
  if keep == "random":
    return np.argsort(hashes_N, kind="stable")
  return np.lexsort((hashes_N, cosines_N if keep == "farthest" else -cosines_N))


def unit_vectors(embeddings_ND: np.ndarray) -> np.ndarray:
  """The embeddings scaled to length 1, in any float dtype: float32 [N, D], row by row, so the same in any company.

  Raises WinnowError for those that have no cosine: NaN, infinite, zero, or longer than float32 can tell.
  """
  from curation.coverage import halves  # which brings the compiler

  return _scale(halves.to_float32(np.asarray(embeddings_ND)))


def _scale(vectors_ND: np.ndarray) -> np.ndarray:
  """Scales in place: memory that is had anew for every tile costs more than the arithmetic."""
  lengths_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
  if (wrong_N := ~((lengths_N > 0) & (lengths_N < np.inf))).any():
    place = int(np.flatnonzero(wrong_N)[0])
    raise WinnowError(
      f"embedding {place} of {len(vectors_ND)} has the length {lengths_N[place]}, so that there is no cosine to it: "
      "leave its document out, or embed it again"
    )
  vectors_ND /= lengths_N[:, None]
  return vectors_ND


def count_tile_pairs(size: int) -> int:
  """How many tile pairs a cluster of `size` documents has; any range of their numbers is a share of the work."""
  tiles = -(-size // TILE_ROWS)
  return tiles * (tiles + 1) // 2


def tile_pairs(start: int, stop: int) -> np.ndarray:
  """The tile pairs with the numbers from `start` to `stop`: int64 [P, 2], a tile and one before it, or itself.

  The same for clusters of every size: (0, 0), (1, 0), (1, 1), (2, 0), ... So neighbours mostly share their first tile.
  """
  numbers_P = np.arange(start, stop, dtype=np.int64)
  # Exact below 2**50, in clusters of 10**10 documents: until then float64 tells the roots of 8 P + 1 apart.
  tiles_P = ((np.sqrt(8 * numbers_P + 1) - 1) / 2).astype(np.int64)
  return np.stack([tiles_P, numbers_P - tiles_P * (tiles_P + 1) // 2], axis=1)


def tile_places(tile: int, size: int) -> slice:
  """The places in rank order that the documents of a tile have in a cluster of `size`."""
  return slice(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, size))


def largest_cosines(tile_RD: np.ndarray, earlier_CD: np.ndarray | None = None) -> np.ndarray:
  """The largest cosine of each document of a tile to any of an earlier tile: float32 [R], at least -1.

  Without an earlier tile: to those of its own tile that are ranked before it, `NOTHING_BEFORE` for the first. Both are
  `unit_vectors` in rank order, `TILE_ROWS` at most. Takes 8 MB beside them.
  """
  if earlier_CD is not None:
    return np.maximum(np.max(_cosines(tile_RD, earlier_CD), axis=1), NOTHING_BEFORE)
  cosines_RR, largest_R = _triangle_of_cosines(tile_RD), np.empty(len(tile_RD), np.float32)
  for start in range(0, len(tile_RD), _CORNER_ROWS):
    rows_XC = cosines_RR[start : start + _CORNER_ROWS, : start + _CORNER_ROWS]
    np.copyto(rows_XC[:, start:], NOTHING_BEFORE, where=_NOT_BEFORE[: len(rows_XC), : len(rows_XC)])
    np.max(rows_XC, axis=1, out=largest_R[start : start + _CORNER_ROWS])
  return np.maximum(largest_R, NOTHING_BEFORE)


def to_scores(largest_N: np.ndarray) -> np.ndarray:
  """Scores of documents by their largest cosine to one ranked before: float32 [N] in [-1, 1], +1 for the first."""
  return -np.minimum(largest_N, np.float32(1))  # the product of unit vectors may be a little more


def score_cluster(
  embeddings_ND: np.ndarray, cosines_N: np.ndarray, hashes_N: np.ndarray, *, keep: Keep = "nearest"
) -> np.ndarray:
  """The scores of all documents of a cluster, in their own order: float32 [N].

  Takes 40 MB beside the embeddings (768 dimensions), whatever their number: of any float dtype, in memory or mapped.
  `cosines_N`, `hashes_N` and errors: see `rank_documents` and `unit_vectors`.
  """
  if len(embeddings_ND) != len(cosines_N):
    raise ValueError(f"{len(embeddings_ND)} embeddings and {len(cosines_N)} cosines are not of the same documents")
  size, order_N = len(embeddings_ND), rank_documents(cosines_N, hashes_N, keep)
  largest_N = np.full(size, NOTHING_BEFORE)

  def load(tile: int) -> np.ndarray:
    return unit_vectors(embeddings_ND[order_N[tile_places(tile, size)]])

  tiles = -(-size // TILE_ROWS)
  for first in range(0, tiles, _HELD_TILES):  # an earlier tile, once it is there, serves as many as are held
    held = {tile: load(tile) for tile in range(first, min(first + _HELD_TILES, tiles))}
    for earlier in range(first + len(held)):
      earlier_CD = held[earlier] if earlier in held else load(earlier)
      for tile in range(max(first, earlier), first + len(held)):
        largest_R = largest_N[tile_places(tile, size)]
        np.maximum(largest_R, largest_cosines(held[tile], None if tile == earlier else earlier_CD), out=largest_R)
  scores_N = np.empty(size, np.float32)
  scores_N[order_N] = to_scores(largest_N)
  return scores_N


def _cosines(left_RD: np.ndarray, right_CD: np.ndarray) -> np.ndarray:
  """All cosines of two tiles, float32 [R, C], which stand until the thread's next call."""
  sums_RC, terms_RC = _buffers()[:, : len(left_RD), : len(right_CD)]
  for start in range(0, left_RD.shape[1], _TERMS_AT_ONCE):
    some = slice(start, start + _TERMS_AT_ONCE)
    np.matmul(left_RD[:, some], right_CD[:, some].T, out=terms_RC if start else sums_RC)
    if start:
      np.add(sums_RC, terms_RC, out=sums_RC)
  return sums_RC


def _triangle_of_cosines(tile_RD: np.ndarray) -> np.ndarray:
  """Those of a tile's documents and the ones before, float32 [R, R], until the thread's next call; above it is nothing.

  NumPy would copy the triangle to the other side, which takes half as long as to compute it.
  """
  import scipy.linalg.blas  # which takes a while

  size = len(tile_RD)
  upper_RR = _buffers()[0].ravel()[: size * size].reshape(size, size).T  # upper as Fortran sees it
  for start in range(0, tile_RD.shape[1], _TERMS_AT_ONCE):
    terms_XR = tile_RD[:, start : start + _TERMS_AT_ONCE].T
    upper_RR = scipy.linalg.blas.ssyrk(1, terms_XR, beta=float(start > 0), c=upper_RR, trans=1, overwrite_c=1)
  return upper_RR.T


def _buffers() -> np.ndarray:
  """Memory for two tile pairs, kept for the thread: to get it anew for each takes a fifth of the product's time."""
  if not hasattr(_thread, "buffers"):
    _thread.buffers = np.empty((2, TILE_ROWS, TILE_ROWS + _CACHE_LINE), np.float32)
  return _thread.buffers
