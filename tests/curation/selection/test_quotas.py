"""Quotas against dictionaries and sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.selection import quotas, selection

ENDS = st.sampled_from([0, 1, 2**8, 2**63, 2**64 - 1])
NUMBERS = st.one_of(ENDS, st.integers(0, 2**64 - 1))


def by_rate(rate: str, seed: int = 0) -> selection.SelectionRequest:
  return selection.SelectionRequest("random", seed=seed, group_by="domain", group_rate=rate)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
def test_the_order_is_that_of_128_bit_ranks(ranks):
  """Kills the mutants: little-endian bytes; the smallest rank first; zeros at the end of a rank that do not count."""
  key_N, tie_N = (np.array(column, np.uint64) for column in (zip(*ranks, strict=True) if ranks else ([], [])))
  order_N = np.argsort(quotas.order(key_N, tie_N), kind="stable")
  numbers = [key << 64 | tie for key, tie in ranks]
  assert [numbers[place] for place in order_N] == sorted(numbers, reverse=True)


@given(st.data(), st.lists(st.integers(0, 6), max_size=60), st.integers(1, 4))
def test_each_group_gives_its_first_documents(data, groups, most):
  """Whatever the batches. Kills the mutants: a quota that is full after a batch and not within it; counts that start
  again with each batch; groups by their place instead of their hash."""
  hashes = np.array([5, 2**64 - 1, 0, 17, 2**63, 3, 99], np.uint64)
  group_N = hashes[np.array(groups, int)]
  sizes = quotas.Sizes()
  cuts = sorted(data.draw(st.lists(st.integers(0, len(groups)), max_size=4)))
  batches = np.split(group_N, cuts)
  for batch in batches:
    sizes.add(batch)
  group_G, size_G = sizes.finish()
  assert dict(zip(group_G.tolist(), size_G.tolist(), strict=True)) == {
    int(group): int((group_N == group).sum()) for group in np.unique(group_N)
  }
  request = selection.SelectionRequest("random", group_by="domain", group_max=most)
  left = quotas.Quotas(group_G, quotas.limits(request, group_G, size_G))
  taken = [flag for batch in batches for flag in left.take(batch).tolist()]
  seen: dict[int, int] = {}
  for group, flag in zip(groups, taken, strict=True):
    seen[group] = seen.get(group, 0) + 1
    assert flag == (seen[group] <= most)


def test_sizes_are_merged_in_parts(monkeypatch):
  """Kills the mutant that forgets what it merged before."""
  monkeypatch.setattr(quotas, "_PENDING", 10)
  sizes, everything = quotas.Sizes(), np.random.default_rng(0).integers(0, 50, 1000).astype(np.uint64)
  for part in np.split(everything, range(7, 1000, 7)):
    sizes.add(part)
  result, expected = sizes.finish(), np.unique(everything, return_counts=True)
  assert np.array_equal(result[0], expected[0]) and np.array_equal(result[1], expected[1])


def test_a_rate_loses_no_group_for_being_small():
  """Kills the mutants: rounding to the nearest (a fifth of one document is none); the same chance for all groups."""
  group_G = np.arange(100_000).astype(np.uint64) * np.uint64(2**40 + 1)
  for size in (1, 2, 7):
    limit_G = quotas.limits(by_rate("0.2"), group_G, np.full(len(group_G), size))
    assert set(limit_G.tolist()) == {int(0.2 * size), int(0.2 * size) + 1}
    assert limit_G.mean() == pytest.approx(0.2 * size, rel=0.02)
  assert (quotas.limits(by_rate("1"), group_G, np.full(len(group_G), 3)) == 3).all()
  exact = quotas.limits(by_rate("0.25"), group_G, np.full(len(group_G), 400))
  assert (exact == 100).all()


def test_smaller_rates_lie_within_larger_ones_and_seeds_differ():
  group_G, size_G = np.arange(5_000).astype(np.uint64), np.random.default_rng(1).integers(1, 30, 5_000)
  of_rates = [quotas.limits(by_rate(rate), group_G, size_G) for rate in ("0.1", "0.2", "0.4")]
  assert (of_rates[0] <= of_rates[1]).all() and (of_rates[1] <= of_rates[2]).all()
  assert (of_rates[1] != quotas.limits(by_rate("0.2", seed=1), group_G, size_G)).any()


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    ({"group_by": "domain", "rate": "0.1"}, "--group_by=domain needs one of --group_rate and --group_max; you gave n"),
    ({"group_by": "domain", "group_max": 1, "group_rate": "0.1"}, "you gave --group_rate and --group_max"),
    (
      {"group_max": 3, "rate": "0.1"},
      "--group_max is a quota for each group, but there are no groups; add --group_by=domain",
    ),
    ({"group_by": "domain", "group_max": 0}, "--group_max=0 selects nothing"),
    ({"group_by": "domain", "group_rate": "1.5"}, r"--group_rate=1.5 is not in \(0, 1\]"),
    ({"group_by": "domain", "group_rate": "many"}, "--group_rate=many is not a number"),
    ({}, "give one of --rate"),
    ({"group_by": "domain", "group_max": 1, "rate": "0.1", "num_examples": 5}, "--rate and --num_examples"),
  ],
)
def test_quotas_that_make_no_sense_are_refused(flags, words):
  with pytest.raises(WinnowError, match=words):
    selection.SelectionRequest("random", **flags)


def test_what_quotas_leave_must_be_enough():
  """Kills the mutant that selects fewer documents than were asked for, in silence."""
  request = selection.SelectionRequest("random", group_by="domain", group_max=2, rate="0.5")
  assert request.search(100, None).amount == request.search(100, None, 50).amount == 50
  with pytest.raises(WinnowError, match=r"--rate=0.5 of 100 documents is 50, and --group_max=2 leaves 49; ask "):
    request.search(100, None, 49)
  everything = selection.SelectionRequest("random", group_by="domain", group_max=2)
  assert everything.floor == 0 and everything.search(100, None, 49) is None
