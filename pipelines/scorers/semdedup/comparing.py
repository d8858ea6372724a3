"""SemDeDup as Beam passes: each document's largest cosine to one ranked before it in its cluster (paper B.3).

Embeddings are sorted by cluster and rank once, through runs on storage (`sorted_runs`). A fixed group of blocks becomes
a run by part of the clusters, and each part becomes the merge of its ranges of all runs. In the file of a part a tile
is a range, which any worker can read alone. So the tile pairs of all clusters are divided into shares by number
(`cluster_tiles`), and as many workers can work on a giant cluster as it has shares. The largest cosines of a share are
written to a durable file, and those of several shares are combined by their maximum. They go back to their shards as
runs again. Only numbers of groups, parts, shares and shards cross Beam's shuffle. Clusters with too many pairs are
split first (`splitting`), and what is said of clusters here holds for their pieces.

STORE/compared/<fingerprint>/moved/<group>.run       by part: order S16; record: shard uint32, row uint64, embedding
                             parts/<part>.run        the same by tile
                             largest/<share>         float32 of the documents of a share's tiles, in order
                             returned/<span>.run     by shard: row; record: largest cosine, float32
                             cosines/<shard>         float32 of each row of the shard, NaN of bad ones

All files are checked before they are used, made again if they are damaged, and removed when the store is complete.
Legend: N documents, D dimensions, R documents of a tile; a span is consecutive tiles of a part.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from curation.coverage import cluster_tiles, semdedup
from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import blocks
from pipelines.files import sealed_arrays, storage
from pipelines.scorers import work_files
from pipelines.scorers.clusters import clustering
from pipelines.scorers.semdedup import splitting
from pipelines.scorers.semdedup.layout import ComparingConfig, Share, Span, Work, other_clusters_error
from pipelines.scorers.semdedup.scorer import SemDeDup
from pipelines.scoring import steps, stored_blocks
from pipelines.sorted_runs import merging, run_files, run_writer
from pipelines.store import score_files
from pipelines.store.groups import Numbered
from pipelines.worker import memory, prefetch, progress

# As users see them.
MOVING, COMPARING = "grouping documents by cluster", "comparing documents within clusters"
_GATHERING = "gathering the comparisons"
_HELD_TILES = 8
_RANGE_BYTES = 64 << 10  # what one request asks for of a run's file, of which little is read
_TILE_BYTES = 2 << 20
_NO_BATCH = np.empty(0, "S16"), pa.array([], pa.large_binary())
_IDENTITY = np.dtype([("shard", "<u4"), ("row", "<u8")])
# A process works on one share at a time, whose products use all cores.
_TURN = threading.Lock()


def is_compared(config: ComparingConfig) -> bool:
  """Tells whether the cosines of all shards are on record."""
  work = Work.settled(config)
  return work is not None and all(
    work_files.has_arrays(config.store, work.cosines_path(shard)) for shard in config.shards
  )


def stages(config: ComparingConfig, count: progress.Count | None) -> list[progress.Stage]:
  """Returns the stages as users see them; splitting comes first, though it happens only if a cluster is giant."""
  # Counted as if all clusters had one size, which is the least work possible.
  pairs = 1.0 if count is None else max(1.0, count.documents / 2 / config.scorer.config.clusters)
  return [
    *(progress.Stage(title, progress.Count(0, is_exact=False)) for title in splitting.STAGES),
    progress.Stage(MOVING, count, 50_000),
    progress.Stage(COMPARING, count, progress.PRODUCTS / pairs),
    progress.Stage(_GATHERING, count, 200_000),
  ]


def move_group(config: ComparingConfig, numbered: Numbered) -> int:
  """Sorts the embeddings of a group of blocks by part, piece and rank into a run; returns their number."""
  work = Work.for_config(config)
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  path = work.moved_path(numbered.number)
  if work_files.is_whole_run(work.config.store, path):
    resumed = stored_blocks.documents_of(config.scorer.clusters, numbered.group)
    progress.report(config.progress_address, stage=MOVING, resumed=resumed)
    return 0
  moved = 0
  with storage.create_file(path) as file, run_writer.RunWriter(num_shards=work.tiles.num_parts) as writer:
    for pieces_N, key_N, record_N in prefetch.prefetch(_read_group(work, numbered), ahead=1):
      writer.add(work.tiles.parts_of(pieces_N).astype(np.uint32), key_N, record_N)
      progress.report(config.progress_address, stage=MOVING, documents=len(key_N))
      moved += len(key_N)
    writer.finish(file, {})
  return moved


def _read_group(work: Work, numbered: Numbered) -> Iterator[tuple[np.ndarray, np.ndarray, pa.LargeBinaryArray]]:
  """Yields pieces int32 [N], order S16 [N] and records of each block of a group."""
  about, shards = work.config.scorer, work.config.shards
  every, taken = work.pieces_of_group(numbered.number), 0
  for block in splitting.read_group(work.config, numbered.group):
    rows_N, embeddings_ND = block.rows_N, block.embeddings_ND
    pieces_N = block.clusters_N if every is None else every[taken : taken + len(rows_N)]
    taken += len(rows_N)
    hashes_N = hashing.hash_documents(semdedup.HASH_PURPOSE, about.seed, shards[block.place].name, rows_N)
    # Ranked by the cosine to the centroid of the cluster, even within a piece of it.
    key_N = cluster_tiles.order_keys(pieces_N, block.cosines_N, hashes_N, about.keep)
    record_N = np.empty(len(rows_N), _record(embeddings_ND.shape[1] * embeddings_ND.itemsize))
    record_N["shard"], record_N["row"] = block.place, rows_N
    record_N["embedding"] = np.ascontiguousarray(embeddings_ND).view(record_N.dtype["embedding"])[:, 0]
    yield pieces_N, key_N, run_files.to_records(record_N)


def gather_part(config: ComparingConfig, part: int) -> int:
  """Merges the records of a part from all runs into a run by tile; returns the part's number."""
  work = Work.for_config(config)
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  path, tiles = work.part_path(part), work.tiles.tiles_of_part(part)
  if not work_files.is_whole_run(work.config.store, path):
    with (
      run_writer.opened(work.moved_paths(), buffer_bytes=_RANGE_BYTES) as readers,
      storage.create_file(path) as file,
    ):
      run_files.write(file, {}, _by_tile(work, tiles, run_writer.merge_shard(readers, part)), len(tiles))
  return part


