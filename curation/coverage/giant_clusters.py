"""Giant clusters, of more pairs than are to be compared, and the pieces that they are split into.

A piece is a cluster, or of a giant one what a second spherical k-means over its own documents makes of it. SemDeDup
compares the documents of a piece alone, ranked as in their cluster, by closeness to *its* centroid: so what is kept of
documents that are alike is what would be kept without the split, wherever they come to lie in one piece. Near-copies
mostly do, and copies always.

Pieces are numbered through, cluster after cluster, so that where no cluster is giant they are the clusters.

Shape suffixes: N documents, D dimensions, K clusters, G giants, P pieces.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from curation.coverage import kmeans, semdedup
from curation.errors import WinnowError
from curation.selection import hashing

LEAST_PAIRS, MOST_PAIRS = semdedup.TILE_ROWS * (semdedup.TILE_ROWS - 1) // 2, 10**18
MOST_PIECES = 1 << 14  # of giants, in all: 50 MB of centroids of 768 dimensions, which workers that assign hold
_PIECES = 4  # for what could be one: k-means leaves pieces uneven, and most are to be below the limit
_HASH_PURPOSE = "semdedup split"


def check_limit(max_pairs: int) -> None:
  """Raises WinnowError for a limit that cannot be: a tile's documents are compared at once."""
  if not LEAST_PAIRS <= max_pairs <= MOST_PAIRS:
    raise WinnowError(
      f"--max_cluster_pairs={max_pairs} is not between {LEAST_PAIRS:,}, which {semdedup.TILE_ROWS:,} documents have, "
      f"and {MOST_PAIRS:,}"
    )


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The pieces of clusters of such sizes, int64 [K], of which those with more than `max_pairs` pairs are giant.

  `config`: how the clusters were found.
  """

  sizes_K: np.ndarray
  max_pairs: int
  config: kmeans.KMeansConfig

  @functools.cached_property
  def most_documents(self) -> int:
    """The largest size that is not giant."""
    return (1 + math.isqrt(1 + 8 * self.max_pairs)) // 2

  @functools.cached_property
  def giants(self) -> np.ndarray:
    """The numbers of the giant clusters, ascending: int64 [G]. Raises WinnowError for too many pieces."""
    giants_G = np.flatnonzero(self.sizes_K > self.most_documents)
    if (pieces := int(self._pieces_of(self.sizes_K[giants_G]).sum())) > MOST_PIECES:
      raise WinnowError(
        f"--max_cluster_pairs={self.max_pairs} would split {len(giants_G):,} clusters into {pieces:,} pieces, more "
        f"than {MOST_PIECES:,}: give a larger one, or find more clusters"
      )
    return giants_G

  @functools.cached_property
  def starts(self) -> np.ndarray:
    """The first piece of each cluster, and the end: int64 [K + 1]."""
    pieces_K = np.ones(len(self.sizes_K), np.int64)
    pieces_K[self.giants] = self._pieces_of(self.sizes_K[self.giants])
    return np.concatenate([[0], np.cumsum(pieces_K)])

  def cluster_pieces(self, cluster: int) -> slice:
    """The pieces of a cluster."""
    return slice(*self.starts[cluster : cluster + 2].tolist())

  def kmeans_config(self, cluster: int) -> kmeans.KMeansConfig:
    """How a giant is split: as the clusters were found."""
    pieces = self.cluster_pieces(cluster)
    return dataclasses.replace(self.config, clusters=pieces.stop - pieces.start, lloyd_iterations=0)

  def sample(self, clusters_N: np.ndarray, shard: str, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The documents of giants that pieces are found by: places, giants (0 to G - 1), both int64, and hashes, uint64.

    They are what hashes pick, whoever reads them; a giant's, in the order of hashes, are its sample.
    """
    giants_N = self._giant_of[clusters_N]
    places = np.flatnonzero(giants_N >= 0)
    hashes = hashing.hash_documents(_HASH_PURPOSE, self.config.seed, shard, rows_N[places])
    is_sampled = hashes <= self._sample_limits[giants_N[places]]
    places = places[is_sampled]
    return places, giants_N[places], hashes[is_sampled]

  def assign(
    self, clusters_N: np.ndarray, embeddings_ND: np.ndarray, centroids: Sequence[kmeans.Centroids]
  ) -> np.ndarray:
    """The piece of each document, int32 [N], by the centroids of each giant's pieces; see `kmeans.Centroids.assign`."""
    pieces_N, giants_N = self.starts[clusters_N].astype(np.int32), self._giant_of[clusters_N]
    for giant in np.unique(giants_N[giants_N >= 0]).tolist():
      of_giant = np.flatnonzero(giants_N == giant)
      pieces_N[of_giant] += centroids[giant].assign(embeddings_ND[of_giant]).clusters
    return pieces_N

  def figures(self, sizes_P: np.ndarray) -> dict[str, Any]:
    """What is to be known of a split into pieces of such sizes, for JSON: of giants alone."""
    of_giants = [sizes_P[self.cluster_pieces(cluster)] for cluster in self.giants.tolist()]
    sizes = np.concatenate(of_giants)
    compared = _count_pairs(sizes)
    return {
      "max_cluster_pairs": self.max_pairs,
      "clusters": len(of_giants),
      "documents": int(sizes.sum()),
      "pieces": len(sizes),
      "pieces_above": int((sizes > self.most_documents).sum()),
      "largest_piece": int(sizes.max()),
      "pairs_compared": compared,
      "pairs_left_out": _count_pairs(self.sizes_K[self.giants]) - compared,
    }

  @functools.cached_property
  def _sample_limits(self) -> np.ndarray:
    """The largest hash in the sample of each giant: uint64 [G]."""
    limits = [self.kmeans_config(giant).sample_limit(int(self.sizes_K[giant])) for giant in self.giants.tolist()]
    return np.array(limits, np.uint64)

  @functools.cached_property
  def _giant_of(self) -> np.ndarray:
    """Which giant each cluster is, from 0 to G - 1, or -1: int64 [K]."""
    giant_K = np.full(len(self.sizes_K), -1)
    giant_K[self.giants] = np.arange(len(self.giants))
    return giant_K

  def _pieces_of(self, sizes: np.ndarray) -> np.ndarray:
    return -(-_PIECES * sizes // self.most_documents)


def _count_pairs(sizes: np.ndarray) -> int:
  return sum(size * (size - 1) // 2 for size in sizes.tolist())
