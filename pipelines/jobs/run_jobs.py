"""The run of a command's jobs, as one pipeline."""

import collections
import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from curation.errors import WinnowError
from pipelines.files import damage, fingerprints, storage
from pipelines.jobs import meter, watching
from pipelines.jobs.filling import FillOutputs, FillStores
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob
from pipelines.runners import commands, launch, part_records, sharing
from pipelines.worker import progress, reshuffle

_ATTEMPTS = 8  # of a command whose stores prove damaged again and again


def run(
  launcher: launch.Launcher,
  arguments: Sequence[str],
  *,
  scoring_job: ScoringJob | None = None,
  sampling_jobs: Sequence[SamplingJob] = (),
) -> bool:
  """Claims the store and the outputs, and runs one pipeline for those that are not complete.

  Returns whether all are complete. A dry run leaves no trace, and a template writes only the job.
  """
  wanted: list[Any] = [*([] if scoring_job is None else [scoring_job]), *sampling_jobs]
  if launcher.is_dry_run:
    launcher.run(_definition(launcher, scoring_job, sampling_jobs, None), _job_name(arguments, wanted))
    return False
  launcher.refuse_second(_job_name(arguments, wanted))
  store_folders = [] if scoring_job is None else list(dict.fromkeys(job.folder for job in scoring_job.chain))
  for job in wanted:
    claim(job)
  for attempt in itertools.count(1):
    folders = [*store_folders, *(job.folder for job in sampling_jobs if job.folder not in store_folders)]
    before = {folder: set(damage.records(folder)) for folder in folders}
    try:
      return _run_claimed(launcher, arguments, scoring_job, sampling_jobs)
    except commands.JobError as error:
      if launcher.part is not None and attempt < _ATTEMPTS and sharing.OVER in str(error):
        continue
      # Damaged files in a store that this command makes are gone, and the next attempt makes them again.
      if attempt == _ATTEMPTS or all(before[folder] == set(damage.records(folder)) for folder in store_folders):
        raise
    finally:
      _report_damage(before)
  raise AssertionError


def claim(job: ScoringJob | SamplingJob) -> None:
  """Makes the folders of a job belong to it, the first thing that is written.

  Tidies up in those that are complete: a run that was killed at its very end may have left something.
  """
  chain: Sequence[Any] = job.chain if isinstance(job, ScoringJob) else [job]
  for each in [job] if isinstance(job, ScoringJob) and not job.steps else chain:
    each.claim()
  for each in chain:
    if each.is_complete:
      _tidy(each)


def _run_claimed(
  launcher: launch.Launcher,
  arguments: Sequence[str],
  scoring_job: ScoringJob | None,
  sampling_jobs: Sequence[SamplingJob],
) -> bool:
  wanted: list[Any] = [*([] if scoring_job is None else [scoring_job]), *sampling_jobs]
  sampling_jobs = [job for job in sampling_jobs if not job.is_complete]
  steps = [] if scoring_job is None else scoring_job.steps
  if not sampling_jobs and not steps:
    if launcher.writes_template:  # whoever launches a template waits for a job
      launcher.run(lambda root: root | "NothingToDo" >> beam.Impulse(), _job_name(arguments, wanted))
      return False
    return True
  are_here, recipe = launcher.workers_are_here, 1 if scoring_job is None else scoring_job.config.number
  jobs: list[watching.Watched] = []
  if not (are_here or launcher.writes_template):
    scored = None if scoring_job is None else scoring_job.count
    jobs = watching.watched(steps, sampling_jobs, scored, recipe=recipe, parallelism=launcher.parallelism)
  watched = [stage for job in jobs for stage in job.stages]
  stages = _stages(scoring_job, sampling_jobs, recipe) if are_here else watched
  if launcher.part is not None:
    stages = [_share(stage, launcher.part.count) for stage in stages]
  running: list[Any] = [*sampling_jobs, *reversed(steps)]
  progress_meter = meter.Meter(stages, quiet=launcher.writes_template, recipe_stages=recipe)
  folders = list(dict.fromkeys(job.folder for job in running))
  if launcher.part is not None:
    launcher.part = dataclasses.replace(launcher.part, records=folders[0])
  with commands.Log(folders[0], arguments) as log, part_records.recording(folders, launcher.part):
    address = progress_meter.address if are_here else None
    define = _definition(launcher, scoring_job, sampling_jobs, address)
    this_run: dict[str, int] | None = {}
    try:
      with progress_meter, watching.Watch(jobs, progress_meter.address):
        this_run = launcher.run(define, _job_name(arguments, wanted))
    except commands.JobError:
      # Another run of the same command may have completed the work, and tidied up what this one was still reading.
      if not all(job.is_complete for job in running):
        raise
    finally:
      log.entry["documents_by_process"] = progress_meter.documents_by_process if are_here else {}
    if this_run is None:
      return False
    log.entry["counters"], log.entry["this_run"] = _on_record(running), this_run
    for job in wanted:
      job.sweep()
    return True


