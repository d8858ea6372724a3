"""Survivors: the documents that one stage of a recipe selects for the next stage. No text is copied between stages.

They are stored as a bit for each row, beside the scores of the selection. A source of blocks marks all other rows as
left out by an earlier stage: the stores of the next stage neither read nor score them.

STORE/selected/<fingerprint>/rows/<shard>    uint8, as in `row_bits`
                             limits/         quotas and other limits, until all bits are written
                             survivors.json  the number of survivors; written last
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import DamagedError, WinnowError
from curation.selection import search, selection
from pipelines.corpus import blocks, stripes
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.runners import sharing
from pipelines.selection import limits, ranks, thresholds
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress

FOLDER = "selected"  # in a store of scores


@dataclasses.dataclass(frozen=True)
class Survivors:
  """The documents that a request selects from a store of scores."""

  store: ScoreStore
  request: selection.SelectionRequest

  @property
  def fingerprint(self) -> str:
    """The fingerprint of the selection: of the scores' request and of this one."""
    return fingerprints.fingerprint([self.store.fingerprint, dataclasses.asdict(self.request)])

  @property
  def scored_before(self) -> ScoreStore | None:
    """The store that holds scores of some of the survivors by the scorer of the next stage already, if there is one."""
    return None

  def engine(self) -> dict[str, Any]:
    """Returns the fingerprint of the scores that select, engine included, once a worker has recorded the engine."""
    return {"within": self.store.fingerprint_with_engine()} if storage.exists(self.store.engine_path) else {}

  @property
  def folder(self) -> str:
    """The folder of the survivors, by selection and engine."""
    name = fingerprints.fingerprint([self.fingerprint, self.store.engine()])[:16]
    return storage.join(self.store.path(FOLDER), name)

  @property
  def path(self) -> str:
    """The path of the number of survivors, which is written last."""
    return storage.join(self.folder, "survivors.json")

  @property
  def limits(self) -> limits.Limits | None:
    """The limits of the request, if it has any."""
    return limits.make_limits(
      self.store, self.request, self.store.folder, storage.join(self.folder, "limits"), self.fingerprint
    )

  def within(self, shard: blocks.Shard) -> ranks.Within:
    """Reads which documents of a shard are within the limits."""
    return None if self.limits is None else self.limits.within(shard)

  @property
  def are_settled(self) -> bool:
    """Whether the survivors of all shards are written down."""
    return damage.is_whole(self.store.folder, self.path, _read)

  @property
  def documents(self) -> int | None:
    """The number of survivors; None until they are settled."""
    return fingerprints.field(self.path, "documents") if self.store.is_complete else None

  def kept(self, shard: blocks.Shard) -> np.ndarray:
    """Reads which rows of a shard survive, as in `row_bits`; raises DamagedError, which makes survivors unsettled."""
    path = self.rows_path(shard)
    try:
      return sealed_arrays.read(path, 1)[0]
    except (DamagedError, FileNotFoundError) as error:
      damaged = DamagedError(f"{path} is missing or damaged; run the same command again to remake it")
      if self.store.removes_damaged:
        storage.delete([self.path])  # first, so that the survivors are checked again
        damage.remove(self.store.folder, path, damaged)
      raise damaged from error

  def rows_path(self, shard: blocks.Shard) -> str:
    """Returns the path of the bits of a shard's rows."""
    return storage.join(self.folder, "rows", shard.file_name)

  def select_shard(self, shard: blocks.Shard, floor: int) -> int:
    """Writes down which rows of a shard survive; returns their number."""
    path = self.rows_path(shard)
    if not damage.is_whole(self.store.folder, path, lambda path: sealed_arrays.read(path, 1)):
      is_kept_N = np.zeros(sum(score_files.read_summary(self.store, shard).block_rows), bool)
      for part in ranks.read(self.store, shard, self.request, self.within, check_seal=True):
        is_kept_N[part.rows[part.are_wanted(floor)]] = True
      sealed_arrays.write(path, np.packbits(is_kept_N))
    return row_bits.count(self.kept(shard))

  def settle(self, selected: search.Selected, kept: int) -> score_store.Ledger:
    """Writes down the number of survivors; raises WinnowError if there are none, or not as many as were selected."""
    if kept != selected.documents:
      raise WinnowError(f"{self.folder} has {kept:,} of {selected.documents:,} survivors; delete it and run again")
    if not kept:
      raise WinnowError(f"the stage of {self.store.folder} selects no document; lower its threshold, or raise its rate")
    storage.create(self.path, fingerprints.sealed({"documents": kept}), must_agree=True)
    self.tidy()
    return self.store.ledger()

  def tidy(self) -> None:
    """Removes files that settled survivors no longer need."""
    storage.delete_folder(storage.join(self.folder, "limits"))


