"""Plans: from flags to jobs. All that can be checked is checked here, before anything is written."""

import argparse
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import Any

from curation import selection
from curation.errors import WinnowError
from pipelines import (
  blocks,
  dataset,
  embedding_files,
  flags,
  found_stores,
  inputs,
  launch,
  manifests,
  model_scorers,
  models,
  object_stores,
  options,
  readers,
  requests,
  scorers,
  scoring,
  sketching,
  sources,
  storage,
  stores,
  verification,
  writing,
)
from pipelines.jobs import Corpus, SamplingJob, ScoringJob

_SHARD = re.compile(r"\.tfrecord|-\d{5}-of-\d{5}\.")
_NAME = re.compile(r"\w+", re.ASCII)


def make_launcher(namespace: argparse.Namespace, beam_arguments: Sequence[str]) -> launch.Launcher:
  """The launcher of a command; raises WinnowError where its workers could not reach what the flags name."""
  accelerator = getattr(namespace, "accelerator", None)
  launcher = launch.Launcher(beam_arguments, accelerator)
  if accelerator is not None and not launcher.is_dataflow and not namespace.estimate:
    raise WinnowError(
      f"--accelerator={accelerator} is for Dataflow and for --estimate; other runners' workers use what they have: "
      "leave it out"
    )
  paths = {
    flag: getattr(namespace, flag, None)
    for flag in (
      "input",
      "tfds_data_dir",
      "scores",
      "output",
      "rejected",
      "report",
      "model",
      "vocabulary",
      "embeddings",
    )
  }
  for flag in ("scores", "output", "rejected", "report"):
    if (paths[flag] or "").startswith(object_stores.HUB):
      raise WinnowError(f"--{flag}={paths[flag]}: hf:// can be read only; give a folder, or a gs:// one")
  if (paths["input"] or "").startswith(readers.TFDS_PREFIX):
    paths["input"] = None  # where its files are, `read_corpus` finds out
  if not os.path.isdir(paths["model"] or ""):  # a hub's name
    paths["model"] = None
  launcher.refuse_local({f"--{flag}": path for flag, path in paths.items()})
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
  scorer: scorers.Description,
  folder: str,
  *,
  corpus: Corpus | None = None,
  source: sources.Source | None = None,
  spare: bool = False,
) -> ScoringJob:
  """Checks all that can be checked before anything is written.

  `corpus`: identified already; `source`: what the scorer reads in place of the corpus's texts.
  """
  if not 0 <= namespace.max_bad_fraction <= 1:
    raise WinnowError(f"--max_bad_fraction={namespace.max_bad_fraction} is not in [0, 1]")
  if corpus is None:
    corpus = identified_corpus(namespace, launcher)
  scorer = scorer.checked()
  request = {"format": stores.FORMAT, **scorer.request(), **corpus.request()}
  store = stores.ScoreStore.of(folder, request)
  hints: dict[str, str] = {}
  if isinstance(scorer, model_scorers.OfModel):
    hints = launcher.fit_workers(model_scorers.model_bytes(scorer))
  config = scoring.ScoringConfig(
    store,
    scorer,
    source or (scorer.source(corpus.texts) if isinstance(scorer, model_scorers.Perplexity) else corpus.texts),
    namespace.max_bad_fraction,
    resource_hints=hints,
    accelerator=getattr(namespace, "accelerator", None),
  )
  # What is known of a density's engine, its embeddings, the store says.
  knows_engine = launcher.is_local or isinstance(scorer, scorers.Density)
  where = {"input": inputs.absolute(namespace.input), "tfds_data_dir": namespace.tfds_data_dir}
  job = ScoringJob(corpus, config, request, where, namespace.overwrite, spare, knows_engine)
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


def identified_corpus(namespace: argparse.Namespace, launcher: launch.Launcher) -> Corpus:
  """The input that the flags name, with checksums, where the workers can read it."""
  corpus = read_corpus(namespace)
  launcher.refuse_local({"--input": corpus.shards[0].path})
  return corpus.identified()


def of_model(namespace: argparse.Namespace) -> model_scorers.AskLlm | model_scorers.Perplexity:
  """The scorer that runs --model over the texts."""
  options.require(namespace, "model")
  common: dict[str, Any] = {
    "model": namespace.model,
    "max_input_tokens": 512 if namespace.max_input_tokens is None else namespace.max_input_tokens,
    "batch_tokens": namespace.batch_tokens,
    "dtype": namespace.dtype,
    "devices_per_model": namespace.devices_per_model,
    "vocabulary": namespace.vocabulary,
  }
  if namespace.scorer == flags.PERPLEXITY:
    return model_scorers.Perplexity(objective=namespace.objective, mask_seed=namespace.mask_seed, **common)
  template = options.read_prompt(namespace.prompt_file)
  return model_scorers.AskLlm(template=template, yes_token=namespace.yes_token, **common)


