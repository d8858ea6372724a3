"""The plan of a student from flags. Everything that can be checked is checked here, before anything is written."""

import argparse
from typing import Any

from curation.coverage import minhash
from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import fingerprints, object_stores, storage
from pipelines.jobs import find_stores
from pipelines.output import folders
from pipelines.runners.workers import Workers
from pipelines.scorers.student import artifacts
from pipelines.scorers.student.gathering import DistillConfig
from pipelines.scoring.stored_blocks import StoredBlocks, StoredEmbeddings, embedder_digest
from pipelines.store import kinds, score_store
from pipelines.store.score_store import ScoreStore

_MOST_DOCUMENTS = 20_000_000


def plan(namespace: argparse.Namespace, workers: Workers) -> DistillConfig:
  """Returns the student that flags name. Raises WinnowError for what cannot work."""
  folder = _folder(namespace)
  if not 1 <= namespace.max_documents <= _MOST_DOCUMENTS:
    raise WinnowError(f"--max_documents={namespace.max_documents} is not from 1 to {_MOST_DOCUMENTS:,}")
  stores = find_stores.stores_in(namespace.scores)
  teacher = _teacher(namespace, stores)
  embeddings = _embeddings(namespace, stores, teacher)
  signatures, near_copies = _signatures(stores, teacher)
  request = _request_of(embeddings)
  embedder = embedder_digest(request)
  wanted: dict[str, Any] = {
    "format": artifacts.FORMAT,
    "teacher": {"scorer": teacher.scorer, "scores": teacher.fingerprint_with_engine()},
    "embeddings": embeddings.fingerprint_with_engine(),
    "embedder": embedder,
    "signatures": None if signatures is None else signatures.fingerprint_with_engine(),
    "similarity": None if signatures is None else near_copies.similarity,
    "seed": namespace.seed,
    "max_documents": namespace.max_documents,
  }
  config = DistillConfig(
    folder,
    wanted,
    teacher,
    StoredEmbeddings(embeddings, request["embedding_dtype"], embedder),
    None if signatures is None else StoredBlocks(signatures),
    near_copies,
    {**_made_with(embeddings), "embedding_name": storage.base_name(embeddings.folder)},
    namespace.seed,
    namespace.max_documents,
  )
  if not namespace.overwrite:
    owner = f"the student {folder}"
    fingerprints.refuse_other(config.path(fingerprints.REQUEST_FILE), wanted, owner=owner)
  storage.refuse_unwritable(folder)
  workers.refuse_local({"--student": folder, "--scores": teacher.folder})
  return config


def _folder(namespace: argparse.Namespace) -> str:
  if namespace.student.startswith(object_stores.HUB):
    raise WinnowError(f"--student={namespace.student}: hf:// can be read only; give a folder, or a gs:// one")
  folder = inputs.absolute(namespace.student).rstrip("/")
  if folders.is_store(folder):
    raise WinnowError(f"--student={namespace.student} is a store; give the student a folder of its own")
  return folder


def _teacher(namespace: argparse.Namespace, found: find_stores.Found) -> ScoreStore:
  store = _named("teacher", namespace.teacher, found)
  if store.kind.shard_fields != (kinds.SCORE_FIELD,) or store.scorer == kinds.COUNT:
    raise WinnowError(f"--teacher={namespace.teacher} holds {store.kind.contents}; name a store of scores")
  return store


def _named(flag: str, name: str, found: find_stores.Found) -> ScoreStore:
  """Returns the complete store of a name."""
  if name in found.unreadable:
    raise WinnowError(found.unreadable[name])
  if name not in found.stores:
    raise WinnowError(
      f"--{flag}={name} is no store of --scores, which has: {', '.join(sorted(found.stores)) or 'none'}"
    )
  store = found.stores[name]
  if not store.is_complete:
    raise WinnowError(f"the store {store.folder} is not complete; run its command again to finish it")
  return store


def _embeddings(namespace: argparse.Namespace, found: find_stores.Found, teacher: ScoreStore) -> ScoreStore:
  """Returns the embeddings of the teacher's corpus that a flag names, or the only ones. Raises WinnowError."""
  if (name := namespace.embedding_name) is None:
    fitting = _of_corpus(found, kinds.EMBED, teacher)
    if len(fitting) != 1:
      them = f"several ({', '.join(fitting)})" if fitting else "no complete ones"
      raise WinnowError(
        f"of embeddings of the corpus of --teacher={namespace.teacher}, --scores={namespace.scores} has {them}: "
        + ("say which: --embedding_name=" if fitting else "make them by winnow embed")
      )
    (name,) = fitting
  store = _named("embedding_name", name, found)
  if store.scorer != kinds.EMBED:
    raise WinnowError(f"--embedding_name={name} holds {store.kind.contents}; name a store of embeddings")
  if difference := fingerprints.first_difference(_corpus_of(store), _corpus_of(teacher)):
    field, known, wanted = difference
    raise WinnowError(
      f"{store.folder} and {teacher.folder} are of different corpora: {field} is {known} there and {wanted} here; "
      "embed the corpus that the teacher has scored"
    )
  return store


def _signatures(found: find_stores.Found, teacher: ScoreStore) -> tuple[ScoreStore | None, minhash.MinHashConfig]:
  """Returns the MinHash signatures of the teacher's corpus, the longest, and when documents are near-copies by them.

  The similarity is that of the MinHash scores of this corpus, if there are any, or else the default.
  """
  config = minhash.MinHashConfig()
  for name in _of_corpus(found, "minhash", teacher):
    config = minhash.MinHashConfig(fingerprints.read_json(found.stores[name].request_path)["similarity"])
  stores = [found.stores[name] for name in _of_corpus(found, kinds.SIGN, teacher)]
  lengths = [fingerprints.read_json(store.request_path)["hashes"] for store in stores]
  fitting = [(length, store) for length, store in zip(lengths, stores, strict=True) if length >= config.hashes]
  return (max(fitting, key=lambda pair: pair[0])[1] if fitting else None), config


def _of_corpus(found: find_stores.Found, scorer: str, teacher: ScoreStore) -> list[str]:
  """Returns the names of the complete stores of a scorer that are of the teacher's corpus, sorted."""
  corpus = _corpus_of(teacher)
  return sorted(
    name
    for name, store in found.stores.items()
    if store.scorer == scorer and _corpus_of(store) == corpus and store.is_complete
  )


def _corpus_of(store: ScoreStore) -> dict[str, Any]:
  """Returns what a request says of the corpus, but for the borders of blocks, to which rows are indifferent."""
  request = _request_of(store)
  return {name: request.get(name) for name in ("inputs", "fields")}


def _request_of(store: ScoreStore) -> dict[str, Any]:
  return fingerprints.read_json(store.request_path)


def _made_with(store: ScoreStore) -> dict[str, str]:
  made_with = fingerprints.field(storage.join(store.folder, score_store.INPUT_FILE), score_store.MADE_WITH)
  return made_with if isinstance(made_with, dict) else {}
