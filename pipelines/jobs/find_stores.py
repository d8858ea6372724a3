"""The search for stores: those in a folder, the one that a command names, and the corpus that it was made from."""

import argparse
import dataclasses
from typing import Any, NamedTuple

from curation.errors import WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.output import folders, writing
from pipelines.runners.workers import Workers
from pipelines.scorers import registry
from pipelines.store import documents, kinds, score_store
from pipelines.store.score_store import ScoreStore


class Found(NamedTuple):
  """The stores of a folder by name, complete or not, and the reasons why others cannot be read."""

  stores: dict[str, ScoreStore]
  unreadable: dict[str, str]


def find_stores(scores: str) -> Found:
  """Finds the stores in a folder."""
  listing = Found({}, {})
  for name in folders.stores_below(scores):
    try:
      store = ScoreStore.at(storage.join(inputs.absolute(scores), name))
    except (score_store.OtherFormatError, storage.AccessError, PermissionError) as error:
      listing.unreadable[name] = str(error)
    else:
      if store is not None:
        listing.stores[name] = store
  return listing


def stores_in(scores: str) -> Found:
  """Finds the stores in --scores. If there are none, raises WinnowError, which says which folder to name."""
  listing = find_stores(scores)
  if not (listing.stores or listing.unreadable):
    raise WinnowError(f"--scores={scores} {folders.instead_of_stores(inputs.absolute(scores))}")
  return listing


def find_store(namespace: argparse.Namespace) -> ScoreStore:
  """Returns the complete store that --scores, --name and --sampler name."""
  stores, unreadable = stores_in(namespace.scores)
  if namespace.name in unreadable:
    raise WinnowError(unreadable[namespace.name])
  fitting = [
    name
    for name, store in stores.items()
    if name == namespace.name or (not namespace.name and _fits(namespace.sampler, store.scorer))
  ]
  present = ", ".join(sorted(stores)) or "none"
  present += "".join(f"; {reason}" for reason in unreadable.values())
  if not fitting:
    wanted = f"called {namespace.name}" if namespace.name else f"of scorer {namespace.sampler}"
    raise WinnowError(f"--scores={namespace.scores} has no store {wanted}; it has: {present}")
  if len(fitting) > 1:
    raise WinnowError(
      f"--scores={namespace.scores} has several stores ({', '.join(sorted(fitting))}); say which: --name="
    )
  (name,) = fitting
  store = stores[name]
  if not _fits(namespace.sampler, store.scorer):
    raise WinnowError(f"the store {name} holds scores of {store.scorer}, not of --sampler={namespace.sampler}")
  if not store.is_complete:
    raise WinnowError(
      f"the score store {store.folder} is not complete; run its winnow score command again to finish it"
    )
  return store


def refuse_other_sampler(sampler: str, scorer: str) -> None:
  """Raises WinnowError if a sampler would draw by the scores of another scorer."""
  if not _fits(sampler, scorer):
    raise WinnowError(f"--sampler={sampler} does not draw by the scores of --scorer={scorer}; leave it out")


def _fits(sampler: str, scorer: Any) -> bool:
  """Tells whether a sampler can draw by the scores of a scorer; random sampling takes any store of scores."""
  return scorer == sampler or (sampler == registry.RANDOM and not kinds.kind_of(scorer).keeps_blocks)


def corpus_of(store: ScoreStore, namespace: argparse.Namespace, workers: Workers) -> Corpus:
  """Returns the corpus that a store was made from, or the same corpus in the place that --input names."""
  request = fingerprints.read_json(store.request_path)
  shards = documents.find_input(store, namespace.input, namespace.tfds_data_dir)
  if (max_zstd_window := getattr(namespace, "max_zstd_window", None)) is not None:
    shards = inputs.limit_windows(shards, max_zstd_window)
  workers.refuse_local({"--input": shards[0].path})
  shards = documents.identify(store, shards)
  corpus = Corpus(tuple(shards), blocks.Fields(**request["fields"]), request["block_rows"])
  corpus_request = corpus.request()
  documents.refuse_other_input(store, {key: request[key] for key in corpus_request}, corpus_request)
  return corpus


def store_of(output: str, manifest: dict[str, Any], scores: str | None) -> ScoreStore:
  """Returns the store that an output was drawn from: in the place that its files name, or below `scores`."""
  wanted = manifest["scores"]["fingerprint"]
  if scores is None:
    place = fingerprints.field(storage.join(output, writing.WORK_FOLDER, writing.SCORES_FILE), "store") or ""
    at_place = ScoreStore.at(writing.scores_folder(str(place), output))
    candidates = [] if at_place is None else [at_place]
  else:
    candidates = list(stores_in(scores).stores.values())
  fitting = [store for store in candidates if store.is_complete and store.fingerprint_with_engine() == wanted]
  if not fitting:
    where = f"in --scores={scores}" if scores is not None else "where it was"
    raise WinnowError(
      f"the store that {output} was drawn from is not {where}, or not complete; name its folder: --scores="
    )
  return dataclasses.replace(fitting[0], removes_damaged=False)