def sentence_t5(namespace: argparse.Namespace) -> model_scorers.SentenceT5:
  return model_scorers.SentenceT5(
    model=namespace.model,
    embedding_dtype=namespace.embedding_dtype,
    max_input_tokens=namespace.max_input_tokens,
    batch_tokens=namespace.batch_tokens,
    dtype=namespace.dtype,
    devices_per_model=namespace.devices_per_model,
  )


def plan_counting(namespace: argparse.Namespace, launcher: launch.Launcher, *, spare: bool = False) -> ScoringJob:
  """The job of a store that only tells which documents there are, for random sampling."""
  folder = _store_folder(namespace, "name", namespace.name or flags.RANDOM)
  return plan_scoring(namespace, launcher, scorers.Count(), folder, spare=spare)


def plan_named_scoring(
  namespace: argparse.Namespace, launcher: launch.Launcher, *, spare: bool = False, corpus: Corpus | None = None
) -> ScoringJob:
  """The job of a scoring command, in the store that its flags name. `corpus`: identified already; not for density."""
  if namespace.scorer == flags.DENSITY:
    return _plan_density(namespace, launcher, spare=spare)
  scorer = of_model(namespace)
  _check_devices(namespace, launcher)
  name = namespace.name or f"{namespace.scorer}_{models.model_name(namespace.model)}"
  folder = _store_folder(namespace, "name", name)
  return plan_scoring(namespace, launcher, scorer, folder, corpus=corpus, spare=spare)


def plan_embedding(
  namespace: argparse.Namespace, launcher: launch.Launcher, name_flag: str = "name", *, spare: bool = False
) -> ScoringJob:
  """The job of a store of embeddings, under the name that `name_flag` gives."""
  if (namespace.model is None) == (namespace.embeddings is None):
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  corpus = identified_corpus(namespace, launcher)
  scorer: model_scorers.SentenceT5 | scorers.MadeElsewhere
  source: sources.Source = corpus.texts
  if namespace.embeddings is not None:
    for name in ("max_input_tokens", "batch_tokens", "dtype", "devices_per_model", "accelerator"):
      if getattr(namespace, name) not in (None, 1):
        raise WinnowError(f"--{name} is for a --model, and --embeddings were made already; leave it out")
    files = embedding_files.find(namespace.embeddings, list(corpus.shards))
    scorer = scorers.MadeElsewhere(files, namespace.embedding_dtype)
    source = sources.TextsWithEmbeddings(corpus.texts, files)
  else:
    scorer = sentence_t5(namespace)
  folder = _store_folder(
    namespace, name_flag, getattr(namespace, name_flag) or f"embeddings_{_embedder_name(namespace)}"
  )
  job = plan_scoring(namespace, launcher, scorer, folder, corpus=corpus, source=source, spare=spare)
  if namespace.model is not None and (not job.is_complete or job.starts_over):
    _check_devices(namespace, launcher)
  return job


def _plan_density(namespace: argparse.Namespace, launcher: launch.Launcher, *, spare: bool) -> ScoringJob:
  name = namespace.name or f"density_{_embedder_name(namespace)}"
  folder = _store_folder(namespace, "name", name)
  embedding = plan_embedding(namespace, launcher, "embedding_name", spare=True)
  if embedding.folder == folder:
    raise WinnowError(f"--name={name} and --embedding_name are the same; give each store a name of its own")
  embeddings = sources.StoredEmbeddings(embedding.config.store, namespace.embedding_dtype)
  scorer = scorers.Density(
    sketch_path=storage.join(folder, stores.SKETCH_FOLDER, sketching.SKETCH_FILE),
    embeddings=embeddings,
    kernel=namespace.kernel,
    bandwidth=namespace.bandwidth,
    hashes=namespace.hashes,
    rows=namespace.sketch_rows,
    counters=namespace.sketch_counters,
    seed=namespace.sketch_seed,
    correct_collisions=namespace.correct_collisions,
  )
  job = plan_scoring(namespace, launcher, scorer, folder, corpus=embedding.corpus, source=embeddings, spare=spare)
  sketch = sketching.SketchConfig(scorer, job.config.store, job.corpus.shards)
  return dataclasses.replace(job, embedding=embedding, sketch=sketch)


def _embedder_name(namespace: argparse.Namespace) -> str:
  """A model's name, or of files that were made elsewhere the folder's."""
  if namespace.model is not None:
    return models.model_name(namespace.model)
  if namespace.embeddings is None:
    return ""  # which is refused in a moment
  return models.model_name(inputs.absolute(namespace.embeddings).rpartition("/")[0])


def _store_folder(namespace: argparse.Namespace, flag: str, name: str) -> str:
  _refuse_file(namespace, "scores")
  if not _NAME.fullmatch(name):
    raise WinnowError(f"--{flag}={name} may hold letters, digits and underscores only")
  return storage.join(inputs.absolute(namespace.scores), name)


def _check_devices(namespace: argparse.Namespace, launcher: launch.Launcher) -> None:
  if namespace.devices_per_model < 1:
    raise WinnowError(f"--devices_per_model={namespace.devices_per_model} is below 1")
  launcher.hold_one_model(namespace.devices_per_model)


