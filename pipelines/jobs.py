"""Jobs: a store or an output that is claimed, cleared where it must be, and filled by one pipeline."""

import contextlib
import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam

from curation import domains
from curation.errors import WinnowError
from pipelines import (
  blocks,
  damage,
  dataset,
  inputs,
  launch,
  manifests,
  progress,
  requests,
  sampling,
  scoring,
  sketching,
  sources,
  storage,
  stores,
  stripes,
  writing,
)

_ATTEMPTS = 8  # at a command whose stores prove damaged again and again
# Compressed to plain bytes of English JSON lines, roughly: they only place the end of a progress bar.
_PLAIN_PER_BYTE = {"": 1.0, "gzip": 2.5, "zstd": 2.7}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """An input and how it is cut into blocks, as it goes into fingerprints."""

  shards: tuple[blocks.Shard, ...]
  fields: blocks.Fields
  block_rows: int

  @property
  def texts(self) -> sources.Texts:
    return sources.Texts(self.fields, self.block_rows)

  def identified(self) -> "Corpus":
    """The same with the checksums of the shards."""
    return dataclasses.replace(self, shards=tuple(inputs.identify(list(self.shards))))

  def request(self) -> dict[str, Any]:
    return {
      "inputs": [shard.identity() for shard in self.shards],
      "fields": dataclasses.asdict(self.fields),
      "block_rows": self.block_rows,
      "block_text_bytes": blocks.BLOCK_TEXT_BYTES,
    }


