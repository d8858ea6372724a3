"""The plans of outputs: the flags of a sampling command, and the claims of a complete output, are checked here."""

import argparse
import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

from curation.errors import WinnowError
from curation.selection import selection
from pipelines.corpus import blocks, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing
from pipelines.jobs import find_stores, planning
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob
from pipelines.output import folders, manifests, tfds_metadata, verification, writing
from pipelines.registry import command_names, versions
from pipelines.runners.workers import Workers
from pipelines.scorers import registry
from pipelines.scorers.count import Count
from pipelines.store.score_store import ScoreStore

_SHARD = re.compile(r"\.tfrecord|-\d{5}-of-\d{5}\.")


def plan_sampling(
  namespace: argparse.Namespace,
  arguments: Sequence[str],
  *,
  store: ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
  rejected: bool = False,
) -> SamplingJob:
  """Plans an output, and checks all that can be checked before anything is written.

  `rejected`: plan the output of --rejected. `arguments`: the command for the manifest, which makes the same output
  again.
  """
  flag = "rejected" if rejected else "output"
  output = getattr(namespace, flag)
  planning.refuse_file(namespace, flag)
  if folders.is_store(inputs.absolute(output)):
    raise WinnowError(f"--{flag}={output} is a score store; choose a folder of its own")
  if namespace.num_shards is not None and not 1 <= namespace.num_shards <= 99_999:
    raise WinnowError(f"--num_shards={namespace.num_shards} is not between 1 and 99,999")
  selected = selection_request(namespace)
  if namespace.num_tokens is not None and getattr(namespace, "embeddings", None) is not None:
    raise WinnowError("--num_tokens needs token counts, and --embeddings come without; use --num_examples")
  if store.is_complete:
    ledger = store.ledger()
    selected.search(ledger.documents, ledger.num_tokens)  # refuses a selection that cannot be made
  # With one name for both, they would look like one dataset.
  named = None if rejected else namespace.dataset_name
  name = tfds_metadata.dataset_name(named or storage.base_name(inputs.absolute(output)))
  if named not in (None, name):
    raise WinnowError(f"--dataset_name={named} is no name that TFDS takes; write --dataset_name={name}")
  request = _output_request(
    name, selected, store_request, namespace.num_shards, output_format=namespace.output_format, rejected=rejected
  )
  config = writing.SamplingConfig(
    store=store,
    request=selected,
    fields=corpus.fields,
    block_rows=corpus.block_rows,
    output=inputs.absolute(output),
    name=name,
    fingerprint=fingerprints.fingerprint(request),
    num_shards=namespace.num_shards,
    output_format=namespace.output_format,
    rejected=rejected,
  )
  context = manifests.Context(tuple(arguments), versions.versions())
  job = SamplingJob(corpus, config, request, context, namespace.overwrite, store_request)
  if not storage.exists(job.request_path) and (strangers := _dataset_files(output)):
    raise WinnowError(f"--{flag}={output} holds another dataset ({strangers[0]}); choose an empty folder")
  if namespace.overwrite or not job.is_complete:
    storage.refuse_unwritable(config.output)
  if not namespace.overwrite:
    job.refuse_other_request()
    job.refuse_other_engine()
  return job


def _output_request(
  name: str,
  selected: selection.SelectionRequest,
  store_request: dict[str, Any],
  num_shards: int | None,
  *,
  output_format: str,
  rejected: bool,
) -> dict[str, Any]:
  """Returns the request of an output, of which its fingerprint is made."""
  return {
    "format": 2,
    "dataset": name,
    "output_format": output_format,
    "num_shards": num_shards,
    "scores": fingerprints.fingerprint(store_request),
    "selection": dataclasses.asdict(selected),
    "rejected": rejected,
  }


def plan_samples(
  namespace: argparse.Namespace,
  arguments: Sequence[str],
  *,
  store: ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
) -> list[SamplingJob]:
  """Plans the job of --output, and that of --rejected if it is given. `arguments`: see `plan_sampling`."""
  plan = functools.partial(plan_sampling, namespace, arguments, store=store, store_request=store_request, corpus=corpus)
  jobs = [plan()]
  if namespace.rejected is not None:
    if inputs.absolute(namespace.rejected) == inputs.absolute(namespace.output):
      raise WinnowError(f"--rejected={namespace.rejected} is --output; give it a folder of its own")
    jobs.append(plan(rejected=True))
  return jobs


