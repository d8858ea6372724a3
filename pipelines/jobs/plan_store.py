"""The plans of stores: the one that the flags of a scoring command name, and those that it is made from."""

import argparse
import contextlib
import functools
import re
import sys
from collections.abc import Callable
from typing import Any

from curation.coverage import kmeans
from curation.errors import WinnowError
from pipelines.corpus import blocks, embedding_files, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing
from pipelines.jobs import find_stores, planning
from pipelines.jobs.planning import Stage
from pipelines.jobs.store_job import ScoringJob
from pipelines.output import folders
from pipelines.registry.flag import require
from pipelines.runners.workers import Workers
from pipelines.scorers.clusters import clustering
from pipelines.scorers.clusters.preparation import CentroidsPreparation
from pipelines.scorers.clusters.scorer import Cluster
from pipelines.scorers.count import Count
from pipelines.scorers.entry import EMBEDDINGS, TEXTS, Entry, Stored
from pipelines.scorers.made_elsewhere import MadeElsewhere
from pipelines.scorers.registry import RANDOM, SCORERS
from pipelines.scorers.t5 import model_files, sentence_t5
from pipelines.scorers.t5.sentence_t5 import SentenceT5
from pipelines.scoring.stored_blocks import StoredBlocks, StoredEmbeddings, embedder_digest
from pipelines.store import kinds
from pipelines.store.score_store import ScoreStore

# Flags of a store of embeddings or of clusters for which another command has only its defaults.
_EMBEDDING_FLAGS = ("embedding_dtype", "max_input_tokens", "batch_tokens", "dtype", "devices_per_model")
_CLUSTER_FLAGS = ("num_clusters", "kmeans_sample", "kmeans_iterations", "lloyd_iterations", "kmeans_seed")
_NAME = re.compile(r"\w+", re.ASCII)


def plan_counting(
  namespace: argparse.Namespace, workers: Workers, *, spare: bool = False, stage: Stage | None = None
) -> ScoringJob:
  """Plans the job of a store that only lists the documents, for random sampling."""
  stage = stage or Stage()
  folder = _store_folder(namespace, "name", namespace.name or stage.named(RANDOM))
  return planning.plan_scoring(namespace, workers, Count(), folder, corpus=stage.corpus, spare=spare, stage=stage)


def plan_named_scoring(
  namespace: argparse.Namespace,
  workers: Workers,
  *,
  spare: bool = False,
  corpus: Corpus | None = None,
  stage: Stage | None = None,
) -> ScoringJob:
  """Plans the job of a scoring command, in the store that its flags name, after the jobs of the stores that it reads.

  `corpus`: an identified corpus, for a scorer that reads texts.
  """
  stage, entry = stage or Stage(), SCORERS[namespace.scorer]
  if entry.settle is not None:
    entry.settle(namespace)
  preparation = entry.preparation and entry.preparation()
  plan = functools.partial(planning.plan_scoring, namespace, workers, spare=spare, stage=stage, preparation=preparation)
  if entry.has_model:
    require(namespace, "model")
  folder = _store_folder(namespace, "name", namespace.name or stage.named(default_name(namespace, entry)))
  if entry.reads == TEXTS and entry.upstream is None:
    scorer = entry.describe(namespace, Stored(folder))
    return plan(scorer, folder, corpus=corpus or stage.corpus)
  jobs, stored = _plan_stored(namespace, workers, entry, Stored(folder), stage)
  if folder in (job.folder for job in jobs):
    raise WinnowError(
      f"--name={storage.base_name(folder)} is the name of another store too; give each store a name of its own"
    )
  return plan(entry.describe(namespace, stored), folder, corpus=jobs[0].corpus, before=(jobs[-1],))


def default_name(namespace: argparse.Namespace, entry: Entry) -> str:
  """Returns the name of a store: that of its scorer, and that of its model or embeddings, if it has any."""
  if entry.default_name is not None:
    return entry.default_name(namespace)
  if entry.has_model:
    return f"{entry.name}_{model_files.model_name(namespace.model)}"
  return entry.name if entry.reads == TEXTS else f"{entry.name}_{_embedder_name(namespace)}"


