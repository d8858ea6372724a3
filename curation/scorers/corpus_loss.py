"""The perplexity of a model on a whole corpus (paper, C.1): exp of the mean negative log-likelihood of a target token.

A corpus's mean is over its tokens, so that a long document counts for more than a short one, and a mixture's over the
tokens of all its parts. What adds up is sums, never means. N documents.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class CorpusLoss(NamedTuple):
  """What adds up over documents, and over the parts of a mixture."""

  documents: int
  target_tokens: int
  nll: float
  """Negative log-likelihood of all target tokens, in nats."""

  @property
  def nll_per_token(self) -> float:
    return self.nll / self.target_tokens

  @property
  def perplexity(self) -> float:
    return _perplexity(self.nll_per_token)


class MeanLoss(NamedTuple):
  """The loss of a mixture whose parts count equally, whatever their sizes."""

  documents: int
  target_tokens: int
  nll_per_token: float
  nll: None = None
  """None, since a mean of means has no sum of NLL behind it."""

  @property
  def perplexity(self) -> float:
    return _perplexity(self.nll_per_token)


def of_scores(scores_N: np.ndarray, targets_N: np.ndarray) -> CorpusLoss:
  """Of documents with these scores, -(mean NLL of a target token) in float32, and numbers of target tokens (int64).

  Each product is what was divided to within float32's rounding of the quotient, a relative 2^-24; since all are of one
  sign, their sum is, too: within 6e-8 of the sum of the NLL themselves.
  """
  return CorpusLoss(len(scores_N), int(targets_N.sum()), float(np.sum(-scores_N.astype(np.float64) * targets_N)))


def total(parts: Iterable[CorpusLoss]) -> CorpusLoss:
  """The sum of parts; the same in whatever order they come, for it is rounded once."""
  parts = list(parts)
  documents, target_tokens = sum(part.documents for part in parts), sum(part.target_tokens for part in parts)
  return CorpusLoss(documents, target_tokens, math.fsum(part.nll for part in parts))


def mean(parts: Iterable[CorpusLoss]) -> MeanLoss:
  """The mean of the parts' losses per token; the same in whatever order they come."""
  parts = list(parts)
  whole = total(parts)
  nll_per_token = math.fsum(part.nll_per_token for part in parts) / len(parts)
  return MeanLoss(whole.documents, whole.target_tokens, nll_per_token)


def _perplexity(nll_per_token: float) -> float:
  try:
    return math.exp(nll_per_token)
  except OverflowError:  # of a model that diverged
    return math.inf
