"""Sums over a corpus from means of documents."""

import itertools
import math

import numpy as np
import pytest

from curation.scorers import corpus_loss
from curation.scorers.corpus_loss import CorpusLoss


def test_a_corpus_mean_is_over_tokens():
  """Kills the mutant that averages documents: a document of 1 token would count like one of 999."""
  loss = corpus_loss.from_scores(np.array([-1.0, -3.0], np.float32), np.array([1, 999]))
  assert loss == CorpusLoss(2, 1000, 1 + 3 * 999)
  assert loss.nll_per_token == pytest.approx(2.998, rel=1e-12)
  assert loss.perplexity == pytest.approx(math.exp(2.998), rel=1e-12)


def test_sums_are_within_what_float32_rounds_off():
  """Kills the mutant that sums in float32."""
  generator = np.random.default_rng(0)
  targets_N = generator.integers(1, 20_000, 200_000)
  nll_N = generator.gamma(2, 2, 200_000) * targets_N
  loss = corpus_loss.from_scores((-nll_N / targets_N).astype(np.float32), targets_N)
  assert loss.target_tokens == targets_N.sum()
  assert abs(loss.nll / math.fsum(nll_N) - 1) < 1e-9  # roundings of 6e-8 at most cancel out


def test_parts_add_up_in_any_order():
  """Kills the mutant that adds floats one after the other, as workers finish."""
  parts = [CorpusLoss(1, 2, nll) for nll in (0.5, 1e16, 0.7, 0.9)]
  totals = {corpus_loss.total(order) for order in itertools.permutations(parts)}
  assert totals == {CorpusLoss(4, 8, 1e16 + 2)}
  assert corpus_loss.total([]) == CorpusLoss(0, 0, 0.0)


def test_a_model_that_diverged_has_no_finite_perplexity():
  assert CorpusLoss(1, 1, 800.0).perplexity == math.inf
