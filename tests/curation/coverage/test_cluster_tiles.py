"""Tiles of many clusters: one numbering of documents, tiles and pairs, and the order that SemDeDup ranks by."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from curation.coverage import cluster_tiles, semdedup

TILE = semdedup.TILE_ROWS
SIZES = st.lists(
  st.one_of(st.just(0), st.integers(1, 50), st.sampled_from([TILE, TILE + 1, 3 * TILE + 5])), min_size=1, max_size=9
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from(["nearest", "farthest", "random"]))
def test_keys_sort_by_cluster_and_then_by_rank(seed, size, keep):
  """Kills: negative cosines in the order of their bits; -0 apart from 0; clusters as signed or little-endian numbers;
  the wrong end first; ties by place."""
  generator = np.random.default_rng(seed)
  clusters_N = generator.choice([0, 1, 255, 256, 70_000], size).astype(np.int32)
  cosines_N = generator.choice([-1, -0.5, -0.0, 0.0, 1e-9, 0.3, 1], size).astype(np.float32)
  hashes_N = generator.integers(0, 2**64, size, np.uint64)
  found_N = np.argsort(cluster_tiles.order_keys(clusters_N, cosines_N, hashes_N, keep), kind="stable")
  expected = []
  for cluster in np.unique(clusters_N):
    places = np.flatnonzero(clusters_N == cluster)
    expected += places[semdedup.rank_documents(cosines_N[places], hashes_N[places], keep)].tolist()
  assert found_N.tolist() == expected


@hypothesis.settings(max_examples=60)
@hypothesis.given(SIZES, st.integers(1, 5_000), st.integers(1, 7))
def test_ranges_of_pairs_are_all_pairs_of_every_cluster(sizes, part_documents, step):
  """Kills: empty clusters that own a pair; a part that ends inside a cluster; places of the tile before or behind."""
  tiles = cluster_tiles.Tiles(np.array(sizes, np.int64), part_documents)
  expected, places, tile, place = [], [], 0, 0
  for size in sizes:
    count = -(-size // TILE)
    expected += [(tile + a, tile + b) for a in range(count) for b in range(a + 1)]
    places += [(place + start, place + min(start + TILE, size)) for start in range(0, size, TILE)]
    tile, place = tile + count, place + size
  result, part_tiles = [], []
  for part in range(tiles.num_parts):
    pairs, own = tiles.pairs_of_part(part), tiles.tiles_of_part(part)
    part_tiles += list(own)
    for start in range(pairs.start, pairs.stop, step):
      share = [tuple(pair) for pair in tiles.pairs(start, min(start + step, pairs.stop)).tolist()]
      assert all(number in own for pair in share for number in pair)
      result += share
  assert result == expected and part_tiles == list(range(tile))
  for number, (start, stop) in enumerate(places):
    assert tiles.places(range(number, number + 1)) == slice(start, stop)
    assert tiles.first_pair(number) == next(i for i, pair in enumerate(expected) if pair[0] == number)
    assert tiles.tile_starts[tiles.cluster_of_tile(number)] <= number
  assert tiles.first_pair(tile) == len(expected) if tile else True
  clusters_K = np.arange(len(sizes))
  assert (np.diff(tiles.parts_of(clusters_K)) >= 0).all()
  for part in range(tiles.num_parts):
    documents = np.array(sizes)[tiles.parts_of(clusters_K) == part]
    assert documents[:-1].sum() <= part_documents
