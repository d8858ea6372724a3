"""The certificate of a cascade: what was audited, the threshold that follows, and what the audit says about both.

Shape suffix: M audited documents.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from curation.errors import WinnowError
from curation.selection import cascade, selection, tails

_STEPS = 20  # of the curve


@dataclasses.dataclass(frozen=True)
class Wanted:
  """The documents that a cascade is for: the `count` best by the rater, or those at or above a rank, `floor`."""

  count: int | None = None
  floor: int | None = None

  def __post_init__(self):
    if (self.count is None) == (self.floor is None):
      raise ValueError("give one of count and floor")


@dataclasses.dataclass(frozen=True)
class Certificate:
  """Everything that a threshold of a cascade rests on.

  `rank` is τ as 32 hexadecimal digits, an ordered key and a tie hash; `proxy_score` is the score in it. The promise is
  about what `recall` and `confidence` say. `audit_recall` and its interval only describe the audit: they count the
  wanted documents of the audit from τ on, as if τ had been chosen without it.
  """

  documents: int
  """N: the documents with a proxy score."""
  wanted: int | None
  """k: the number of best documents that are wanted; None if a threshold says which."""
  audited: int
  """m: the documents drawn for the audit."""
  audited_scored: int
  """Those of them that the rater could score."""
  best: int
  """j: the audited documents among which τ was chosen."""
  spared: int
  """c: those of them below τ."""
  rank: str
  proxy_score: float | None
  """None if τ is below every document."""
  recall: str
  confidence: str
  expected_share: float
  """The share of all documents that the rater scores, audit included, by the audit alone."""
  audit_recall: float
  audit_recall_interval: tuple[float, float]
  curve: tuple[tuple[float, float], ...]
  """Shares of the documents asked, in descending order of proxy scores, and the audit's recall for each."""

  @property
  def floor(self) -> int:
    """Returns τ as a number."""
    return int(self.rank, 16)

  def to_json(self) -> dict[str, Any]:
    """Returns the certificate as a JSON object."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  @classmethod
  def from_json(cls, value: dict[str, Any]) -> "Certificate":
    """Reads what `to_json` returned. Raises TypeError for other fields."""
    read = dict(value)
    read["audit_recall_interval"] = tuple(read["audit_recall_interval"])
    read["curve"] = tuple((share, recall) for share, recall in read["curve"])
    return cls(**read)


def certify(
  audit: cascade.Audit, *, documents: int, audited: int, wanted: Wanted, promise: cascade.Promise
) -> Certificate:
  """Computes the certificate from the documents of an audit, which are the same in any order.

  `documents` have a proxy score, and `audited` of them were drawn. Raises WinnowError, which says how large an audit
  can certify, if this one is too small.
  """
  if wanted.floor is not None:
    rank, bounds = cascade.find_threshold_of_positives(audit, wanted.floor, promise)
    is_wanted = selection.is_selected(wanted.floor, audit.score_keys, audit.ties)
  else:
    assert wanted.count is not None
    refuse_small_audit(documents, wanted.count, audited, promise)
    found = cascade.num_best(documents, wanted.count, audited, promise)
    assert found is not None
    # Where the best of the audit include some that the rater could not score, these have no place here: all are asked.
    are_scored = len(audit.ties) >= min(found.best, audited)
    bounds, rank = found, cascade.find_threshold(audit, found) if are_scored else 0
    is_wanted = _are_best(audit, round(audited * wanted.count / documents))
  num_wanted = int(is_wanted.sum())
  kept = int((is_wanted & selection.is_selected(rank, audit.proxy_keys, audit.ties)).sum())
  scored = len(audit.ties)
  asked = float(selection.is_selected(rank, audit.proxy_keys, audit.ties).mean()) if scored else 1.0
  return Certificate(
    documents=documents,
    wanted=wanted.count,
    audited=audited,
    audited_scored=scored,
    best=bounds.best,
    spared=bounds.spared,
    rank=f"{rank:032x}",
    proxy_score=selection.from_order_key(rank >> 64) if rank else None,
    recall=promise.recall,
    confidence=promise.confidence,
    expected_share=(audited + (documents - audited) * asked) / documents,
    audit_recall=kept / num_wanted if num_wanted else 1.0,
    audit_recall_interval=tails.binomial_interval(kept, num_wanted, float(promise.confidence)),
    curve=_curve(audit, is_wanted),
  )


def refuse_small_audit(documents: int, wanted: int, audited: int, promise: cascade.Promise) -> None:
  """Raises WinnowError unless an audit can certify the `wanted` best of all documents."""
  least = cascade.least_audit(documents, wanted, promise)
  if audited < least:
    raise WinnowError(
      f"--audit={audited} cannot certify --recall={promise.recall} with --confidence={promise.confidence} for "
      f"{wanted:,} of {documents:,} documents; the least audit that can is --audit={least}"
    )


def _are_best(audit: cascade.Audit, number: int) -> np.ndarray:
  """Marks the documents that the rater scores highest: bool [M]."""
  best = np.zeros(len(audit.ties), bool)
  best[np.lexsort((audit.ties, audit.score_keys))[::-1][:number]] = True
  return best


def _curve(audit: cascade.Audit, is_wanted: np.ndarray) -> tuple[tuple[float, float], ...]:
  """Returns the recall for each share of the documents, in the order of the proxy."""
  order = np.lexsort((audit.ties, audit.proxy_keys))[::-1]
  kept = np.concatenate([[0], np.cumsum(is_wanted[order])])
  if not kept[-1]:
    return ()
  places = [round(step * len(order) / _STEPS) for step in range(1, _STEPS + 1)]
  return tuple((step / _STEPS, int(kept[place]) / int(kept[-1])) for step, place in enumerate(places, 1))
