"""The division of comparisons within clusters into pieces of work, and the places of their results.

The division follows only from the sizes of the clusters and of the pieces of giant ones, and not from who does the
work. `splitting` and `comparing` have the steps, and say what the files hold.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from curation.coverage import cluster_tiles, giant_clusters, semdedup
from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import fingerprints, sealed_arrays, storage
from pipelines.scorers.clusters import clustering
from pipelines.scorers.semdedup.scorer import SemDeDup
from pipelines.scoring.preparation import PreparationConfig
from pipelines.store.groups import GroupPlan, Numbered

FOLDER, SPLIT_FILE = "compared", "split.json"  # in the store of scores
_MOST_PARTS, _MOST_SHARES = 1024, 1 << 14


@dataclasses.dataclass(frozen=True)
class ComparingConfig(PreparationConfig):
  """A store of clusters, and the store of scores that is made from it."""

  scorer: SemDeDup
  # Each part opens every run, and belongs to one worker: so there are as few of both as large corpora allow.
  part_documents: int = 1 << 17
  share_pairs: int = 128  # pairs of about 30 ms each
  span_tiles: int = 256


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
class Splitting:
  """The clusters that are split, and the paths of the files of that work: both follow from their sizes alone."""

  config: ComparingConfig
  pieces: giant_clusters.Pieces
  plan: GroupPlan
  folder: str

  @classmethod
  def for_config(cls, config: ComparingConfig) -> "Splitting":
    summary, path = config.scorer.clusters.store.summary(), diagnostics_path(config)
    sizes = fingerprints.field(path, "sizes")
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
      raise other_clusters_error(path)
    pieces = giant_clusters.Pieces(np.array(sizes, np.int64), config.scorer.max_cluster_pairs, config.scorer.config)
    if pieces.sizes_K.sum() != summary["scored"]:
      raise other_clusters_error(path)
    store = config.scorer.clusters.store
    plan = GroupPlan.for_store(store, config.groups)
    return cls(config, pieces, plan, _folder(config, [sizes, plan.documents]))

  def path(self, folder: str, name: str) -> str:
    return storage.join(self.folder, folder, name)

  def sampled_paths(self) -> list[str]:
    return [self.sampled_path(number) for number, _ in self.groups()]

  def sampled_path(self, number: int) -> str:
    return self.path("sampled", f"{number:05d}.run")

  def centroids_path(self, cluster: int) -> str:
    return self.path("subcentroids", f"{cluster:07d}.safetensors")

  def pieces_path(self, number: int, centroids: str) -> str:
    """Returns the path of the pieces of a group's documents, by the centroids with this fingerprint."""
    return self.path("pieces", f"{centroids[:16]}-{number:05d}")

  def groups(self) -> list[Numbered]:
    return self.plan.groups()

  def settled(self) -> "Settled | None":
    """Returns the pieces on record; None if there are none."""
    if not len(self.pieces.giants):
      return Settled(self.pieces.sizes_K, None)
    split = self.config.scorer.split()
    if split is None:
      return None
    sizes_P = np.zeros(self.pieces.starts[-1], np.int64)
    sizes_P[self.pieces.starts[:-1]] = self.pieces.sizes_K
    for cluster in split["clusters"]:
      sizes_P[self.pieces.cluster_pieces(cluster["cluster"])] = cluster["pieces"]
    return Settled(sizes_P, split["centroids"])


class Settled(NamedTuple):
  """The number of documents of each piece, int64 [P], and the centroids' fingerprint; None: no cluster is split."""

  sizes_P: np.ndarray
  centroids: str | None


@dataclasses.dataclass(frozen=True)
class Work:
  """The division of the work on complete clusters: it follows from the sizes of their pieces alone."""

  config: ComparingConfig
  splitting: Splitting
  centroids: str | None
  tiles: cluster_tiles.Tiles
  share_pairs: int
  folder: str

  @classmethod
  def for_config(cls, config: ComparingConfig) -> "Work":
    """Divides the work. Raises WinnowError if clusters have to be split first."""
    found = cls.settled(config)
    if found is None:
      raise WinnowError(f"{config.scorer.split_path} is missing or damaged; run the same command again")
    return found

  @classmethod
  def settled(cls, config: ComparingConfig) -> "Work | None":
    """Divides the work; None if clusters have to be split first."""
    splitting = Splitting.for_config(config)
    settled = splitting.settled()
    if settled is None:
      return None
    sizes_P, centroids = settled
    tiles = cluster_tiles.Tiles(sizes_P, max(config.part_documents, -(-int(sizes_P.sum()) // _MOST_PARTS)))
    share = max(config.share_pairs, -(-int(tiles.pair_starts[-1]) // _MOST_SHARES))
    group = splitting.plan.documents
    cut = [sizes_P.tolist(), centroids, tiles.part_documents, group, share, config.span_tiles, semdedup.TILE_ROWS]
    return cls(config, splitting, centroids, tiles, share, _folder(config, cut))

  def path(self, folder: str, name: str) -> str:
    return storage.join(self.folder, folder, name)

  def part_path(self, part: int) -> str:
    return self.path("parts", f"{part:05d}.run")

  def share_path(self, share: Share) -> str:
    return self.path("largest", f"{share.start:012d}")

  def span_path(self, span: Span) -> str:
    return self.path("returned", f"{span.start:09d}.run")

  def cosines_path(self, shard: blocks.Shard) -> str:
    return self.path("cosines", shard.file_name)

  def groups(self) -> list[Numbered]:
    return self.splitting.groups()

  def pieces_of_group(self, number: int) -> np.ndarray | None:
    """Returns the pieces of a group's documents, int32 [N] in its order; None if no cluster is split."""
    if self.centroids is None:
      return None
    return sealed_arrays.read(self.splitting.pieces_path(number, self.centroids), 1)[0]

  def moved_path(self, number: int) -> str:
    """Returns the path of a group's run."""
    return self.path("moved", f"{number:05d}.run")

  def moved_paths(self) -> list[str]:
    """Returns the paths of the runs of all groups, in the order of their documents."""
    return [self.moved_path(number) for number, _ in self.groups()]

  def shares(self, pairs: range, part: int) -> list[Share]:
    """Returns the shares of a part that hold some of these pairs."""
    every = self.tiles.pairs_of_part(part)
    first = every.start + (pairs.start - every.start) // self.share_pairs * self.share_pairs
    starts = range(first, pairs.stop, self.share_pairs)
    return [Share(part, start, min(start + self.share_pairs, every.stop)) for start in starts]

  def all_shares(self) -> list[Share]:
    parts = range(self.tiles.num_parts)
    return [share for part in parts for share in self.shares(self.tiles.pairs_of_part(part), part)]

  def spans(self) -> list[Span]:
    found, size = [], self.config.span_tiles
    for part in range(self.tiles.num_parts):
      every = self.tiles.tiles_of_part(part)
      found += [Span(part, start, min(start + size, every.stop)) for start in every[::size]]
    return found


def diagnostics_path(config: ComparingConfig) -> str:
  """Returns the path of the file with the sizes of the clusters."""
  return storage.join(config.scorer.clusters.store.path(clustering.FOLDER), clustering.DIAGNOSTICS_FILE)


def _folder(config: ComparingConfig, cut: list) -> str:
  about = [config.store.fingerprint, config.scorer.clusters.store.fingerprint_with_engine(), cut]
  return storage.join(config.store.path(FOLDER), fingerprints.fingerprint(about)[:16])


def other_clusters_error(path: str) -> WinnowError:
  """Returns the error for sizes of another clustering."""
  return WinnowError(f"{path} does not have the sizes of its clusters; delete it and run the same command again")
