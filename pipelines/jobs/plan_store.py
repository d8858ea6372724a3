"""What a scoring command makes: the store that its flags name, and those that this one is made from."""

import argparse
import contextlib
import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from curation.coverage import kmeans, minhash
from curation.errors import WinnowError
from pipelines.corpus import blocks, embedding_files, inputs, sources
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing, scorer_names
from pipelines.jobs import find_stores, planning
from pipelines.jobs.planning import Stage
from pipelines.jobs.store_job import ScoringJob
from pipelines.output import folders
from pipelines.runners import launch
from pipelines.scorers.clusters import clustering
from pipelines.scorers.clusters.prototypes import Prototypes
from pipelines.scorers.clusters.scorer import Cluster
from pipelines.scorers.count import Count
from pipelines.scorers.density import sketching
from pipelines.scorers.density.scorer import Density
from pipelines.scorers.made_elsewhere import MadeElsewhere
from pipelines.scorers.minhash import joining
from pipelines.scorers.minhash.scorer import MinHash, Signatures
from pipelines.scorers.semdedup import comparing, layout
from pipelines.scorers.semdedup.scorer import SemDeDup
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.ask_llm import AskLlm
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.scorers.t5.sentence_t5 import SentenceT5
from pipelines.scoring import stored_blocks
from pipelines.store import kinds, score_store
from pipelines.store.score_store import ScoreStore

# What a store of embeddings or of clusters was made with that another command's flags say by their defaults alone.
_OF_EMBEDDINGS = ("embedding_dtype", "max_input_tokens", "batch_tokens", "dtype", "devices_per_model")
_OF_CLUSTERS = ("num_clusters", "kmeans_sample", "kmeans_iterations", "lloyd_iterations", "kmeans_seed")
_NAME = re.compile(r"\w+", re.ASCII)


def of_model(namespace: argparse.Namespace) -> AskLlm | Perplexity:
  """The scorer that runs --model over the texts."""
  parsing.require(namespace, "model")
  common: dict[str, Any] = {
    "model": namespace.model,
    "max_input_tokens": 512 if namespace.max_input_tokens is None else namespace.max_input_tokens,
    "batch_tokens": namespace.batch_tokens,
    "dtype": namespace.dtype,
    "devices_per_model": namespace.devices_per_model,
    "vocabulary": namespace.vocabulary,
  }
  if namespace.scorer == scorer_names.PERPLEXITY:
    return Perplexity(objective=namespace.objective, mask_seed=namespace.mask_seed, **common)
  template = parsing.read_prompt(namespace.prompt_file)
  return AskLlm(template=template, yes_token=namespace.yes_token, **common)


def sentence_t5(namespace: argparse.Namespace) -> SentenceT5:
  return SentenceT5(
    model=namespace.model,
    embedding_dtype=namespace.embedding_dtype,
    max_input_tokens=namespace.max_input_tokens,
    batch_tokens=namespace.batch_tokens,
    dtype=namespace.dtype,
    devices_per_model=namespace.devices_per_model,
    vocabulary=namespace.vocabulary,
  )


def plan_counting(
  namespace: argparse.Namespace, launcher: launch.Launcher, *, spare: bool = False, stage: Stage | None = None
) -> ScoringJob:
  """The job of a store that only tells which documents there are, for random sampling."""
  stage = stage or Stage()
  folder = _store_folder(namespace, "name", namespace.name or stage.named(scorer_names.RANDOM))
  return planning.plan_scoring(namespace, launcher, Count(), folder, corpus=stage.corpus, spare=spare, stage=stage)


def plan_named_scoring(
  namespace: argparse.Namespace,
  launcher: launch.Launcher,
  *,
  spare: bool = False,
  corpus: Corpus | None = None,
  stage: Stage | None = None,
) -> ScoringJob:
  """The job of a scoring command, in the store that its flags name. `corpus`: identified already; of texts alone."""
  stage = stage or Stage()
  if namespace.scorer == scorer_names.DENSITY:
    return _plan_density(namespace, launcher, stage, spare=spare)
  if namespace.scorer in scorer_names.OF_CLUSTERS:
    return _plan_by_clusters(namespace, launcher, stage, spare=spare)
  if namespace.scorer == scorer_names.MINHASH:
    return _plan_minhash(namespace, launcher, stage, spare=spare)
  scorer = of_model(namespace)
  _check_devices(namespace)
  name = namespace.name or stage.named(f"{namespace.scorer}_{model_files.model_name(namespace.model)}")
  folder = _store_folder(namespace, "name", name)
  corpus = corpus or stage.corpus
  job = planning.plan_scoring(namespace, launcher, scorer, folder, corpus=corpus, spare=spare, stage=stage)
  _hold_devices(namespace, launcher, job)
  return job


