"""The step before densities, which builds the sketch of a store of embeddings."""

from pipelines.files import fingerprints, storage
from pipelines.scorers.density import building, sketching
from pipelines.scoring.preparation import Preparation, Summary
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress


class SketchPreparation(Preparation):
  """Counts all embeddings into one RACE sketch (`sketching`)."""

  label = "Sketch"
  makes = (f"{sketching.FOLDER}/",)
  work = (f"{sketching.FOLDER}/work",)
  config_type = sketching.SketchConfig
  transform_type = building.Sketch

  def stages(self, count: progress.Count | None) -> list[progress.Stage]:
    return sketching.stages(self.config, count)

  def summary(self) -> Summary:
    """Returns the kernel, how well it distinguishes documents, and a verdict; warnings if it does so poorly."""
    from curation.coverage import density

    kernel = fingerprints.read_json(self.config.path(sketching.KERNEL_FILE))["config"]["kernel"]
    diagnostics = fingerprints.read_json_or_none(self.config.path(sketching.DIAGNOSTICS_FILE)) or {}
    width = "" if kernel["bandwidth"] is None else f"bandwidth {kernel['bandwidth']:g}, "
    lines = [f"kernel: {kernel['name']}, {width}{kernel['hashes']} hashes a row"]
    # The sample's figures are exact, but a small corpus has none.
    figures = diagnostics.get("sketch", {}) | diagnostics.get("sample", {})
    if not figures:
      return Summary(lines, [])
    return Summary([*lines, *density.lines(figures, kernel["name"])], density.warnings(figures, kernel["name"]))

  @classmethod
  def state(cls, store: ScoreStore) -> list[str]:
    folder = store.path(sketching.FOLDER)
    if sketching.SKETCH_FILE in storage.list_names(folder):
      return ["density sketch: built"]
    parts = len(storage.list_names(storage.join(folder, "work")))
    return [f"density sketch: not built yet, {parts:,} partial sketches done"]