@dataclasses.dataclass(frozen=True)
class ScoringJob:
  """One store and what is to be done in it.

  `embedding`, `sketch`: the job of a store of embeddings, and the sketch of it, that density scores need first.
  `overwrite`: what is there of another request goes when the job is claimed; and all of it if it is complete, so that a
  run with --overwrite that was killed goes on too, unless `spare`.
  """

  corpus: Corpus
  config: scoring.ScoringConfig
  request: dict[str, Any]
  where: dict[str, Any]
  overwrite: bool
  spare: bool
  knows_engine: bool  # workers have the launcher's libraries
  embedding: "ScoringJob | None" = None
  sketch: sketching.SketchConfig | None = None

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def steps(self) -> list["ScoringJob"]:
    """The jobs that have to be done, in order, this one last; none once this one is complete."""
    if self.is_complete and not self.starts_over:
      return []
    before = [] if self.embedding is None else self.embedding.steps
    return [*before, self]

  @property
  def is_complete(self) -> bool:
    return self.config.store.is_complete

  @property
  def starts_over(self) -> bool:
    """The store is complete, and is to be made again; once it is claimed it is not complete."""
    return self.overwrite and self.is_complete and not self.spare

  def engine_difference(self) -> tuple[str, str, str] | None:
    """In what the engine that the store was begun with is known to differ from the one here, before a worker has it."""
    here = self.config.scorer.engine()
    if self.embedding is None:  # else domains are those of the embeddings' store
      here = {"suffix_list": domains.suffix_list(), **here}
    there = requests.readable(self.config.store.engine_path)
    if not self.knows_engine or not isinstance(there, dict):
      return None
    return requests.first_difference({key: there.get(key) for key in here}, here)

  def claim(self) -> None:
    """Makes the store's folder belong to this job: the first thing that is written."""
    store = self.config.store
    starts_over = self.starts_over
    keep_engine = self.is_complete or self.engine_difference() is None
    if self.embedding is not None and (starts_over or not self.is_complete):
      self.embedding.claim()
    if starts_over:
      store.clear()
    elif self.overwrite:
      store.clear_others(self.corpus.shards, keep_engine=keep_engine)
    requests.claim(store.request_path, self.request, owner=f"the score store {store.folder}")
    storage.create(storage.join(store.folder, stores.INPUT_FILE), requests.to_json(self.where))

  def expected_documents(self) -> int:
    """About how many documents are still to be scored: by the size of the shards and the head of one of each kind."""
    waiting, _ = self._waiting_and_finished()
    kinds: dict[tuple[str, str], list[blocks.Shard]] = {}
    for shard in waiting:
      kinds.setdefault((shard.format, shard.compression), []).append(shard)
    per_byte = {kind: _documents_per_byte(shards[0], self.corpus.fields) for kind, shards in kinds.items()}
    return round(sum(per_byte[shard.format, shard.compression] * shard.size for shard in waiting))

  def tidy(self) -> None:
    """Removes what a complete store no longer needs and a run that was killed at its very end left."""
    self.config.store.tidy(self.corpus.shards)
    self.sweep()

  def sweep(self) -> None:
    """Removes what dead writers left, in the store of embeddings too, which may have been complete for long."""
    for job in (self,) if self.embedding is None else (self.embedding, self):
      storage.sweep_temporary_files(job.folder)

  def pipeline(self, root: beam.Pipeline, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[stores.Ledger]: the store is complete."""
    config = dataclasses.replace(self.config, progress_address=address)
    label = config.stage.capitalize()
    if self.is_complete and not self.starts_over:
      return root | f"{label}Complete" >> beam.Create([config.store.ledger()])
    after = root
    if self.embedding is not None and self.sketch is not None:
      embedded = self.embedding.pipeline(root, parallelism, address)
      after = embedded | "Sketch" >> sketching.Sketch(dataclasses.replace(self.sketch, progress_address=address))
    waiting, finished = (list(self.corpus.shards), []) if self.starts_over else self._waiting_and_finished()
    divided = (divide(shards, parallelism, per_worker=4) for shards in (waiting, finished))
    return after | label >> scoring.Score(config, *divided)

  def sketch_documents(self) -> int | None:
    """How many documents the sketch will count; None where nobody knows yet."""
    return None if self.embedding is None else requests.field(self.embedding.config.store.summary_path, "scored")

  def _waiting_and_finished(self) -> tuple[list[blocks.Shard], list[blocks.Shard]]:
    finished = self.config.store.finished(self.corpus.shards)
    done = set(finished)
    return [shard for shard in self.corpus.shards if shard not in done], finished


@dataclasses.dataclass(frozen=True)
class SamplingJob:
  """One output. `overwrite`: an earlier output of ours goes when the job is claimed, if complete or another's."""

  corpus: Corpus
  config: writing.SamplingConfig
  request: dict[str, Any]
  context: manifests.Context
  overwrite: bool

  @property
  def folder(self) -> str:
    return self.config.output

  def sweep(self) -> None:
    """Removes what dead writers left."""
    storage.sweep_temporary_files(self.folder)

  @property
  def request_path(self) -> str:
    return storage.join(self.config.work_folder, requests.REQUEST_FILE)

  @property
  def manifest_path(self) -> str:
    return storage.join(self.config.output, manifests.MANIFEST_FILE)

  @property
  def engine_path(self) -> str:
    return storage.join(self.config.work_folder, requests.ENGINE_FILE)

  @property
  def scores_place_path(self) -> str:
    return storage.join(self.config.work_folder, writing.SCORES_FILE)

  @property
  def is_complete(self) -> bool:
    return requests.field(self.manifest_path, "fingerprint") == self.config.fingerprint

  def claim(self) -> None:
    """Makes the output folder belong to this job: the first thing that is written."""
    if self.overwrite:
      self._clear()
    requests.claim(self.request_path, self.request, owner=f"the output {self.config.output}")
    place = {"store": writing.scores_place(self.config.store.folder, self.config.output)}
    storage.create(self.scores_place_path, requests.to_json(place))

  def refuse_other_engine(self) -> None:
    """Raises WinnowError if the output was begun with scores of another engine than the store's."""
    if storage.exists(self.config.store.engine_path):
      engine = requests.read_json(self.config.store.engine_path)
      requests.refuse_other(self.engine_path, engine, owner=f"the output {self.config.output}")

  def _goes_on(self) -> bool:
    """Tells whether what the folder holds is the beginning of this very output."""
    try:
      self.refuse_other_engine()
    except WinnowError:
      return False
    return not self.is_complete and requests.holds(self.request_path, self.config.fingerprint)

  def _clear(self) -> None:
    """Removes an earlier output of ours, the manifest first; nobody else's files are ours to remove.

    Of the beginning of this very output only what may be another run's goes: shards that are not on record.
    """
    output, config, goes_on = self.config.output, self.config, self._goes_on()
    name = re.escape(requests.field(self.request_path, "dataset") or config.name)
    is_shard = re.compile(rf"{name}-{dataset.SPLIT}(?:\.tfrecord)?-(\d{{5}})-of-\d{{5}}(?:\.\w+)?")
    records = storage.list_names(config.runs_folder(config.store.engine())) if goes_on else set()
    shards = [found for found in map(is_shard.fullmatch, storage.list_names(output)) if found]
    others = [shard[0] for shard in shards if f"{shard[1]}.json" not in records]
    storage.delete([self.manifest_path])
    storage.delete([storage.join(output, file) for file in (*others, *dataset.METADATA_FILES)])
    storage.delete([self.scores_place_path])
    if config.store.folder != writing.count_folder(output):
      storage.delete_folder(writing.count_folder(output))
    if not goes_on:
      storage.delete_folder(storage.join(config.work_folder, writing.RUNS_FOLDER))
      # The request last: until then what is left is known to be of that request.
      storage.delete([self.engine_path, self.request_path])

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
  for job in wanted:
    job.claim()
  of_stores = [] if scoring_job is None else [job.folder for job in (scoring_job.embedding, scoring_job) if job]
  for attempt in itertools.count(1):
    folders = [*of_stores, *(job.folder for job in sampling_jobs if job.folder not in of_stores)]
    before = {folder: set(damage.records(folder)) for folder in folders}
    try:
      return _run_claimed(launcher, arguments, scoring_job, sampling_jobs)
    except launch.JobError:
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
  if scoring_job is not None and scoring_job.is_complete:
    scoring_job.tidy()
  for sampling_job in sampling_jobs:
    if sampling_job.is_complete:
      manifests.clean_up(sampling_job.config.output)
      sampling_job.sweep()
  sampling_jobs = [job for job in sampling_jobs if not job.is_complete]
  steps = [] if scoring_job is None else scoring_job.steps
  if not sampling_jobs and not steps:
    if launcher.writes_template:  # whoever launched it waits for a job
      launcher.run(lambda root: root | "NothingToDo" >> beam.Create([None]), _job_name(arguments, wanted))
      return False
    return True
  stages: dict[str, int | None] = {}
  for job in steps:
    if job.sketch is not None:
      stages["sketch"] = job.sketch_documents()
    stages[job.config.stage] = job.expected_documents()
  if sampling_jobs:
    store = sampling_jobs[0].config.store
    read = requests.field(store.summary_path, "read") if store.is_complete else stages.get("score")
    stages["select"] = None if read is None else read * len(sampling_jobs)
    stages["write"] = None
  running: list[Any] = [*sampling_jobs, *reversed(steps)]
  are_here = launcher.workers_are_here
  with (
    launch.Log(running[0].folder, arguments) as log,
    progress.Meter(stages, estimated=bool(steps), quiet=not are_here) as meter,
  ):
    address = meter.address if are_here else None
    define = _definition(launcher, scoring_job, sampling_jobs, address)
    counters: dict[str, int] | None = {}
    try:
      counters = launcher.run(define, _job_name(arguments, wanted))
    except launch.JobError:
      # Another run of the same command may have completed the work, and tidied up what this one was still reading.
      if not all(job.is_complete for job in running):
        raise
    log.entry["counters"] = counters
    log.entry["documents_by_process"] = meter.documents_by_process
    if counters is None:
      return False
    for job in wanted:
      job.sweep()
    return True


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
  return f"{name[:54].strip('-')}-{requests.fingerprint(job.folder)[:8]}"


def divide(shards: Sequence[blocks.Shard], parallelism: int, *, per_worker: int) -> list[stripes.Stripe]:
  """Several stripes for each of several workers, since they are not equally long; a single one reads each file once."""
  return list(stripes.divide(shards, per_worker * parallelism if parallelism > 1 else 1))


def _documents_per_byte(shard: blocks.Shard, fields: blocks.Fields, rows: int = 256) -> float:
  """About how many documents a byte of such a file holds, from its first rows."""
  with contextlib.suppress(WinnowError):  # what is wrong with the shard, the pipeline will tell
    for block in sources.Texts(fields, rows).read(shard, blocks.every):
      plain_bytes = 1.1 * block.text_bytes / block.num_rows + 100
      return _PLAIN_PER_BYTE[shard.compression] / plain_bytes
  return 0.0
