"""The step before SemDeDup's scores, which compares documents that share a cluster."""

import dataclasses
from typing import Self

import apache_beam as beam

from pipelines.files import fingerprints
from pipelines.scorers.semdedup import comparing, layout
from pipelines.scorers.semdedup.scorer import SemDeDup
from pipelines.scoring.preparation import Preparation, Summary
from pipelines.scoring.stored_blocks import StoredBlocks
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


@dataclasses.dataclass(frozen=True)
class ComparisonPreparation(Preparation):
  """Splits giant clusters (`splitting`), and finds the largest cosine of each document (`comparing`)."""

  label = "Compare"
  makes = (f"{layout.FOLDER}/", layout.SPLIT_FILE)
  work = (layout.FOLDER,)
  config: layout.ComparingConfig

  @classmethod
  def of(cls, scorer: SemDeDup, store: ScoreStore) -> Self:
    return cls(layout.ComparingConfig(scorer, store))

  def transform(self, address: progress.Address | None) -> beam.PTransform:
    return comparing.Compare(dataclasses.replace(self.config, progress_address=address))

  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    return comparing.stages(self.config, count)

  def source(self, stored: StoredBlocks) -> StoredBlocks:
    return comparing.ComparedBlocks(stored.store, self.config)

  def summary(self) -> Summary:
    """Returns how many pairs of giant clusters were not compared."""
    split = fingerprints.field(self.config.store.engine_path, "split")
    if not split:
      return Summary([], [])
    above = f", {split['pieces_above']:,} of which still have more" if split["pieces_above"] else ""
    line = (
      f"{split['clusters']:,} clusters of {split['documents']:,} documents have more than "
      f"{split['max_cluster_pairs']:,} pairs each, and were split into {split['pieces']:,} pieces{above}: "
      f"{split['pairs_compared']:,} of their pairs were compared, {split['pairs_left_out']:,} were not"
    )
    return Summary([line], [])