def plan_drawing(namespace: argparse.Namespace, workers: Workers) -> tuple[ScoringJob | None, list[SamplingJob]]:
  """Plans the outputs of `winnow sample`, from a store that is complete.

  For random sampling without --scores, plans the store that lists the documents as well.
  """
  scoring_job = None
  if namespace.name is not None and namespace.scores is None:
    raise WinnowError(f"--name={namespace.name} names a store in --scores, which is not given; leave it out")
  if namespace.scores is not None:
    parsing.refuse_scoring_flags(namespace)
    store = find_stores.find_store(namespace)
    corpus = find_stores.corpus_of(store, namespace, workers)
    store_request = fingerprints.read_json(store.request_path)
  elif namespace.sampler == registry.RANDOM:
    # A scorer lists the documents to draw from, in a store beside the output.
    folder = writing.count_folder(inputs.absolute(namespace.output))
    scoring_job = planning.plan_scoring(namespace, workers, Count(), folder, spare=True)
    store, corpus, store_request = scoring_job.config.store, scoring_job.corpus, scoring_job.request
  else:
    raise WinnowError("--scores= must be given: the folder that winnow score wrote to")
  arguments = parsing.own_arguments(command_names.SAMPLE, [namespace])
  return scoring_job, plan_samples(namespace, arguments, store=store, store_request=store_request, corpus=corpus)


def plan_verification(
  namespace: argparse.Namespace, workers: Workers, output: str
) -> tuple[verification.VerificationConfig, str]:
  """Returns what a complete output claims, and the reason why its texts cannot be compared with the input, if any."""
  manifest = manifests.read(output)
  store = find_stores.store_of(output, manifest, namespace.scores)
  why_no_texts, shards = "", store.shards()
  try:
    shards = find_stores.corpus_of(store, namespace, workers).shards
  except (WinnowError, OSError) as error:
    if namespace.input is not None:
      raise
    why_no_texts = str(error)
  request = fingerprints.read_json(store.request_path)
  name, selected = manifest["dataset"], selection.SelectionRequest(**manifest["request"])
  kind: dict[str, Any] = {"output_format": manifest["output_format"], "rejected": manifest["rejected"]}
  possible = [  # without --num_shards, and with it
    fingerprints.fingerprint(_output_request(name, selected, request, num_shards, **kind))
    for num_shards in (None, len(manifest["shards"]))
  ]
  sampling = writing.SamplingConfig(
    store=store,
    request=selected,
    fields=blocks.Fields(**request["fields"]),
    block_rows=request["block_rows"],
    output=output,
    name=name,
    fingerprint=possible[manifest["fingerprint"] == possible[1]],
    num_shards=len(manifest["shards"]),
    work=verification.work_folder(output),
    **kind,
  )
  return verification.VerificationConfig(sampling, manifest, shards, texts=not why_no_texts), why_no_texts


def selection_request(namespace: argparse.Namespace) -> selection.SelectionRequest:
  """Returns the selection that the flags ask for."""
  fitting = registry.methods(namespace.sampler)
  method = fitting[0]
  if namespace.threshold is not None:
    method = "threshold"
  elif namespace.percentile_range is not None:
    method = "top_k"
  method = namespace.method or method
  if method not in fitting:
    why = ", since its scores are no propensities" if method == "ips" and namespace.sampler != registry.RANDOM else ""
    raise WinnowError(f"--method={method} does not fit --sampler={namespace.sampler}{why}; take {' or '.join(fitting)}")
  return selection.SelectionRequest(
    sampler=namespace.sampler,
    method=method,
    temperature=namespace.temperature,
    seed=namespace.seed,
    rate=namespace.rate,
    num_examples=namespace.num_examples,
    num_tokens=namespace.num_tokens,
    threshold=namespace.threshold,
    group_by=namespace.group_by,
    group_rate=namespace.group_rate,
    group_max=namespace.group_max,
    percentile_range=namespace.percentile_range,
  )


def _dataset_files(output: str) -> list[str]:
  names = sorted(storage.list_names(output))
  return [
    name for name in names if _SHARD.search(name) or name in (*tfds_metadata.METADATA_FILES, manifests.MANIFEST_FILE)
  ]
