"""The step before SemDeDup's scores, which compares documents that share a cluster."""

from pipelines.files import fingerprints
from pipelines.scorers.semdedup import comparing, layout
from pipelines.scoring.preparation import Preparation, Summary
from pipelines.scoring.stored_blocks import StoredBlocks
from pipelines.worker import progress


class ComparisonPreparation(Preparation):
  """Splits giant clusters (`splitting`), and finds the largest cosine of each document (`comparing`)."""

  label = "Compare"
  makes = (f"{layout.FOLDER}/", layout.SPLIT_FILE)
  work = (layout.FOLDER,)
  config_type = layout.ComparingConfig
  transform_type = comparing.Compare

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
