"""What the commands share: from flags to a claimed store or output, and the pipelines that fill them."""

import argparse
import contextlib
import dataclasses
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

  def request(self) -> dict[str, Any]:
    return {
      "inputs": inputs.describe(list(self.shards)),
      "fields": dataclasses.asdict(self.fields),
      "block_rows": self.block_rows,
      "block_text_bytes": blocks.BLOCK_TEXT_BYTES,
    }


@dataclasses.dataclass(frozen=True)
class ScoringJob:
  """One store and what is to be done in it. `start_over`: whatever is there goes when the job is claimed."""

  corpus: Corpus
  config: scoring.ScoringConfig
  request: dict[str, Any]
  where: dict[str, Any]
  start_over: bool

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def is_complete(self) -> bool:
    return storage.exists(self.config.store.summary_path)

  def claim(self) -> None:
    """Makes the store's folder belong to this job: the first thing that is written."""
    store = self.config.store
    if self.start_over:
      store.clear()
    requests.claim(store.request_path, self.request, owner=f"the score store {store.folder}")
    storage.create(storage.join(store.folder, stores.INPUT_FILE), requests.to_json(self.where))

  def expected_documents(self) -> int:
    """About how many documents are still to be scored: by the size of the shards and the head of one of each kind."""
    finished = self.config.store.finished_shards()
    waiting = [shard for shard in self.corpus.shards if shard.name not in finished]
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
    finished = config.store.finished_shards()
    waiting = [shard for shard in self.corpus.shards if shard.name not in finished]
    # Four stripes for each worker: the local runner deals them out beforehand, and they are not equally long.
    divided = list(stripes.divide(waiting, 4 * parallelism))
    return root | "Score" >> scoring.Score(config, divided, sorted(finished))


