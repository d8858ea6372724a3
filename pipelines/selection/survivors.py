"""Survivors: what one stage of a recipe selects, for the next one to score and to draw from; no text is copied between.

They are a bit for each row, beside the scores that they were drawn by. A source of blocks gives the rows of the others
as such that a stage before has left out: the next stage's stores neither read nor score them.

STORE/selected/<fingerprint>/rows/<shard>    uint8, as `row_bits` has it
                             limits/         quotas and the like, until all bits are there
                             survivors.json  how many there are; written last
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import DamagedError, WinnowError
from curation.selection import selection
from pipelines.corpus import blocks, stripes
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.selection import limits, ranks, thresholds
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


@dataclasses.dataclass(frozen=True)
class Survivors:
  """What a request selects of a store of scores."""

  store: ScoreStore
  request: selection.SelectionRequest

  @property
  def fingerprint(self) -> str:
    return fingerprints.fingerprint([self.store.fingerprint, dataclasses.asdict(self.request)])

  def engine(self) -> dict[str, Any]:
    """What is known, once there are scores, of how those are computed by which they are selected."""
    return {"within": self.store.fingerprint_with_engine()} if storage.exists(self.store.engine_path) else {}

  @property
  def folder(self) -> str:
    name = fingerprints.fingerprint([self.fingerprint, self.store.engine()])[:16]
    return storage.join(self.store.selected_folder, name)

  @property
  def _path(self) -> str:
    return storage.join(self.folder, "survivors.json")

  @property
  def limits(self) -> limits.Limits | None:
    return limits.make_limits(
      self.store, self.request, self.store.folder, storage.join(self.folder, "limits"), self.fingerprint
    )

  def within(self, shard: blocks.Shard) -> ranks.Within:
    """Reads which documents of a shard may be selected at all."""
    return None if self.limits is None else self.limits.within(shard)

  @property
  def are_settled(self) -> bool:
    return damage.is_whole(self.store.folder, self._path, _read)

  @property
  def documents(self) -> int | None:
    """How many there are; None until they are settled."""
    return fingerprints.field(self._path, "documents") if self.store.is_complete else None

  def kept(self, shard: blocks.Shard) -> np.ndarray:
    """Which rows of a shard survive, as `row_bits` has it. Raises DamagedError, after which they are not settled."""
    path = self._rows_path(shard)
    try:
      return sealed_arrays.read(path, 1)[0]
    except (DamagedError, FileNotFoundError) as error:
      told = DamagedError(f"{path} is missing or damaged; run the same command again, which makes it again")
      if self.store.is_mended:
        storage.delete([self._path])  # first: what is not settled is looked at again
        damage.remove(self.store.folder, path, told)
      raise told from error

  def _rows_path(self, shard: blocks.Shard) -> str:
    return storage.join(self.folder, "rows", shard.file_name)

  def select_shard(self, shard: blocks.Shard, floor: int) -> int:
    """Writes down which rows of a shard survive; returns how many."""
    path = self._rows_path(shard)
    if not damage.is_whole(self.store.folder, path, lambda path: sealed_arrays.read(path, 1)):
      is_kept_N = np.zeros(sum(score_files.read_summary(self.store, shard).block_rows), bool)
      for part in ranks.read(self.store, shard, self.request, self.within, check_seal=True):
        is_kept_N[part.rows[part.are_wanted(floor)]] = True
      sealed_arrays.write(path, np.packbits(is_kept_N))
    return row_bits.count(self.kept(shard))

  def settle(self, selected: thresholds.Selected, found: int) -> score_store.Ledger:
    """Writes down how many there are. Raises WinnowError where there are none, or not as many as were selected."""
    if found != selected.documents:
      raise WinnowError(f"{self.folder} has {found:,} of {selected.documents:,} survivors; delete it and run again")
    if not found:
      raise WinnowError(f"the stage of {self.store.folder} selects no document; lower its threshold, or raise its rate")
    storage.create(self._path, fingerprints.sealed({"documents": found}), must_agree=True)
    self.tidy()
    return self.store.ledger()

  def tidy(self) -> None:
    """Removes what settled survivors no longer need."""
    storage.delete_folder(storage.join(self.folder, "limits"))


def _read(path: str) -> dict[str, Any]:
  found = fingerprints.read_sealed(path)
  if found is None:
    raise DamagedError(f"{path} is missing or damaged; run the same command again, which makes it again")
  return found


def only(block: blocks.Block, kept: np.ndarray) -> blocks.Block:
  """A block whose documents survive, by their bits; the others are among its bad rows, as `blocks.LEFT_OUT`."""
  if block.documents is None:
    return block
  assert block.bad is not None
  documents, bad = block.documents, block.bad
  rows_N, bad_rows = documents["row"].to_numpy(), bad["row"].to_numpy()
  is_blank = pc.equal(bad["reason"], blocks.BLANK).to_numpy()
  here_N, is_still_bad = row_bits.look_up(kept, rows_N), row_bits.look_up(kept, bad_rows) | is_blank
  others = np.concatenate([rows_N[~here_N], bad_rows[~is_still_bad]])
  left_out = [pa.array(others), pa.repeat(blocks.LEFT_OUT, len(others)), pa.repeat("", len(others))]
  return dataclasses.replace(
    block,
    documents=documents.filter(pa.array(here_N)),
    bad=pa.concat_tables([bad.filter(pa.array(is_still_bad)), pa.table(left_out, schema=bad.schema)]).sort_by("row"),
    text_bytes=round(block.text_bytes * here_N.mean()) if len(here_N) else 0,  # of more nobody asks
  )


def _select_shard(
  survivors: Survivors, shard: blocks.Shard, selected: thresholds.Selected, address: progress.Address | None
) -> int:
  with progress.working(address, thresholds.SELECTING):
    return survivors.select_shard(shard, selected.floor)


class Settle(beam.PTransform):
  """PCollection of one element (the store is complete) -> PCollection[stores.Ledger]: survivors are written down."""

  def __init__(self, survivors: Survivors, shards: Sequence[blocks.Shard], address: progress.Address | None = None):
    super().__init__()
    self._survivors, self._shards, self._address = survivors, list(shards), address

  def expand(self, element: Any):
    survivors, root, address = self._survivors, element.pipeline, self._address
    ledger = element | "Ledger" >> beam.Map(lambda _: survivors.store.ledger())
    if survivors.limits is not None:
      ledger = ledger | "Limits" >> survivors.limits.settle(self._shards)
    selected = (
      root
      | "Shards" >> stripes.Spread(self._shards)
      | "FindThreshold"
      >> thresholds.FindThreshold(survivors.store, survivors.request, ledger, survivors.within, address=address)
    )
    kept = (
      root
      | "ShardsAgain" >> stripes.Spread(self._shards)
      | "SelectShards"
      >> beam.Map(
        lambda shard, selected: _select_shard(survivors, shard, selected, address),
        selected=beam.pvalue.AsSingleton(selected),
      )
      | "AddKept" >> beam.CombineGlobally(sum)
    )
    return selected | "Settle" >> beam.Map(survivors.settle, found=beam.pvalue.AsSingleton(kept))