def _by_tile(work: Work, tiles: range, merged: Iterator[merging.Batch]) -> Iterator[Iterator[merging.Batch]]:
  """Yields the merged documents of each of some consecutive tiles, cut where tiles end."""
  waiting: list[merging.Batch] = []
  clusters = work.config.scorer.clusters.store

  def take(tile: int) -> Iterator[merging.Batch]:
    places = work.tiles.places(range(tile, tile + 1))
    left, cluster = places.stop - places.start, work.tiles.cluster_of_tile(tile).to_bytes(4, "big")
    while left:
      key_N, record_N = waiting.pop() if waiting else next(merged, _NO_BATCH)
      here = min(left, len(key_N))
      if not here or {bytes(key[:4]).ljust(4, b"\0") for key in (key_N[0], key_N[here - 1])} != {cluster}:
        raise other_clusters_error(storage.join(clusters.path(clustering.FOLDER), clustering.DIAGNOSTICS_FILE))
      if here < len(key_N):
        waiting.append((key_N[here:], record_N[here:]))
      left -= here
      yield key_N[:here], record_N[:here]

  return (take(tile) for tile in tiles)


def compare_share(config: ComparingConfig, share: Share) -> Share:
  """Writes the largest cosines of documents over the tile pairs of a share; returns the share."""
  work = Work.for_config(config)
  path = work.share_path(share)
  if work_files.has_arrays(work.config.store, path):
    pairs_X2 = work.tiles.pairs(share.start, share.stop)
    tiles = pairs_X2[pairs_X2[:, 0] == pairs_X2[:, 1], 0].tolist()
    places = [work.tiles.places(range(tile, tile + 1)) for tile in tiles]
    resumed = sum(place.stop - place.start for place in places)
    progress.report(config.progress_address, stage=COMPARING, resumed=resumed)
  else:
    memory.return_large_arrays()
    with _TURN, storage.open_input(work.part_path(share.part), buffer_bytes=_TILE_BYTES) as file:
      reader = run_files.RunReader(file, work.part_path(share.part))
      sealed_arrays.write(path, _largest_of(work, share, lambda tile: _read_tile(work, reader, share.part, tile)))
  return share


