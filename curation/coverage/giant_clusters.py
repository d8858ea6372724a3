"""Splits giant clusters, those with more pairs of documents than SemDeDup may compare, into pieces.

A giant cluster is split by a second spherical k-means over its own documents; any other cluster is one piece. SemDeDup
compares documents within a piece only, but ranks them as in their cluster, by closeness to *the cluster's* centroid. So
among similar documents in one piece it keeps those that it would keep without the split. Near-copies are mostly in one
piece, and copies always.

Pieces are numbered consecutively, cluster after cluster. If no cluster is giant, the pieces are the clusters.

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
MOST_PIECES = 1 << 14  # of all giants: 50 MB of centroids of 768 dimensions, held by each worker that assigns
_PIECES = 4  # pieces for each limit's worth of documents: k-means leaves them uneven, and most must be below the limit
_HASH_PURPOSE = "semdedup split"


def check_limit(max_pairs: int) -> None:
  """Raises WinnowError unless the limit is at least the pairs of one tile, whose documents are compared at once."""
  if not LEAST_PAIRS <= max_pairs <= MOST_PAIRS:
    raise WinnowError(
      f"--max_cluster_pairs={max_pairs} is not between {LEAST_PAIRS:,}, the pairs of {semdedup.TILE_ROWS:,} documents, "
      f"and {MOST_PAIRS:,}"
    )


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The pieces of clusters of these sizes, int64 [K]; a cluster with more than `max_pairs` pairs is giant.

  `config` is the configuration that the clusters were found with.
  """

  sizes_K: np.ndarray
  max_pairs: int
  config: kmeans.KMeansConfig

  @functools.cached_property
  def most_documents(self) -> int:
    """The largest size of a cluster that is not giant."""
    return (1 + math.isqrt(1 + 8 * self.max_pairs)) // 2

  @functools.cached_property
  def giants(self) -> np.ndarray:
    """The numbers of the giant clusters, ascending: int64 [G]. Raises WinnowError for too many pieces."""
    giants_G = np.flatnonzero(self.sizes_K > self.most_documents)
    if (pieces := int(self._count_pieces(self.sizes_K[giants_G]).sum())) > MOST_PIECES:
      raise WinnowError(
        f"--max_cluster_pairs={self.max_pairs} would split {len(giants_G):,} clusters into {pieces:,} pieces, more "
        f"than {MOST_PIECES:,}: give a larger limit, or cluster with a larger --num_clusters"
      )
    return giants_G

  @functools.cached_property
  def starts(self) -> np.ndarray:
    """The first piece of each cluster, and the end of all: int64 [K + 1]."""
    pieces_K = np.ones(len(self.sizes_K), np.int64)
    pieces_K[self.giants] = self._count_pieces(self.sizes_K[self.giants])
    return np.concatenate([[0], np.cumsum(pieces_K)])

  def cluster_pieces(self, cluster: int) -> slice:
    """Returns the range of a cluster's pieces."""
    return slice(*self.starts[cluster : cluster + 2].tolist())

  def kmeans_config(self, cluster: int) -> kmeans.KMeansConfig:
    """Returns the configuration that splits a giant, derived from the one that found the clusters."""
    pieces = self.cluster_pieces(cluster)
    return dataclasses.replace(self.config, clusters=pieces.stop - pieces.start, lloyd_iterations=0)

  def sample(self, clusters_N: np.ndarray, shard: str, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picks the documents of giants on which k-means is trained: places and giants (0 to G - 1), int64, hashes, uint64.

    The choice depends on hashes alone. The documents of a giant, ordered by hash, are its sample.
    """
    giants_N = self._giant_K[clusters_N]
    places = np.flatnonzero(giants_N >= 0)
    hashes = hashing.hash_documents(_HASH_PURPOSE, self.config.seed, shard, rows_N[places])
    is_sampled = hashes <= self._sample_limits[giants_N[places]]
    places = places[is_sampled]
    return places, giants_N[places], hashes[is_sampled]

  def assign(
    self, clusters_N: np.ndarray, embeddings_ND: np.ndarray, centroids: Sequence[kmeans.Centroids]
  ) -> np.ndarray:
    """Returns the piece of each document, int32 [N], given the centroids of each giant's pieces.

    Raises WinnowError as `kmeans.Centroids.assign` does.
    """
    pieces_N, giants_N = self.starts[clusters_N].astype(np.int32), self._giant_K[clusters_N]
    for giant in np.unique(giants_N[giants_N >= 0]).tolist():
      rows = np.flatnonzero(giants_N == giant)
      pieces_N[rows] += centroids[giant].assign(embeddings_ND[rows]).clusters
    return pieces_N

  def figures(self, sizes_P: np.ndarray) -> dict[str, Any]:
    """Returns figures of the split of giants into pieces of these sizes, for JSON."""
    giant_pieces = [sizes_P[self.cluster_pieces(cluster)] for cluster in self.giants.tolist()]
    sizes = np.concatenate(giant_pieces)
    compared = _count_pairs(sizes)
    return {
      "max_cluster_pairs": self.max_pairs,
      "clusters": len(giant_pieces),
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
  def _giant_K(self) -> np.ndarray:
    """The number of each cluster among the giants, 0 to G - 1, or -1 for other clusters: int64 [K]."""
    giant_K = np.full(len(self.sizes_K), -1)
    giant_K[self.giants] = np.arange(len(self.giants))
    return giant_K

  def _count_pieces(self, sizes: np.ndarray) -> np.ndarray:
    return -(-_PIECES * sizes // self.most_documents)


def _count_pairs(sizes: np.ndarray) -> int:
  return sum(size * (size - 1) // 2 for size in sizes.tolist())
