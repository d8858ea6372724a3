"""The kernels of locality-sensitive hashes in closed form, and exact kernel sums (paper, section 3.2).

A kernel is the probability that two points fall into one bucket of a random hash, to the power of the number of hashes
that are joined. A RACE sketch estimates sums of it, so this module is the reference for the sketch's tests and
diagnostics. Shape suffixes: M queries, N points, D dimensions.
"""

import dataclasses

import numpy as np

from curation.errors import WinnowError

NAMES = ("l2", "l1", "angular")
_QUERIES = 256


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel k(x, y) = p(x, y) ** hashes, where p is a collision probability.

  For `l2` and `l1`, p is that of p-stable hashes with buckets of width `bandwidth` (Datar et al. 2004, section 3.2).
  For `angular`, p is that of the signs of random projections, 1 - angle / pi (Charikar 2002), and there is no
  bandwidth. Raises WinnowError for invalid values.
  """

  name: str = "l2"
  bandwidth: float | None = None
  hashes: int = 1

  def __post_init__(self):
    if self.name not in NAMES:
      raise WinnowError(f"--kernel={self.name} is none of {', '.join(NAMES)}; type one of them")
    if type(self.hashes) is not int or not 1 <= self.hashes <= 64:
      raise WinnowError(f"--hashes={self.hashes} is not between 1 and 64")
    if self.name == "angular":
      if self.bandwidth is not None:
        raise WinnowError("--kernel=angular has no --bandwidth, since it depends on angles alone: change --hashes")
    elif not isinstance(self.bandwidth, float) or not 0 < self.bandwidth < np.inf:
      raise WinnowError(f"--bandwidth={self.bandwidth} is not a number above 0")

  def at_distances(self, distances: np.ndarray) -> np.ndarray:
    """Computes k at distances >= 0 in the kernel's own measure (L2, L1, angle in radians): float64, same shape."""
    import scipy.special  # slow to import

    distances = np.asarray(distances, np.float64)
    if self.name == "angular":
      return np.clip(1 - distances / np.pi, 0, 1) ** self.hashes
    assert self.bandwidth is not None
    ratio = self.bandwidth / np.maximum(distances, 1e-12 * self.bandwidth)
    if self.name == "l2":
      p = scipy.special.erf(ratio / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.expm1(-(ratio**2) / 2) / ratio
    else:
      p = 2 / np.pi * np.arctan(ratio) - np.log1p(ratio**2) / (np.pi * ratio)
    return np.clip(p, 0, 1) ** self.hashes

  def distances(self, queries_MD: np.ndarray, points_ND: np.ndarray) -> np.ndarray:
    """Computes distances in the kernel's own measure: float64 [M, N]."""
    import scipy.spatial.distance

    queries_MD, points_ND = (np.asarray(x, np.float64) for x in (queries_MD, points_ND))
    if self.name == "l1":
      return scipy.spatial.distance.cdist(queries_MD, points_ND, "cityblock")
    if self.name == "l2":
      return scipy.spatial.distance.cdist(queries_MD, points_ND)
    # The chord between unit vectors gives small angles exactly, unlike the arc cosine.
    unit_MD, unit_ND = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries_MD, points_ND))
    return 2 * np.arcsin(np.minimum(scipy.spatial.distance.cdist(unit_MD, unit_ND) / 2, 1))

  def sums(self, queries_MD: np.ndarray, points_ND: np.ndarray) -> np.ndarray:
    """Computes the exact kernel sum of each query over all points, a few hundred queries at a time: float64 [M]."""
    parts = [
      self.at_distances(self.distances(queries_MD[i : i + _QUERIES], points_ND)).sum(axis=1)
      for i in range(0, len(queries_MD), _QUERIES)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)
