"""Plans of jobs from flags. Everything that can be checked is checked here, before anything is written."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from curation.errors import WinnowError
from pipelines.corpus import blocks, first_rows, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.readers import tfds
from pipelines.files import fingerprints, object_stores, storage
from pipelines.jobs.store_job import ScoringJob, SelectingJob
from pipelines.registry.flag import require
from pipelines.runners import launch, parts
from pipelines.runners.workers import Workers
from pipelines.scoring import scoring, stored_blocks
from pipelines.scoring.description import Description
from pipelines.scoring.preparation import Preparation
from pipelines.selection import survivors
from pipelines.store import score_store
from pipelines.store.score_store import ScoreStore


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of a recipe, and the selection of the stage before it; the first stage sees all documents."""

  number: int = 1
  selecting: SelectingJob | None = None
  suffix: str | None = None
  """The end of the names of its stores; None: the number of the stage."""

  @property
  def survivors(self) -> survivors.Survivors | None:
    return None if self.selecting is None else self.selecting.survivors

  @property
  def before(self) -> tuple[SelectingJob, ...]:
    return () if self.selecting is None else (self.selecting,)

  @property
  def corpus(self) -> Corpus | None:
    """Returns the corpus that the first stage has identified already; None in the first stage."""
    return None if self.selecting is None else self.selecting.scoring.corpus

  def request(self) -> dict[str, Any]:
    """Returns the stage's part of a store's fingerprint: how the documents were selected, through all stages."""
    if self.selecting is None:
      return {}
    corpus_request = self.selecting.scoring.corpus.request()
    scores = {key: value for key, value in self.selecting.scoring.request.items() if key not in corpus_request}
    selected = self.selecting.survivors
    # The fingerprint covers the whole corpus: with one more shard, other documents of each may be selected.
    selection = {"scores": scores, "selection": dataclasses.asdict(selected.request), "survivors": selected.fingerprint}
    return {"within": selection}

  def named(self, name: str) -> str:
    """Returns the name of a store of the surviving documents; `name` is that of a store of all documents."""
    return name if self.number == 1 else f"{name}_{self.suffix or f'stage{self.number}'}"


def make_launcher(namespace: argparse.Namespace, beam_arguments: Sequence[str]) -> launch.Launcher:
  """Makes the launcher of a command. Raises WinnowError if its workers could not reach what the flags name."""
  launcher = launch.Launcher(beam_arguments, getattr(namespace, "accelerator", None), _part(namespace))
  refuse_unreachable(namespace, launcher)
  return launcher


def _part(namespace: argparse.Namespace) -> parts.Part | None:
  """Returns the part of the work that a command does; None if it does all of it."""
  part = getattr(namespace, "part", None)
  if part is None:
    for flag in ("part_steal", "part_timeout"):
      if flag in getattr(namespace, "given", ()):
        raise WinnowError(f"--{flag} is for a command with --part=I/N; leave it out, or add that")
    return None
  for flag, reason in (
    ("overwrite", "would remove what other parts have done: delete the folder first"),
    ("estimate", "estimates the whole: leave out --part"),
  ):
    if getattr(namespace, flag, False):
      raise WinnowError(f"--{flag} with --part={part} {reason}")
  return parts.Part.parse(part, limit=namespace.part_timeout, steals=namespace.part_steal)


def refuse_unreachable(namespace: argparse.Namespace, workers: Workers) -> None:
  """Raises WinnowError for an accelerator that the runner does not give, and for a path that workers cannot reach."""
  accelerator = getattr(namespace, "accelerator", None)
  if accelerator is not None and not workers.is_dataflow and not namespace.estimate:
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
      "clusters",
      "student",
    )
  }
  named = {flag: path for flag, path in paths.items() if path}
  for flag in ("scores", "output", "rejected", "report", "clusters"):
    if (paths[flag] or "").startswith(object_stores.HUB):
      raise WinnowError(f"--{flag}={paths[flag]}: hf:// can be read only; give a folder, or a gs:// one")
  if (paths["input"] or "").startswith(tfds.PREFIX):
    paths["input"] = None  # `read_corpus` finds out where its files are
  if not os.path.isdir(paths["model"] or ""):  # a name on the hub
    paths["model"] = None
  workers.refuse_local({f"--{flag}": path for flag, path in paths.items()})
  for flag, path in named.items():
    if not object_stores.is_known(path):
      raise WinnowError(f"--{flag}={path} is on no file system that Winnow knows: give a folder, or a gs:// path")
    object_stores.reach(path)  # before a model is fetched


def read_corpus(namespace: argparse.Namespace) -> Corpus:
  """Finds the shards of the input that the flags name, and returns them as a corpus."""
  require(namespace, "input")
  if namespace.block_rows < 1:
    raise WinnowError(f"--block_rows={namespace.block_rows} is below 1")
  fields = blocks.Fields(namespace.text_field, namespace.url_field, namespace.timestamp_field)
  shards = inputs.find_shards(namespace.input, namespace.tfds_data_dir)
  shards = inputs.limit_windows(shards, namespace.max_zstd_window)
  return Corpus(tuple(shards), fields, namespace.block_rows)