def plan_embedding(
  namespace: argparse.Namespace,
  launcher: launch.Launcher,
  name_flag: str = "name",
  *,
  spare: bool = False,
  corpus: Corpus | None = None,
) -> ScoringJob:
  """The job of a store of embeddings, under the name that `name_flag` gives. `corpus`: identified already."""
  if (namespace.model is None) == (namespace.embeddings is None):
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  name = getattr(namespace, name_flag) or f"embeddings_{_embedder_name(namespace)}"
  folder = _store_folder(namespace, name_flag, name)
  corpus = corpus or planning.identified_corpus(namespace, launcher)
  if name_flag != "name":
    names = _OF_EMBEDDINGS[:1] if namespace.embeddings is not None else _OF_EMBEDDINGS

    def asked(wanted: argparse.Namespace) -> dict[str, Any]:
      return planning.store_request(_embedder(wanted, corpus)[0].checked(), corpus, Stage())

    _adopt(namespace, folder, names, asked)
  scorer, source = _embedder(namespace, corpus)
  job = planning.plan_scoring(namespace, launcher, scorer, folder, corpus=corpus, source=source, spare=spare)
  if namespace.model is not None:
    _hold_devices(namespace, launcher, job)
  return job


def _embedder(namespace: argparse.Namespace, corpus: Corpus) -> tuple[SentenceT5 | MadeElsewhere, stored_blocks.Source]:
  """What embeds a corpus as the flags say, and what it reads."""
  if namespace.embeddings is not None:
    for name in ("vocabulary", "max_input_tokens", "batch_tokens", "dtype", "devices_per_model", "accelerator"):
      if getattr(namespace, name) not in (None, 1):
        raise WinnowError(f"--{name} is for a --model, and --embeddings were made already; leave it out")
    if folders.is_store(inputs.absolute(namespace.embeddings)):
      raise WinnowError(
        f"--embeddings={namespace.embeddings} is a store; repeat the --model= or the --embeddings= that it was made "
        f"with, and name it by --embedding_name={storage.base_name(namespace.embeddings)}"
      )
    files = embedding_files.find(namespace.embeddings, list(corpus.shards))
    return MadeElsewhere(files, namespace.embedding_dtype), sources.TextsWithEmbeddings(corpus.texts, files)
  _check_devices(namespace)
  return sentence_t5(namespace), corpus.texts


def _plan_density(namespace: argparse.Namespace, launcher: launch.Launcher, stage: Stage, *, spare: bool) -> ScoringJob:
  name = namespace.name or stage.named(f"density_{_embedder_name(namespace)}")
  folder = _store_folder(namespace, "name", name)
  embedding = plan_embedding(namespace, launcher, "embedding_name", spare=True, corpus=stage.corpus)
  if embedding.folder == folder:
    raise WinnowError(f"--name={name} and --embedding_name are the same; give each store a name of its own")
  embeddings = stored_blocks.StoredEmbeddings(
    embedding.config.store, namespace.embedding_dtype, survivors=stage.survivors
  )
  scorer = Density(
    sketch_path=storage.join(folder, score_store.SKETCH_FOLDER, sketching.SKETCH_FILE),
    embeddings=embeddings,
    kernel=namespace.kernel,
    bandwidth=namespace.bandwidth,
    hashes=namespace.hashes,
    rows=namespace.sketch_rows,
    counters=namespace.sketch_counters,
    seed=namespace.sketch_seed,
    correct_collisions=namespace.correct_collisions,
  )
  plan = functools.partial(planning.plan_scoring, namespace, launcher, spare=spare, stage=stage)
  job = plan(scorer, folder, corpus=embedding.corpus, source=embeddings, before=(embedding,))
  return dataclasses.replace(job, sketch=sketching.SketchConfig(scorer, job.config.store))


