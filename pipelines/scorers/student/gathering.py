"""Gathering of the documents that a student learns from: the rows of a teacher's store, joined with embeddings.

Both stores have the same shards, so rows are joined by shard and number. The teacher may have scored some rows only, as
a later stage of a recipe does. A hash decides which of its documents are taken where there are more than the limit. A
worker writes those of a fixed group of blocks to two durable files, and one worker reads them all (`teaching`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from curation.coverage import minhash
from curation.selection import hashing
from curation.student import splits
from pipelines.corpus import blocks, fixed_width
from pipelines.files import damage, fingerprints, sealed_arrays, storage
from pipelines.scorers.student import artifacts
from pipelines.scoring.stored_blocks import StoredBlocks, StoredEmbeddings
from pipelines.store import kinds, score_files
from pipelines.store.groups import GroupPlan, GroupSizes, Numbered
from pipelines.store.score_store import ScoreStore
from pipelines.worker import memory, progress

GATHERING = "gathering documents to learn from"  # as users see it
_BATCH_ROWS = 1 << 18
_READ_SECOND = 200_000  # embeddings, by one core
_UNKNOWN = -1
# A group's embeddings are in memory at once: 50 MB, or as many as the limit leaves of a larger group.
_GROUPS = GroupSizes(fewest=1 << 15)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """The stores that a student is learned from, and the folder that it is made in."""

  folder: str
  request: dict[str, Any]
  teacher: ScoreStore
  embeddings: StoredEmbeddings
  signatures: StoredBlocks | None
  """The MinHash signatures by which near-copies are joined; None if there are none."""
  near_copies: minhash.MinHashConfig
  made_with: dict[str, str]
  seed: int
  most_documents: int
  progress_address: progress.Address | None = None
  groups: GroupSizes = _GROUPS

  def path(self, name: str) -> str:
    return storage.join(self.folder, name)

  @property
  def fingerprint(self) -> str:
    return fingerprints.fingerprint(self.request)

  def work_path(self, what: str, number: int) -> str:
    return storage.join(self.path(artifacts.WORK_FOLDER), self.fingerprint[:16], f"{what}-{number:05d}")

  def plan(self) -> list[Numbered]:
    """Returns the groups of blocks, which follow from the store of embeddings alone."""
    return GroupPlan.for_store(self.embeddings.store, self.groups).groups()

  def hash_limit(self) -> np.uint64:
    """Returns the largest hash of a document that is gathered: a few more than are wanted, of which the first stay."""
    documents, wanted = self.teacher.summary()["scored"], self.most_documents
    expected = wanted + 6 * wanted**0.5 + 60
    return np.uint64((1 << 64) - 1 if expected >= documents else int(expected / documents * 2.0**64))


class Rows(NamedTuple):
  """What is on record of the documents of a group, beside their embeddings and signatures."""

  counts: np.ndarray
  """int64 [3]: documents within the hash limit; those of them without a finite score; others without an embedding."""
  hashes_N: np.ndarray
  """uint64: which documents are taken."""
  parts_N: np.ndarray
  """uint64: the hash that decides a document's part."""
  targets_N: np.ndarray
  tokens_N: np.ndarray
  """int32, -1 where it is not on record."""
  domains_N: np.ndarray
  """int32: the number of the domain among `names`."""
  names: np.ndarray
  """uint8: the names of domains in UTF-8, a line each."""


class Points(NamedTuple):
  """The embeddings [N, D] and signatures, uint32 [N, H], of a group's documents; H is 0 if there are none."""

  points_ND: np.ndarray
  signatures_NH: np.ndarray


def read_rows(config: DistillConfig, number: int) -> Rows:
  """Raises DamagedError."""
  return Rows(*sealed_arrays.read(config.work_path("rows", number), len(Rows._fields)))


def read_points(config: DistillConfig, number: int) -> Points:
  """Raises DamagedError."""
  return Points(*sealed_arrays.read(config.work_path("points", number), len(Points._fields)))


def stage(config: DistillConfig) -> progress.Stage:
  """Returns the stage as users see it."""
  count = progress.Count(config.teacher.summary()["scored"], is_exact=False)
  return progress.Stage(GATHERING, count, _READ_SECOND)


def gather_group(config: DistillConfig, numbered: Numbered) -> None:
  """Writes the documents of a group, in the order of shards and rows, unless they are on record."""
  rows_path, points_path = config.work_path("rows", numbered.number), config.work_path("points", numbered.number)
  if _has(config, points_path, len(Points._fields)) and _has(config, rows_path, len(Rows._fields)):
    progress.report(config.progress_address, stage=GATHERING, resumed=len(read_rows(config, numbered.number).hashes_N))
    return
  memory.return_large_arrays()
  shards = config.embeddings.store.shards()
  rows, points = [], []
  for place, first, stop in numbered.group.parts:
    for block_rows, block_points in _gather_blocks(config, shards[place], range(first, stop)):
      rows.append(block_rows)
      points.append(block_points)
      progress.report(config.progress_address, stage=GATHERING, documents=len(block_rows.hashes_N))
  sealed_arrays.write(points_path, *_joined(points, Points(*_no_points(config))))
  sealed_arrays.write(rows_path, *join_rows(rows))


def _has(config: DistillConfig, path: str, count: int) -> bool:
  return damage.is_whole(config.folder, path, lambda path: sealed_arrays.read(path, count))


def _no_points(config: DistillConfig) -> tuple[np.ndarray, np.ndarray]:
  return np.empty((0, 0), config.embeddings.dtype), np.empty((0, 0), np.uint32)


