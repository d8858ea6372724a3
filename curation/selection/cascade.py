"""The threshold of a cascade: from which proxy score on a rater must be asked, so that few of its best are missed.

N documents have a proxy score. The wanted ones are the k that a rater scores highest, or all that it scores at least at
a threshold. The rater scores an audit, a uniform sample of m documents, and every document whose proxy score is at
least τ. A wanted document is lost if it is neither. `find_threshold` chooses τ from the audit so that at most
(1 - recall) of the wanted documents are lost, with the confidence that was asked for, whatever the proxy is. It may be
wrong in any way, but must not depend on the audit.

**The k best.** L = floor((1 - recall) k) documents may be lost. Sort the k by proxy score, and let B be the n = L + 1 +
c lowest of them (at most all k). B depends on the scores alone, so the audit has a hypergeometric number X of B, and Y
of the other k - n. Let A be the j documents of the audit that the rater scores highest, and τ the (c + 1)-th lowest
proxy score in A. Suppose that X ≥ c + 1 and Y ≤ j - c - 1. If X + Y ≤ j, then A contains all of the k that are in the
audit. If not, A consists of such documents, and at most Y of them are not in B. In both cases A has c + 1 documents of
B. Let b be the (c + 1)-th lowest of these: τ is at most its proxy score. Below b, B has at most n - 1 documents, and c
of them are in the audit, so that at most n - 1 - c = L are not. So more than L are lost only if X ≤ c or Y ≥ j - c.
With c the largest number for which P(X ≤ c) ≤ δ / 2, and j the smallest for which P(Y ≥ j - c) ≤ δ / 2, both together
have probability δ = 1 - confidence at most. No union over thresholds is needed, since B is fixed before the audit is
drawn. Documents that the rater cannot score count as its worst. If A lacks some for that reason, all documents are
asked.

**At least a threshold.** The audit shows which of its documents are wanted, x of them: a uniform sample of all K wanted
ones, so that the whole δ is left for c. With B the L + 1 lowest of them, X is hypergeometric: a sum of x independent
indicators (Vatutin and Mikhailov 1982), of mean x (L + 1) / K > x (1 - recall). For c ≤ x (1 - recall) - 1 its lower
tail is at most that of the binomial distribution (Hoeffding 1956, Theorem 4), for whatever K.

Ranks are 128-bit numbers as in `selection`: an ordered key and a tie hash. So ties fall as they do in a sample. Shape
suffix: M audited documents.
"""

import dataclasses
import fractions
import math
from typing import NamedTuple

import numpy as np

from curation.errors import WinnowError
from curation.selection import selection, tails

DEFAULT_AUDIT = 20_000
_SHARE_OF_CORPUS = 20  # the default audit is at most one of so many documents


@dataclasses.dataclass(frozen=True)
class Promise:
  """The share of the wanted documents to keep, and the confidence, as typed, so that 0.95 means 19 of 20."""

  recall: str = "0.95"
  confidence: str = "0.95"

  def __post_init__(self):
    for name in ("recall", "confidence"):
      try:
        is_share = 0 < fractions.Fraction(getattr(self, name)) < 1
      except (ValueError, ZeroDivisionError):
        is_share = False
      if not is_share:
        raise WinnowError(f"--{name}={getattr(self, name)} is not in (0, 1); type --{name}=0.95")

  @property
  def risk(self) -> float:
    """Returns δ, the probability with which the promise may be broken."""
    return float(1 - fractions.Fraction(self.confidence))

  @property
  def miss(self) -> fractions.Fraction:
    """Returns the share of the wanted documents that may be lost."""
    return 1 - fractions.Fraction(self.recall)

  def losses(self, wanted: int) -> int:
    """Returns how many of `wanted` documents may be lost."""
    return math.floor(self.miss * wanted)


class Audit(NamedTuple):
  """The audited documents that the rater could score: keys of its scores and of the proxy's, and tie hashes.

  uint64 [M] each. Documents that it could not score count as its worst, so they are left out.
  """

  score_keys: np.ndarray
  proxy_keys: np.ndarray
  ties: np.ndarray


