"""Keys, ties and requests: what makes the rank of a document, and how many of them are wanted."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.selection import selection


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=30))
def test_order_keys_keep_the_order_of_floats(values):
  """Kills the mutant that forgets to flip the bits of negative numbers."""
  values_N = np.array(values, np.float32)
  keys_N = selection.order_key(values_N)
  assert ((values_N[:, None] < values_N) == (keys_N[:, None] < keys_N)).all()


def test_a_nan_has_no_key():
  with pytest.raises(ValueError, match="NaN"):
    selection.order_key(np.array([0.0, np.nan]))


def test_methods_turn_scores_into_keys():
  scores_N, rows_N = np.array([-3.0, -1.0, -2.0], np.float32), np.arange(3)

  def keys(method, **wanted):
    request = selection.SelectionRequest("ask_llm", method, **wanted)
    return selection.document_keys(request, "shard", rows_N, scores_N)

  assert np.argsort(keys("top_k", rate="1")).tolist() == [0, 2, 1]
  assert np.argsort(keys("bottom_k", rate="1")).tolist() == [1, 2, 0]
  np.testing.assert_array_equal(keys("threshold", threshold=-2.0), keys("top_k", rate="1"))


@pytest.mark.parametrize(
  ("rate", "documents", "k"), [("0.1", 1445, 145), ("0.2", 1445, 289), ("0.5", 1, 1), ("1", 7, 7), ("0.29", 50, 15)]
)
def test_a_rate_is_exact_decimal_arithmetic(rate, documents, k):
  """Kills the mutants `round` (half to even) and float arithmetic (0.29 × 50 is 14.499999999999998)."""
  assert selection.SelectionRequest("random", rate=rate).search(documents, None).amount == k


@pytest.mark.parametrize(
  ("parts", "word"),
  [
    ({}, "give one of"),
    ({"rate": "0.1", "num_tokens": 5}, "--rate and --num_tokens"),
    ({"rate": "0"}, "(0, 1]"),
    ({"rate": "1.01"}, "(0, 1]"),
    ({"rate": "a fifth"}, "not a number"),
    ({"num_examples": 0}, "above 0"),
    ({"method": "best", "rate": "1"}, "--method=best is none of top_k, bottom_k, ips, threshold"),
    ({"sampler": "random", "method": "ips", "rate": "1"}, "does not fit"),
    ({"sampler": "density", "method": "top_k", "temperature": 2.0, "rate": "1"}, "--temperature is for --method=ips"),
    ({"sampler": "density", "method": "ips", "temperature": 0.0, "rate": "1"}, "not a number above 0"),
    ({"method": "threshold", "rate": "0.5"}, "go together"),
    ({"threshold": -1.0}, "go together"),
    ({"sampler": "random", "method": "bottom_k", "rate": "0.5"}, "does not fit"),
  ],
)
def test_requests_that_do_not_fit_are_refused_in_a_sentence(parts, word):
  with pytest.raises(WinnowError, match=re.escape(word)):
    selection.SelectionRequest(**({"sampler": "ask_llm"} | parts))


def test_requests_that_the_corpus_cannot_meet_are_refused():
  with pytest.raises(WinnowError, match="more than the 5"):
    selection.SelectionRequest("ask_llm", num_examples=6).search(5, 100)
  with pytest.raises(WinnowError, match="is none"):
    selection.SelectionRequest("ask_llm", rate="0.01").search(5, 100)
  with pytest.raises(WinnowError, match="token counts"):
    selection.SelectionRequest("ask_llm", num_tokens=6).search(5, None)


@given(st.floats(allow_nan=False))
def test_keys_give_their_floats_back(value):
  assert selection.from_order_key(int(selection.order_key(np.array([value]))[0])) == value


def test_the_smallest_rank_is_the_threshold():
  key_N, tie_N = np.array([7, 5, 5], np.uint64), np.array([1, 9, 3], np.uint64)
  assert selection.smallest_rank(key_N, tie_N) == (5 << 64) | 3
  assert selection.smallest_rank(key_N[:0], tie_N[:0]) is None


@pytest.mark.parametrize(
  ("sampler", "scores"),
  [("density", [1.0, 2.0, 4.0, 8.0]), ("perplexity", (-np.log([8.0, 4.0, 2.0, 1.0])).astype(np.float32))],
)
def test_inverse_propensity_draws_are_without_replacement_and_proportional(sampler, scores):
  """Against drawing one after the other by the weights left (the definition): 1 / density, and the perplexity.

  Kills: p proportional to the score, or to the likelihood, and the logarithm of a score that is one already.
  """
  weights = np.array([8.0, 4.0, 2.0, 1.0])
  expected = np.zeros(4)
  for first in range(4):
    p_first = weights[first] / weights.sum()
    expected[first] += p_first
    for second in set(range(4)) - {first}:
      expected[second] += p_first * weights[second] / (weights.sum() - weights[first])
  counts, trials = np.zeros(4), 20_000
  for seed in range(trials):
    request = selection.SelectionRequest(sampler, "ips", seed=seed, num_examples=2)
    keys_N = selection.document_keys(request, "s", np.arange(4), np.asarray(scores))
    counts[np.argsort(keys_N)[2:]] += 1
  np.testing.assert_allclose(counts / trials, expected, atol=4 * 0.5 / np.sqrt(trials))


@pytest.mark.parametrize(("sampler", "scores"), [("density", (1.0, 16.0)), ("perplexity", (0.0, np.log(16)))])
def test_a_temperature_flattens_the_weights(sampler, scores):
  """Kills: a temperature that is ignored, or applied upside down."""
  rows_N = np.arange(40_000)
  scores_N = np.where(rows_N % 2 == 0, *scores)
  shares = []
  for temperature in (0.5, 1.0, 2.0, 1e6):
    request = selection.SelectionRequest(sampler, "ips", rate="0.01", temperature=temperature)
    keys_N = selection.document_keys(request, "s", rows_N, scores_N)
    shares.append(np.mean(np.argsort(keys_N)[-400:] % 2 == 0))
  # The first draws follow the weights 1 / propensity ^ (1 / temperature): 256, 16, 4 and 1 to 1.
  np.testing.assert_allclose(shares, [256 / 257, 16 / 17, 4 / 5, 1 / 2], atol=0.08)


@pytest.mark.parametrize(("sampler", "scores"), [("density", [1, 0, 1, 2, 3]), ("perplexity", [-1, -np.inf, 0, 0, -9])])
def test_a_propensity_of_zero_is_drawn_first(sampler, scores):
  request = selection.SelectionRequest(sampler, "ips", rate="0.5")
  keys_N = selection.document_keys(request, "s", np.arange(5), np.array(scores, np.float32))
  assert keys_N.argmax() == 1


@pytest.mark.parametrize(
  ("sampler", "temperature", "scores", "golden"),
  [  # by decimal arithmetic of 40 digits, from the documents' hashes
    (
      "density",
      1,
      [0.1, 1, 2.5, 80],
      [2.6330688927569494, -0.03773130353160186, 0.22501210512291914, -4.629914243884279],
    ),
    (
      "perplexity",
      1,
      [-0.1, -1, -2.5, -80],
      [0.4304838161541811, 0.9622686964683982, 3.6413028369970744, 79.75211239078960],
    ),
    (
      "perplexity",
      2,
      [-0.1, -1, -2.5, -80],
      [0.380483815409123, 0.46226869646839813, 2.3913028369970744, 39.75211239078960],
    ),
  ],
)
def test_golden_keys_of_inverse_propensity(sampler, temperature, scores, golden):
  """Kills: keys by another hash, by the row's place, or rounded to the float32 of the scores."""
  request = selection.SelectionRequest(sampler, "ips", seed=7, rate="1", temperature=float(temperature))
  shard = "c4-train.00000-of-01024.json.gz"
  keys_N = selection.document_keys(request, shard, np.arange(4), np.array(scores, np.float32))
  np.testing.assert_allclose([selection.from_order_key(int(key)) for key in keys_N], golden, rtol=1e-13, atol=1e-15)