def _largest_of(work: Work, share: Share, load: Callable[[int], np.ndarray]) -> np.ndarray:
  """Computes the largest cosines of the documents of a share's tiles, over its pairs alone: float32 [N]."""
  pairs_X2 = work.tiles.pairs(share.start, share.stop)
  first, last = int(pairs_X2[0, 0]), int(pairs_X2[-1, 0])
  start = work.tiles.places(range(first, last + 1)).start
  largest_N = np.full(work.tiles.places(range(first, last + 1)).stop - start, semdedup.NOTHING_BEFORE)
  for block in range(first, last + 1, _HELD_TILES):  # an earlier tile, once loaded, serves all that are held
    some_X2 = pairs_X2[(pairs_X2[:, 0] >= block) & (pairs_X2[:, 0] < block + _HELD_TILES)]
    held = {tile: load(tile) for tile in np.unique(some_X2[:, 0]).tolist()}
    earlier, earlier_CD = -1, np.empty((0, 0), np.float32)
    for tile, other in some_X2[np.lexsort((some_X2[:, 0], some_X2[:, 1]))].tolist():
      if other != earlier:
        earlier, earlier_CD = other, held[other] if other in held else load(other)
      places = work.tiles.places(range(tile, tile + 1))
      largest_R = largest_N[places.start - start : places.stop - start]
      np.maximum(largest_R, semdedup.largest_cosines(held[tile], None if tile == other else earlier_CD), out=largest_R)
      if tile == other:  # once for each document
        progress.report(work.config.progress_address, stage=COMPARING, documents=len(largest_R))
  return largest_N


def _read_tile(work: Work, reader: run_files.RunReader, part: int, tile: int) -> np.ndarray:
  """Reads a tile's embeddings as unit vectors: float32 [R, D]."""
  record_R = _from_binary([record_N for _, record_N in reader.batches(tile - work.tiles.tiles_of_part(part).start)])
  values = np.ascontiguousarray(record_R["embedding"]).view(work.config.scorer.embeddings.dtype)
  return semdedup.unit_vectors(values.reshape(len(record_R), -1))


def return_span(config: ComparingConfig, span: Span) -> Span:
  """Combines the results of shares for consecutive tiles into a run by shard and row; returns the span."""
  work = Work.for_config(config)
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  path = work.span_path(span)
  if work_files.is_whole_run(work.config.store, path):
    return span
  largest_N, tiles = _combined(work, span), work.tiles.tiles_of_part(span.part)
  with (
    storage.open_input(work.part_path(span.part), buffer_bytes=_TILE_BYTES) as source,
    storage.create_file(path) as file,
    run_writer.RunWriter(num_shards=len(config.shards)) as writer,
  ):
    reader, place = run_files.RunReader(source, work.part_path(span.part)), 0
    for tile in range(span.start, span.stop):
      for key_N, binary_N in reader.batches(tile - tiles.start):
        record_N = _from_binary([binary_N])
        cosines_N = run_files.to_records(largest_N[place : place + len(key_N)])
        writer.add(record_N["shard"].astype(np.uint32), record_N["row"].astype(np.uint64), cosines_N)
        place += len(key_N)
    writer.finish(file, {})
  return span


def _combined(work: Work, span: Span) -> np.ndarray:
  """Combines the largest cosines of the documents of a span: float32 [N]."""
  places = work.tiles.places(range(span.start, span.stop))
  largest_N = np.full(places.stop - places.start, semdedup.NOTHING_BEFORE)
  pairs = range(work.tiles.first_pair(span.start), work.tiles.first_pair(span.stop))
  for share in work.shares(pairs, span.part):
    (found_N,) = sealed_arrays.read(work.share_path(share), 1)
    of_share = work.tiles.pairs(share.start, share.stop)[[0, -1], 0]
    theirs = work.tiles.places(range(int(of_share[0]), int(of_share[1]) + 1))
    start, stop = max(places.start, theirs.start), min(places.stop, theirs.stop)
    ours_N = largest_N[start - places.start : stop - places.start]
    np.maximum(ours_N, found_N[start - theirs.start : stop - theirs.start], out=ours_N)
  return largest_N


