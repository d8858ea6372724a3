"""MinHash over more than memory holds: keys that come sorted in batches, and buckets that do not fit into one."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from curation.coverage import minhash

CONFIG = minhash.MinHashConfig(0.5, bands=2, rows=2)
cuts = st.lists(st.integers(0, 60), max_size=8)


def in_batches(column, places):
  borders = sorted({0, len(column), *(int(place) for place in places if place < len(column))})
  return [column[start:stop] for start, stop in itertools.pairwise(borders)]


@hypothesis.given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40)), max_size=30))
def test_orders_sort_by_one_number_and_then_the_other(pairs):
  """Kills: little-endian numbers; a number that loses its trailing zero bytes."""
  high_M, low_M = np.array([high for high, _ in pairs], np.uint64), np.array([low for _, low in pairs], np.int64)
  order_M = np.sort(minhash.to_order(high_M, low_M))
  result = [column.tolist() for column in minhash.from_order(order_M)]
  assert list(zip(*result, strict=True)) == sorted(pairs)


@hypothesis.given(st.lists(st.integers(0, 12), max_size=60), cuts)
def test_meetings_are_those_whose_key_another_has(keys, places):
  """Kills: one that is lost where batches meet; the last one forgotten; one that is returned twice."""
  keys_M, numbers_M = np.sort(np.array(keys, np.uint64)), np.arange(len(keys))
  batches = in_batches(minhash.to_order(keys_M, numbers_M), places)
  result = [minhash.from_order(shared_M)[1].tolist() for shared_M in minhash.shared_keys(iter(batches))]
  expected = [n for n in range(len(keys)) if (keys_M == keys_M[n]).sum() > 1]
  assert list(itertools.chain(*result)) == expected


@st.composite
def members(draw):
  """Keys and numbers of members of buckets in their order, cut into batches, and the signatures of all numbers."""
  generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  pool = np.array([[1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 8, 9], [7, 2, 8, 9], [5, 5, 5, 5], [5, 5, 5, 6]], np.uint32)
  signatures_NH = pool[generator.integers(0, len(pool), 30)]
  both = sorted({(int(key), int(n)) for key, n in generator.integers(0, (4, 30), (draw(st.integers(0, 60)), 2))})
  keys_M, numbers_M = (np.array([member[i] for member in both], np.int64) for i in range(2))
  places = generator.integers(0, len(both) + 1, draw(st.integers(0, 12)))
  return in_batches(keys_M.astype(np.uint64), places), in_batches(numbers_M, places), signatures_NH


@hypothesis.given(members(), st.sampled_from([1, 2, 3, 1_000]))
def test_buckets_in_batches_join_what_whole_ones_do(result, most):
  """`most`: how many earlier ones are compared. Kills: a bucket that is cut where batches end; members that are held
  in place of those that a later one would be compared with; edges of rows in place of numbers."""
  key_batches, number_batches, signatures_NH = result
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(minhash, "_MOST_COMPARED", most)
    all_of = [np.concatenate(batches) if batches else np.empty(0, int) for batches in (key_batches, number_batches)]
    whole = minhash.components(minhash.bucket_edges(*all_of, signatures_NH, CONFIG))
    buckets = minhash.Buckets(CONFIG)
    for keys_M, numbers_M in zip(key_batches, number_batches, strict=True):
      buckets.add(keys_M, numbers_M + 7, signatures_NH[numbers_M])
    assert (buckets.edges() - 7).tolist() == whole.tolist()


@hypothesis.given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=9), max_size=12))
def test_edges_in_parts_connect_as_all_together(parts):
  """Kills: a part that is forgotten where others are connected."""
  edges = [np.array(part, np.int64).reshape(-1, 2) for part in parts]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(minhash, "_MOST_EDGES", 5)
    result = minhash.connected(iter(edges))
  assert result.tolist() == minhash.components(np.concatenate([np.empty((0, 2), np.int64), *edges])).tolist()


def test_edges_that_are_many_are_held_once_for_each_document(monkeypatch):
  """Kills: edges that add up with the batches."""
  monkeypatch.setattr(minhash, "_MOST_EDGES", 50)
  buckets, signatures_NH = minhash.Buckets(CONFIG), np.ones((20, 4), np.uint32)
  for key in range(100):
    buckets.add(np.full(20, key, np.uint64), np.arange(20), signatures_NH)
    assert sum(map(len, buckets._edges)) < 150
  assert buckets.edges().tolist() == [[number, 0] for number in range(1, 20)]
