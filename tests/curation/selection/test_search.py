"""The search against sorting: ranks as Python integers, any split of the documents, few edges and many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.selection import search, selection


def find(ranked, amount, *, by_count=True, parts=1):
  """Searches as the pipeline does, over parts that are added up in an order of their own."""
  wanted = selection.Search(amount, len(ranked.keys), by_count)
  pieces = [ranked.take(places) for places in np.array_split(np.arange(len(ranked.keys)), parts)][::-1]
  edges = search.choose_edges(search.concatenate([search.sample(wanted, piece) for piece in pieces]))
  counts = sum(search.count(edges, piece) for piece in pieces)
  stretch = search.find_stretch(wanted, edges, counts)
  return search.finish(stretch, search.concatenate([search.within(stretch, piece) for piece in pieces]))


def by_sorting(ranked, amount, *, by_count=True):
  ranks = (ranked.keys.astype(object) << 64) | ranked.ties.astype(object)
  order = sorted(range(len(ranks)), key=lambda i: -ranks[i])
  weights = [1 if by_count else int(ranked.num_tokens[i]) for i in order]
  taken = order[: int((np.cumsum(weights) <= amount).sum())]
  tokens = 0 if ranked.num_tokens is None else sum(int(ranked.num_tokens[i]) for i in taken)
  return search.Selected(len(taken), tokens, ranks[taken[-1]] if taken else 1 << 128)


@pytest.fixture(params=[3, search.MOST_EDGES], ids=["few edges", "edges"])
def most_edges(request, monkeypatch):
  """With few edges a stretch holds many documents; else each of these tests' documents is an edge."""
  monkeypatch.setattr(search, "MOST_EDGES", request.param)


FEW = [0, 1, 2**16, 2**16 + 1, 2**32, 2**63, 2**64 - 1]
KEYS = st.one_of(st.sampled_from(FEW), st.integers(0, 2**64 - 1))
LISTS = settings(max_examples=150, suppress_health_check=["function_scoped_fixture"])


@LISTS
@given(st.lists(KEYS, min_size=1, max_size=40), st.data())
def test_a_count_is_exact_whatever_the_ties(most_edges, keys, data):
  """Kills the mutants: `side='left'` for the stretches that fit, k - 1 documents at a border; a stretch that begins
  after its edge; ties that are not looked into; a floor of 0 where everything is selected.
  """
  amount = data.draw(st.integers(0, len(keys) + 2))
  ties_N = selection.tie_hashes(data.draw(st.integers(0, 3)), "shard", np.arange(len(keys)))
  ranked = search.Ranked(np.array(keys, np.uint64), ties_N)
  assert find(ranked, amount, parts=data.draw(st.integers(1, 4))) == by_sorting(ranked, amount)


@LISTS
@given(st.lists(st.tuples(KEYS, st.integers(0, 50)), min_size=1, max_size=40), st.data())
def test_a_token_budget_takes_the_longest_prefix_that_fits(most_edges, documents, data):
  """Kills the mutants that skip the first document that does not fit, that stop before one without tokens, and that
  count documents where tokens are asked for.
  """
  tokens_N = np.array([tokens for _, tokens in documents])
  ties_N = selection.tie_hashes(0, "shard", np.arange(len(documents)))
  ranked = search.Ranked(np.array([key for key, _ in documents], np.uint64), ties_N, tokens_N)
  budget = data.draw(st.integers(0, int(tokens_N.sum()) + 5))
  found = find(ranked, budget, by_count=False, parts=data.draw(st.integers(1, 4)))
  assert found == by_sorting(ranked, budget, by_count=False)


@pytest.mark.parametrize(
  "keys",
  [
    lambda generator, size: np.full(size, 12345),
    lambda generator, size: generator.integers(0, 50, size),
    lambda generator, size: np.where(generator.random(size) < 0.5, 7, generator.integers(0, 2**63, size)),
    lambda generator, size: generator.integers(0, 2**63, size),
  ],
  ids=["one key", "50 keys", "half of them equal", "all different"],
)
def test_many_documents_are_searched_by_few_edges(monkeypatch, keys):
  """Also checks that the last pass gathers little. Kills the mutants: edges of a tie's smallest hashes, between which
  all other documents of that key lie; documents of an edge's key that are counted above or below all its edges.
  """
  monkeypatch.setattr(search, "MOST_EDGES", 1 << 10)
  size, gathered, finish = 200_000, [], search.finish

  def watched(stretch, ranked):
    gathered.append(len(ranked.keys))
    return finish(stretch, ranked)

  monkeypatch.setattr(search, "finish", watched)
  keys_N = keys(np.random.default_rng(0), size).astype(np.uint64)
  ranked = search.Ranked(keys_N, selection.tie_hashes(0, "shard", np.arange(size)))
  order = np.lexsort((ranked.ties, ranked.keys))[::-1]
  for amount in (1, 40_000, size - 1, size):
    last = order[amount - 1]
    floor = int(ranked.keys[last]) << 64 | int(ranked.ties[last])
    assert find(ranked, amount, parts=7) == search.Selected(amount, 0, floor)
  assert max(gathered) < 20 * size / search.MOST_EDGES


def test_ties_that_differ_in_their_last_bits_are_counted_on_the_right_side():
  """Kills the mutant that compares only the leading bits of two ties."""
  edges = search.Edges(np.full(4, 5, np.uint64), np.array([8, 9, 9, 1 << 60], np.uint64))
  ranked = search.Ranked(np.full(6, 5, np.uint64), np.array([7, 8, 9, 10, 1 << 60, (1 << 60) - 1], np.uint64))
  assert search.count(edges, ranked)[0].tolist() == [1, 1, 0, 3, 1]


def test_equal_ranks_at_the_threshold_are_refused_rather_than_miscounted(most_edges):
  ranked = search.Ranked(np.array([5, 5], np.uint64), np.array([9, 9], np.uint64), np.array([3, 3]))
  with pytest.raises(ValueError, match="equal"):
    find(ranked, 1)
  assert find(ranked, 5, by_count=False) == search.NOTHING
  assert find(ranked, 2).documents == 2


def test_counts_add_up_in_any_order():
  parts = [search.Selected(2, 10, 7), search.Selected(1, 5, 3), search.Selected(4, 1, 9)]
  assert search.add_selected(parts) == search.add_selected(parts[::-1]) == (7, 16, 3)
  assert search.add_selected([search.add_selected(parts[:1]), search.add_selected(parts[1:])]) == (7, 16, 3)
  assert search.add_selected([]) == search.NOTHING
