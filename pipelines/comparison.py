"""How the comparison of documents within clusters is cut into pieces of work, and where their results lie.

By the sizes of the clusters alone, not by who does it: `comparing` has the steps, and says what is in the files.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from curation import cluster_tiles, semdedup
from curation.errors import WinnowError
from pipelines import (
  array_files,
  blocks,
  clustering,
  damage,
  progress,
  requests,
  runs,
  scorers,
  sketching,
  storage,
  stores,
)

# A run is opened once a part, and a part is one worker's; so as few of both as large corpora allow.
_GROUP, _LARGEST_GROUP, _GROUPS = 1 << 17, 1 << 20, 256
_PART_DOCUMENTS, _MOST_PARTS = 1 << 17, 1024
_SHARE_PAIRS, _MOST_SHARES = 128, 1 << 14  # of 30 ms each, more or less
_SPAN_TILES = 256


@dataclasses.dataclass(frozen=True)
class ComparingConfig:
  """A store of clusters, of which shards, for which scorer's store."""

  scorer: scorers.SemDeDup
  store: stores.ScoreStore
  shards: tuple[blocks.Shard, ...]
  progress_address: progress.Address | None = None


class Share(NamedTuple):
  """Consecutive tile pairs of one part."""

  part: int
  start: int
  stop: int


class Span(NamedTuple):
  """Consecutive tiles of one part."""

  part: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Work:
  """How the work on complete clusters is cut: by their sizes alone, not by who does it."""

  config: ComparingConfig
  tiles: cluster_tiles.Tiles
  group_documents: int
  share_pairs: int
  folder: str

  @classmethod
  def of(cls, config: ComparingConfig) -> "Work":
    clusters = config.scorer.clusters.store
    summary, path = clusters.summary(), storage.join(clusters.centroids_folder, clustering.DIAGNOSTICS_FILE)
    sizes = requests.field(path, "sizes")
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
      raise of_other_clusters(path)
    sizes_K = np.array(sizes, np.int64)
    if sizes_K.sum() != summary["scored"]:
      raise of_other_clusters(path)
    group = min(max(summary["read"] // _GROUPS, _GROUP), _LARGEST_GROUP)
    tiles = cluster_tiles.Tiles(sizes_K, max(_PART_DOCUMENTS, -(-summary["scored"] // _MOST_PARTS)))
    share = max(_SHARE_PAIRS, -(-int(tiles.pair_starts[-1]) // _MOST_SHARES))
    cut = [sizes, tiles.part_documents, group, share, _SPAN_TILES, semdedup.TILE_ROWS]
    name = requests.fingerprint([config.store.fingerprint, clusters.fingerprint_with_engine(), cut])[:16]
    return cls(config, tiles, group, share, storage.join(config.store.folder, stores.COMPARED_FOLDER, name))

  def path(self, folder: str, name: str) -> str:
    return storage.join(self.folder, folder, name)

  def part_path(self, part: int) -> str:
    return self.path("parts", f"{part:05d}.run")

  def share_path(self, share: Share) -> str:
    return self.path("largest", f"{share.start:012d}")

  def span_path(self, span: Span) -> str:
    return self.path("returned", f"{span.start:09d}.run")

  def cosines_path(self, shard: blocks.Shard) -> str:
    return self.path("cosines", shard.name)

  def groups(self) -> list[clustering.Numbered]:
    by_name = {shard["shard"]: shard["block_rows"] for shard in self.config.scorer.clusters.store.summary()["shards"]}
    rows = [by_name[shard.name] for shard in self.config.shards]
    return [clustering.Numbered(*each) for each in enumerate(sketching.group_blocks(rows, self.group_documents))]

  def moved_paths(self) -> list[str]:
    """Of the runs of all groups, in the order of their documents."""
    return [self.path("moved", f"{number:05d}.run") for number, _ in self.groups()]

  def shares(self, pairs: range, part: int) -> list[Share]:
    """The shares of a part that have some of these of its pairs."""
    every = self.tiles.pairs_of_part(part)
    first = every.start + (pairs.start - every.start) // self.share_pairs * self.share_pairs
    starts = range(first, pairs.stop, self.share_pairs)
    return [Share(part, start, min(start + self.share_pairs, every.stop)) for start in starts]

  def all_shares(self) -> list[Share]:
    parts = range(self.tiles.num_parts)
    return [share for part in parts for share in self.shares(self.tiles.pairs_of_part(part), part)]

  def spans(self) -> list[Span]:
    found = []
    for part in range(self.tiles.num_parts):
      every = self.tiles.tiles_of_part(part)
      starts = every[::_SPAN_TILES]
      found += [Span(part, start, min(start + _SPAN_TILES, every.stop)) for start in starts]
    return found

  def is_whole_run(self, path: str) -> bool:
    return damage.is_whole(self.config.store.folder, path, runs.check)

  def has_array(self, path: str) -> bool:
    return damage.is_whole(self.config.store.folder, path, lambda path: array_files.read(path, 1))


def of_other_clusters(path: str) -> WinnowError:
  """The refusal of sizes that another clustering has."""
  return WinnowError(f"{path} does not have the sizes of its clusters; delete it and run the same command again")
