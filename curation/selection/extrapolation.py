"""Estimates totals over all shards of a corpus from some rows of some shards, with standard errors.

The ratio estimate has two stages (Cochran, Sampling Techniques, chapters 6 and 11): shards by their size in bytes, and
rows within each shard.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ShardSample(NamedTuple):
  """The measurements of one sampled shard."""

  size: float
  """Its size in bytes."""
  documents: float
  """Its number of documents, counted or estimated."""
  documents_error: float
  """Standard error of `documents`; 0 if all were counted."""
  values_M: np.ndarray
  """The quantity to sum up, for M of its documents: float64 [M], M >= 1."""


class Total(NamedTuple):
  """An estimated total and its standard error."""

  value: float
  error: float
  """Standard error."""


def total(samples: Sequence[ShardSample], *, num_shards: int, size: float) -> Total:
  """Estimates the total over `num_shards` shards of `size` bytes together from the sampled ones."""
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
  # The rows' sampling error also contributes to the differences between sampled shards. So only the share of sampled
  # shards of it is added.
  within *= len(samples) / num_shards
  return Total(float(values_S.sum() * scale), float(scale * np.sqrt(within + between)))