def plan_clusters(namespace: argparse.Namespace, launcher: launch.Launcher) -> ScoringJob:
  """The job of a store of clusters, of the complete store of embeddings that --embeddings names."""
  folder = inputs.absolute(namespace.embeddings)
  store = ScoreStore.at(folder)
  if store is None or store.scorer != kinds.EMBED:
    there = [name for name, store in find_stores.find_stores(folder).stores.items() if store.scorer == kinds.EMBED]
    such = [storage.join(namespace.embeddings, name) for name in there] or ["SCORES/embeddings_MODEL"]
    raise WinnowError(
      f"--embeddings={namespace.embeddings} is no store of embeddings; name the folder that winnow embed made, such as "
      f"{' or '.join(such)}"
    )
  if not store.is_complete:
    raise WinnowError(f"the store of embeddings {folder} is not complete; run its winnow embed command again")
  request = fingerprints.read_json(store.request_path)
  corpus = Corpus(store.shards(), blocks.Fields(**request["fields"]), request["block_rows"])
  embeddings = stored_blocks.StoredEmbeddings(store, request["embedding_dtype"])
  return _plan_clustering(namespace, launcher, corpus, embeddings, Stage())


def _plan_clustering(
  namespace: argparse.Namespace,
  launcher: launch.Launcher,
  corpus: Corpus,
  embeddings: stored_blocks.StoredEmbeddings,
  stage: Stage,
  *,
  spare: bool = False,
  before: tuple[ScoringJob, ...] = (),
) -> ScoringJob:
  """The job of a store of clusters, in --clusters or beside the embeddings."""
  of = embeddings.store.folder
  name = stage.named(f"clusters_{storage.base_name(of).removeprefix('embeddings_')}")
  folder = storage.join(of.rpartition("/")[0], name)
  if namespace.clusters is not None:
    planning.refuse_file(namespace, "clusters")
    folder = inputs.absolute(namespace.clusters).rstrip("/")
  if folder == of:
    raise WinnowError(f"--clusters={namespace.clusters} is the store of the embeddings; give each a folder of its own")
  path = storage.join(folder, score_store.CENTROIDS_FOLDER, clustering.CENTROIDS_FILE)
  if before:  # else they are what the command is to make

    def asked(wanted: argparse.Namespace) -> dict[str, Any]:
      return planning.store_request(Cluster(path, embeddings, _k_means(wanted)), corpus, stage)

    _adopt(namespace, folder, _OF_CLUSTERS, asked)
  scorer = Cluster(path, embeddings, _k_means(namespace))
  plan = functools.partial(planning.plan_scoring, namespace, launcher, spare=spare, stage=stage)
  job = plan(scorer, folder, corpus=corpus, source=embeddings, before=before)
  centroids = clustering.ClusteringConfig(scorer, job.config.store)
  return dataclasses.replace(job, centroids=centroids)


def _k_means(namespace: argparse.Namespace) -> kmeans.KMeansConfig:
  return kmeans.KMeansConfig(
    clusters=namespace.num_clusters,
    points_per_cluster=namespace.kmeans_sample,
    iterations=namespace.kmeans_iterations,
    lloyd_iterations=namespace.lloyd_iterations,
    seed=namespace.kmeans_seed,
  )


def _plan_by_clusters(
  namespace: argparse.Namespace, launcher: launch.Launcher, stage: Stage, *, spare: bool
) -> ScoringJob:
  name = namespace.name or stage.named(f"{namespace.scorer}_{_embedder_name(namespace)}")
  folder = _store_folder(namespace, "name", name)
  embedding = plan_embedding(namespace, launcher, "embedding_name", spare=True, corpus=stage.corpus)
  embeddings = stored_blocks.StoredEmbeddings(
    embedding.config.store, namespace.embedding_dtype, survivors=stage.survivors
  )
  clusters = _plan_clustering(namespace, launcher, embedding.corpus, embeddings, stage, spare=True, before=(embedding,))
  if folder in (embedding.folder, clusters.folder):
    raise WinnowError(f"--name={storage.base_name(folder)} is of another store too; give each store a name of its own")
  stored = stored_blocks.StoredBlocks(clusters.config.store)
  scorer: Prototypes | SemDeDup = Prototypes(stored)
  if namespace.scorer == scorer_names.SEMDEDUP:
    assert clusters.centroids is not None
    scorer = SemDeDup(
      stored,
      embeddings,
      keep=namespace.keep,
      config=clusters.centroids.scorer.config,
      max_cluster_pairs=namespace.max_cluster_pairs,
      split_path=storage.join(folder, score_store.SPLIT_FILE),
    )
  plan = functools.partial(planning.plan_scoring, namespace, launcher, spare=spare, stage=stage)
  job = plan(scorer, folder, corpus=embedding.corpus, source=stored, before=(clusters,))
  if not isinstance(scorer, SemDeDup):
    return job
  compared = layout.ComparingConfig(scorer, job.config.store)
  source = comparing.ComparedBlocks(stored.store, compared)
  return dataclasses.replace(job, compared=compared, config=dataclasses.replace(job.config, source=source))