def _joined(parts: list[Points], nothing: Points) -> Points:
  return Points(*map(np.concatenate, zip(*parts, strict=True))) if parts else nothing


def join_rows(parts: list[Rows]) -> Rows:
  """Joins rows of several blocks, each with its own list of domains."""
  names: dict[bytes, int] = {}
  domains = [np.empty(0, np.int32)]
  for part in parts:
    codes = [names.setdefault(name, len(names)) for name in part.names.tobytes().split(b"\n")]
    domains.append(np.array(codes, np.int32)[part.domains_N])
  empty = Rows(*(np.empty(0, dtype) for dtype in ("i8", "u8", "u8", "f4", "i4", "i4", "u1")))
  columns = [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
  joined = Rows(*columns)
  return joined._replace(
    counts=np.sum([np.zeros(3, np.int64), *(part.counts for part in parts)], axis=0),
    domains_N=np.concatenate(domains),
    names=np.frombuffer(b"\n".join(names), np.uint8),
  )


def _gather_blocks(config: DistillConfig, shard: blocks.Shard, indices: range) -> Iterator[tuple[Rows, Points]]:
  """Yields the documents of some blocks of a shard, where there are any."""
  block_rows = score_files.read_summary(config.embeddings.store, shard).block_rows
  starts = np.cumsum([0, *block_rows])
  rows_T, targets_T, hashes_T = _taken(config, shard, int(starts[indices.start]), int(starts[indices.stop]))
  borders = np.searchsorted(rows_T, starts)
  wanted = {index for index in indices if borders[index + 1] > borders[index]}
  for block in config.embeddings.read(shard, wanted.__contains__):
    if not isinstance(block, blocks.Block):
      continue
    these = slice(borders[block.index], borders[block.index + 1])
    rows_N = block.documents["row"].to_numpy()
    place_T, is_there_T = _places(rows_N, rows_T[these])
    is_finite_T = np.isfinite(targets_T[these])
    kept_T = is_there_T & is_finite_T
    documents = block.documents.take(place_T[kept_T])
    kept_rows, hashes_K = rows_T[these][kept_T], hashes_T[these][kept_T]
    domains = pc.fill_null(documents[kinds.DOMAIN.name], "").combine_chunks().dictionary_encode()
    rows = Rows(
      np.array([len(kept_T), (~is_finite_T).sum(), (is_finite_T & ~is_there_T).sum()]),
      hashes_K,
      hashing.hash_documents(splits.PART, config.seed, shard.name, kept_rows),
      targets_T[these][kept_T],
      pc.fill_null(documents[kinds.NUM_TOKENS.name], _UNKNOWN).to_numpy().astype(np.int32),
      domains.indices.to_numpy().astype(np.int32),
      np.frombuffer("\n".join(domains.dictionary.to_pylist()).encode(), np.uint8),
    )
    points_ND = fixed_width.array(documents[kinds.EMBEDDING], config.embeddings.dtype)
    yield rows, Points(points_ND, _signatures(config, shard, kept_rows, hashes_K))


def _taken(
  config: DistillConfig, shard: blocks.Shard, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the teacher's documents among the rows of a shard from `first` to `stop` that the hash limit leaves.

  Their rows int64 [T], ascending, scores float32 [T], and hashes uint64 [T].
  """
  rows, targets = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
  with score_files.ScoreFile(config.teacher, shard) as file:
    for batch in file.batches(_BATCH_ROWS):
      rows_N = batch["row"].to_numpy()
      is_inside_N = (rows_N >= first) & (rows_N < stop)
      rows.append(rows_N[is_inside_N])
      targets.append(batch[kinds.SCORE].to_numpy()[is_inside_N])
  rows_N, targets_N = np.concatenate(rows), np.concatenate(targets)
  hashes_N = hashing.hash_documents(splits.SAMPLE, config.seed, shard.name, rows_N)
  is_taken_N = hashes_N <= config.hash_limit()
  return rows_N[is_taken_N], targets_N[is_taken_N], hashes_N[is_taken_N]


def _places(rows_N: np.ndarray, wanted_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the place of each wanted row among ascending rows, int64 [T], and whether it is there, bool [T]."""
  place_T = np.searchsorted(rows_N, wanted_T)
  is_there_T = place_T < len(rows_N)
  is_there_T[is_there_T] = rows_N[place_T[is_there_T]] == wanted_T[is_there_T]
  return place_T, is_there_T


def _signatures(config: DistillConfig, shard: blocks.Shard, rows_K: np.ndarray, hashes_K: np.ndarray) -> np.ndarray:
  """Returns the signatures of a shard's rows: uint32 [K, H]. A row without one gets one that no other row has."""
  if config.signatures is None or not len(rows_K):
    return np.empty((len(rows_K), 0), np.uint32)
  hashes = config.near_copies.hashes
  signatures_KH = hashing.hash_numbers(hashes_K[:, None], np.arange(hashes)).astype(np.uint32)
  store = config.signatures.store
  starts = np.cumsum([0, *score_files.read_summary(store, shard).block_rows])
  wanted = set((np.searchsorted(starts, rows_K, side="right") - 1).tolist())
  for block in config.signatures.read(shard, wanted.__contains__):
    if isinstance(block, blocks.Block):
      place_K, is_there_K = _places(block.documents["row"].to_numpy(), rows_K)
      values_NH = fixed_width.array(block.documents[kinds.SIGNATURE], "uint32")
      signatures_KH[is_there_K] = values_NH[place_K[is_there_K], :hashes]
  return signatures_KH
