"""The job of an output: it claims the folder, clears it if it must, and fills it."""

import dataclasses
import re
from typing import Any

from curation.errors import WinnowError
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.output import manifests, tfds_metadata, writing
from pipelines.selection import thresholds
from pipelines.worker import progress

_COLLECTED_SECOND, _WRITTEN_SECOND = 30_000, 60_000  # documents, by one core


@dataclasses.dataclass(frozen=True)
class SamplingJob:
  """The job of one output.

  `overwrite`: claiming the job removes an earlier output of Winnow's that is complete, or of another request.
  """

  corpus: Corpus
  config: writing.SamplingConfig
  request: dict[str, Any]
  context: manifests.Context
  overwrite: bool
  scores_request: dict[str, Any] = dataclasses.field(default_factory=dict)
  """The request of the scores, of which `request` has a digest."""

  @property
  def folder(self) -> str:
    return self.config.output

  def tidy(self) -> None:
    """Removes what a complete output no longer needs, such as files of a run that was killed at its very end."""
    manifests.clean_up(self.config.output)
    self.sweep()

  def sweep(self) -> None:
    """Removes the temporary files of dead writers."""
    storage.sweep_temporary_files(self.folder)

  @property
  def request_path(self) -> str:
    return storage.join(self.config.work_folder, fingerprints.REQUEST_FILE)

  @property
  def manifest_path(self) -> str:
    return storage.join(self.config.output, manifests.MANIFEST_FILE)

  @property
  def engine_path(self) -> str:
    return storage.join(self.config.work_folder, fingerprints.ENGINE_FILE)

  @property
  def scores_place_path(self) -> str:
    return storage.join(self.config.work_folder, writing.SCORES_FILE)

  @property
  def is_complete(self) -> bool:
    return manifests.is_complete(self.config)

  @property
  def counters(self) -> dict[str, int]:
    """Returns the counts of the complete output, under the names of Beam's metrics."""
    return {self.config.selected_counter: manifests.read(self.config.output)["counts"]["selected"]}

  def claim(self) -> None:
    """Makes the output folder belong to this job: the first thing that is written."""
    if self.overwrite:
      self._clear()
    fingerprints.claim(self.request_path, self.request, owner=f"the output {self.config.output}")
    place = {
      "store": writing.scores_place(self.config.store.folder, self.config.output),
      "request": self.scores_request,
    }
    if self.config.asked is not None:
      place["proxy"] = writing.scores_place(self.config.asked.store.folder, self.config.output)
    storage.create(self.scores_place_path, fingerprints.to_json(place))

  def refuse_other_request(self) -> None:
    """Raises WinnowError, which names the field, if the output belongs to another request or to other scores."""
    owner = f"the output {self.config.output}"
    scores = fingerprints.field(self.request_path, "scores")
    if scores is not None and scores != self.request["scores"]:
      known = fingerprints.field(self.scores_place_path, "request")
      wanted = fingerprints.as_read(self.scores_request)
      if isinstance(known, dict) and (difference := fingerprints.first_difference(known, wanted)):
        field, recorded, current = difference
        raise WinnowError(
          f"{owner} was drawn from other scores: their {field} is {recorded} there and {current} now; "
          f"{fingerprints.ADVICE}"
        )
    fingerprints.refuse_other(self.request_path, self.request, owner=owner)

  def refuse_other_engine(self) -> None:
    """Raises WinnowError if the output was begun with scores of an engine other than the store's."""
    if storage.exists(self.config.store.engine_path):
      engine = fingerprints.read_json(self.config.store.engine_path)
      fingerprints.refuse_other(self.engine_path, engine, owner=f"the output {self.config.output}")

  def _goes_on(self) -> bool:
    """Tells whether the folder holds the beginning of this very output."""
    try:
      self.refuse_other_engine()
    except WinnowError:
      return False
    return not self.is_complete and fingerprints.holds(self.request_path, self.config.fingerprint)

  def _clear(self) -> None:
    """Removes an earlier output of Winnow's, the manifest first, and nobody else's files.

    If the folder holds the beginning of this very output, only the shards that are not on record are removed: they may
    be another run's.
    """
    output, config, goes_on = self.config.output, self.config, self._goes_on()
    name = re.escape(fingerprints.field(self.request_path, "dataset") or config.name)
    is_shard = re.compile(rf"{name}-{tfds_metadata.SPLIT}(?:\.tfrecord)?-(\d{{5}})-of-\d{{5}}(?:\.\w+)?")
    records = storage.list_names(config.runs_folder(config.store.engine())) if goes_on else set()
    shards = [match for match in map(is_shard.fullmatch, storage.list_names(output)) if match]
    others = [shard[0] for shard in shards if f"{shard[1]}.json" not in records]
    storage.delete([self.manifest_path])
    storage.delete([storage.join(output, file) for file in (*others, *tfds_metadata.METADATA_FILES)])
    storage.delete([self.scores_place_path])
    if config.store.folder != writing.count_folder(output):
      storage.delete_folder(writing.count_folder(output))
    if not goes_on:
      storage.delete_folder(storage.join(config.work_folder, writing.RUNS_FOLDER))
      # The request goes last: until then, it tells which request the remaining files belong to.
      storage.delete([self.engine_path, self.request_path])

  def stages(self, scored: progress.Count | None) -> list[progress.Stage]:
    """Returns the stages of the work, in order, as users see them.

    `scored`: the number of documents of a store that is not complete yet.
    """
    read, request = self.corpus.count if scored is not None else None, self.config.request
    if summary := self.config.store.readable_summary():
      scored = progress.Count(summary["scored"], is_exact=True)
      rows = sum(sum(shard["block_rows"]) for shard in summary["shards"])
      read = progress.Count(rows - summary["blank"], is_exact=True)  # includes what an earlier stage has left out
    selected = None if scored is None else request.expected_documents(scored.documents)
    written = None
    if scored is not None and selected is not None:
      written = progress.Count(scored.documents - selected if self.config.rejected else selected, scored.is_exact)
    collecting, writing_them = self.config.stages
    return [
      progress.Stage(thresholds.SELECTING, scored, thresholds.SPEED),
      progress.Stage(collecting, read, _COLLECTED_SECOND),
      progress.Stage(writing_them, written, _WRITTEN_SECOND),
    ]