@dataclasses.dataclass(frozen=True)
class SamplingJob:
  """One output. `start_over`: an earlier output of ours goes when the job is claimed."""

  corpus: Corpus
  config: writing.SamplingConfig
  request: dict[str, Any]
  context: manifests.Context
  start_over: bool

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
  def is_complete(self) -> bool:
    return storage.exists(self.manifest_path)

  def claim(self) -> None:
    """Makes the output folder belong to this job: the first thing that is written."""
    if self.start_over:
      self._clear()
    requests.claim(self.request_path, self.request, owner=f"the output {self.config.output}")

  def _clear(self) -> None:
    """Removes an earlier output of ours, the manifest first; nobody else's files are ours to remove."""
    if not storage.exists(self.request_path):
      return
    output, name = self.config.output, requests.read_json(self.request_path)["dataset"]
    storage.delete([self.manifest_path])
    shards = [path for path, _ in storage.match(storage.join(output, f"{name}-{dataset.SPLIT}.tfrecord-*-of-*"))]
    storage.delete([*shards, *(storage.join(output, file) for file in dataset.METADATA_FILES)])
    for folder in (writing.RUNS_FOLDER, writing.COUNT_FOLDER):
      storage.delete_folder(storage.join(self.config.work_folder, folder))
    # The request last: until then what is left is known to be of that request.
    storage.delete([storage.join(self.config.work_folder, requests.ENGINE_FILE), self.request_path])

  def pipeline(self, ledger: Any, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[dict]: the manifest."""
    config = dataclasses.replace(self.config, progress_address=address)
    divided = list(stripes.divide(self.corpus.shards, 2 * parallelism if parallelism > 1 else 1))
    return ledger | "Sample" >> sampling.Sample(config, divided, self.context)


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
  scorer: scorers.AskLlm | scorers.Count,
  folder: str,
  *,
  start_over: bool,
) -> ScoringJob:
  """Checks all that can be checked before anything is written."""
  if not 0 <= namespace.max_bad_fraction <= 1:
    raise WinnowError(f"--max_bad_fraction={namespace.max_bad_fraction} is not in [0, 1]")
  corpus, store = read_corpus(namespace), stores.ScoreStore(folder)
  request = {"format": 1, **scorer.request(), **corpus.request()}
  if not start_over:
    requests.refuse_other(store.request_path, request, owner=f"the score store {folder}")
  config = scoring.ScoringConfig(store, scorer, corpus.fields, corpus.block_rows, namespace.max_bad_fraction)
  where = {"input": inputs.absolute(namespace.input), "tfds_data_dir": namespace.tfds_data_dir}
  return ScoringJob(corpus, config, request, where, start_over)


def plan_named_scoring(namespace: argparse.Namespace, *, start_over: bool) -> ScoringJob:
  """The job of a scoring command, in the store that its flags name."""
  options.require(namespace, "input", "scores", "model")
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
  return plan_scoring(namespace, scorer, storage.join(namespace.scores, name), start_over=start_over)


def plan_sampling(
  namespace: argparse.Namespace,
  command: str,
  *,
  store: stores.ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
) -> SamplingJob:
  """Checks all that can be checked before anything is written."""
  if namespace.num_shards is not None and not 1 <= namespace.num_shards <= 99_999:
    raise WinnowError(f"--num_shards={namespace.num_shards} is not between 1 and 99,999")
  selected = selection_request(namespace)
  name = dataset.dataset_name(namespace.name or storage.base_name(inputs.absolute(namespace.output)))
  config = writing.SamplingConfig(
    store=store,
    request=selected,
    fields=corpus.fields,
    block_rows=corpus.block_rows,
    output=namespace.output,
    name=name,
    num_shards=namespace.num_shards,
  )
  request = {
    "format": 1,
    "dataset": name,
    "num_shards": namespace.num_shards,
    "scores": requests.fingerprint(store_request),
    "selection": dataclasses.asdict(selected),
  }
  context = manifests.Context(tuple(options.own_arguments(command, namespace)), manifests.versions())
  job = SamplingJob(corpus, config, request, context, namespace.overwrite)
  if not storage.exists(job.request_path) and (strangers := _dataset_files(namespace.output)):
    raise WinnowError(f"--output={namespace.output} holds another dataset ({strangers[0]}); choose an empty folder")
  if not namespace.overwrite:
    requests.refuse_other(job.request_path, request, owner=f"the output {namespace.output}")
  return job


def find_store(namespace: argparse.Namespace) -> stores.ScoreStore:
  """The complete store that --scores, --name and --sampler name."""
  paths = storage.match(storage.join(namespace.scores, "*", requests.REQUEST_FILE))
  stores_found = {path.rsplit("/", 2)[-2]: path for path, _ in paths}
  fitting = [
    name
    for name, path in stores_found.items()
    if name == namespace.name
    or (not namespace.name and namespace.sampler in ("random", requests.read_json(path).get("scorer")))
  ]
  there = ", ".join(sorted(stores_found)) or "none"
  if not fitting:
    wanted = f"called {namespace.name}" if namespace.name else f"of scorer {namespace.sampler}"
    raise WinnowError(f"--scores={namespace.scores} has no store {wanted}; it has: {there}")
  if len(fitting) > 1:
    raise WinnowError(
      f"--scores={namespace.scores} has several stores ({', '.join(sorted(fitting))}); say which: --name="
    )
  store = stores.ScoreStore(storage.join(namespace.scores, fitting[0]))
  scorer = requests.read_json(store.request_path).get("scorer")
  if namespace.sampler not in ("random", scorer):
    raise WinnowError(f"the store {fitting[0]} holds scores of {scorer}, not of --sampler={namespace.sampler}")
  if not storage.exists(store.summary_path):
    raise WinnowError(
      f"the score store {store.folder} is not complete; run its winnow score command again to finish it"
    )
  return store


def corpus_of(store: stores.ScoreStore, namespace: argparse.Namespace) -> Corpus:
  """The corpus that a store was made from, or the same one in another place where --input says so."""
  request = requests.read_json(store.request_path)
  where = requests.read_json(storage.join(store.folder, stores.INPUT_FILE))
  shards = inputs.find_shards(namespace.input or where["input"], namespace.tfds_data_dir or where["tfds_data_dir"])
  corpus = Corpus(tuple(shards), blocks.Fields(**request["fields"]), request["block_rows"])
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
  if sampling_job is not None and sampling_job.is_complete:
    manifests.clean_up(sampling_job.config.output)  # what a run that was killed at its very end left
    return {}
  if sampling_job is None and (scoring_job is None or scoring_job.is_complete):
    return {}
  stages: dict[str, int | None] = {}
  estimated = scoring_job is not None and not scoring_job.is_complete
  if scoring_job is not None and estimated:
    stages["score"] = scoring_job.expected_documents()
  if sampling_job is not None:
    summary = sampling_job.config.store.summary_path
    stages["select"] = requests.read_json(summary)["read"] if storage.exists(summary) else stages.get("score")
    stages["write"] = None
  folders = [job.folder for job in (sampling_job, scoring_job) if job is not None]
  with launch.Log(folders[0], arguments) as log, progress.Meter(stages, estimated=estimated) as meter:
    address = meter.address if launcher.is_local else None

    def define(root: beam.Pipeline) -> None:
      ledger = None
      if scoring_job is not None:
        ledger = scoring_job.pipeline(root, launcher.parallelism, address)
      if sampling_job is not None:
        if ledger is None:
          ledger = root | "Complete" >> beam.Create([sampling_job.config.store.ledger()])
        sampling_job.pipeline(ledger, launcher.parallelism, address)

    log.entry["counters"] = launcher.run(define)
    log.entry["documents_by_process"] = meter.documents_by_process
    for folder in folders:
      storage.sweep_temporary_files(folder)
    return log.entry["counters"]


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
