"""Which stores there are, which one a command means, and the corpus that it was made from."""

import argparse
import dataclasses
from typing import Any, NamedTuple

from curation.errors import WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.output import folders, writing
from pipelines.runners import launch
from pipelines.scorers import registry
from pipelines.store import kinds, score_store
from pipelines.store.score_store import ScoreStore


class Found(NamedTuple):
  """The stores of a folder by their names, complete or not; and why others cannot be read."""

  stores: dict[str, ScoreStore]
  unreadable: dict[str, str]


def find_stores(scores: str) -> Found:
  """Looks for stores in a folder of them."""
  found = Found({}, {})
  for name in folders.stores_below(scores):
    try:
      store = ScoreStore.at(storage.join(inputs.absolute(scores), name))
    except (score_store.OtherFormatError, storage.AccessError, PermissionError) as error:
      found.unreadable[name] = str(error)
    else:
      if store is not None:
        found.stores[name] = store
  return found


def stores_in(scores: str) -> Found:
  """The same for --scores, or WinnowError that says which folder to name where there are none."""
  found = find_stores(scores)
  if not (found.stores or found.unreadable):
    raise WinnowError(f"--scores={scores} {folders.instead_of_stores(inputs.absolute(scores))}")
  return found


def find_store(namespace: argparse.Namespace) -> ScoreStore:
  """The complete store that --scores, --name and --sampler name."""
  found, unreadable = stores_in(namespace.scores)
  if namespace.name in unreadable:
    raise WinnowError(unreadable[namespace.name])
  fitting = [
    name
    for name, store in found.items()
    if name == namespace.name or (not namespace.name and _fits(namespace.sampler, store.scorer))
  ]
  there = ", ".join(sorted(found)) or "none"
  there += "".join(f"; {told}" for told in unreadable.values())
  if not fitting:
    wanted = f"called {namespace.name}" if namespace.name else f"of scorer {namespace.sampler}"
    raise WinnowError(f"--scores={namespace.scores} has no store {wanted}; it has: {there}")
  if len(fitting) > 1:
    raise WinnowError(
      f"--scores={namespace.scores} has several stores ({', '.join(sorted(fitting))}); say which: --name="
    )
  (name,) = fitting
  store = found[name]
  if not _fits(namespace.sampler, store.scorer):
    raise WinnowError(f"the store {name} holds scores of {store.scorer}, not of --sampler={namespace.sampler}")
  if not store.is_complete:
    raise WinnowError(
      f"the score store {store.folder} is not complete; run its winnow score command again to finish it"
    )
  return store


def refuse_other_sampler(sampler: str, scorer: str) -> None:
  """Raises WinnowError where a sampler would draw by what another scorer's scores mean."""
  if not _fits(sampler, scorer):
    raise WinnowError(f"--sampler={sampler} does not draw by the scores of --scorer={scorer}; leave it out")


def _fits(sampler: str, scorer: Any) -> bool:
  """Random sampling takes the documents of any store of scores."""
  return scorer == sampler or (sampler == registry.RANDOM and not kinds.kind_of(scorer).keeps_blocks)


def corpus_of(store: ScoreStore, namespace: argparse.Namespace, launcher: launch.Launcher) -> Corpus:
  """The corpus that a store was made from, or the same one in another place where --input says so."""
  request = fingerprints.read_json(store.request_path)
  path = storage.join(store.folder, score_store.INPUT_FILE)
  pattern = namespace.input or fingerprints.field(path, "input")
  if not isinstance(pattern, str):
    raise WinnowError(f"{path} is missing or damaged: say where the input of {store.folder} lies: --input=")
  data_dir = namespace.tfds_data_dir or fingerprints.field(path, "tfds_data_dir")
  shards = inputs.find_shards(pattern, data_dir if isinstance(data_dir, str) else None)
  if (max_zstd_window := getattr(namespace, "max_zstd_window", None)) is not None:
    shards = inputs.limit_windows(shards, max_zstd_window)
  launcher.refuse_local({"--input": shards[0].path})
  corpus = Corpus(tuple(shards), blocks.Fields(**request["fields"]), request["block_rows"]).identified()
  known = {shard.name: shard.checksum for shard in store.shards()}
  corpus = dataclasses.replace(corpus, shards=tuple(_as_scored(shard, known) for shard in corpus.shards))
  found = corpus.request()
  if difference := fingerprints.first_difference({key: request[key] for key in found}, found):
    field, scored, now = difference
    raise WinnowError(f"the input is not what {store.folder} scored: {field} was {scored} and is {now}; score it again")
  return corpus


def _as_scored(shard: blocks.Shard, checksums: dict[str, str]) -> blocks.Shard:
  """The shard with the checksum that it was scored under, where it lies on a store that knows files by other marks.

  That its texts are those that were scored, the checksums of its blocks tell.
  """
  known = checksums.get(shard.name, shard.checksum)
  is_other_kind = known.partition(":")[0] != shard.checksum.partition(":")[0]
  return dataclasses.replace(shard, checksum=known) if is_other_kind else shard


def store_of(output: str, manifest: dict[str, Any], scores: str | None) -> ScoreStore:
  """The store that an output was drawn from: where its files say, or below `scores`."""
  wanted = manifest["scores"]["fingerprint"]
  if scores is None:
    place = fingerprints.field(storage.join(output, writing.WORK_FOLDER, writing.SCORES_FILE), "store") or ""
    at_place = ScoreStore.at(writing.scores_folder(str(place), output))
    found = [] if at_place is None else [at_place]
  else:
    found = list(stores_in(scores).stores.values())
  fitting = [store for store in found if store.is_complete and store.fingerprint_with_engine() == wanted]
  if not fitting:
    where = f"in --scores={scores}" if scores is not None else "where it was"
    raise WinnowError(
      f"the store that {output} was drawn from is not {where}, or not complete; name its folder: --scores="
    )
  return dataclasses.replace(fitting[0], removes_damaged=False)