def plan_scoring(
  namespace: argparse.Namespace,
  workers: Workers,
  scorer: Description,
  folder: str,
  *,
  corpus: Corpus | None = None,
  preparation: type[Preparation] | None = None,
  spare: bool = False,
  stage: "Stage | None" = None,
  before: tuple[Any, ...] = (),
) -> ScoringJob:
  """Plans the job of one store, and checks all that can be checked before anything is written.

  `corpus`: an identified corpus. `preparation`: the preparation that the scorer needs. `before`: the jobs of the stores
  that the scorer reads. `stage`: None if all documents are scored.
  """
  stage = stage or Stage()
  max_bad_fraction = getattr(namespace, "max_bad_fraction", 1.0)  # a store that is read has settled it
  if not 0 <= max_bad_fraction <= 1:
    raise WinnowError(f"--max_bad_fraction={max_bad_fraction} is not in [0, 1]")
  if corpus is None:
    corpus = identified_corpus(namespace, workers)
  scorer = scorer.checked()
  request = store_request(scorer, corpus, stage)
  store = ScoreStore.for_request(folder, request)
  prepared = None if preparation is None else preparation.for_store(scorer, store)
  source = scorer.source(corpus.texts)
  if isinstance(source, stored_blocks.StoredBlocks):
    source = source if prepared is None else prepared.source(source)
  elif stage.survivors is not None and not isinstance(source, stored_blocks.Surviving):
    source = stored_blocks.Surviving(source, stage.survivors)
  config = scoring.ScoringConfig(
    store,
    scorer,
    source,
    max_bad_fraction,
    resource_hints={} if scorer.model_bytes is None else workers.fit_workers(scorer.model_bytes),
    accelerator=getattr(namespace, "accelerator", None),
    number=stage.number,
    survivors=stage.survivors,
    work=() if preparation is None else preparation.work,
  )
  # If a scorer reads a store, that store gives what is known of its engine.
  knows_engine = workers.is_local or isinstance(source, stored_blocks.StoredBlocks)
  where = _where(namespace, scorer, source, before)
  before = (*before, *stage.before)
  job = ScoringJob(corpus, config, request, where, namespace.overwrite, spare, knows_engine, before, prepared)
  if job.starts_over or not job.is_complete:
    storage.refuse_unwritable(folder)
    reads_all = stage.survivors is None and not isinstance(source, stored_blocks.StoredBlocks)
    if reads_all and max_bad_fraction < 1:
      first_rows.refuse_pointers(corpus.shards)
      first_rows.refuse_without_documents(corpus.shards, corpus.fields)
  if not namespace.overwrite:
    _refuse_other_scores(job)
  if scorer.num_devices and (job.starts_over or not job.is_complete):
    workers.hold_one_model(scorer.num_devices)
  return job


def _where(
  namespace: argparse.Namespace, scorer: Description, source: stored_blocks.Source, before: tuple[Any, ...]
) -> dict[str, Any]:
  """Returns the places of the input and the model of a store, which are no part of its request."""
  if isinstance(source, stored_blocks.StoredBlocks) and not hasattr(namespace, "input"):
    return fingerprints.read_json_or_none(storage.join(source.store.folder, score_store.INPUT_FILE)) or {}
  made_with = before[0].made_with if before else scorer.made_with(namespace)
  where = {"input": inputs.absolute(namespace.input), "tfds_data_dir": namespace.tfds_data_dir}
  return {**where, score_store.MADE_WITH: made_with}


def _refuse_other_scores(job: ScoringJob) -> None:
  """Raises WinnowError if the folder holds scores of another request, or of another engine."""
  store = job.config.store
  if store.has_scores and not storage.exists(store.request_path):
    raise WinnowError(
      f"{store.folder} holds scores, but its {fingerprints.REQUEST_FILE} is gone, so nobody can tell what they belong "
      "to; restore it, choose another name, or start over with --overwrite"
    )
  fingerprints.refuse_other(store.request_path, job.request, owner=f"the score store {store.folder}")
  if not job.is_complete and (difference := job.engine_difference()):
    field, recorded, current = difference
    raise WinnowError(
      f"the score store {store.folder} was begun with {field} {recorded}, but here it is {current}, and "
      "scores may differ in the last bits; go on with the same versions, or start over with --overwrite"
    )


def store_request(scorer: Description, corpus: Corpus, stage: Stage) -> dict[str, Any]:
  """Returns the request of the store of a scorer's results. The scorer must be checked already."""
  return {"format": score_store.FORMAT, **scorer.request(), **corpus.request(), **stage.request()}


def identified_corpus(namespace: argparse.Namespace, workers: Workers) -> Corpus:
  """Returns the input that the flags name, with checksums. Raises WinnowError if the workers cannot read it."""
  corpus = read_corpus(namespace)
  workers.refuse_local({"--input": corpus.shards[0].path})
  return corpus.identified()


def refuse_file(namespace: argparse.Namespace, flag: str) -> None:
  """Raises WinnowError if a flag for a folder names a file."""
  path = getattr(namespace, flag)
  if storage.is_local(path) and os.path.exists(path) and not os.path.isdir(path):
    raise WinnowError(f"--{flag}={path} is a file; give a folder")
  if storage.is_local(path) and os.path.islink(path) and not os.path.exists(path):
    raise WinnowError(f"--{flag}={path} is a link to {os.readlink(path)}, which is not there: make that folder first")
