"""MinHash as Beam passes, which find the documents that repeat an earlier one without comparing all pairs.

Documents are numbered in their order. The keys of all bands are sorted through runs on storage (`sorted_runs`), and one
worker gets each part of the keys. It returns the documents that share a key to their groups of blocks. Each group sends
the signatures of these documents, and no others, to the parts again. There each bucket is joined into edges. One worker
turns the edges of all parts into connected components; it holds some 250 bytes for each document that repeats another.
Only numbers cross Beam's shuffle.

STORE/joined/near_copies.json                      how many there are; written last
             work/<fingerprint>/keyed/<group>.run  by part: order (key, number); no record
                                met/<part>.run     by group: order (number, key) of documents that share their key
                                signed/<group>.run by part: order (key, number); record: the signature
                                edges/<part>       int64 [C, 2]
                                merged/<index>     the same of several parts
                                repeats/<shard>    a bit for each row of the shard: it repeats an earlier document

All files are checked before they are used, and made again if they are damaged. `work` is removed when the store is
complete.
Legend: N documents of a block, B bands, M of their keys, H hash functions, C documents that repeat an earlier one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from curation.coverage import minhash
from curation.errors import DamagedError
from pipelines.corpus import blocks, fixed_width
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.scorers import work_files
from pipelines.scorers.minhash.scorer import MinHash
from pipelines.scoring import steps, stored_blocks
from pipelines.scoring.preparation import PreparationConfig
from pipelines.sorted_runs import run_files, run_writer
from pipelines.store import kinds
from pipelines.store.groups import Group, GroupPlan, Numbered
from pipelines.worker import memory, prefetch, progress

LOOKING, MATCHING = "looking for near-copies", "matching near-copies"  # as users see them
FOLDER = "joined"  # in the store of scores
NEAR_COPIES_FILE = "near_copies.json"
_MOST_PARTS = 1024
_RANGE_BYTES = 64 << 10  # what one request asks for of a run's file, of which little is read


@dataclasses.dataclass(frozen=True)
class JoiningConfig(PreparationConfig):
  """A store of signatures, and the store of scores that is made from it."""

  scorer: MinHash
  # Each part opens every run, and belongs to one worker: so there are as few of both as large corpora allow.
  part_keys: int = 1 << 21
  merged_at_once: int = 32
  keys_at_once: int = 1 << 14

  @property
  def near_copies_path(self) -> str:
    return storage.join(self.store.path(FOLDER), NEAR_COPIES_FILE)


@dataclasses.dataclass(frozen=True)
class Work:
  """The division of the work on complete signatures: it follows from their number alone."""

  config: JoiningConfig
  shards: tuple[blocks.Shard, ...]
  starts: np.ndarray
  """The number of each shard's first document, and the number of all documents: int64."""
  plan: GroupPlan
  num_parts: int
  folder: str

  @classmethod
  def for_config(cls, config: JoiningConfig) -> "Work":
    signatures, shards = config.scorer.signatures.store, config.shards
    summary = signatures.summary()
    plan = GroupPlan.for_store(signatures, config.groups)
    parts = min(max(1, -(-summary["read"] * config.scorer.config.bands // config.part_keys)), _MOST_PARTS)
    signed = config.scorer.signatures.fingerprint_with_engine()
    name = fingerprints.fingerprint([config.store.fingerprint, signed, plan.documents, parts])[:16]
    return cls(
      config,
      shards,
      np.cumsum([0, *map(sum, plan.block_rows)]),
      plan,
      parts,
      storage.join(config.store.path(FOLDER), "work", name),
    )

  def path(self, folder: str, name: Any) -> str:
    return storage.join(self.folder, folder, str(name))

  def run_path(self, folder: str, number: int) -> str:
    return self.path(folder, f"{number:05d}.run")

  def groups(self) -> list[Numbered]:
    return self.plan.groups()

  def group_starts(self) -> np.ndarray:
    """Returns the number of each group's first document: int64."""
    firsts = (group.parts[0] for _, group in self.groups())
    return np.array([self.starts[shard] + sum(self.plan.block_rows[shard][:first]) for shard, first, _ in firsts])

  def parts_of(self, keys_M: np.ndarray) -> np.ndarray:
    return (keys_M % np.uint64(self.num_parts)).astype(np.uint32)

  def merged(self) -> range:
    return range(-(-self.num_parts // self.config.merged_at_once))


def is_joined(config: JoiningConfig) -> bool:
  """Tells whether the repeats of all shards are on record."""
  work = Work.for_config(config)
  has_all = all(work_files.has_arrays(config.store, work.path("repeats", shard.file_name)) for shard in work.shards)
  return _is_told(config) and has_all


def stages(config: JoiningConfig, count: progress.Count | None) -> list[progress.Stage]:
  """Returns the stages of joining as users see them; none if it is done."""
  if storage.exists(config.near_copies_path):
    return []
  return [progress.Stage(LOOKING, count, 60_000), progress.Stage(MATCHING, count, 100_000)]


def read_near_copies(path: str) -> dict[str, int]:
  """Reads how many documents repeat others. Raises DamagedError."""
  found = fingerprints.read_sealed(path)
  if found is None:
    raise DamagedError(f"{path} is missing or damaged; run the same command again, which makes it again")
  return found


def _is_told(config: JoiningConfig) -> bool:
  return damage.is_whole(config.store.folder, config.near_copies_path, read_near_copies)


def key_group(config: JoiningConfig, numbered: Numbered) -> None:
  """Sorts the keys of a group of blocks into a run by part."""
  work = Work.for_config(config)
  path = work.run_path("keyed", numbered.number)
  if work_files.is_whole_run(config.store, path):
    resumed = stored_blocks.documents_of(config.scorer.signatures, numbered.group)
    progress.report(config.progress_address, stage=LOOKING, resumed=resumed)
    return
  _be_lean()
  with storage.create_file(path) as file, run_writer.RunWriter(num_shards=work.num_parts) as writer:
    for numbers_N, signatures_NH in prefetch.prefetch(_read_group(work, numbered.group), ahead=1):
      keys_NB = minhash.band_keys(signatures_NH, config.scorer.config)
      keys_M, numbers_M = keys_NB.reshape(-1), np.repeat(numbers_N, keys_NB.shape[1])
      writer.add(work.parts_of(keys_M), minhash.to_order(keys_M, numbers_M), _nothing(len(keys_M)))
      progress.report(config.progress_address, stage=LOOKING, documents=len(numbers_N))
    writer.finish(file, {})


def _read_group(work: Work, group: Group) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields numbers int64 [N] and signatures uint32 [N, H] of each block of a group."""
  about = work.config.scorer
  for place, first, stop in group.parts:
    for block in about.signatures.read(work.shards[place], range(first, stop).__contains__):
      if isinstance(block, blocks.Block) and len(block.documents):
        numbers_N = work.starts[place] + block.documents["row"].to_numpy()
        yield numbers_N, fixed_width.array(block.documents[kinds.SIGNATURE], "uint32")


def find_candidates(config: JoiningConfig, part: int) -> None:
  """Writes the documents that share a key of a part with another document into a run by group."""
  work = Work.for_config(config)
  path = work.run_path("met", part)
  if work_files.is_whole_run(config.store, path):
    return
  _be_lean()
  starts_G = work.group_starts()
  keyed = (work.run_path("keyed", number) for number in range(len(starts_G)))
  with (
    run_writer.opened(keyed, buffer_bytes=_RANGE_BYTES) as readers,
    storage.create_file(path) as file,
    run_writer.RunWriter(num_shards=len(starts_G)) as writer,
  ):
    sorted_M = (order_M for order_M, _ in run_writer.merge_shard(readers, part))
    for met_M in minhash.shared_keys(sorted_M):
      keys_M, numbers_M = minhash.from_order(met_M)
      group_M = (np.searchsorted(starts_G, numbers_M, side="right") - 1).astype(np.uint32)
      writer.add(group_M, minhash.to_order(numbers_M, keys_M), _nothing(len(keys_M)))
    writer.finish(file, {})


def attach_signatures(config: JoiningConfig, numbered: Numbered) -> None:
  """Writes the signatures of those documents of a group that share keys into a run, by the parts of these keys."""
  work = Work.for_config(config)
  path = work.run_path("signed", numbered.number)
  if work_files.is_whole_run(config.store, path):
    return
  _be_lean()
  met = (work.run_path("met", part) for part in range(work.num_parts))
  with (
    run_writer.opened(met, buffer_bytes=_RANGE_BYTES) as readers,
    storage.create_file(path) as file,
    run_writer.RunWriter(num_shards=work.num_parts) as writer,
  ):
    wanted = _Ahead(order_M for order_M, _ in run_writer.merge_shard(readers, numbered.number))
    signature = np.dtype(f"V{4 * config.scorer.config.hashes}")
    for numbers_N, signatures_NH in prefetch.prefetch(_read_group(work, numbered.group), ahead=1):
      for order_M in wanted.below(int(numbers_N[-1]) + 1):
        met_M, keys_M = (column.astype(np.uint64) for column in minhash.from_order(order_M))
        place_M = np.searchsorted(numbers_N, met_M.astype(np.int64))
        signature_M = run_files.to_records(signatures_NH.view(signature)[place_M, 0])
        writer.add(work.parts_of(keys_M), minhash.to_order(keys_M, met_M), signature_M)
    writer.finish(file, {})


class _Ahead:
  """A reader of batches sorted by number, which reads only as far as it is asked to."""

  def __init__(self, batches: Iterator[np.ndarray]):
    self._batches, self._left = batches, np.empty(0, "S16")

  def below(self, number: int) -> Iterator[np.ndarray]:
    """Yields orders of the numbers below this one that have not been taken yet: S16 [M] each."""
    while True:
      numbers_M, _ = minhash.from_order(self._left)
      stop = int(np.searchsorted(numbers_M, np.uint64(number)))
      if stop:
        yield self._left[:stop]
      self._left = self._left[stop:]
      if len(self._left):
        return
      following = next(self._batches, None)
      if following is None:
        return
      self._left = following


def join_part(config: JoiningConfig, part: int) -> None:
  """Writes the edges between similar documents that share a key of a part."""
  work = Work.for_config(config)
  path = work.path("edges", part)
  if work_files.has_arrays(config.store, path):
    return
  _be_lean()
  buckets = minhash.Buckets(config.scorer.config)
  signed = (work.run_path("signed", number) for number in range(len(work.groups())))
  with run_writer.opened(signed, buffer_bytes=_RANGE_BYTES) as readers:
    for order_M, signatures_MH in _together(config, run_writer.merge_shard(readers, part)):
      buckets.add(*minhash.from_order(order_M), signatures_MH)
  sealed_arrays.write(path, buckets.edges())


def _together(config: JoiningConfig, batches: Iterator[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields orders S16 [M] and signatures uint32 [M, H], some batches at a time."""
  hashes = config.scorer.config.hashes
  held: list[tuple[np.ndarray, np.ndarray]] = []
  for order_M, record_M in batches:
    held.append((order_M, np.frombuffer(run_files.content(record_M), np.uint32).reshape(-1, hashes)))
    if sum(len(order_M) for order_M, _ in held) >= config.keys_at_once:
      yield np.concatenate([order for order, _ in held]), np.concatenate([signatures for _, signatures in held])
      held = []
  if held:
    yield np.concatenate([order for order, _ in held]), np.concatenate([signatures for _, signatures in held])


def merge_edges(config: JoiningConfig, index: int) -> None:
  """Connects the edges of some parts into components."""
  work = Work.for_config(config)
  path = work.path("merged", index)
  if work_files.has_arrays(config.store, path):
    return
  first = index * config.merged_at_once
  parts = range(first, min(first + config.merged_at_once, work.num_parts))
  sealed_arrays.write(path, _connected(work.path("edges", part) for part in parts))


def settle(config: JoiningConfig) -> None:
  """Writes for each shard which documents are not the first of their component, and counts them."""
  work = Work.for_config(config)
  components_C2 = _connected(work.path("merged", index) for index in work.merged())
  repeats_C, groups, sizes = components_C2[:, 0], *np.unique(components_C2[:, 1], return_counts=True)
  borders = np.searchsorted(repeats_C, work.starts)
  for place, shard in enumerate(work.shards):
    path = work.path("repeats", shard.file_name)
    if work_files.has_arrays(config.store, path):
      continue
    is_repeat_N = np.zeros(work.starts[place + 1] - work.starts[place], bool)
    is_repeat_N[repeats_C[borders[place] : borders[place + 1]] - work.starts[place]] = True
    sealed_arrays.write(path, np.packbits(is_repeat_N))
  found = {"near_copies": len(repeats_C), "groups": len(groups), "largest": int(sizes.max(initial=0)) + len(groups[:1])}
  if not _is_told(config):
    storage.create(config.near_copies_path, fingerprints.sealed(found))


def _connected(paths: Iterator[str]) -> np.ndarray:
  return minhash.connected(sealed_arrays.read(path, 1)[0] for path in paths)


@dataclasses.dataclass(frozen=True)
class JoinedBlocks(stored_blocks.StoredBlocks):
  """The blocks of a store of signatures with a column that says which documents are repeats, as `MinHash` reads it."""

  config: JoiningConfig

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    (bits,) = sealed_arrays.read(Work.for_config(self.config).path("repeats", shard.file_name), 1)
    for block in super().read(shard, want):
      if isinstance(block, blocks.SkippedBlock):
        yield block
        continue
      column = pa.array(row_bits.look_up(bits, block.documents["row"].to_numpy()))
      documents = block.documents.append_column(MinHash.reads, column)
      yield dataclasses.replace(block, documents=documents)


def _be_lean() -> None:
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()


def _nothing(count: int) -> pa.LargeBinaryArray:
  return pa.repeat(pa.scalar(b"", pa.large_binary()), count)


class Join(beam.PTransform):
  """PCollection[Ledger] (one element: the signatures are complete) -> the same, once repeats are on record."""

  def __init__(self, config: JoiningConfig):
    super().__init__()
    self._config = config

  def expand(self, ledger: beam.PCollection):
    config = self._config

    def runs(folder: str) -> steps.Made:
      def paths(items: Sequence[Numbered | int]) -> list[str]:
        work = Work.for_config(config)
        return [work.run_path(folder, item.number if isinstance(item, Numbered) else item) for item in items]

      return paths

    def arrays(folder: str) -> steps.Made:
      def paths(items: Sequence[int]) -> list[str]:
        work = Work.for_config(config)
        return [work.path(folder, item) for item in items]

      return paths

    return ledger | "Steps" >> steps.Steps(
      lambda: is_joined(config),
      lambda: config.store.is_complete,
      config.progress_address,
      [
        steps.Step(
          "KeyGroups",
          LOOKING,
          lambda: Work.for_config(config).groups(),
          lambda group: key_group(config, group),
          runs("keyed"),
        ),
        steps.Step(
          "FindCandidates",
          MATCHING,
          lambda: range(Work.for_config(config).num_parts),
          lambda part: find_candidates(config, part),
          runs("met"),
        ),
        steps.Step(
          "AttachSignatures",
          MATCHING,
          lambda: Work.for_config(config).groups(),
          lambda group: attach_signatures(config, group),
          runs("signed"),
        ),
        steps.Step(
          "JoinParts",
          MATCHING,
          lambda: range(Work.for_config(config).num_parts),
          lambda part: join_part(config, part),
          arrays("edges"),
        ),
        steps.Step(
          "MergeEdges",
          MATCHING,
          lambda: Work.for_config(config).merged(),
          lambda index: merge_edges(config, index),
          arrays("merged"),
        ),
        steps.Step("Settle", MATCHING, lambda: [None], lambda _: settle(config), lambda _: [config.near_copies_path]),
      ],
    )
