"""Computes a rank for each document: what a sampler and an amount select is a prefix of the documents in this order.

A document's rank is the 128-bit number (key, tie). The 64-bit key orders documents as a sampler wants, and the 64-bit
hash breaks ties. The selection is the longest prefix, from the largest rank down, whose weights fit an amount. With
weight 1 and amount k these are the k documents with the largest keys. With tokens as weights these are the documents
before the first one that would exceed a token budget. (Skipping that one and going on with shorter ones would prefer
short documents, a larger budget would drop some that a smaller one has, and each skip would take another search.)
`search` finds the end of the prefix.

Shape suffix: N documents.
"""

import dataclasses
import fractions

import numpy as np

from curation.errors import WinnowError
from curation.selection import hashing

METHODS = ("top_k", "bottom_k", "ips", "threshold")
_AMOUNTS = ("rate", "num_examples", "num_tokens", "threshold", "percentile_range")
NO_RANK = 1 << 128  # above every rank


@dataclasses.dataclass(frozen=True)
class Search:
  """A search for the longest prefix that fits `amount`, among `documents` documents."""

  amount: int
  documents: int
  by_count: bool = True
  """Whether the amount counts documents; else it counts tokens."""


@dataclasses.dataclass(frozen=True)
class SelectionRequest:
  """A sampler and an amount: one of `rate`, `num_examples`, `num_tokens`, `threshold` and `percentile_range`.

  `group_by` sets a quota for each group, `group_rate` or `group_max`. Only documents within the quotas can be selected,
  and all of them are selected if there is no other amount. Rates are strings, as typed, so that 0.1 means one tenth.
  `temperature` applies to `ips` only.

  `percentile_range` is LOW:HIGH, fractions of the documents ordered from the lowest score to the highest. It selects
  the documents from number floor(LOW × N + 1/2) up to, but not including, number floor(HIGH × N + 1/2) of N. So
  adjacent ranges divide a corpus without overlap.

  Raises WinnowError if the fields do not fit together.
  """

  sampler: str
  method: str = "top_k"
  seed: int = 0
  rate: str | None = None
  num_examples: int | None = None
  num_tokens: int | None = None
  threshold: float | None = None
  temperature: float = 1.0
  group_by: str | None = None
  group_rate: str | None = None
  group_max: int | None = None
  percentile_range: str | None = None

  def __post_init__(self):
    if self.sampler == "random" and self.method != "top_k":
      raise WinnowError(f"--method={self.method} does not fit --sampler=random, which has no scores; leave it out")
    if self.method not in METHODS:
      raise WinnowError(f"--method={self.method} is none of {', '.join(METHODS)}")
    if not 0 < self.temperature < np.inf:
      raise WinnowError(f"--temperature={self.temperature} is not a number above 0")
    if self.temperature != 1 and self.method != "ips":
      raise WinnowError(f"--temperature is for --method=ips only, and this is --method={self.method}; leave it out")
    given = [n for n in _AMOUNTS if getattr(self, n) is not None]
    self._check_groups()
    if len(given) != 1 and (given or self.group_by is None):
      typed = " and ".join(f"--{name}" for name in given) or "none"
      wanted = ", ".join(f"--{name}" for name in _AMOUNTS[:-1])
      raise WinnowError(f"give one of {wanted} and --{_AMOUNTS[-1]}; you gave {typed}")
    self._check_percentiles()
    if (self.method == "threshold") != (self.threshold is not None):
      raise WinnowError("--method=threshold and --threshold=SCORE go together")
    for name in ("rate", "group_rate"):
      if (rate := getattr(self, name)) is not None and not 0 < _fraction(name, rate) <= 1:
        raise WinnowError(f"--{name}={rate} is not in (0, 1]; type --{name}=0.2 to keep a fifth")
    for name in ("num_examples", "num_tokens", "group_max"):
      if (value := getattr(self, name)) is not None and value < 1:
        raise WinnowError(f"--{name}={value} selects nothing; type a number above 0")
    if self.threshold is not None and np.isnan(self.threshold):
      raise WinnowError("--threshold=nan selects nothing; type a number")

  def _check_groups(self) -> None:
    quotas = [f"--{name}" for name in ("group_rate", "group_max") if getattr(self, name) is not None]
    if self.group_by is None and quotas:
      raise WinnowError(f"{quotas[0]} is a quota for each group, but there are no groups; add --group_by=domain")
    if self.group_by is not None and len(quotas) != 1:
      typed = " and ".join(quotas) or "none"
      raise WinnowError(f"--group_by={self.group_by} needs one of --group_rate and --group_max; you gave {typed}")

  def _check_percentiles(self) -> None:
    if self.percentile_range is None:
      return
    if self.sampler == "random" or self.method != "top_k" or self.group_by is not None:
      raise WinnowError(
        "--percentile_range orders documents by score, so it does not go with --sampler=random, --group_by, or a "
        f"--method other than top_k; this is --sampler={self.sampler} --method={self.method}"
      )
    low, high = self._percentiles()
    if not 0 <= low < high <= 1:
      raise WinnowError(f"--percentile_range={self.percentile_range} is not a range in [0, 1]; the middle is 0.3:0.7")

  def _percentiles(self) -> tuple[fractions.Fraction, fractions.Fraction]:
    low, mark, high = (self.percentile_range or "").partition(":")
    if not mark:
      raise WinnowError(f"--percentile_range={self.percentile_range} is not LOW:HIGH, such as 0.3:0.7 for the middle")
    return _fraction("percentile_range", low), _fraction("percentile_range", high)

  def num_above(self, num_documents: int) -> int:
    """Counts the documents above `percentile_range`, among `num_documents`."""
    return num_documents - _rounded(self._percentiles()[1] * num_documents)

  def exact_group_rate(self) -> fractions.Fraction:
    """Returns `group_rate` as the exact fraction that was typed."""
    return _fraction("group_rate", self.group_rate)

  def expected_documents(self, num_documents: int) -> int | None:
    """Returns how many of `num_documents` will be selected; None if that depends on scores, tokens or quotas."""
    if self.rate is not None:
      return _rounded(_fraction("rate", self.rate) * num_documents)
    if self.num_examples is not None:
      return min(self.num_examples, num_documents)
    if self.percentile_range is not None:
      low, high = self._percentiles()
      return _rounded((high - low) * num_documents)
    return None

  @property
  def floor(self) -> int | None:
    """The smallest rank that is selected, if the request alone gives it; None if it has to be searched."""
    if self.threshold is not None:
      return int(order_key(np.array([self.threshold]))[0]) << 64
    return 0 if all(getattr(self, name) is None for name in _AMOUNTS) else None

  def search_above(self, num_documents: int) -> Search:
    """Returns the search for the documents above `percentile_range`."""
    return Search(self.num_above(num_documents), num_documents)

  def search(self, num_documents: int, num_tokens: int | None, within: int | None = None) -> Search | None:
    """Returns the search among `num_documents` scored documents of `num_tokens` tokens in all.

    There is none if the request has a `floor`. A rate selects exactly k = floor(rate × N + 1/2) documents. `within` is
    the number of documents within their groups' quotas, or None if there are no quotas or the number is not known yet.
    Raises WinnowError if the request cannot be met.
    """
    if self.floor is not None:
      return None
    among = num_documents if within is None else within
    if self.num_tokens is not None:
      if num_tokens is None:
        raise WinnowError("--num_tokens needs token counts, which this store does not have; use --num_examples")
      return Search(self.num_tokens, among, by_count=False)
    if self.percentile_range is not None:
      low, high = (_rounded(percentile * num_documents) for percentile in self._percentiles())
      if low == high:
        typed = f"--percentile_range={self.percentile_range}"
        raise WinnowError(f"{typed} of {num_documents:,} documents is none; widen it")
      return Search(high - low, among)  # among the documents that are not above
    if self.rate is not None:
      typed, k = f"--rate={self.rate}", _rounded(_fraction("rate", self.rate) * num_documents)
      if not k:
        raise WinnowError(f"{typed} of {num_documents:,} documents is none; use a larger rate")
    else:
      assert self.num_examples is not None
      typed, k = f"--num_examples={self.num_examples}", self.num_examples
    if k > num_documents:
      raise WinnowError(f"{typed} is more than the {num_documents:,} documents there are; ask for fewer")
    if within is not None and k > within:
      quota = f"--group_max={self.group_max}" if self.group_max is not None else f"--group_rate={self.group_rate}"
      raise WinnowError(
        f"{typed} of {num_documents:,} documents is {k:,}, and {quota} leaves {within:,}; ask for fewer, raise "
        f"the quota, or leave --{typed[2:].partition('=')[0]} out to take all of them"
      )
    return Search(k, among)


