"""Tiles of many clusters, numbered consecutively, so that ranges of numbers divide a corpus's documents and tile pairs.

Documents are ordered by cluster, and within a cluster as SemDeDup ranks them. A document's place is its number in that
order. Tiles (`semdedup.TILE_ROWS` documents of one cluster, fewer at its end) and tile pairs are numbered the same way,
cluster after cluster. So a range of pairs needs the documents of a range of tiles, which are a range of places, however
uneven the clusters are. A part is a run of consecutive clusters, whose documents are in one file. A cluster in this
module may be a piece of a giant one (`giant_clusters`).

Shape suffixes: N documents, K clusters, P parts, X tile pairs.
"""

import dataclasses
import functools

import numpy as np

from curation.coverage import semdedup


def order_keys(clusters_N: np.ndarray, cosines_N: np.ndarray, hashes_N: np.ndarray, keep: semdedup.Keep) -> np.ndarray:
  """Returns keys that sort documents by cluster, and then as `semdedup.rank_documents` does: S16 [N].

  `clusters_N` is int32, `cosines_N` (to the centroid) float32 without NaN, and `hashes_N` uint64
  (`semdedup.HASH_PURPOSE`).
  """
  bits_N = (cosines_N + np.float32(0)).view(np.uint32)  # -0 and 0 get the same bits
  ascending_N = np.where(bits_N >> np.uint32(31), ~bits_N, bits_N | np.uint32(1 << 31))
  rank_N = {"nearest": ~ascending_N, "farthest": ascending_N, "random": np.zeros_like(ascending_N)}[keep]
  key_N = np.empty(len(clusters_N), [("cluster", ">u4"), ("rank", ">u4"), ("hash", ">u8")])
  key_N["cluster"], key_N["rank"], key_N["hash"] = clusters_N, rank_N, hashes_N
  return key_N.view("S16")


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The numbering of a corpus's tiles by the sizes of its clusters, int64 [K].

  A part is filled with clusters until it has `part_documents`, so it may exceed them by part of a cluster.
  """

  sizes_K: np.ndarray
  part_documents: int

  @functools.cached_property
  def place_starts(self) -> np.ndarray:
    """The first place of each cluster, and the end of all: int64 [K + 1]."""
    return _starts(self.sizes_K)

  @functools.cached_property
  def tile_starts(self) -> np.ndarray:
    """The first tile of each cluster, and the end of all: int64 [K + 1]."""
    return _starts(-(-self.sizes_K // semdedup.TILE_ROWS))

  @functools.cached_property
  def pair_starts(self) -> np.ndarray:
    """The first tile pair of each cluster, and the end of all: int64 [K + 1]."""
    tiles_K = np.diff(self.tile_starts)
    return _starts(tiles_K * (tiles_K + 1) // 2)

  @functools.cached_property
  def part_clusters(self) -> np.ndarray:
    """The first cluster of each part, and the end of all: int64 [P + 1]."""
    part_K = self.place_starts[:-1] // self.part_documents
    firsts = np.flatnonzero(np.diff(part_K, prepend=-1))
    return np.append(firsts, len(self.sizes_K))

  @property
  def num_parts(self) -> int:
    return len(self.part_clusters) - 1

  def parts_of(self, clusters_N: np.ndarray) -> np.ndarray:
    """Returns the part of each cluster: int64 [N]."""
    return np.searchsorted(self.part_clusters, clusters_N, side="right") - 1

  def tiles_of_part(self, part: int) -> range:
    """Returns the numbers of a part's tiles."""
    return range(*self.tile_starts[self.part_clusters[part : part + 2]].tolist())

  def pairs_of_part(self, part: int) -> range:
    """Returns the numbers of a part's tile pairs."""
    return range(*self.pair_starts[self.part_clusters[part : part + 2]].tolist())

  def places(self, tiles: range) -> slice:
    """Returns the places of the documents of consecutive tiles, at least one."""
    return slice(self._first_place(tiles.start), self._first_place(tiles.stop))

  def _first_place(self, tile: int) -> int:
    if tile == self.tile_starts[-1]:
      return int(self.place_starts[-1])
    cluster = _cluster_of(self.tile_starts, tile)
    return int(self.place_starts[cluster] + (tile - self.tile_starts[cluster]) * semdedup.TILE_ROWS)

  def cluster_of_tile(self, tile: int) -> int:
    """Returns the cluster that a tile belongs to."""
    return _cluster_of(self.tile_starts, tile)

  def first_pair(self, tile: int) -> int:
    """Returns the first pair of a tile, where the pairs of earlier tiles end. `tile` may be the end of all tiles."""
    if tile == self.tile_starts[-1]:
      return int(self.pair_starts[-1])
    cluster = _cluster_of(self.tile_starts, tile)
    before = int(tile - self.tile_starts[cluster])
    return int(self.pair_starts[cluster]) + semdedup.count_tile_pairs(before * semdedup.TILE_ROWS)

  def pairs(self, start: int, stop: int) -> np.ndarray:
    """Returns the tile pairs numbered from `start` up to `stop`, at least one: int64 [X, 2].

    A pair is a tile and an earlier tile of its cluster, or the tile itself.
    """
    first, last = (_cluster_of(self.pair_starts, pair) for pair in (start, stop - 1))
    pairs = []
    for cluster in range(first, last + 1):
      before, end = self.pair_starts[cluster : cluster + 2].tolist()
      pairs.append(semdedup.tile_pairs(max(start - before, 0), min(stop, end) - before) + self.tile_starts[cluster])
    return np.concatenate(pairs)


def _starts(counts) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _cluster_of(starts: np.ndarray, number: int) -> int:
  """Returns the cluster, never an empty one, that contains this number, given the clusters' first numbers."""
  return int(np.searchsorted(starts, number, side="right")) - 1
