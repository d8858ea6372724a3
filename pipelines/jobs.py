"""What the commands share: from flags to a claimed store or output, and the pipelines that fill them."""

import argparse
import contextlib
import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from curation import selection
from curation.errors import WinnowError
from pipelines import (
  blocks,
  dataset,
  inputs,
  launch,
  manifests,
  models,
  options,
  progress,
  readers,
  requests,
  sampling,
  scorers,
  scoring,
  storage,
  stores,
  stripes,
  writing,
)

_NAME = re.compile(r"\w+", re.ASCII)
# Compressed to plain bytes of English JSON lines, roughly: they only place the end of a progress bar.
_PLAIN_PER_BYTE = {"": 1.0, "gzip": 2.5, "zstd": 2.7}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """An input and how it is cut into blocks, as it goes into fingerprints."""

  shards: tuple[blocks.Shard, ...]
  fields: blocks.Fields
  block_rows: int

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

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def is_complete(self) -> bool:
    return self.config.store.is_complete

  def engine_difference(self) -> tuple[str, str, str] | None:
    """In what the engine that the store was begun with is known to differ from the one here, before a worker has it."""
    here = self.config.scorer.engine()
    there = requests.readable(self.config.store.engine_path)
    if not self.knows_engine or not isinstance(there, dict):
      return None
    return requests.first_difference({key: there.get(key) for key in here}, here)

  def claim(self) -> None:
    """Makes the store's folder belong to this job: the first thing that is written."""
    store = self.config.store
    if self.overwrite:
      if self.is_complete and not self.spare:
        store.clear()
      else:
        keep_engine = self.is_complete or self.engine_difference() is None
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

  def pipeline(self, root: beam.Pipeline, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[stores.Ledger]: the store is complete."""
    config = dataclasses.replace(self.config, progress_address=address)
    if self.is_complete:
      return root | "Complete" >> beam.Create([config.store.ledger()])
    waiting, finished = self._waiting_and_finished()
    return root | "Score" >> scoring.Score(config, _divide(waiting, parallelism, per_worker=4), finished)

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
  def is_complete(self) -> bool:
    return requests.field(self.manifest_path, "fingerprint") == self.config.fingerprint

  def claim(self) -> None:
    """Makes the output folder belong to this job: the first thing that is written."""
    if self.overwrite:
      self._clear()
    requests.claim(self.request_path, self.request, owner=f"the output {self.config.output}")

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
    is_shard = re.compile(rf"{name}-{dataset.SPLIT}\.tfrecord-(\d{{5}})-of-\d{{5}}")
    records = storage.list_folder(config.runs_folder(config.store.engine())) if goes_on else {}
    shards = [found for found in map(is_shard.fullmatch, storage.list_folder(output)) if found]
    others = [shard[0] for shard in shards if f"{shard[1]}.json" not in records]
    storage.delete([self.manifest_path])
    storage.delete([storage.join(output, file) for file in (*others, *dataset.METADATA_FILES)])
    if config.store.folder != writing.count_folder(output):
      storage.delete_folder(writing.count_folder(output))
    if not goes_on:
      storage.delete_folder(storage.join(config.work_folder, writing.RUNS_FOLDER))
      # The request last: until then what is left is known to be of that request.
      storage.delete([self.engine_path, self.request_path])

  def pipeline(self, ledger: Any, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[dict]: the manifest."""
    config = dataclasses.replace(self.config, progress_address=address)
    divided = _divide(self.corpus.shards, parallelism, per_worker=2)
    return ledger | "Sample" >> sampling.Sample(config, divided, self.context)


def make_launcher(namespace: argparse.Namespace, beam_arguments: Sequence[str]) -> launch.Launcher:
  """The launcher of a command; raises WinnowError where its workers could not reach what the flags name."""
  launcher = launch.Launcher(beam_arguments)
  paths = {flag: getattr(namespace, flag, None) for flag in ("input", "tfds_data_dir", "scores", "output", "model")}
  if (paths["input"] or "").startswith(readers.TFDS_PREFIX):
    paths["input"] = None  # where its files are, `read_corpus` finds out
  if not os.path.isdir(paths["model"] or ""):  # a hub's name
    paths["model"] = None
  launcher.refuse_local(paths)
  return launcher


def read_corpus(namespace: argparse.Namespace) -> Corpus:
  """The input that the flags name."""
  options.require(namespace, "input")
  if namespace.block_rows < 1:
    raise WinnowError(f"--block_rows={namespace.block_rows} is below 1")
  fields = blocks.Fields(namespace.text_field, namespace.url_field, namespace.timestamp_field)
  shards = inputs.find_shards(namespace.input, namespace.tfds_data_dir)
  return Corpus(tuple(shards), fields, namespace.block_rows)


def plan_scoring(
  namespace: argparse.Namespace,
  launcher: launch.Launcher,
  scorer: scorers.AskLlm | scorers.Count,
  folder: str,
  *,
  spare: bool = False,
) -> ScoringJob:
  """Checks all that can be checked before anything is written."""
  if not 0 <= namespace.max_bad_fraction <= 1:
    raise WinnowError(f"--max_bad_fraction={namespace.max_bad_fraction} is not in [0, 1]")
  corpus = read_corpus(namespace)
  launcher.refuse_local({"input": corpus.shards[0].path})
  scorer = scorer.checked()
  corpus = corpus.identified()
  request = {"format": 1, **scorer.request(), **corpus.request()}
  store = stores.ScoreStore.of(folder, request)
  config = scoring.ScoringConfig(store, scorer, corpus.fields, corpus.block_rows, namespace.max_bad_fraction)
  where = {"input": inputs.absolute(namespace.input), "tfds_data_dir": namespace.tfds_data_dir}
  job = ScoringJob(corpus, config, request, where, namespace.overwrite, spare, knows_engine=launcher.is_local)
  if namespace.overwrite:
    return job
  if store.has_scores and not storage.exists(store.request_path):
    raise WinnowError(
      f"{folder} holds scores, but its {requests.REQUEST_FILE} is gone, so that nobody can tell of what; restore it, "
      "choose another name, or start over with --overwrite"
    )
  requests.refuse_other(store.request_path, request, owner=f"the score store {folder}")
  if not job.is_complete and (difference := job.engine_difference()):
    field, there, here = difference
    raise WinnowError(
      f"the score store {folder} was begun with {field} {there}, and here is {here}, whose scores may differ in the "
      "last bits; go on with the same versions, or start over with --overwrite"
    )
  return job


def plan_named_scoring(namespace: argparse.Namespace, launcher: launch.Launcher, *, spare: bool = False) -> ScoringJob:
  """The job of a scoring command, in the store that its flags name."""
  options.require(namespace, "input", "scores", "model")
  launcher.hold_one_model()
  _refuse_file(namespace, "scores")
  name = namespace.name or f"{namespace.scorer}_{models.model_name(namespace.model)}"
  if not _NAME.fullmatch(name):
    raise WinnowError(f"--name={name} may hold letters, digits and underscores only")
  scorer = scorers.AskLlm(
    model=namespace.model,
    template=options.read_prompt(namespace.prompt_file),
    yes_token=namespace.yes_token,
    max_input_tokens=namespace.max_input_tokens,
    batch_tokens=namespace.batch_tokens,
    dtype=namespace.dtype,
  )
  return plan_scoring(namespace, launcher, scorer, storage.join(namespace.scores, name), spare=spare)


def plan_sampling(
  namespace: argparse.Namespace,
  command: str,
  *,
  store: stores.ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
) -> SamplingJob:
  """Checks all that can be checked before anything is written."""
  _refuse_file(namespace, "output")
  if namespace.num_shards is not None and not 1 <= namespace.num_shards <= 99_999:
    raise WinnowError(f"--num_shards={namespace.num_shards} is not between 1 and 99,999")
  selected = selection_request(namespace)
  if store.is_complete:
    ledger = store.ledger()
    selected.search(ledger.documents, ledger.num_tokens)  # refuses what cannot be met
  name = dataset.dataset_name(namespace.name or storage.base_name(inputs.absolute(namespace.output)))
  request = {
    "format": 1,
    "dataset": name,
    "num_shards": namespace.num_shards,
    "scores": requests.fingerprint(store_request),
    "selection": dataclasses.asdict(selected),
  }
  config = writing.SamplingConfig(
    store=store,
    request=selected,
    fields=corpus.fields,
    block_rows=corpus.block_rows,
    output=namespace.output,
    name=name,
    fingerprint=requests.fingerprint(request),
    num_shards=namespace.num_shards,
  )
  context = manifests.Context(tuple(options.own_arguments(command, namespace)), manifests.versions())
  job = SamplingJob(corpus, config, request, context, namespace.overwrite)
  if not storage.exists(job.request_path) and (strangers := _dataset_files(namespace.output)):
    raise WinnowError(f"--output={namespace.output} holds another dataset ({strangers[0]}); choose an empty folder")
  if not namespace.overwrite:
    requests.refuse_other(job.request_path, request, owner=f"the output {namespace.output}")
    job.refuse_other_engine()
  return job


def find_store(namespace: argparse.Namespace) -> stores.ScoreStore:
  """The complete store that --scores, --name and --sampler name."""
  paths = storage.match(storage.join(storage.escape(namespace.scores), "*", requests.REQUEST_FILE))
  found = {path.rsplit("/", 2)[-2]: requests.readable(path) for path, _ in paths}
  found = {name: request for name, request in found.items() if isinstance(request, dict)}
  fitting = [
    name
    for name, request in found.items()
    if name == namespace.name or (not namespace.name and namespace.sampler in ("random", request.get("scorer")))
  ]
  there = ", ".join(sorted(found)) or "none"
  if not fitting:
    wanted = f"called {namespace.name}" if namespace.name else f"of scorer {namespace.sampler}"
    raise WinnowError(f"--scores={namespace.scores} has no store {wanted}; it has: {there}")
  if len(fitting) > 1:
    raise WinnowError(
      f"--scores={namespace.scores} has several stores ({', '.join(sorted(fitting))}); say which: --name="
    )
  name, request = fitting[0], found[fitting[0]]
  if namespace.sampler not in ("random", request.get("scorer")):
    raise WinnowError(f"the store {name} holds scores of {request.get('scorer')}, not of --sampler={namespace.sampler}")
  store = stores.ScoreStore.of(storage.join(namespace.scores, name), request)
  if not store.is_complete:
    raise WinnowError(
      f"the score store {store.folder} is not complete; run its winnow score command again to finish it"
    )
  return store


def corpus_of(store: stores.ScoreStore, namespace: argparse.Namespace, launcher: launch.Launcher) -> Corpus:
  """The corpus that a store was made from, or the same one in another place where --input says so."""
  request = requests.read_json(store.request_path)
  where = requests.read_json(storage.join(store.folder, stores.INPUT_FILE))
  shards = inputs.find_shards(namespace.input or where["input"], namespace.tfds_data_dir or where["tfds_data_dir"])
  launcher.refuse_local({"input": shards[0].path})
  corpus = Corpus(tuple(shards), blocks.Fields(**request["fields"]), request["block_rows"]).identified()
  found = corpus.request()
  if difference := requests.first_difference({key: request[key] for key in found}, found):
    field, scored, now = difference
    raise WinnowError(f"the input is not what {store.folder} scored: {field} was {scored} and is {now}; score it again")
  return corpus


def selection_request(namespace: argparse.Namespace) -> selection.SelectionRequest:
  """What the flags select."""
  return selection.SelectionRequest(
    sampler=namespace.sampler,
    method=namespace.method or ("threshold" if namespace.threshold is not None else "top_k"),
    seed=namespace.seed,
    rate=namespace.rate,
    num_examples=namespace.num_examples,
    num_tokens=namespace.num_tokens,
    threshold=namespace.threshold,
  )


def run(
  launcher: launch.Launcher,
  arguments: Sequence[str],
  *,
  scoring_job: ScoringJob | None = None,
  sampling_job: SamplingJob | None = None,
) -> dict[str, int]:
  """Runs one pipeline for what is not complete, with progress on the local runner; returns its counters."""
  # What a run that was killed at its very end left.
  if scoring_job is not None and scoring_job.is_complete:
    storage.delete_folder(scoring_job.config.store.blocks_folder)
    storage.sweep_temporary_files(scoring_job.folder)
  if sampling_job is not None and sampling_job.is_complete:
    manifests.clean_up(sampling_job.config.output)
    storage.sweep_temporary_files(sampling_job.folder)
    sampling_job = None
  if sampling_job is None and (scoring_job is None or scoring_job.is_complete):
    return {}
  stages: dict[str, int | None] = {}
  estimated = scoring_job is not None and not scoring_job.is_complete
  if scoring_job is not None and estimated:
    stages["score"] = scoring_job.expected_documents()
  if sampling_job is not None:
    store = sampling_job.config.store
    stages["select"] = requests.field(store.summary_path, "read") if store.is_complete else stages.get("score")
    stages["write"] = None
  running = [job for job in (sampling_job, scoring_job) if job is not None]
  with launch.Log(running[0].folder, arguments) as log, progress.Meter(stages, estimated=estimated) as meter:
    address = meter.address if launcher.is_local else None

    def define(root: beam.Pipeline) -> None:
      ledger = None
      if scoring_job is not None:
        ledger = scoring_job.pipeline(root, launcher.parallelism, address)
      if sampling_job is not None:
        if ledger is None:
          ledger = root | "Complete" >> beam.Create([sampling_job.config.store.ledger()])
        sampling_job.pipeline(ledger, launcher.parallelism, address)

    log.entry["counters"] = {}
    try:
      log.entry["counters"] = launcher.run(define)
    except launch.JobError:
      # Another run of the same command may have completed the work, and tidied up what this one was still reading.
      if not all(job.is_complete for job in running):
        raise
    log.entry["documents_by_process"] = meter.documents_by_process
    for job in running:
      storage.sweep_temporary_files(job.folder)
    return log.entry["counters"]


def _divide(shards: Sequence[blocks.Shard], parallelism: int, *, per_worker: int) -> list[stripes.Stripe]:
  """Several stripes for each of several workers, since they are not equally long; a single one reads each file once."""
  return list(stripes.divide(shards, per_worker * parallelism if parallelism > 1 else 1))


def _refuse_file(namespace: argparse.Namespace, flag: str) -> None:
  path = getattr(namespace, flag)
  if storage.is_local(path) and os.path.exists(path) and not os.path.isdir(path):
    raise WinnowError(f"--{flag}={path} is a file; give a folder")


def _dataset_files(output: str) -> list[str]:
  names = sorted(storage.list_folder(output))
  return [name for name in names if ".tfrecord" in name or name in (*dataset.METADATA_FILES, manifests.MANIFEST_FILE)]


def _documents_per_byte(shard: blocks.Shard, fields: blocks.Fields, rows: int = 256) -> float:
  """About how many documents a byte of such a file holds, from its first rows."""
  with contextlib.suppress(WinnowError):  # what is wrong with the shard, the pipeline will tell
    for block in readers.read_blocks(shard, fields, block_rows=rows):
      plain_bytes = 1.1 * block.text_bytes / block.num_rows + 100
      return _PLAIN_PER_BYTE[shard.compression] / plain_bytes
  return 0.0
