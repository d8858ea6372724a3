"""The perplexity of a model on a whole corpus (paper, C.1): exp of the mean negative log-likelihood of a target token.

The mean is over the tokens of a corpus, so a long document counts for more than a short one. The mean of a mixture is
over the tokens of all its parts. So sums are added up, never means. Shape suffix: N documents.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class CorpusLoss(NamedTuple):
  """Sums over documents, which add up over the parts of a mixture."""

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


def from_scores(scores_N: np.ndarray, targets_N: np.ndarray) -> CorpusLoss:
  """Computes the loss of N documents from their scores and their numbers of target tokens.

  A score is -(mean NLL of a target token), float32 [N]; `targets_N` is int64 [N]. The product of both recovers a
  document's NLL to within float32's rounding of the quotient, a relative 2^-24. All products have one sign, so their
  sum is within a relative 6e-8 of the sum of the NLL.
  """
  return CorpusLoss(len(scores_N), int(targets_N.sum()), float(np.sum(-scores_N.astype(np.float64) * targets_N)))


def total(parts: Iterable[CorpusLoss]) -> CorpusLoss:
  """Adds up parts. The result does not depend on their order, since it is rounded once."""
  parts = list(parts)
  documents, target_tokens = sum(part.documents for part in parts), sum(part.target_tokens for part in parts)
  return CorpusLoss(documents, target_tokens, math.fsum(part.nll for part in parts))


def mean(parts: Iterable[CorpusLoss]) -> MeanLoss:
  """Averages the losses per token of parts. The result does not depend on their order."""
  parts = list(parts)
  whole = total(parts)
  nll_per_token = math.fsum(part.nll_per_token for part in parts) / len(parts)
  return MeanLoss(whole.documents, whole.target_tokens, nll_per_token)


def _perplexity(nll_per_token: float) -> float:
  try:
    return math.exp(nll_per_token)
  except OverflowError:  # the model diverged
    return math.inf