def _plan_minhash(namespace: argparse.Namespace, launcher: launch.Launcher, stage: Stage, *, spare: bool) -> ScoringJob:
  config = minhash.MinHashConfig(namespace.similarity, namespace.minhash_bands, namespace.minhash_rows)
  folder = _store_folder(namespace, "name", namespace.name or stage.named(scorer_names.MINHASH))
  beside = _store_folder(namespace, "name", f"signatures_{config.hashes}")
  if folder == beside:
    raise WinnowError(f"--name={namespace.name} is of the store of signatures; give each store a name of its own")
  signing = planning.plan_scoring(
    namespace, launcher, Signatures(config.hashes), beside, corpus=stage.corpus, spare=True
  )
  stored = stored_blocks.StoredBlocks(signing.config.store, survivors=stage.survivors)
  scorer = MinHash(stored, config)
  plan = functools.partial(planning.plan_scoring, namespace, launcher, spare=spare, stage=stage)
  job = plan(scorer, folder, corpus=signing.corpus, source=stored, before=(signing,))
  joined = joining.JoiningConfig(scorer, job.config.store)
  source = joining.JoinedBlocks(stored.store, joined, survivors=stage.survivors)
  return dataclasses.replace(job, joined=joined, config=dataclasses.replace(job.config, source=source))


def _adopt(
  namespace: argparse.Namespace,
  folder: str,
  names: tuple[str, ...],
  asked: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
  """Takes flags that were not given from the request of the store in a folder, and says so.

  Only if that store is of the same model and the same input as the request that `asked` tells, so that nothing but a
  flag that was given can contradict it; and with --overwrite only if it stays as it is.
  """
  request = fingerprints.read_json_or_none(storage.join(folder, fingerprints.REQUEST_FILE))
  wanted = argparse.Namespace(**vars(namespace))
  if not isinstance(request, dict) or not (adopted := parsing.adopt(wanted, request, names)):
    return
  with contextlib.suppress(WinnowError):  # values that another model or input would refuse
    then = asked(wanted)
    names = () if namespace.overwrite else names
    if fingerprints.fingerprint(_without(then, names)) == fingerprints.fingerprint(_without(request, names)):
      vars(namespace).update(vars(wanted))
      print(f"winnow: {folder} is there and is used as it was made, with {' '.join(adopted)}", file=sys.stderr)


def _without(request: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
  return {name: value for name, value in request.items() if name not in names}


def _embedder_name(namespace: argparse.Namespace) -> str:
  """A model's name, or of files that were made elsewhere the folder's."""
  if namespace.model is not None:
    return model_files.model_name(namespace.model)
  if namespace.embeddings is None:
    return ""  # which is refused in a moment
  return model_files.model_name(inputs.absolute(namespace.embeddings).rpartition("/")[0])


def _store_folder(namespace: argparse.Namespace, flag: str, name: str) -> str:
  planning.refuse_file(namespace, "scores")
  scores = inputs.absolute(namespace.scores)
  if folders.is_store(scores):
    raise WinnowError(f"--scores={namespace.scores} {folders.instead_of_stores(scores)}")
  if not _NAME.fullmatch(name):
    raise WinnowError(f"--{flag}={name} may hold letters, digits and underscores only")
  return storage.join(scores, name)


def _check_devices(namespace: argparse.Namespace) -> None:
  if namespace.devices_per_model < 1:
    raise WinnowError(f"--devices_per_model={namespace.devices_per_model} is below 1")


def _hold_devices(namespace: argparse.Namespace, launcher: launch.Launcher, job: ScoringJob) -> None:
  """Tries the devices that a job's model needs, if it still has work to do."""
  if not job.is_complete or job.starts_over:
    launcher.hold_one_model(namespace.devices_per_model)
