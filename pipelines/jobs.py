"""Jobs: the one of an output, which is claimed, cleared where it must be and filled; and how they are run together."""

import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from curation.errors import WinnowError
from pipelines import meter
from pipelines.corpus.corpus import Corpus
from pipelines.files import damage, fingerprints, storage
from pipelines.output import manifests, sampling, tfds_metadata, writing
from pipelines.runners import commands, launch
from pipelines.scoring_jobs import ScoringJob, divide
from pipelines.selection import thresholds
from pipelines.worker import progress

_COLLECTED_SECOND, _WRITTEN_SECOND = 30_000, 60_000  # documents, by one core
_ATTEMPTS = 8  # at a command whose stores prove damaged again and again


@dataclasses.dataclass(frozen=True)
class SamplingJob:
  """One output. `overwrite`: an earlier output of ours goes when the job is claimed, if complete or another's."""

  corpus: Corpus
  config: writing.SamplingConfig
  request: dict[str, Any]
  context: manifests.Context
  overwrite: bool
  scores_request: dict[str, Any] = dataclasses.field(default_factory=dict)
  """What the scores were asked for, which `request` has a digest of."""

  @property
  def folder(self) -> str:
    return self.config.output

  def tidy(self) -> None:
    """Removes what a complete output no longer needs and a run that was killed at its very end left."""
    manifests.clean_up(self.config.output)
    self.sweep()

  def sweep(self) -> None:
    """Removes what dead writers left."""
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
    return fingerprints.field(self.manifest_path, "fingerprint") == self.config.fingerprint

  def claim(self) -> None:
    """Makes the output folder belong to this job: the first thing that is written."""
    if self.overwrite:
      self._clear()
    fingerprints.claim(self.request_path, self.request, owner=f"the output {self.config.output}")
    place = {
      "store": writing.scores_place(self.config.store.folder, self.config.output),
      "request": self.scores_request,
    }
    storage.create(self.scores_place_path, fingerprints.to_json(place))

  def refuse_other_request(self) -> None:
    """Raises WinnowError, naming the field, if the output belongs to another request, or to one of other scores."""
    owner = f"the output {self.config.output}"
    scores = fingerprints.field(self.request_path, "scores")
    if scores is not None and scores != self.request["scores"]:
      known = fingerprints.field(self.scores_place_path, "request")
      wanted = fingerprints.as_read(self.scores_request)
      if isinstance(known, dict) and (difference := fingerprints.first_difference(known, wanted)):
        field, there, here = difference
        raise WinnowError(
          f"{owner} was drawn from other scores: their {field} is {there} there and {here} now; {fingerprints.ADVICE}"
        )
    fingerprints.refuse_other(self.request_path, self.request, owner=owner)

  def refuse_other_engine(self) -> None:
    """Raises WinnowError if the output was begun with scores of another engine than the store's."""
    if storage.exists(self.config.store.engine_path):
      engine = fingerprints.read_json(self.config.store.engine_path)
      fingerprints.refuse_other(self.engine_path, engine, owner=f"the output {self.config.output}")

  def _goes_on(self) -> bool:
    """Tells whether what the folder holds is the beginning of this very output."""
    try:
      self.refuse_other_engine()
    except WinnowError:
      return False
    return not self.is_complete and fingerprints.holds(self.request_path, self.config.fingerprint)

  def _clear(self) -> None:
    """Removes an earlier output of ours, the manifest first; nobody else's files are ours to remove.

    Of the beginning of this very output only what may be another run's goes: shards that are not on record.
    """
    output, config, goes_on = self.config.output, self.config, self._goes_on()
    name = re.escape(fingerprints.field(self.request_path, "dataset") or config.name)
    is_shard = re.compile(rf"{name}-{tfds_metadata.SPLIT}(?:\.tfrecord)?-(\d{{5}})-of-\d{{5}}(?:\.\w+)?")
    records = storage.list_names(config.runs_folder(config.store.engine())) if goes_on else set()
    shards = [found for found in map(is_shard.fullmatch, storage.list_names(output)) if found]
    others = [shard[0] for shard in shards if f"{shard[1]}.json" not in records]
    storage.delete([self.manifest_path])
    storage.delete([storage.join(output, file) for file in (*others, *tfds_metadata.METADATA_FILES)])
    storage.delete([self.scores_place_path])
    if config.store.folder != writing.count_folder(output):
      storage.delete_folder(writing.count_folder(output))
    if not goes_on:
      storage.delete_folder(storage.join(config.work_folder, writing.RUNS_FOLDER))
      # The request last: until then what is left is known to be of that request.
      storage.delete([self.engine_path, self.request_path])

  def stages(self, scored: progress.Count | None) -> list[progress.Stage]:
    """What there is to do, in order, as users see it; of `scored` documents, where the store is not complete yet."""
    read, request = self.corpus.count if scored is not None else None, self.config.request
    if summary := self.config.store.readable_summary():
      scored = progress.Count(summary["scored"], is_exact=True)
      rows = sum(sum(shard["block_rows"]) for shard in summary["shards"])
      read = progress.Count(rows - summary["blank"], is_exact=True)  # also what a stage before has left out
    selected = None if scored is None else request.about(scored.documents)
    written = None
    if scored is not None and selected is not None:
      written = progress.Count(scored.documents - selected if self.config.rejected else selected, scored.is_exact)
    collecting, writing_them = self.config.stages
    return [
      progress.Stage(thresholds.SELECTING, scored, thresholds.SPEED),
      progress.Stage(collecting, read, _COLLECTED_SECOND),
      progress.Stage(writing_them, written, _WRITTEN_SECOND),
    ]

  def pipeline(self, ledger: Any, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[dict]: the manifest."""
    config = dataclasses.replace(self.config, progress_address=address)
    divided = divide(self.corpus.shards, parallelism, per_worker=2)
    label = "Reject" if config.rejected else "Sample"
    return ledger | label >> sampling.Sample(config, divided, self.context)


def run(
  launcher: launch.Launcher,
  arguments: Sequence[str],
  *,
  scoring_job: ScoringJob | None = None,
  sampling_jobs: Sequence[SamplingJob] = (),
) -> bool:
  """Claims the store and the outputs, and runs one pipeline for what of them is not complete.

  Returns whether all is complete: a dry run leaves no trace, and of a template only the job is written.
  """
  wanted: list[Any] = [*([] if scoring_job is None else [scoring_job]), *sampling_jobs]
  if launcher.is_dry_run:
    launcher.run(_definition(launcher, scoring_job, sampling_jobs, None), _job_name(arguments, wanted))
    return False
  launcher.refuse_second(_job_name(arguments, wanted))
  of_stores = [] if scoring_job is None else list(dict.fromkeys(job.folder for job in scoring_job.chain))
  if scoring_job is not None:
    for job in scoring_job.chain if scoring_job.steps else [scoring_job]:
      job.claim()
  for sampling_job in sampling_jobs:
    sampling_job.claim()
  for attempt in itertools.count(1):
    folders = [*of_stores, *(job.folder for job in sampling_jobs if job.folder not in of_stores)]
    before = {folder: set(damage.records(folder)) for folder in folders}
    try:
      return _run_claimed(launcher, arguments, scoring_job, sampling_jobs)
    except commands.JobError:
      # What was damaged in a store that this command makes is gone, and the next attempt makes it again.
      if attempt == _ATTEMPTS or all(before[folder] == set(damage.records(folder)) for folder in of_stores):
        raise
    finally:
      _tell_damage(before)
  raise AssertionError


def _run_claimed(
  launcher: launch.Launcher,
  arguments: Sequence[str],
  scoring_job: ScoringJob | None,
  sampling_jobs: Sequence[SamplingJob],
) -> bool:
  wanted: list[Any] = [*([] if scoring_job is None else [scoring_job]), *sampling_jobs]
  # What a run that was killed at its very end left.
  for job in [*([] if scoring_job is None else scoring_job.chain), *sampling_jobs]:
    if job.is_complete:
      _tidy(job)
  sampling_jobs = [job for job in sampling_jobs if not job.is_complete]
  steps = [] if scoring_job is None else scoring_job.steps
  if not sampling_jobs and not steps:
    if launcher.writes_template:  # whoever launched it waits for a job
      launcher.run(lambda root: root | "NothingToDo" >> beam.Create([None]), _job_name(arguments, wanted))
      return False
    return True
  are_here, recipe = launcher.workers_are_here, 1 if scoring_job is None else scoring_job.config.number
  stages = _stages(scoring_job, sampling_jobs, recipe) if are_here else []
  running: list[Any] = [*sampling_jobs, *reversed(steps)]
  with (
    commands.Log(running[0].folder, arguments) as log,
    meter.Meter(stages, quiet=not are_here, recipe_stages=recipe) as shown,
  ):
    address = shown.address if are_here else None
    define = _definition(launcher, scoring_job, sampling_jobs, address)
    counters: dict[str, int] | None = {}
    try:
      counters = launcher.run(define, _job_name(arguments, wanted))
    except commands.JobError:
      # Another run of the same command may have completed the work, and tidied up what this one was still reading.
      if not all(job.is_complete for job in running):
        raise
    log.entry["counters"] = counters
    log.entry["documents_by_process"] = shown.documents_by_process
    if counters is None:
      return False
    for job in wanted:
      job.sweep()
    return True


def _tidy(job: Any) -> None:
  """Tidies up behind a complete job, whose result is whole whether or not this user may remove what is left over."""
  try:
    job.tidy()
  except (WinnowError, OSError) as error:
    print(f"winnow: {job.folder} is complete, but was not tidied up: {error}", file=sys.stderr)


def _stages(scoring_job: ScoringJob | None, sampling_jobs: Sequence[SamplingJob], recipe: int) -> list[progress.Stage]:
  """What there is to do, in order, as users see it."""
  found: list[progress.Stage] = []
  for job in [] if scoring_job is None else scoring_job.steps:
    prefix = progress.prefix_of(job.number, recipe)
    found += [dataclasses.replace(stage, title=prefix + stage.title) for stage in job.stages()]
  scored = None if scoring_job is None else scoring_job.count
  for sampling_job in sampling_jobs:
    found += sampling_job.stages(scored)
  return found


def _tell_damage(before: Mapping[str, set[str]]) -> None:
  for folder, records in before.items():
    if new := sorted(set(damage.records(folder)) - records):
      told = "1 damaged file was" if len(new) == 1 else f"{len(new)} damaged files were"
      print(f"winnow: {told} found in {folder}, to be made again; see {new[0]}", file=sys.stderr)


def _definition(
  launcher: launch.Launcher,
  scoring_job: ScoringJob | None,
  sampling_jobs: Sequence[SamplingJob],
  address: progress.Address | None,
) -> Callable[[beam.Pipeline], None]:
  def define(root: beam.Pipeline) -> None:
    ledger = None
    if scoring_job is not None:
      ledger = scoring_job.pipeline(root, launcher.parallelism, address)
    for job in sampling_jobs:
      if ledger is None:
        ledger = root | "Complete" >> beam.Create([job.config.store.ledger()])
      job.pipeline(ledger, launcher.parallelism, address)

  return define


def _job_name(arguments: Sequence[str], wanted: Sequence[Any]) -> str:
  """What a runner's console calls the job: by the command and the folder that it fills, and a hash of where that lies.

  Dataflow refuses a second job of one name while the first one runs.
  """
  job = next((job for job in wanted if isinstance(job, SamplingJob)), wanted[0])
  name = re.sub("[^a-z0-9]+", "-", f"winnow-{arguments[1]}-{storage.base_name(job.folder)}".lower())
  return f"{name[:54].strip('-')}-{fingerprints.fingerprint(job.folder)[:8]}"
