"""Spherical k-means over embeddings: trains centroids on a sample and assigns points to them (paper B.3, B.4).

Only a point's direction counts. Centroids have length 1, and a point belongs to the centroid with the largest cosine.
k-means minimises the *inertia*, the mean of the squared chords 2 - 2 cosine (Dhillon and Modha 2001). faiss trains on a
sample, from seeds that this module draws. Iterations over a whole corpus add up `Sums` of its parts, exactly and in any
order. Shape suffixes: N points, D dimensions, K centroids, S points that seeds are drawn from, B points of a batch, C
candidates for a seed.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from curation.errors import WinnowError
from curation.selection import hashing

MAX_CLUSTERS = 1_000_000
_MAX_NUMBERS = 1 << 30
_SEEDING_POINTS = 16  # per centroid
_MOST_AT_ONCE = 512
_TRIALS = 3
_SEEDING_BATCH = 4_096
_MOST_DECODED_BYTES = 2 << 30
_BATCH, _BATCH_NUMBERS = 1_024, 1 << 24
_UNIT = 2.0**-24  # of sums: float16 holds unit vectors in such units, and float64 adds up 2^29 of them exactly
_SPLIT = 2.0**-10
_SILHOUETTE_POINTS = 10_000
_SLACK = 0.01  # since unit vectors in float16 are slightly shorter or longer than 1


@dataclasses.dataclass(frozen=True)
class KMeansConfig:
  """Settings that decide the centroids of a set of points. Raises WinnowError for values out of range."""

  clusters: int = 10_000
  points_per_cluster: int = 256
  """Size of the sample that centroids are trained on, divided by `clusters`."""
  iterations: int = 20
  """Iterations over the sample."""
  lloyd_iterations: int = 0
  """Further iterations, over all points."""
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
    """Raises WinnowError if there are fewer points than clusters."""
    if num_points < self.clusters:
      raise WinnowError(
        f"--num_clusters={self.clusters} is more than the {num_points:,} documents that have an embedding; take "
        "fewer, about their square root"
      )

  def sample_limit(self, num_points: int) -> int:
    """Returns the largest hash of a point in the sample of `points_per_cluster` x `clusters` points, or a few more.

    The number of points below a limit is binomial, and falls short of the wanted number once in a billion times.
    """
    wanted = self.points_per_cluster * self.clusters
    expected = wanted + 6 * wanted**0.5 + 60
    return (1 << 64) - 1 if expected >= num_points else int(expected / num_points * 2.0**64)


class Assigned(NamedTuple):
  """The clusters of N points, int32 [N], and the cosines to their centroids, float32 [N]."""

  clusters: np.ndarray
  cosines: np.ndarray


class Trained(NamedTuple):
  """Centroids, float32 [K, D] of length 1, and figures of their training, for JSON."""

  centroids_KD: np.ndarray
  training: dict[str, Any]


class Centroids:
  """Centroids of length 1, float32 [K, D], that points can be assigned to."""

  def __init__(self, centroids_KD: np.ndarray):
    self.centroids_KD = np.ascontiguousarray(centroids_KD, np.float32)
    clusters, dimensions = self.centroids_KD.shape
    self._batch = min(_BATCH, max(64, _BATCH_NUMBERS // clusters))
    # Twice the largest float32 error of a cosine, however a library orders its terms (Higham 2002, section 3.1).
    self._margin = np.float32(2 * (dimensions + 2) * 2.0**-24)

  def assign(self, points_ND: np.ndarray) -> Assigned:
    """Returns the nearest centroid of each point, float [N, D] of any length; the first of equally near ones.

    A point's result depends on the point and the centroids alone, to the last bit. One matrix product in float32 leaves
    the few centroids that may be the nearest, whose cosines are computed again in float64, row by row. Raises
    WinnowError for a point that is zero or not finite.
    """
    from curation.coverage import halves, kmeans_loops  # these load the compiler

    points_ND = self._checked(points_ND)
    clusters_N, cosines_N = np.empty(len(points_ND), np.int32), np.empty(len(points_ND), np.float32)
    products_BK = np.empty((min(self._batch, len(points_ND)), len(self.centroids_KD)), np.float32)
    for start in range(0, len(points_ND), self._batch):
      batch_BD = halves.to_float32(points_ND[start : start + self._batch])
      lengths_B = kmeans_loops.lengths(batch_BD)
      if (odd_B := ~((lengths_B > 0) & np.isfinite(lengths_B))).any():
        raise WinnowError(
          f"point {start + int(odd_B.argmax())} of a block is zero or not finite, so it has no nearest centroid: leave "
          "such embeddings out"
        )
      products_BK = np.matmul(batch_BD, self.centroids_KD.T, out=products_BK[: len(batch_BD)])
      least_B = products_BK.max(axis=1) - self._margin * lengths_B.astype(np.float32)
      clusters_B, dots_B = kmeans_loops.nearest(batch_BD, self.centroids_KD, products_BK, least_B)
      stop = start + len(batch_BD)
      clusters_N[start:stop], cosines_N[start:stop] = clusters_B, np.clip(dots_B / lengths_B, -1, 1)
    return Assigned(clusters_N, cosines_N)

  def silhouette(self, points_ND: np.ndarray) -> float | None:
    """Computes the simplified silhouette of unit vectors [N, D], N > 0: the mean of (b - a) / b, in [0, 1].

    a and b are 1 - cosine to the own and to the next centroid (Hruschka et al. 2004), so that no pairs of points are
    compared. Returns None if there is one cluster.
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
  """Sums over the points of each cluster, from which a Lloyd iteration computes the next centroids.

  The points as unit vectors, float64 [K, D], their number, int64 [K], and their cosines, float64 [K]. All are whole
  numbers of small units, which add up exactly: the sums of a corpus are those of its parts in any order.
  """

  points_KD: np.ndarray
  counts_K: np.ndarray
  cosines_K: np.ndarray

  @classmethod
  def empty(cls, clusters: int, dimensions: int) -> "Sums":
    """Returns the sums of no points."""
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
    """The mean of 2 - 2 cosine over all points."""
    return float(2 - 2 * self.cosines_K.sum() / self.counts_K.sum())

  def centroids(self, before_KD: np.ndarray) -> np.ndarray:
    """Returns the means of the clusters, scaled to length 1: float32 [K, D].

    A cluster without points gets half of the largest one, as in faiss: both get the largest one's centroid, moved
    slightly to either side. A cluster whose points cancel out keeps its previous centroid, in `before_KD`.
    """
    lengths_K = np.linalg.norm(self.points_KD, axis=1)
    has_direction_K = lengths_K > _UNIT * np.maximum(self.counts_K, 1)
    centroids_KD = np.where(has_direction_K[:, None], self.points_KD, before_KD)
    counts_K, sides_D = (
      self.counts_K.astype(np.float64),
      np.where(np.arange(centroids_KD.shape[1]) % 2, _SPLIT, -_SPLIT),
    )
    centroids_KD = centroids_KD / np.linalg.norm(centroids_KD, axis=1, keepdims=True)
    for cluster in np.flatnonzero(self.counts_K == 0):
      largest = int(counts_K.argmax())
      centroids_KD[cluster] = centroids_KD[largest] * (1 + sides_D)
      centroids_KD[largest] *= 1 - sides_D
      counts_K[cluster] = counts_K[largest] = counts_K[largest] / 2
    return _unit(centroids_KD)


