"""Totals from a sample: exact if everything was sampled, otherwise within their own errors."""

import numpy as np
import pytest

from curation.selection import extrapolation


def shard(values, *, seen=None, size=None, error=0.0) -> extrapolation.ShardSample:
  values = np.asarray(values, float)
  return extrapolation.ShardSample(size or len(values), len(values), error, values[:seen])


def test_what_was_seen_whole_is_exact():
  """Kills the mutant without the correction for a finite population."""
  total = extrapolation.total([shard([1, 2, 3]), shard([10, 20])], num_shards=2, size=5)
  assert total == (pytest.approx(36), 0)


def test_a_count_that_is_uncertain_makes_the_total_so():
  total = extrapolation.total([shard([2.0] * 50, error=3.0)], num_shards=1, size=50)
  assert total == (pytest.approx(100), pytest.approx(6))


def test_the_standard_error_is_what_estimates_vary_by():
  """1,000 samples of one corpus. Kills the mutants: errors of shards alone, or of rows alone; a ratio upside down."""
  generator = np.random.default_rng(0)
  rates = generator.lognormal(0, 0.4, 60)
  corpus = [rate * generator.lognormal(3, 1, generator.integers(200, 600)) for rate in rates]
  sizes = [len(values) * generator.uniform(0.9, 1.1) for values in corpus]
  truth = sum(values.sum() for values in corpus)
  totals, errors = [], []
  for _ in range(1_000):
    chosen = generator.choice(60, 12, replace=False)
    samples = [
      extrapolation.ShardSample(sizes[i], len(corpus[i]), 0.0, generator.choice(corpus[i], 30, replace=False))
      for i in chosen
    ]
    total = extrapolation.total(samples, num_shards=60, size=sum(sizes))
    totals.append(total.value)
    errors.append(total.error)
  assert np.mean(totals) == pytest.approx(truth, rel=0.02)
  assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(totals), rel=0.1)
