"""The step before MinHash's scores, which joins signatures."""

from pipelines.files import fingerprints
from pipelines.scorers.minhash import joining
from pipelines.scoring.preparation import Preparation, Summary
from pipelines.scoring.stored_blocks import StoredBlocks
from pipelines.worker import progress


class JoinPreparation(Preparation):
  """Finds the documents that repeat an earlier one (`joining`)."""

  label = "Join"
  makes = (f"{joining.FOLDER}/",)
  work = (f"{joining.FOLDER}/work",)
  config_type = joining.JoiningConfig
  transform_type = joining.Join

  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    return joining.stages(self.config, count)

  def source(self, stored: StoredBlocks) -> StoredBlocks:
    return joining.JoinedBlocks(stored.store, self.config, survivors=stored.survivors)

  def summary(self) -> Summary:
    """Returns how many documents repeat others."""
    figures = fingerprints.read_sealed(self.config.near_copies_path)
    if figures is None:  # the scores are whole all the same
      return Summary([], [])
    if not figures["near_copies"]:
      return Summary(["no document repeats an earlier one"], [])
    line = (
      f"{figures['near_copies']:,} documents repeat an earlier one, in {figures['groups']:,} groups; the largest group "
      f"has {figures['largest']:,} documents"
    )
    return Summary([line], [])