def train(sample_ND: np.ndarray, config: KMeansConfig) -> Trained:
  """Trains centroids on a sample of unit vectors, float16 [N, D], in an order that follows from the corpus.

  The result depends on the sample and the config alone, on one machine. Besides the sample, it holds 16 points per
  centroid in float32, and the whole sample in float32 if that takes up to 2 GB. faiss decodes a larger sample batch by
  batch, which takes a quarter longer and gives the same centroids. Raises WinnowError for too few points, and for
  points that are not finite or not of length 1.
  """
  import faiss  # slow to import

  config.check_points(len(sample_ND))
  sample_ND = np.ascontiguousarray(sample_ND, np.float16)
  _check_units(sample_ND)
  points, dimensions = sample_ND.shape
  if config.clusters * dimensions > _MAX_NUMBERS:
    raise WinnowError(
      f"--num_clusters={config.clusters} of {dimensions} dimensions do not fit into a worker's memory: take fewer"
    )
  seeds_KD = choose_seeds(sample_ND, config.clusters, config.seed)
  clustering = faiss.Clustering(dimensions, config.clusters)
  clustering.niter, clustering.spherical = config.iterations, True
  clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, points  # or faiss samples the sample
  faiss.copy_array_to_vector(seeds_KD.ravel(), clustering.centroids)
  if 4 * sample_ND.size <= _MOST_DECODED_BYTES:
    clustering.train(sample_ND.astype(np.float32), faiss.IndexFlatIP(dimensions))
  else:
    codec = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16)
    clustering.train_encoded(sample_ND.view(np.uint8), codec, faiss.IndexFlatIP(dimensions))
  centroids_KD = faiss.vector_to_array(clustering.centroids).reshape(config.clusters, dimensions).astype(np.float64)
  has_direction_K = np.abs(np.linalg.norm(centroids_KD, axis=1) - 1) < _SLACK
  centroids_KD = _unit(np.where(has_direction_K[:, None], centroids_KD, seeds_KD))
  stats: Any = clustering.iteration_stats
  passes = [stats.at(i) for i in range(stats.size())]
  training = {
    "sample_points": points,
    "inertia": [2 - 2 * each.obj / points for each in passes],
    "split": [each.nsplit for each in passes],
    "silhouette": Centroids(centroids_KD).silhouette(_thinned(sample_ND, _SILHOUETTE_POINTS)),
  }
  return Trained(centroids_KD, training)