def _plan_stored(
  namespace: argparse.Namespace, workers: Workers, entry: Entry, stored: Stored, stage: Stage
) -> tuple[list[ScoringJob], Stored]:
  """Plans the stores that a scorer reads: returns their jobs, each after those that it reads, and their blocks."""
  if entry.upstream is not None:
    name, description = entry.upstream(namespace)
    folder = _store_folder(namespace, "name", name)
    job = planning.plan_scoring(namespace, workers, description, folder, corpus=stage.corpus, spare=True)
    return [job], stored._replace(upstream=StoredBlocks(job.config.store, survivors=stage.survivors))
  embedding = plan_embedding(namespace, workers, "embedding_name", spare=True, corpus=stage.corpus)
  embedder = embedder_digest(embedding.config.scorer.request())
  store, dtype = embedding.config.store, namespace.embedding_dtype
  embeddings = StoredEmbeddings(store, dtype, embedder, survivors=stage.survivors)
  stored = stored._replace(embeddings=embeddings)
  if entry.reads == EMBEDDINGS:
    return [embedding], stored
  clusters = _plan_clustering(namespace, workers, embedding.corpus, embeddings, stage, spare=True, before=(embedding,))
  clustered, description = StoredBlocks(clusters.config.store), clusters.config.scorer  # of the survivors already
  assert isinstance(description, Cluster)
  return [embedding, clusters], stored._replace(clusters=clustered, clustering=description)


def plan_embedding(
  namespace: argparse.Namespace,
  workers: Workers,
  name_flag: str = "name",
  *,
  spare: bool = False,
  corpus: Corpus | None = None,
) -> ScoringJob:
  """Plans the job of a store of embeddings, under the name that `name_flag` gives. `corpus`: an identified corpus."""
  if (namespace.model is None) == (namespace.embeddings is None):
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  name = getattr(namespace, name_flag) or f"embeddings_{_embedder_name(namespace)}"
  folder = _store_folder(namespace, name_flag, name)
  corpus = corpus or planning.identified_corpus(namespace, workers)
  if name_flag != "name":
    names = _EMBEDDING_FLAGS[:1] if namespace.embeddings is not None else _EMBEDDING_FLAGS

    def make_request(wanted: argparse.Namespace) -> dict[str, Any]:
      return planning.store_request(_embedder(wanted, corpus).checked(), corpus, Stage())

    _adopt(namespace, folder, names, make_request)
  scorer = _embedder(namespace, corpus)
  return planning.plan_scoring(namespace, workers, scorer, folder, corpus=corpus, spare=spare)


def _embedder(namespace: argparse.Namespace, corpus: Corpus) -> SentenceT5 | MadeElsewhere:
  """Returns the scorer that embeds a corpus as the flags say."""
  if namespace.embeddings is not None:
    for name in ("vocabulary", "max_input_tokens", "batch_tokens", "dtype", "devices_per_model", "accelerator"):
      if getattr(namespace, name) not in (None, 1):
        raise WinnowError(f"--{name} is for --model, and --embeddings are made already; leave it out")
    if folders.is_store(inputs.absolute(namespace.embeddings)):
      raise WinnowError(
        f"--embeddings={namespace.embeddings} is a store; repeat the --model= or the --embeddings= that it was made "
        f"with, and name it by --embedding_name={storage.base_name(namespace.embeddings)}"
      )
    files = embedding_files.find(namespace.embeddings, list(corpus.shards))
    return MadeElsewhere(files, namespace.embedding_dtype)
  return sentence_t5.describe(namespace)


def plan_clusters(namespace: argparse.Namespace, workers: Workers) -> ScoringJob:
  """Plans the job of a store of clusters, from the complete store of embeddings that --embeddings names."""
  folder = inputs.absolute(namespace.embeddings)
  store = ScoreStore.at(folder)
  if store is None or store.scorer != kinds.EMBED:
    names = [name for name, store in find_stores.find_stores(folder).stores.items() if store.scorer == kinds.EMBED]
    examples = [storage.join(namespace.embeddings, name) for name in names] or ["SCORES/embeddings_MODEL"]
    raise WinnowError(
      f"--embeddings={namespace.embeddings} is no store of embeddings; name the folder that winnow embed made, such as "
      f"{' or '.join(examples)}"
    )
  if not store.is_complete:
    raise WinnowError(f"the store of embeddings {folder} is not complete; run its winnow embed command again")
  request = fingerprints.read_json(store.request_path)
  corpus = Corpus(store.shards(), blocks.Fields(**request["fields"]), request["block_rows"])
  embeddings = StoredEmbeddings(store, request["embedding_dtype"])
  return _plan_clustering(namespace, workers, corpus, embeddings, Stage())