def _read(path: str) -> dict[str, Any]:
  value = fingerprints.read_sealed(path)
  if value is None:
    raise DamagedError(f"{path} is missing or damaged; run the same command again to remake it")
  return value


def keep_survivors(block: blocks.Block, kept: np.ndarray) -> blocks.Block:
  """Returns a block with only the surviving documents; all other rows become bad rows, as `blocks.LEFT_OUT`."""
  documents, bad = block.documents, block.bad
  rows_N, bad_rows = documents["row"].to_numpy(), bad["row"].to_numpy()
  is_blank = pc.equal(bad["reason"], blocks.BLANK).to_numpy()
  is_kept_N, is_still_bad_M = row_bits.look_up(kept, rows_N), row_bits.look_up(kept, bad_rows) | is_blank
  others = np.concatenate([rows_N[~is_kept_N], bad_rows[~is_still_bad_M]])
  left_out = [pa.array(others), pa.repeat(blocks.LEFT_OUT, len(others)), pa.repeat("", len(others))]
  return dataclasses.replace(
    block,
    documents=documents.filter(pa.array(is_kept_N)),
    bad=pa.concat_tables([bad.filter(pa.array(is_still_bad_M)), pa.table(left_out, schema=bad.schema)]).sort_by("row"),
    text_bytes=round(block.text_bytes * is_kept_N.mean()) if len(is_kept_N) else 0,  # an estimate is enough
  )


def _select_shard(
  survivors: Survivors, shard: blocks.Shard, selected: search.Selected, address: progress.Address | None
) -> int:
  with progress.working(address, thresholds.SELECTING):
    return survivors.select_shard(shard, selected.floor)


class Settle(beam.PTransform):
  """PCollection of one element, once the store is complete -> PCollection[Ledger]: writes down the survivors."""

  def __init__(self, survivors: Survivors, shards: Sequence[blocks.Shard], address: progress.Address | None = None):
    super().__init__()
    self._survivors, self._shards, self._address = survivors, list(shards), address

  def expand(self, element: beam.PCollection) -> beam.PCollection[score_store.Ledger]:
    survivors, address = self._survivors, self._address
    ledger = element | "Ledger" >> beam.Map(lambda _: survivors.store.ledger())
    if survivors.limits is not None:
      ledger = ledger | "Limits" >> survivors.limits.settle(self._shards, lambda: survivors.are_settled)
    selected = (
      ledger
      | "FindThreshold"
      >> thresholds.FindThreshold(survivors.store, survivors.request, self._shards, survivors.within, address=address)
      | "Selected" >> beam.MapTuple(lambda _, selected: selected)
    )
    shards = element | "Shards" >> stripes.Spread(self._shards)
    kept = sharing.placed(shards, self._shards.index, "PlaceShards") | "SelectShards" >> sharing.do(
      beam.Map(
        lambda shard, selected: _select_shard(survivors, shard, selected, address),
        selected=beam.pvalue.AsSingleton(selected),
      ),
      made=lambda shards: [survivors.rows_path(shard) for shard in shards],
      result=lambda shard: row_bits.count(survivors.kept(shard)),
      is_over=lambda: survivors.are_settled,
      address=address,
    )
    return selected | "Settle" >> beam.Map(
      lambda selected, kept: survivors.settle(selected, sum(kept)), kept=beam.pvalue.AsIter(kept)
    )