def choose_seeds(sample_ND: np.ndarray, clusters: int, seed: int) -> np.ndarray:
  """Chooses the initial centroids, float32 [K, D], by greedy k-means++ in rounds, on 16 points per centroid.

  Candidates are drawn with a probability proportional to the squared distance to the seeds so far (Arthur and
  Vassilvitskii 2007). A round draws three candidates for each seed wanted, and keeps those that leave the least
  inertia. It adds an eighth of the present number of seeds, at most 512, so that nearly all of the work is matrix
  products: a quarter of an iteration in all.
  """
  order_N = np.argsort(hashing.hash_documents("kmeans seeding", seed, "", np.arange(len(sample_ND))), kind="stable")
  points_SD = sample_ND[order_N[: _SEEDING_POINTS * clusters]].astype(np.float32)
  points_SD /= np.linalg.norm(points_SD, axis=1, keepdims=True)
  chosen, drawn = [0], 0
  distances_S = _nearest(points_SD, points_SD[:1], np.full(len(points_SD), 2.0))
  while len(chosen) < clusters:
    wanted = min(max(1, len(chosen) // 8), _MOST_AT_ONCE, clusters - len(chosen))
    cumulated_S = np.cumsum(distances_S)
    if not cumulated_S[-1] > 0:  # all other points are copies of a seed
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
  """Computes the inertia that each candidate would give as one more seed: float64 [C]."""
  total_C = np.zeros(len(candidates_CD))
  for start in range(0, len(points_SD), _SEEDING_BATCH):
    batch = slice(start, start + _SEEDING_BATCH)
    chords_BC = 1 - points_SD[batch] @ candidates_CD.T
    total_C += np.minimum(chords_BC, distances_S[batch, None]).sum(axis=0)
  return total_C


def _nearest(points_SD: np.ndarray, seeds_CD: np.ndarray, distances_S: np.ndarray) -> np.ndarray:
  """Returns 1 - cosine to the nearest seed, given the new seeds and the distances to earlier ones: float64 [S]."""
  nearest_S = np.empty(len(points_SD))
  for start in range(0, len(points_SD), _SEEDING_BATCH):
    stop = start + _SEEDING_BATCH
    nearest_S[start:stop] = 1 - (points_SD[start:stop] @ seeds_CD.T).max(axis=1)
  return np.clip(nearest_S, 0, distances_S)


def _check_units(points_ND: np.ndarray) -> None:
  """Raises WinnowError for points that are not finite or not of length 1."""
  for start in range(0, len(points_ND), _BATCH):
    batch_BD = points_ND[start : start + _BATCH].astype(np.float32)
    is_unit_B = np.abs(np.linalg.norm(batch_BD, axis=1) - 1) < _SLACK  # NaN is not
    if not is_unit_B.all():
      raise WinnowError(
        f"point {start + int(is_unit_B.argmin())} of the sample for k-means is zero, not finite or not of length 1: "
        "give unit vectors"
      )


def _unit(rows_KD: np.ndarray) -> np.ndarray:
  """Scales rows to length 1: float32 [K, D]."""
  rows_KD = rows_KD.astype(np.float64)
  return (rows_KD / np.linalg.norm(rows_KD, axis=1, keepdims=True)).astype(np.float32)


def _whole(values: np.ndarray) -> np.ndarray:
  """Rounds to units that float64 adds up exactly."""
  return np.rint(values / _UNIT) * _UNIT


def _thinned(points_ND: np.ndarray, most: int) -> np.ndarray:
  """Returns at most `most` of the rows, evenly spaced."""
  return points_ND[np.arange(min(most, len(points_ND))) * len(points_ND) // min(most, len(points_ND))]
