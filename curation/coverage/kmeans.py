"""Spherical k-means over embeddings: centroids from a sample, and every point's own (paper B.3, B.4).

Only a point's direction counts: centroids have length 1, a point belongs to the one of the largest cosine, and what is
minimised is the mean of the squared chords 2 - 2 cosine, the *inertia* (Dhillon and Modha 2001). Training on a sample
is faiss's, from seeds drawn here; iterations over a whole corpus add up `Sums` of its parts, exactly, in any order.
Shape suffixes: N points, D dimensions, K centroids, S points that seeds are drawn from, B points of a batch, C
candidates for a seed.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from curation.errors import WinnowError
from curation.selection import hashing

MAX_CLUSTERS = 1_000_000
_MAX_NUMBERS = 1 << 30
_SEEDING_POINTS = 16  # a centroid
_MOST_AT_ONCE = 512
_TRIALS = 3
_SEEDING_BATCH = 4_096
_MOST_DECODED_BYTES = 2 << 30
_BATCH, _BATCH_NUMBERS = 1_024, 1 << 24
_UNIT = 2.0**-24  # of sums: all that float16 holds of a unit vector, and float64 adds 2^29 of them up exactly
_SPLIT = 2.0**-10
_SILHOUETTE_POINTS = 10_000
_SLACK = 0.01  # unit vectors in float16 are a little shorter or longer than 1


@dataclasses.dataclass(frozen=True)
class KMeansConfig:
  """What centroids follow from, beside the points. Raises WinnowError for what cannot be."""

  clusters: int = 10_000
  points_per_cluster: int = 256
  """Of the sample that centroids are trained on."""
  iterations: int = 20
  lloyd_iterations: int = 0
  """Further ones, over all points."""
  seed: int = 0

  def __post_init__(self):
    for flag, value, low, high in (
      ("num_clusters", self.clusters, 1, MAX_CLUSTERS),
      ("kmeans_sample", self.points_per_cluster, 1, 1 << 20),
      ("kmeans_iterations", self.iterations, 1, 1_000),
      ("lloyd_iterations", self.lloyd_iterations, 0, 100),
    ):
      if not low <= value <= high:
        raise WinnowError(f"--{flag}={value} is not between {low:,} and {high:,}")

  def check_points(self, num_points: int) -> None:
    """Raises WinnowError where there are fewer points than clusters."""
    if num_points < self.clusters:
      raise WinnowError(
        f"--num_clusters={self.clusters} is more than the {num_points:,} documents that have an embedding; take "
        "fewer, about their square root"
      )

  def sample_limit(self, num_points: int) -> int:
    """Points whose hash is at most this make the sample: `points_per_cluster` x `clusters` of them, or a few more.

    The number of points below a limit is binomial; it is short of what is wanted once in a billion times.
    """
    wanted = self.points_per_cluster * self.clusters
    expected = wanted + 6 * wanted**0.5 + 60
    return (1 << 64) - 1 if expected >= num_points else int(expected / num_points * 2.0**64)


class Assigned(NamedTuple):
  """The clusters of N points: int32 [N], and the cosines to their centroids, float32 [N]."""

  clusters: np.ndarray
  cosines: np.ndarray


class Trained(NamedTuple):
  """Centroids, float32 [K, D] of length 1, and what is known of their training, for JSON."""

  centroids_KD: np.ndarray
  training: dict[str, Any]


class Centroids:
  """Centroids of length 1, float32 [K, D], that points can be assigned to."""

  def __init__(self, centroids_KD: np.ndarray):
    self.centroids_KD = np.ascontiguousarray(centroids_KD, np.float32)
    clusters, dimensions = self.centroids_KD.shape
    self._batch = min(_BATCH, max(64, _BATCH_NUMBERS // clusters))
    # Twice what float32 can be off a cosine, however a library orders its terms (Higham 2002, section 3.1).
    self._margin = np.float32(2 * (dimensions + 2) * 2.0**-24)

  def assign(self, points_ND: np.ndarray) -> Assigned:
    """The nearest centroid of each point, float [N, D] of any length; of equally near ones the first.

    A point's result is a function of it and the centroids alone, to the last bit: one matrix product in float32 leaves
    the few centroids that may be the nearest, and their cosines are computed again in float64, row by row. Raises
    WinnowError for a point without a direction, or that is not finite.
    """
    from curation.coverage import halves, kmeans_loops  # which bring the compiler

    points_ND = self._checked(points_ND)
    clusters_N, cosines_N = np.empty(len(points_ND), np.int32), np.empty(len(points_ND), np.float32)
    products_BK = np.empty((min(self._batch, len(points_ND)), len(self.centroids_KD)), np.float32)
    for start in range(0, len(points_ND), self._batch):
      batch_BD = halves.to_float32(points_ND[start : start + self._batch])
      lengths_B = kmeans_loops.lengths(batch_BD)
      if (odd_B := ~((lengths_B > 0) & np.isfinite(lengths_B))).any():
        raise WinnowError(
          f"point {start + int(odd_B.argmax())} of a block is zero or not finite, and has no nearest centroid: leave "
          "such embeddings out"
        )
      products_BK = np.matmul(batch_BD, self.centroids_KD.T, out=products_BK[: len(batch_BD)])
      least_B = products_BK.max(axis=1) - self._margin * lengths_B.astype(np.float32)
      clusters_B, dots_B = kmeans_loops.nearest(batch_BD, self.centroids_KD, products_BK, least_B)
      stop = start + len(batch_BD)
      clusters_N[start:stop], cosines_N[start:stop] = clusters_B, np.clip(dots_B / lengths_B, -1, 1)
    return Assigned(clusters_N, cosines_N)

  def silhouette(self, points_ND: np.ndarray) -> float | None:
    """How well clusters part at some points, unit vectors [N, D], N > 0: the mean of (b - a) / b, in [0, 1].

    a and b are 1 - cosine to the own and to the next centroid (Hruschka et al. 2004), the silhouette that costs no
    pairs of points. None where there is one cluster.
    """
    if len(self.centroids_KD) == 1:
      return None
    parts = []
    for start in range(0, len(points_ND), self._batch):
      cosines_BK = points_ND[start : start + self._batch].astype(np.float32) @ self.centroids_KD.T
      nearest_B2 = -np.partition(-cosines_BK, 1, axis=1)[:, :2].astype(np.float64)
      own_B, next_B = np.maximum(1 - nearest_B2.T, 0)
      parts.append((next_B - own_B) / np.maximum(next_B, 1e-12))
    return float(np.mean(np.concatenate(parts)))

  def _checked(self, points_ND: np.ndarray) -> np.ndarray:
    points_ND = np.asarray(points_ND)
    if points_ND.ndim != 2 or points_ND.shape[1] != self.centroids_KD.shape[1]:
      raise ValueError(f"points must be [N, {self.centroids_KD.shape[1]}], not {list(points_ND.shape)}")
    return points_ND


@dataclasses.dataclass
class Sums:
  """Sums of the points of each cluster as unit vectors, of their number and their cosines: a Lloyd iteration's half.

  float64 [K, D], int64 [K], float64 [K], all whole numbers of small units that add up exactly, so that the sums of a
  corpus are those of its parts in any order.
  """

  points_KD: np.ndarray
  counts_K: np.ndarray
  cosines_K: np.ndarray

  @classmethod
  def empty(cls, clusters: int, dimensions: int) -> "Sums":
    return cls(np.zeros((clusters, dimensions)), np.zeros(clusters, np.int64), np.zeros(clusters))

  def add(self, points_ND: np.ndarray, assigned: Assigned) -> None:
    """Adds points, float [N, D], to their clusters, in place."""
    order_N = np.argsort(assigned.clusters, kind="stable")
    clusters, starts, counts = np.unique(assigned.clusters[order_N], return_index=True, return_counts=True)
    if not len(clusters):
      return
    sorted_ND = points_ND[order_N].astype(np.float64)
    sorted_ND /= np.linalg.norm(sorted_ND, axis=1, keepdims=True)
    self.points_KD[clusters] += np.add.reduceat(_whole(sorted_ND), starts, axis=0)
    self.cosines_K[clusters] += np.add.reduceat(_whole(assigned.cosines[order_N].astype(np.float64)), starts)
    self.counts_K[clusters] += counts

  def merge(self, other: "Sums") -> None:
    """Adds the sums of another part, in place."""
    for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
      ours += theirs

  @property
  def inertia(self) -> float:
    return float(2 - 2 * self.cosines_K.sum() / self.counts_K.sum())

  def centroids(self, before_KD: np.ndarray) -> np.ndarray:
    """The means of the clusters at length 1: float32 [K, D].

    A cluster without points gets half of the largest one, as in faiss: both have its centroid, moved a little to either
    side. One whose points cancel out keeps its centroid, `before_KD`.
    """
    lengths_K = np.linalg.norm(self.points_KD, axis=1)
    has_direction_K = lengths_K > _UNIT * np.maximum(self.counts_K, 1)
    found_KD = np.where(has_direction_K[:, None], self.points_KD, before_KD)
    counts_K, sides_D = self.counts_K.astype(np.float64), np.where(np.arange(found_KD.shape[1]) % 2, _SPLIT, -_SPLIT)
    found_KD = found_KD / np.linalg.norm(found_KD, axis=1, keepdims=True)
    for cluster in np.flatnonzero(self.counts_K == 0):
      largest = int(counts_K.argmax())
      found_KD[cluster] = found_KD[largest] * (1 + sides_D)
      found_KD[largest] *= 1 - sides_D
      counts_K[cluster] = counts_K[largest] = counts_K[largest] / 2
    return _unit(found_KD)


def train(sample_ND: np.ndarray, config: KMeansConfig) -> Trained:
  """Centroids of a sample of unit vectors, float16 [N, D] in an order that follows from the corpus.

  A function of both, on one machine. It holds 16 points a centroid in float32 beside the sample, and the sample itself
  up to 2 GB; a larger one faiss decodes batch by batch, which takes it a quarter longer and gives the same centroids.
  Raises WinnowError for too few points, and for one that is not finite or not of length 1.
  """
  import faiss  # which takes a while

  config.check_points(len(sample_ND))
  sample_ND = np.ascontiguousarray(sample_ND, np.float16)
  _check_units(sample_ND)
  points, dimensions = sample_ND.shape
  if config.clusters * dimensions > _MAX_NUMBERS:
    raise WinnowError(f"--num_clusters={config.clusters} of {dimensions} dimensions are too many for a worker's memory")
  seeds_KD = choose_seeds(sample_ND, config.clusters, config.seed)
  clustering = faiss.Clustering(dimensions, config.clusters)
  clustering.niter, clustering.spherical = config.iterations, True
  clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, points  # no sample of the sample
  faiss.copy_array_to_vector(seeds_KD.ravel(), clustering.centroids)
  if 4 * sample_ND.size <= _MOST_DECODED_BYTES:
    clustering.train(sample_ND.astype(np.float32), faiss.IndexFlatIP(dimensions))
  else:
    codec = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16)
    clustering.train_encoded(sample_ND.view(np.uint8), codec, faiss.IndexFlatIP(dimensions))
  found_KD = faiss.vector_to_array(clustering.centroids).reshape(config.clusters, dimensions).astype(np.float64)
  has_direction_K = np.abs(np.linalg.norm(found_KD, axis=1) - 1) < _SLACK
  centroids_KD = _unit(np.where(has_direction_K[:, None], found_KD, seeds_KD))
  told: Any = clustering.iteration_stats
  passes = [told.at(i) for i in range(told.size())]
  training = {
    "sample_points": points,
    "inertia": [2 - 2 * each.obj / points for each in passes],
    "split": [each.nsplit for each in passes],
    "silhouette": Centroids(centroids_KD).silhouette(_thinned(sample_ND, _SILHOUETTE_POINTS)),
  }
  return Trained(centroids_KD, training)


def choose_seeds(sample_ND: np.ndarray, clusters: int, seed: int) -> np.ndarray:
  """Points of the sample to begin with, float32 [K, D]: greedy k-means++ in rounds, on 16 points a centroid.

  Points are drawn with a probability proportional to the squared distance to the seeds so far (Arthur and Vassilvitskii
  2007), three for each seed that is wanted, of which those stay that leave the least inertia. A round draws an eighth
  of the seeds there are, 512 at most, so that nearly all is matrix products: a quarter of an iteration in all.
  """
  order_N = np.argsort(hashing.hash_documents("kmeans seeding", seed, "", np.arange(len(sample_ND))), kind="stable")
  points_SD = sample_ND[order_N[: _SEEDING_POINTS * clusters]].astype(np.float32)
  points_SD /= np.linalg.norm(points_SD, axis=1, keepdims=True)
  chosen, drawn = [0], 0
  distances_S = _nearest(points_SD, points_SD[:1], np.full(len(points_SD), 2.0))
  while len(chosen) < clusters:
    wanted = min(max(1, len(chosen) // 8), _MOST_AT_ONCE, clusters - len(chosen))
    cumulated_S = np.cumsum(distances_S)
    if not cumulated_S[-1] > 0:  # all others are copies
      others = np.setdiff1d(np.arange(len(points_SD)), chosen)
      chosen += others[: clusters - len(chosen)].tolist()
      break
    count = _TRIALS * wanted
    spread_C = (np.arange(count) + hashing.uniforms("kmeans seeding", seed, drawn, drawn + count)) / count
    drawn += count
    candidates_C = np.unique(np.searchsorted(cumulated_S, spread_C * cumulated_S[-1], side="right"))
    candidates_C = candidates_C[candidates_C < len(points_SD)]
    potentials_C = _potentials(points_SD, points_SD[candidates_C], distances_S)
    best_C = np.sort(candidates_C[np.argsort(potentials_C, kind="stable")[:wanted]])
    distances_S = _nearest(points_SD, points_SD[best_C], distances_S)
    chosen += best_C.tolist()
  return points_SD[chosen]


def _potentials(points_SD: np.ndarray, candidates_CD: np.ndarray, distances_S: np.ndarray) -> np.ndarray:
  """What the inertia would be with each candidate as one more seed: float64 [C]."""
  total_C = np.zeros(len(candidates_CD))
  for start in range(0, len(points_SD), _SEEDING_BATCH):
    batch = slice(start, start + _SEEDING_BATCH)
    chords_BC = 1 - points_SD[batch] @ candidates_CD.T
    total_C += np.minimum(chords_BC, distances_S[batch, None]).sum(axis=0)
  return total_C


def _nearest(points_SD: np.ndarray, seeds_CD: np.ndarray, distances_S: np.ndarray) -> np.ndarray:
  """1 - cosine to the nearest seed, these and those before: float64 [S]."""
  found_S = np.empty(len(points_SD))
  for start in range(0, len(points_SD), _SEEDING_BATCH):
    found_S[start : start + _SEEDING_BATCH] = 1 - (points_SD[start : start + _SEEDING_BATCH] @ seeds_CD.T).max(axis=1)
  return np.clip(found_S, 0, distances_S)


def _check_units(points_ND: np.ndarray) -> None:
  for start in range(0, len(points_ND), _BATCH):
    batch_BD = points_ND[start : start + _BATCH].astype(np.float32)
    is_unit_B = np.abs(np.linalg.norm(batch_BD, axis=1) - 1) < _SLACK  # NaN is not
    if not is_unit_B.all():
      raise WinnowError(
        f"point {start + int(is_unit_B.argmin())} of the sample for k-means is zero, not finite or not of length 1: "
        "give unit vectors"
      )


def _unit(rows_KD: np.ndarray) -> np.ndarray:
  """Rows at length 1, float32."""
  rows_KD = rows_KD.astype(np.float64)
  return (rows_KD / np.linalg.norm(rows_KD, axis=1, keepdims=True)).astype(np.float32)


def _whole(values: np.ndarray) -> np.ndarray:
  """Rounded to units that float64 adds up exactly."""
  return np.rint(values / _UNIT) * _UNIT


def _thinned(points_ND: np.ndarray, most: int) -> np.ndarray:
  """At most so many of the rows, evenly spaced."""
  return points_ND[np.arange(min(most, len(points_ND))) * len(points_ND) // min(most, len(points_ND))]