def _on_record(jobs: Sequence[Any]) -> dict[str, int]:
  """Returns what the results of complete jobs hold: the same on every runner, and however often a run was killed."""
  counts: collections.Counter[str] = collections.Counter()
  for job in jobs:
    counts.update(job.counters)
  return dict(counts)


def _tidy(job: Any) -> None:
  """Tidies up after a complete job. Its result is whole even if this user may not remove what is left over."""
  try:
    job.tidy()
  except (WinnowError, OSError) as error:
    print(f"winnow: {job.folder} is complete, but was not tidied up: {error}", file=sys.stderr)


def _stages(scoring_job: ScoringJob | None, sampling_jobs: Sequence[SamplingJob], recipe: int) -> list[progress.Stage]:
  """Returns the stages of the work, in order, as users see them."""
  stages: list[progress.Stage] = []
  for job in [] if scoring_job is None else scoring_job.steps:
    prefix = progress.prefix_of(job.number, recipe)
    stages += [dataclasses.replace(stage, title=prefix + stage.title) for stage in job.stages()]
  scored = None if scoring_job is None else scoring_job.count
  for sampling_job in sampling_jobs:
    stages += sampling_job.stages(scored)
  return stages


def _share(stage: progress.Stage, parts: int) -> progress.Stage:
  """Returns a stage of which this command does one of several parts."""
  documents = None if stage.count is None else progress.Count(stage.count.documents // parts, is_exact=False)
  return dataclasses.replace(stage, count=documents)


def _report_damage(before: Mapping[str, set[str]]) -> None:
  for folder, records in before.items():
    if new := sorted(set(damage.records(folder)) - records):
      files = "1 damaged file was" if len(new) == 1 else f"{len(new)} damaged files were"
      print(f"winnow: {files} found in {folder}, to be made again; see {new[0]}", file=sys.stderr)


def _definition(
  launcher: launch.Launcher,
  scoring_job: ScoringJob | None,
  sampling_jobs: Sequence[SamplingJob],
  address: progress.Address | None,
) -> Callable[[beam.Pipeline], None]:
  def define(root: beam.Pipeline) -> None:
    ledger = None
    if scoring_job is not None:
      ledger = root | "Stores" >> FillStores(scoring_job, launcher.parallelism, address)
    if sampling_jobs:
      ledger = ledger or root | "Complete" >> reshuffle.One(sampling_jobs[0].config.store.ledger())
      _ = ledger | "Outputs" >> FillOutputs(sampling_jobs, launcher.parallelism, address)

  return define


def _job_name(arguments: Sequence[str], wanted: Sequence[Any]) -> str:
  """Returns the job's name on a runner's console: the command, the name of the folder, and a hash of the folder's path.

  Dataflow refuses a second job of one name while the first one runs.
  """
  job = next((job for job in wanted if isinstance(job, SamplingJob)), wanted[0])
  name = re.sub("[^a-z0-9]+", "-", f"winnow-{arguments[1]}-{storage.base_name(job.folder)}".lower())
  return f"{name[:54].strip('-')}-{fingerprints.fingerprint(job.folder)[:8]}"