def _rounded(number: fractions.Fraction) -> int:
  return int(number + fractions.Fraction(1, 2))


def _fraction(name: str, typed: str | None) -> fractions.Fraction:
  try:
    return fractions.Fraction(typed or "")
  except (ValueError, ZeroDivisionError) as error:
    raise WinnowError(f"--{name}={typed} is not a number; type --{name}=0.2 to keep a fifth") from error


def order_key(values_N: np.ndarray) -> np.ndarray:
  """Maps floats to uint64 [N] in the same order, -0.0 and 0.0 to one key. Raises ValueError for NaN."""
  values_N = np.asarray(values_N, np.float64) + 0.0
  if np.isnan(values_N).any():
    raise ValueError("scores must not be NaN, which has no order")
  bits_N = values_N.view(np.uint64)
  negative_N = bits_N >> np.uint64(63) == 1
  return np.where(negative_N, ~bits_N, bits_N | np.uint64(1 << 63))


def from_order_key(key: int) -> float:
  """Returns the float that `order_key` maps to `key`."""
  bits = key ^ (1 << 63) if key >> 63 else ~key & (1 << 64) - 1
  return float(np.array([bits], np.uint64).view(np.float64)[0])


def document_keys(request: SelectionRequest, shard: str, rows_N: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
  """Computes the key f(score, seed, document) of each document of one shard: uint64 [N], larger is better.

  The sampler `random` has a uniform hash (paper B.1). Every other sampler has the score for `top_k` and `threshold`,
  and its negative for `bottom_k` (paper 3.3). For `ips` it has a Gumbel variable minus the logarithm of the document's
  propensity. The k largest of these are k draws without replacement with probability proportional to 1 / propensity
  (paper 3.3; Efraimidis and Spirakis 2006; Vieira 2014). A propensity of 0 is drawn first.
  """
  if request.sampler == "random":
    return hashing.hash_documents("random", request.seed, shard, rows_N)
  if request.method == "ips":
    uniform_N = hashing.to_uniforms(hashing.hash_documents("ips", request.seed, shard, rows_N))
    log_weight_N = -log_propensities(request.sampler, scores_N) / request.temperature
    return order_key(log_weight_N - np.log(-np.log(uniform_N)))
  return order_key(-scores_N if request.method == "bottom_k" else scores_N)


def log_propensities(sampler: str, scores_N: np.ndarray) -> np.ndarray:
  """Returns the logarithms of the propensities, by whose inverse `ips` draws: float64 [N] (paper 3.3).

  A density is the propensity itself. Perplexity's score is already a logarithm, the mean log-likelihood of a token. So
  the propensity is exp(score), the geometric mean of the tokens' probabilities, and its inverse is the perplexity.
  """
  scores_N = np.asarray(scores_N, np.float64)
  if sampler == "perplexity":
    return scores_N
  with np.errstate(divide="ignore"):
    return np.log(scores_N)


def tie_hashes(seed: int, shard: str, rows_N: np.ndarray) -> np.ndarray:
  """Returns the lower 64 bits of each document's rank: uint64 [N]."""
  return hashing.hash_documents("tie", seed, shard, rows_N)


def is_selected(floor: int, key_N: np.ndarray, tie_N: np.ndarray) -> np.ndarray:
  """Tells which documents have a rank ≥ `floor`: bool [N]."""
  if floor >= NO_RANK:
    return np.zeros(len(key_N), bool)
  floor_key, floor_tie = np.uint64(floor >> 64), np.uint64(floor & (1 << 64) - 1)
  return (key_N > floor_key) | ((key_N == floor_key) & (tie_N >= floor_tie))


def smallest_rank(key_N: np.ndarray, tie_N: np.ndarray) -> int | None:
  """Returns the smallest of the documents' ranks as a 128-bit number; None if there are no documents."""
  if not len(key_N):
    return None
  key = key_N.min()
  return int(key) << 64 | int(tie_N[key_N == key].min())