def _plan_clustering(
  namespace: argparse.Namespace,
  workers: Workers,
  corpus: Corpus,
  embeddings: StoredEmbeddings,
  stage: Stage,
  *,
  spare: bool = False,
  before: tuple[ScoringJob, ...] = (),
) -> ScoringJob:
  """Plans the job of a store of clusters, in --clusters or beside the embeddings."""
  embeddings_folder = embeddings.store.folder
  name = stage.named(f"clusters_{storage.base_name(embeddings_folder).removeprefix('embeddings_')}")
  folder = storage.join(embeddings_folder.rpartition("/")[0], name)
  if namespace.clusters is not None:
    planning.refuse_file(namespace, "clusters")
    folder = inputs.absolute(namespace.clusters).rstrip("/")
  if folder == embeddings_folder:
    raise WinnowError(f"--clusters={namespace.clusters} is the store of the embeddings; give each a folder of its own")
  path = storage.join(folder, clustering.FOLDER, clustering.CENTROIDS_FILE)
  if before:  # otherwise the command's own flags say how the clusters are made

    def make_request(wanted: argparse.Namespace) -> dict[str, Any]:
      return planning.store_request(Cluster(path, embeddings, _k_means(wanted)), corpus, stage)

    _adopt(namespace, folder, _CLUSTER_FLAGS, make_request)
  scorer = Cluster(path, embeddings, _k_means(namespace))
  plan = functools.partial(planning.plan_scoring, namespace, workers, spare=spare, stage=stage)
  return plan(scorer, folder, corpus=corpus, preparation=CentroidsPreparation, before=before)


def _k_means(namespace: argparse.Namespace) -> kmeans.KMeansConfig:
  return kmeans.KMeansConfig(
    clusters=namespace.num_clusters,
    points_per_cluster=namespace.kmeans_sample,
    iterations=namespace.kmeans_iterations,
    lloyd_iterations=namespace.lloyd_iterations,
    seed=namespace.kmeans_seed,
  )


def _adopt(
  namespace: argparse.Namespace,
  folder: str,
  names: tuple[str, ...],
  make_request: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
  """Takes flags that were not given from the request of the store in a folder, and says so.

  The store must have the same model and input as the request that `make_request` returns, so that only a flag that was
  given can contradict it. With --overwrite, flags are taken only if the store stays as it is.
  """
  request = fingerprints.read_json_or_none(storage.join(folder, fingerprints.REQUEST_FILE))
  wanted = argparse.Namespace(**vars(namespace))
  if not isinstance(request, dict) or not (adopted := parsing.adopt(wanted, request, names)):
    return
  with contextlib.suppress(WinnowError):  # values that another model or input would refuse
    new_request = make_request(wanted)
    names = () if namespace.overwrite else names
    if fingerprints.fingerprint(_without(new_request, names)) == fingerprints.fingerprint(_without(request, names)):
      vars(namespace).update(vars(wanted))
      print(f"winnow: {folder} exists and is used as it was made, with {' '.join(adopted)}", file=sys.stderr)


def _without(request: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
  return {name: value for name, value in request.items() if name not in names}


def _embedder_name(namespace: argparse.Namespace) -> str:
  """Returns the name of the model, or of the folder of embeddings that were made elsewhere."""
  if namespace.model is not None:
    return model_files.model_name(namespace.model)
  if namespace.embeddings is None:
    return ""  # refused in a moment
  return model_files.model_name(inputs.absolute(namespace.embeddings).rpartition("/")[0])


def _store_folder(namespace: argparse.Namespace, flag: str, name: str) -> str:
  planning.refuse_file(namespace, "scores")
  scores = inputs.absolute(namespace.scores)
  if folders.is_store(scores):
    raise WinnowError(f"--scores={namespace.scores} {folders.instead_of_stores(scores)}")
  if not _NAME.fullmatch(name):
    raise WinnowError(f"--{flag}={name} may hold letters, digits and underscores only")
  return storage.join(scores, name)
