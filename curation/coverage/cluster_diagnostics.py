"""Diagnoses a clustering: the sizes of its clusters, how tight they are, and whether more or fewer would be better.

Shape suffixes: K clusters.
"""

from typing import Any

import numpy as np

_GIANT = 20  # times the mean size; on web texts the largest of 10,000 clusters has some ten times the mean
_MOST_GIANT_SHARE = 0.05
_LEAST_DOCUMENTS = 10
_LEAST_SAMPLE = 39  # points per centroid, below which faiss warns
_MOST_EMPTY_SHARE = 0.01
_MOST_LATE_GAIN = 0.005
_UNIT = 2.0**-24


def tally(clusters_N: np.ndarray, cosines_N: np.ndarray, clusters: int) -> np.ndarray:
  """Counts the documents of each cluster and sums their cosines: float64 [2, K]. Tallies add up in any order.

  Cosines are rounded to units of 2^-24, of which float64 adds up 2^29 exactly.
  """
  whole_N = np.rint(cosines_N.astype(np.float64) / _UNIT) * _UNIT
  return np.stack([np.bincount(clusters_N, weights_N, clusters) for weights_N in (np.ones(len(whole_N)), whole_N)])


def diagnose(counts_K: np.ndarray, cosines_K: np.ndarray, training: dict[str, Any]) -> dict[str, Any]:
  """Computes the figures of a finished clustering, for JSON.

  `counts_K` are the documents of each cluster and `cosines_K` the sums of their cosines, as `tally` returns them.

  - `inertia`: the mean over all documents of 2 - 2 cosine to the own centroid;
  - `sizes`: the documents of every cluster, with their `smallest`, `median` and `largest`;
  - `empty`, `giant`: the number of clusters without documents, and with more than 20 times the mean size;
  - `giant_share`: the share of all documents that are in giant clusters;
  - `pairs`: pairs of documents within clusters, which SemDeDup compares unless it splits giants (`giant_clusters`);
  - `training`: the figures of `kmeans.train`, and `lloyd_inertia`, the inertia of each iteration over all documents.
  """
  documents, giants_K = int(counts_K.sum()), counts_K > _GIANT * counts_K.mean()
  sizes_K = np.asarray(counts_K, np.int64)
  return {
    "documents": documents,
    "clusters": len(counts_K),
    "inertia": float(2 - 2 * cosines_K.sum() / max(documents, 1)),
    "smallest": int(sizes_K.min()),
    "median": float(np.median(sizes_K)),
    "largest": int(sizes_K.max()),
    "empty": int((sizes_K == 0).sum()),
    "giant": int(giants_K.sum()),
    "giant_share": float(sizes_K[giants_K].sum() / max(documents, 1)),
    "pairs": sum(size * (size - 1) // 2 for size in sizes_K.tolist()),
    "training": training,
    "sizes": sizes_K.tolist(),
  }


def warnings(diagnostics: dict[str, Any]) -> list[str]:
  """Returns sentences on why a clustering is poor and which flag to change; usually none."""
  documents, clusters, training = diagnostics["documents"], diagnostics["clusters"], diagnostics["training"]
  flag, inertia = "kmeans_iterations", training["inertia"]
  if training.get("lloyd_inertia"):  # over all documents, so it does not compare with the sample's
    flag, inertia = "lloyd_iterations", training["lloyd_inertia"]
  warned = []
  if documents < _LEAST_DOCUMENTS * clusters:
    fewer = max(1, round(documents**0.5))
    advice = f"use fewer clusters, such as --num_clusters={fewer}" if fewer < clusters else "cluster a larger corpus"
    warned.append(
      f"a cluster has {documents / clusters:.2g} of the {documents:,} documents on average, so many are near their "
      f"centroid only because they are nearly alone: {advice}"
    )
  elif training["sample_points"] < _LEAST_SAMPLE * clusters and training["sample_points"] < documents:
    warned.append(
      f"centroids were trained on {training['sample_points'] / clusters:.2g} points each: take a larger --kmeans_sample"
    )
  if diagnostics["empty"] > _MOST_EMPTY_SHARE * clusters:
    warned.append(
      f"{diagnostics['empty']:,} of {clusters:,} clusters are empty, as happens with many copies: take a smaller "
      "--num_clusters"
    )
  if diagnostics["giant_share"] > _MOST_GIANT_SHARE:
    warned.append(
      f"{diagnostics['giant']:,} clusters of more than {_GIANT} times the mean size have "
      f"{diagnostics['giant_share']:.0%} of the documents, for which SemDeDup takes long: take a larger "
      "--num_clusters, or leave out documents that occur a thousand times"
    )
  if len(inertia) > 1 and inertia[-2] - inertia[-1] > _MOST_LATE_GAIN * inertia[-2]:
    warned.append(
      f"the last iteration still lowered the inertia by {1 - inertia[-1] / inertia[-2]:.1%}: take more --{flag}"
    )
  return warned