def gather_shard(config: ComparingConfig, index: int) -> int:
  """Gathers the largest cosines of a shard's documents; returns their number."""
  work, shard = Work.for_config(config), config.shards[index]
  summary, path = score_files.read_summary(config.scorer.clusters.store, shard), work.cosines_path(shard)
  if not work_files.has_arrays(work.config.store, path):
    cosines_N = np.full(summary.num_rows, np.nan, np.float32)
    with run_writer.opened(map(work.span_path, work.spans()), buffer_bytes=_RANGE_BYTES) as readers:
      for reader in readers:
        for rows_N, record_N in reader.batches(index):
          cosines_N[rows_N.astype(np.int64)] = np.frombuffer(run_files.content(record_N), np.float32)
    if (found := int(np.count_nonzero(~np.isnan(cosines_N)))) != summary.scored:
      raise WinnowError(
        f"{found:,} of the {summary.scored:,} documents of {shard.name} have been compared; delete {work.folder} and "
        "run the command again"
      )
    sealed_arrays.write(path, cosines_N)
  return summary.scored


@dataclasses.dataclass(frozen=True)
class ComparedBlocks(stored_blocks.StoredBlocks):
  """The blocks of a store of clusters with the largest cosine of each document, as `SemDeDup` reads them."""

  config: ComparingConfig

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    work = Work.for_config(self.config)
    (cosines_N,) = sealed_arrays.read(work.cosines_path(shard), 1)
    for block in super().read(shard, want):
      if isinstance(block, blocks.SkippedBlock):
        yield block
        continue
      column = pa.array(cosines_N[block.documents["row"].to_numpy()])
      yield dataclasses.replace(block, documents=block.documents.append_column(SemDeDup.reads, column))


def _record(embedding_bytes: int) -> np.dtype:
  return np.dtype([*_IDENTITY.descr, ("embedding", f"V{embedding_bytes}")])


def _from_binary(parts: list[pa.LargeBinaryArray]) -> np.ndarray:
  """Joins the records of consecutive batches, at least one."""
  width = int(run_files.sizes(parts[0])[0])
  dtype = _record(width - _IDENTITY.itemsize)
  return np.concatenate([np.frombuffer(run_files.content(part_N), dtype) for part_N in parts])


class Compare(beam.PTransform):
  """PCollection[Ledger] (one element: the clusters are complete) -> the same, once all cosines are on record."""

  def __init__(self, config: ComparingConfig):
    super().__init__()
    self._config = config

  def expand(self, ledger: beam.PCollection):
    config = self._config
    return ledger | "Steps" >> steps.Steps(
      lambda: is_compared(config),
      lambda: config.store.is_complete,
      config.progress_address,
      [*splitting.steps_of(config), *_steps_of(config)],
    )


def _steps_of(config: ComparingConfig) -> list[steps.Step]:
  def made(path: Callable[[Work, Any], str]) -> steps.Made:
    def paths(items: Sequence[Any]) -> list[str]:
      work = Work.for_config(config)
      return [path(work, item) for item in items]

    return paths

  return [
    steps.Step(
      "MoveGroups",
      MOVING,
      lambda: Work.for_config(config).groups(),
      lambda group: move_group(config, group),
      made(lambda work, group: work.moved_path(group.number)),
    ),
    steps.Step(
      "GatherParts",
      MOVING,
      lambda: range(Work.for_config(config).tiles.num_parts),
      lambda part: gather_part(config, part),
      made(lambda work, part: work.part_path(part)),
    ),
    steps.Step(
      "CompareShares",
      COMPARING,
      lambda: Work.for_config(config).all_shares(),
      lambda share: compare_share(config, share),
      made(lambda work, share: work.share_path(share)),
    ),
    steps.Step(
      "ReturnSpans",
      _GATHERING,
      lambda: Work.for_config(config).spans(),
      lambda span: return_span(config, span),
      made(lambda work, span: work.span_path(span)),
    ),
    steps.Step(
      "GatherShards",
      _GATHERING,
      lambda: range(len(config.shards)),
      lambda index: gather_shard(config, index),
      made(lambda work, index: work.cosines_path(config.shards[index])),
    ),
  ]
