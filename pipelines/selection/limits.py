"""Limits on a selection: only documents within their groups' quotas, or below a percentile of the scores.

Limits are settled before the search for the threshold, in files below a work folder. Then `within` reads them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import apache_beam as beam
import numpy as np

from curation.errors import DamagedError
from curation.selection import search, selection
from pipelines.corpus import blocks
from pipelines.files import damage, fingerprints, storage
from pipelines.selection import quotas, ranks, thresholds
from pipelines.store import score_store
from pipelines.store.score_store import ScoreStore


@dataclasses.dataclass(frozen=True)
class Ceiling:
  """The upper end of a percentile range: only documents below it may be selected. `output` has the log of damage."""

  store: ScoreStore
  request: selection.SelectionRequest
  output: str
  work: str
  fingerprint: str

  @property
  def path(self) -> str:
    name = fingerprints.fingerprint([self.fingerprint, self.store.engine()])[:16]
    return storage.join(self.work, name, "ceiling.json")

  def within(self, shard: blocks.Shard) -> ranks.Within:
    """Reads which documents of a shard are below the ceiling, which is the same for every shard."""
    del shard
    rank = self._read(self.path)

    def within(_: np.ndarray, keys_N: np.ndarray, ties_N: np.ndarray) -> np.ndarray:
      return ~selection.is_selected(rank, keys_N, ties_N)

    return within

  def score(self) -> float | None:
    """Reads the score from which documents are above the ceiling; None if no document is."""
    key = self._read(self.path) >> 64
    score = selection.from_order_key(key) if key < 1 << 64 else math.nan
    return score if math.isfinite(score) else None

  def write(self, rank: int) -> None:
    """Makes the smallest rank above the ceiling durable. An existing file must agree, unless it is damaged."""
    damage.is_whole(self.output, self.path, self._read)
    storage.create(self.path, fingerprints.sealed({"rank": f"{rank:032x}"}), must_agree=True)

  @staticmethod
  def _read(path: str) -> int:
    value = fingerprints.read_sealed(path)
    if value is None:
      raise DamagedError(f"{path} is missing or damaged; run the same command again to remake it")
    return int(value["rank"], 16)

  def settle(self, shards: Sequence[blocks.Shard], is_over: Callable[[], bool] = quotas.never) -> "SettleCeiling":
    """Returns a transform of the store's ledger; `within` can be called after it. All parts do all of it."""
    del is_over
    return SettleCeiling(self, shards)


class SettleCeiling(beam.PTransform):
  """PCollection[Ledger] (one) -> PCollection[Ledger] with the number of documents below the ceiling."""

  def __init__(self, ceiling: Ceiling, shards: Sequence[blocks.Shard]):
    super().__init__()
    self._ceiling, self._shards = ceiling, shards

  def expand(self, ledger: beam.PCollection[score_store.Ledger]) -> beam.PCollection[score_store.Ledger]:
    ceiling = self._ceiling
    request = ceiling.request

    def settled(found: tuple[score_store.Ledger, search.Selected]) -> score_store.Ledger:
      ledger, above = found
      ceiling.write(above.floor)  # if there are none, the floor is above every rank
      return ledger._replace(within=ledger.documents - above.documents)

    return (
      ledger
      | "FindCeiling"
      >> thresholds.FindThreshold(
        ceiling.store, request, self._shards, begin=lambda ledger: request.search_above(ledger.documents)
      )
      | "Settled" >> beam.Map(settled)
    )


Limits = quotas.Quotas | Ceiling


def make_limits(
  store: ScoreStore, request: selection.SelectionRequest, output: str, work: str, fingerprint: str
) -> Limits | None:
  """Returns the limits of a request, which are settled below the folder `work`; None if it has none."""
  if request.group_by is not None:
    return quotas.Quotas(store, request, output, work, fingerprint)
  if request.percentile_range is not None:
    return Ceiling(store, request, output, work, fingerprint)
  return None
