"""Figures of a student: how well its order of documents agrees with its rater's. Shape suffix: N documents."""

import math
from typing import Any

import numpy as np
import scipy.stats

from curation.selection import metrics

RATES = (0.01, 0.05, 0.1, 0.2, 0.4)
ASKED = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_LENGTH_GROUPS, _DOMAINS, _LEAST_OF_GROUP = 4, 10, 30


def spearman(wanted_N: np.ndarray, scores_N: np.ndarray) -> float:
  """Computes Spearman's rank correlation, of mid-ranks; -1 for scores that have no order."""
  x, y = (scipy.stats.rankdata(column_N) for column_N in (wanted_N, scores_N))
  x, y = x - x.mean(), y - y.mean()
  size = math.sqrt(float(x @ x) * float(y @ y))
  return float(x @ y) / size if size > 0 else -1.0


def judge(
  wanted_N: np.ndarray,
  scores_N: np.ndarray,
  hashes_N: np.ndarray,
  tokens_N: np.ndarray | None,
  domains_N: np.ndarray,
) -> dict[str, Any]:
  """Returns the figures of a student's scores against its rater's, for JSON.

  Ties fall by the documents' hashes, uint64 [N]. `domains_N` are strings, '' for a document without one.
  """
  error = np.square(wanted_N.astype(np.float64) - scores_N).mean()
  return {
    "documents": len(wanted_N),
    **_correlations(wanted_N, scores_N),
    "r_squared": float(1 - error / np.var(wanted_N.astype(np.float64))),
    "recall": recall(wanted_N, scores_N, hashes_N),
    "by_length": [] if tokens_N is None else _by_length(wanted_N, scores_N, tokens_N),
    "by_domain": _by_domain(wanted_N, scores_N, domains_N),
  }


def recall(wanted_N: np.ndarray, scores_N: np.ndarray, hashes_N: np.ndarray) -> list[dict[str, Any]]:
  """Returns, for each rate, the share of the rater's best k that are among the student's best j, for each share of j.

  k = floor(rate * N + 1/2), as in a selection. A rate at which k is 0 has no entry.
  """
  places_N = np.empty(len(scores_N), np.int64)
  places_N[np.lexsort((hashes_N, -scores_N.astype(np.float64)))] = np.arange(len(scores_N))
  best_N = np.lexsort((hashes_N, -wanted_N.astype(np.float64)))
  entries = []
  for rate in RATES:
    if k := math.floor(rate * len(wanted_N) + 0.5):
      places = np.sort(places_N[best_N[:k]])
      limits = [math.floor(share * len(wanted_N) + 0.5) for share in ASKED]
      shares = np.searchsorted(places, limits, side="left") / k
      entries.append({"rate": rate, "asked": list(ASKED), "share": shares.tolist()})
  return entries


def _correlations(wanted_N: np.ndarray, scores_N: np.ndarray) -> dict[str, float | None]:
  tau = metrics.kendall_tau(wanted_N, scores_N)
  return {"spearman": spearman(wanted_N, scores_N), "kendall_tau": None if math.isnan(tau) else tau}


def _by_length(wanted_N: np.ndarray, scores_N: np.ndarray, tokens_N: np.ndarray) -> list[dict[str, Any]]:
  """Returns figures of documents of similar length: quarters of the documents by their number of tokens."""
  order_N = np.argsort(tokens_N, kind="stable")
  groups = [rows_N for rows_N in np.array_split(order_N, _LENGTH_GROUPS) if len(rows_N) >= _LEAST_OF_GROUP]
  return [
    {
      "tokens": [int(tokens_N[rows_N].min()), int(tokens_N[rows_N].max())],
      "documents": len(rows_N),
      **_correlations(wanted_N[rows_N], scores_N[rows_N]),
    }
    for rows_N in groups
  ]


def _by_domain(wanted_N: np.ndarray, scores_N: np.ndarray, domains_N: np.ndarray) -> list[dict[str, Any]]:
  """Returns figures of the domains with the most documents, the largest first."""
  names, codes_N, counts = np.unique(domains_N, return_inverse=True, return_counts=True)
  large = [int(code) for code in np.argsort(-counts, kind="stable") if names[code] and counts[code] >= _LEAST_OF_GROUP]
  groups = [(str(names[code]), np.flatnonzero(codes_N == code)) for code in large[:_DOMAINS]]
  return [
    {"domain": name, "documents": len(rows_N), **_correlations(wanted_N[rows_N], scores_N[rows_N])}
    for name, rows_N in groups
  ]
