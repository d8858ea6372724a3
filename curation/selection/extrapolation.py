"""Totals over all shards of a corpus from a sample of some rows of some shards, with their standard errors.

A ratio estimate in two stages (Cochran, Sampling Techniques, chapters 6 and 11): shards by their size in bytes, and
rows within each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ShardSample(NamedTuple):
  """What is known of one sampled shard."""

  size: float
  """Bytes."""
  documents: float
  documents_error: float
  """Standard error of `documents`; 0 where all were counted."""
  values_M: np.ndarray
  """A quantity of M of its documents: float64 [M], M >= 1."""


class Total(NamedTuple):
  value: float
  error: float
  """Standard error."""


def total(samples: Sequence[ShardSample], *, num_shards: int, size: float) -> Total:
  """The quantity over all `num_shards` shards, which have `size` bytes together, of which some are sampled."""
  sizes_S = np.array([sample.size for sample in samples], float)
  means_S = np.array([sample.values_M.mean() for sample in samples])
  documents_S = np.array([sample.documents for sample in samples], float)
  values_S = documents_S * means_S
  scale = size / sizes_S.sum()
  within = 0.0
  for sample, mean in zip(samples, means_S, strict=True):
    seen = len(sample.values_M)
    unseen_share = max(0.0, 1 - seen / sample.documents)
    variance = sample.values_M.var(ddof=1) if seen > 1 else 0.0
    within += sample.documents**2 * unseen_share * variance / seen + (mean * sample.documents_error) ** 2
  between = 0.0
  if 1 < len(samples) < num_shards:
    residuals_S = values_S - values_S.sum() / sizes_S.sum() * sizes_S
    between = len(samples) * (1 - len(samples) / num_shards) * float((residuals_S**2).sum()) / (len(samples) - 1)
  # What differs between sampled shards differs for the rows that they were judged by as well, so that of the rows' own
  # error only the share of sampled shards is added.
  within *= len(samples) / num_shards
  return Total(float(values_S.sum() * scale), float(scale * np.sqrt(within + between)))
