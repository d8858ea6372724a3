"""The compiled loops of `kmeans`, in their own module since the compiler takes half a second and 50 MB to load.

Shape suffixes: B points of a batch, D dimensions, K centroids.
"""

import numpy as np

from curation.machine_code import compiled


@compiled
def _dot(left_D, right_D):
  """Computes a dot product in float64, in an order that is the same on every machine."""
  a = b = c = d = e = f = g = h = 0.0
  whole = len(left_D) - len(left_D) % 8
  for i in range(0, whole, 8):
    a += np.float64(left_D[i]) * np.float64(right_D[i])
    b += np.float64(left_D[i + 1]) * np.float64(right_D[i + 1])
    c += np.float64(left_D[i + 2]) * np.float64(right_D[i + 2])
    d += np.float64(left_D[i + 3]) * np.float64(right_D[i + 3])
    e += np.float64(left_D[i + 4]) * np.float64(right_D[i + 4])
    f += np.float64(left_D[i + 5]) * np.float64(right_D[i + 5])
    g += np.float64(left_D[i + 6]) * np.float64(right_D[i + 6])
    h += np.float64(left_D[i + 7]) * np.float64(right_D[i + 7])
  for i in range(whole, len(left_D)):
    a += np.float64(left_D[i]) * np.float64(right_D[i])
  return ((a + b) + (c + d)) + ((e + f) + (g + h))


@compiled
def lengths(points_BD):
  """Computes the lengths of rows: float64 [B]."""
  lengths_B = np.empty(len(points_BD))
  for b in range(len(points_BD)):
    lengths_B[b] = np.sqrt(_dot(points_BD[b], points_BD[b]))
  return lengths_B


@compiled
def nearest(points_BD, centroids_KD, products_BK, least_B):
  """Returns the first centroid with the largest dot product, int32 [B], and that product, float64 [B].

  Considers the centroids whose product in `products_BK` is at least `least_B`.
  """
  clusters_B, dots_B = np.empty(len(points_BD), np.int32), np.empty(len(points_BD))
  for b in range(len(points_BD)):
    least, best, largest = least_B[b], -1, -np.inf
    for k in range(len(centroids_KD)):
      if products_BK[b, k] >= least:
        dot = _dot(points_BD[b], centroids_KD[k])
        if dot > largest:
          best, largest = k, dot
    clusters_B[b], dots_B[b] = best, largest
  return clusters_B, dots_B