def plan_sampling(
  namespace: argparse.Namespace,
  command: str,
  *,
  store: stores.ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
  rejected: bool = False,
) -> SamplingJob:
  """Checks all that can be checked before anything is written. `rejected`: of the output of --rejected."""
  flag = "rejected" if rejected else "output"
  output = getattr(namespace, flag)
  _refuse_file(namespace, flag)
  if namespace.num_shards is not None and not 1 <= namespace.num_shards <= 99_999:
    raise WinnowError(f"--num_shards={namespace.num_shards} is not between 1 and 99,999")
  selected = selection_request(namespace)
  if namespace.num_tokens is not None and getattr(namespace, "embeddings", None) is not None:
    raise WinnowError("--num_tokens needs token counts, and --embeddings come without; use --num_examples")
  if store.is_complete:
    ledger = store.ledger()
    selected.search(ledger.documents, ledger.num_tokens)  # refuses what cannot be met
  # The same name for both would make two datasets of one.
  named = None if rejected else namespace.name
  name = dataset.dataset_name(named or storage.base_name(inputs.absolute(output)))
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
    fingerprint=requests.fingerprint(request),
    num_shards=namespace.num_shards,
    output_format=namespace.output_format,
    rejected=rejected,
  )
  context = manifests.Context(tuple(options.own_arguments(command, namespace)), manifests.versions())
  job = SamplingJob(corpus, config, request, context, namespace.overwrite)
  if not storage.exists(job.request_path) and (strangers := _dataset_files(output)):
    raise WinnowError(f"--{flag}={output} holds another dataset ({strangers[0]}); choose an empty folder")
  if not namespace.overwrite:
    requests.refuse_other(job.request_path, request, owner=f"the output {output}")
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
  """Whose an output is: what is asked for, which its fingerprint is of."""
  return {
    "format": 2,
    "dataset": name,
    "output_format": output_format,
    "num_shards": num_shards,
    "scores": requests.fingerprint(store_request),
    "selection": dataclasses.asdict(selected),
    "rejected": rejected,
  }


def plan_samples(
  namespace: argparse.Namespace,
  command: str,
  *,
  store: stores.ScoreStore,
  store_request: dict[str, Any],
  corpus: Corpus,
) -> list[SamplingJob]:
  """The job of --output, and that of --rejected where it is given."""
  plan = functools.partial(plan_sampling, namespace, command, store=store, store_request=store_request, corpus=corpus)
  found = [plan()]
  if namespace.rejected is not None:
    if inputs.absolute(namespace.rejected) == inputs.absolute(namespace.output):
      raise WinnowError(f"--rejected={namespace.rejected} is --output; give it a folder of its own")
    found.append(plan(rejected=True))
  return found


def plan_verification(
  namespace: argparse.Namespace, launcher: launch.Launcher, output: str
) -> tuple[verification.VerificationConfig, str]:
  """What a complete output claims; and why its texts cannot be compared with the input, if they cannot."""
  manifest = manifests.read(output)
  store = found_stores.store_of(output, manifest, namespace.scores)
  untold, shards = "", store.shards()
  try:
    shards = found_stores.corpus_of(store, namespace, launcher).shards
  except (WinnowError, OSError) as error:
    if namespace.input is not None:
      raise
    untold = str(error)
  request = requests.read_json(store.request_path)
  name, selected = manifest["dataset"], selection.SelectionRequest(**manifest["request"])
  kind: dict[str, Any] = {"output_format": manifest["output_format"], "rejected": manifest["rejected"]}
  fingerprints = [  # without --num_shards, and with it
    requests.fingerprint(_output_request(name, selected, request, num_shards, **kind))
    for num_shards in (None, len(manifest["shards"]))
  ]
  sampling = writing.SamplingConfig(
    store=store,
    request=selected,
    fields=blocks.Fields(**request["fields"]),
    block_rows=request["block_rows"],
    output=output,
    name=name,
    fingerprint=fingerprints[manifest["fingerprint"] == fingerprints[1]],
    num_shards=len(manifest["shards"]),
    work=verification.work_folder(output),
    **kind,
  )
  return verification.VerificationConfig(sampling, manifest, shards, texts=not untold), untold


def selection_request(namespace: argparse.Namespace) -> selection.SelectionRequest:
  """What the flags select."""
  method = selection.METHODS_OF[namespace.sampler][0]
  if namespace.threshold is not None:
    method = "threshold"
  elif namespace.percentile_range is not None:
    method = "top_k"
  return selection.SelectionRequest(
    sampler=namespace.sampler,
    method=namespace.method or method,
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


def _refuse_file(namespace: argparse.Namespace, flag: str) -> None:
  path = getattr(namespace, flag)
  if storage.is_local(path) and os.path.exists(path) and not os.path.isdir(path):
    raise WinnowError(f"--{flag}={path} is a file; give a folder")


def _dataset_files(output: str) -> list[str]:
  names = sorted(storage.list_names(output))
  return [name for name in names if _SHARD.search(name) or name in (*dataset.METADATA_FILES, manifests.MANIFEST_FILE)]