class Bounds(NamedTuple):
  """The numbers that turn an audit into a threshold: `best` is j, `spared` is c."""

  best: int
  spared: int


def num_best(documents: int, wanted: int, audited: int, promise: Promise) -> Bounds | None:
  """Returns j and c for the `wanted` best of all documents; None if the audit is too small for any."""
  losses, risk = promise.losses(wanted), promise.risk / 2

  def lowest(spared: int) -> int:
    return min(wanted, losses + 1 + spared)

  spared = _largest(
    lambda c: tails.hypergeometric_cdf(c, population=documents, marked=lowest(c), drawn=audited) <= risk, audited
  )
  if spared < 0:
    return None
  others = wanted - lowest(spared)
  most = _largest(  # the largest number of which more are expected with a probability above the risk
    lambda y: 1 - tails.hypergeometric_cdf(y, population=documents, marked=others, drawn=audited) > risk, audited
  )
  return Bounds(spared + 1 + most + 1, spared)


def spared_positives(positives: int, promise: Promise) -> int:
  """Returns c for the wanted documents of an audit that are known; -1 if they are too few."""
  miss = promise.miss
  largest = math.floor(positives * miss) - 1
  return min(
    largest,
    _largest(lambda c: tails.binomial_cdf(c, trials=positives, probability=float(miss)) <= promise.risk, positives),
  )


def least_audit(documents: int, wanted: int, promise: Promise) -> int:
  """Returns the smallest audit that can certify the best of all documents."""
  losses = promise.losses(wanted)
  return 1 + _largest(
    lambda m: (
      tails.hypergeometric_cdf(0, population=documents, marked=min(wanted, losses + 1), drawn=m) > promise.risk / 2
    ),
    documents,
  )


def least_positives(promise: Promise) -> int:
  """Returns the smallest number of wanted documents in an audit that can certify."""
  number = max(1, math.ceil(math.log(promise.risk) / math.log1p(-float(promise.miss))))
  while spared_positives(number, promise) < 0:
    number += 1
  return number


def default_audit(documents: int, wanted: int | None, promise: Promise) -> int:
  """Returns the size of an audit: 20,000, but at most a twentieth of the corpus, and enough to certify.

  `wanted` is None if only a threshold says which documents are wanted.
  """
  usual = min(DEFAULT_AUDIT, -(-documents // _SHARE_OF_CORPUS))
  least = 0 if wanted is None else least_audit(documents, wanted, promise)
  return min(documents, max(1, usual, least))


def find_threshold(audit: Audit, bounds: Bounds) -> int:
  """Returns τ, a rank by proxy score, for the best of all documents. Documents from it on must be asked."""
  order = np.lexsort((audit.ties, audit.score_keys))[::-1]
  return _lowest(audit, order[: bounds.best], bounds.spared)


def find_threshold_of_positives(audit: Audit, floor: int, promise: Promise) -> tuple[int, Bounds]:
  """Returns τ for the documents whose rank by the rater is at least `floor`. Raises WinnowError if they are too few."""
  positive = np.flatnonzero(selection.is_selected(floor, audit.score_keys, audit.ties))
  spared = spared_positives(len(positive), promise)
  if spared < 0:
    raise WinnowError(
      f"the audit has {len(positive):,} documents at or above the threshold, and {least_positives(promise):,} are "
      "needed to certify this recall; make --audit larger, or --recall or --confidence smaller"
    )
  return _lowest(audit, positive, spared), Bounds(len(positive), spared)


def _lowest(audit: Audit, places: np.ndarray, spared: int) -> int:
  """Returns the proxy rank with `spared` lower ones at these places; 0 if there are not so many."""
  if spared >= len(places):
    return 0
  keys, ties = audit.proxy_keys[places], audit.ties[places]
  place = np.lexsort((ties, keys))[spared]
  return int(keys[place]) << 64 | int(ties[place])


def _largest(holds, most: int) -> int:
  """Returns the largest number up to `most` for which a property holds that no larger number has; -1 if none."""
  low, step = -1, 1
  while low + step <= most and holds(low + step):
    low, step = low + step, 2 * step
  high = min(low + step, most + 1)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if holds(middle) else (low, middle)
  return low
