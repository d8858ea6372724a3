"""Quotas as Beam passes: which documents are within the quotas of their groups, as one bit for each row.

The documents of a group are spread over all shards. So the ranks of each shard are sorted into a run by (part, rank),
where a part is a subset of all groups. Each part is merged in the order of ranks, and its documents are taken until
quotas are full. That gives a run by (shard, row), from which each shard gathers its rows. Only names of shards, numbers
of parts, and counts cross a shuffle. Memory is that of the groups of one part. Legend: N documents.

FOLDER/ranked/<shard>.run    order S16; record: hash of the group uint64, shard uint32, row uint64
       within/<part>.run     the rows that are within their quotas, by shard
       <shard>.within        a bit for each row of the shard
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from curation.selection import domains, selection
from curation.selection import quotas as arithmetic
from pipelines.corpus import blocks, stripes
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.runners import sharing
from pipelines.selection import ranks
from pipelines.sorted_runs import merging, run_files, run_writer
from pipelines.store import block_files, score_files
from pipelines.store.score_store import Ledger, ScoreStore
from pipelines.worker import memory

_MOST_PARTS = 1024
_RANGE_BYTES = 64 << 10  # of one request to a run file, of which only little is read
_RECORD = np.dtype([("group", "<u8"), ("shard", "<u4"), ("row", "<u8")])


def never() -> bool:
  """Tells that the files of limits stay."""
  return False


@dataclasses.dataclass(frozen=True)
class Quotas:
  """The quotas of a request for a store. `output` has the log of damage, `work` all files."""

  store: ScoreStore
  request: selection.SelectionRequest
  output: str
  work: str
  fingerprint: str
  part_documents: int = 1 << 19  # bounds its groups, too: 32 bytes each, and as much again while they are counted

  @property
  def folder(self) -> str:
    """The folder of the files of these quotas, by request and engine."""
    return storage.join(self.work, fingerprints.fingerprint([self.fingerprint, self.store.engine()])[:16], "quotas")

  def within(self, shard: blocks.Shard) -> ranks.Within:
    """Reads which documents of a shard are within their quotas."""
    (bits,) = sealed_arrays.read(self.within_path(shard), 1)

    def within(rows_N: np.ndarray, *_: np.ndarray) -> np.ndarray:
      return row_bits.look_up(bits, rows_N)

    return within

  def ranked_path(self, shard: blocks.Shard) -> str:
    """Returns the path of a shard's run by part."""
    return storage.join(self.folder, "ranked", f"{shard.file_name}.run")

  def filled_path(self, part: int) -> str:
    """Returns the path of the run of a part's rows that are within their quotas."""
    return storage.join(self.folder, "within", f"{part:05d}.run")

  def within_path(self, shard: blocks.Shard) -> str:
    """Returns the path of the bits of a shard's rows."""
    return storage.join(self.folder, f"{shard.file_name}.within")

  def settle(self, shards: Sequence[blocks.Shard], is_over: Callable[[], bool] = never) -> "Settle":
    """Returns a transform of the store's ledger; `within` can be called after it.

    `is_over`: whether the selection that needs the quotas is complete, so that their files may be gone.
    """
    return Settle(self, shards, is_over)

  def num_parts(self, documents: int) -> int:
    """Returns the number of parts into which the groups of so many documents are divided."""
    return min(max(1, -(-documents // self.part_documents)), _MOST_PARTS)

  def is_whole_run(self, path: str) -> bool:
    """Tells whether a run file exists and is intact; removes it if it is damaged."""
    return damage.is_whole(self.output, path, run_writer.check)


def rank_groups(quotas: Quotas, numbered: tuple[int, blocks.Shard], parts: int) -> str:
  """Sorts the documents of one numbered shard by (part, rank) into a run; returns the path of the run."""
  index, shard = numbered
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  path = quotas.ranked_path(shard)
  if quotas.is_whole_run(path):
    return path
  with (
    block_files.removing_damaged(quotas.store, shard),
    score_files.ScoreFile(quotas.store, shard) as scores,
    storage.create_file(path) as file,
    run_writer.RunWriter(num_shards=parts) as writer,
  ):
    scores.check_seal()
    for batch in scores.batches(ranks.BATCH_ROWS, domains=True):
      ranked = ranks.rank_rows(quotas.request, shard.name, batch)
      record_N = np.empty(len(batch), _RECORD)
      record_N["group"], record_N["shard"] = domains.hash_domains(batch["domain"]), index
      record_N["row"] = ranked.rows
      part_N = (record_N["group"] % np.uint64(parts)).astype(np.uint32)
      writer.add(part_N, arithmetic.order(ranked.keys, ranked.ties), run_files.to_records(record_N))
    writer.finish(file, {})
  return path


def fill_part(quotas: Quotas, part: int) -> str:
  """Takes documents of one part by rank until quotas are full; returns the path of the run of their rows."""
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  path = quotas.filled_path(part)
  if quotas.is_whole_run(path):
    return path
  sizes = arithmetic.Sizes()
  ranked = [quotas.ranked_path(shard) for shard in quotas.store.shards()]
  with (
    run_writer.RunWriter(num_shards=1) as gathered,
    storage.create_file(path) as file,
    run_writer.RunWriter(num_shards=len(ranked)) as writer,
  ):
    with run_writer.opened(ranked, buffer_bytes=_RANGE_BYTES) as readers:
      for order_N, record_N in itertools.chain.from_iterable(reader.batches(part) for reader in readers):
        sizes.add(_from_binary(record_N)["group"])
        gathered.add(np.zeros(len(order_N), np.uint32), order_N, record_N)
    group_G, size_G = sizes.finish()
    remaining = arithmetic.Quotas(group_G, arithmetic.limits(quotas.request, group_G, size_G))
    for _, merged_N in merging.merge_batches([run.batches(0) for run in gathered.spilled_runs()]):
      record_N = _from_binary(merged_N)
      taken_N = record_N[remaining.take(record_N["group"])]
      empty_N = pa.repeat(pa.scalar(b"", pa.large_binary()), len(taken_N))
      writer.add(taken_N["shard"].astype(np.uint32), taken_N["row"].astype(np.uint64), empty_N)
    writer.finish(file, {})
  return path


def gather_rows(quotas: Quotas, numbered: tuple[int, blocks.Shard], parts: int) -> int:
  """Writes down which documents of a shard are within their quotas; returns their number."""
  index, shard = numbered
  path = quotas.within_path(shard)
  if not damage.is_whole(quotas.output, path, lambda path: sealed_arrays.read(path, 1)):
    bits = np.zeros(-(-score_files.read_summary(quotas.store, shard).num_rows // 8), np.uint8)
    within = (quotas.filled_path(part) for part in range(parts))
    with run_writer.opened(within, buffer_bytes=_RANGE_BYTES) as readers:
      for reader in readers:
        for rows_N, _ in reader.batches(index):
          place_N = rows_N.astype(np.int64)
          np.bitwise_or.at(bits, place_N >> 3, np.uint8(128) >> (place_N & 7).astype(np.uint8))
    sealed_arrays.write(path, bits)
  return count_rows(quotas, shard)


def count_rows(quotas: Quotas, shard: blocks.Shard) -> int:
  """Counts the documents of a shard that are within their quotas, once they are written down."""
  (bits,) = sealed_arrays.read(quotas.within_path(shard), 1)
  return row_bits.count(bits)


def _from_binary(record_N: pa.LargeBinaryArray) -> np.ndarray:
  return np.frombuffer(run_files.content(record_N), _RECORD)


class Settle(beam.PTransform):
  """PCollection[Ledger] (one) -> PCollection[Ledger] with the number of documents that are within their quotas.

  `shards` are those of the store, in its order; each is processed together with its number.
  """

  def __init__(self, quotas: Quotas, shards: Sequence[blocks.Shard], is_over: Callable[[], bool] = never):
    super().__init__()
    self._quotas, self._shards, self._is_over = quotas, list(enumerate(shards)), is_over

  def expand(self, ledger: beam.PCollection[Ledger]) -> beam.PCollection[Ledger]:
    quotas = self._quotas
    do = functools.partial(sharing.do, is_over=self._is_over, address=None)
    parts = beam.pvalue.AsSingleton(ledger | "Parts" >> beam.Map(lambda ledger: quotas.num_parts(ledger.documents)))
    shards = ledger | "Shards" >> stripes.Spread(self._shards)
    placed = sharing.placed(shards, lambda numbered: numbered[0], "PlaceShards")
    ranked = placed | "RankGroups" >> do(
      beam.Map(lambda numbered, parts: rank_groups(quotas, numbered, parts), parts=parts),
      made=lambda many: [quotas.ranked_path(shard) for _, shard in many],
      result=lambda numbered: quotas.ranked_path(numbered[1]),
    )
    # What a step leaves is on storage: the next one waits for its end, and reads nothing of the side input.
    filled = sharing.spread(
      ledger, "EachPart", lambda _, parts, ranked: range(parts), parts, beam.pvalue.AsIter(ranked)
    ) | "FillParts" >> do(
      beam.Map(lambda part: fill_part(quotas, part)),
      made=lambda parts: [quotas.filled_path(part) for part in parts],
      result=quotas.filled_path,
    )
    within = placed | "GatherRows" >> do(
      beam.Map(
        lambda numbered, parts, filled: gather_rows(quotas, numbered, parts),
        parts=parts,
        filled=beam.pvalue.AsIter(filled),
      ),
      made=lambda many: [quotas.within_path(shard) for _, shard in many],
      result=lambda numbered: count_rows(quotas, numbered[1]),
    )
    return ledger | "Settled" >> beam.Map(
      lambda ledger, within: ledger._replace(within=sum(within)), within=beam.pvalue.AsIter(within)
    )
