"""Texts of a report: those of example documents, counts of near-copies, and bad documents.

Texts of chosen rows are read from at most 16 files of the input. Near-copies are counted in the first records of an
output, which are a random part of it.
"""

import argparse
import concurrent.futures
import contextlib
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import orjson

from curation.coverage import minhash
from curation.errors import WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, storage
from pipelines.output.formats.registry import FORMATS
from pipelines.reports.material import Output, Sources
from pipelines.runners.workers import Workers
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore

_MOST_CHARACTERS = 4_000
_BAD_CHARACTERS = 400
_READERS = 2
_COPIES_AMONG = 2_000
_COPIES_BYTES = 64 << 20
_BAD_SHOWN = 5
_LINE_BYTES = 64 << 10


class Document(NamedTuple):
  """The beginning of a document's text, and its url; None if they could not be read."""

  text: str | None
  url: str | None


class Copies(NamedTuple):
  """Counts of copies among some documents of an output: exact copies of earlier ones, and near-copies."""

  documents: int
  exact: int
  near: int


class Bad(NamedTuple):
  """A bad document of a store."""

  source: str
  reason: str
  text: str


def read_texts(
  sources: Sources, namespace: argparse.Namespace, workers: Workers, wanted: set[tuple[str, int]]
) -> tuple[dict[tuple[str, int], Document], str]:
  """Reads the beginnings of the texts of documents (shard, row); also returns the reason if they cannot be read.

  Raises WinnowError if --input is given but is not what was scored.
  """
  store = next(iter(sources.scorers.values()))
  rows: dict[str, list[int]] = {}
  for name, row in sorted(wanted):
    rows.setdefault(name, []).append(row)
  try:
    shards = _find_input(store, namespace, workers, set(rows))
    request = fingerprints.read_json(store.request_path)
    fields = blocks.Fields(**request["fields"])
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      found = pool.map(lambda shard: _documents(store, shard, fields, request["block_rows"], rows[shard.name]), shards)
      return dict(document for documents in found for document in documents), ""
  except (WinnowError, OSError) as error:
    if namespace.input is not None:
      raise
    return {}, str(error)


def _find_input(
  store: ScoreStore, namespace: argparse.Namespace, workers: Workers, names: set[str]
) -> list[blocks.Shard]:
  """Finds the named files that a store scored, and compares only these with their checksums, which may read them."""
  path = storage.join(store.folder, score_store.INPUT_FILE)
  pattern = namespace.input or fingerprints.field(path, "input")
  folder = namespace.tfds_data_dir or fingerprints.field(path, "tfds_data_dir")
  if not isinstance(pattern, str) or not isinstance(folder, str | None):
    raise WinnowError(f"{path} does not say where the input is; restore it, or give --input=")
  matches = inputs.find_shards(pattern, folder)
  workers.refuse_local({"input": matches[0].path})
  shards = inputs.identify([shard for shard in matches if shard.name in names])
  scored = {shard.name: shard.identity() for shard in store.shards() if shard.name in names}
  if difference := fingerprints.first_difference(scored, {shard.name: shard.identity() for shard in shards}):
    field, known, actual = difference
    raise WinnowError(
      f"the input is not what {store.folder} scored: {field} was {known} and is {actual}; score it again"
    )
  return shards


def _documents(
  store: ScoreStore, shard: blocks.Shard, fields: blocks.Fields, block_rows: int, rows: list[int]
) -> list[tuple[tuple[str, int], Document]]:
  ends = np.cumsum(score_files.read_summary(store, shard).block_rows)
  wanted = set(np.searchsorted(ends, rows, side="right").tolist())
  documents = []
  for block in reading.read_blocks(shard, fields, block_rows=block_rows, want=wanted.__contains__):
    if isinstance(block, blocks.Block):
      table = block.documents
      for place in np.flatnonzero(np.isin(table["row"].to_numpy(), rows)).tolist():
        document = Document(cut(table["text"][place].as_py()), table["url"][place].as_py() or "")
        documents.append(((shard.name, table["row"][place].as_py()), document))
      if block.index == max(wanted):
        break
  return documents


def cut(text: str, most: int = _MOST_CHARACTERS) -> str:
  """Returns the beginning of a text, of at most so many characters."""
  return text if len(text) <= most else text[:most] + "…"


def count_copies(output: Output) -> Copies:
  """Counts copies among the first 2,000 documents of an output, which are in a random order."""
  texts: list[str] = []
  with contextlib.closing(_kept_texts(output)) as kept:
    size = 0
    for text in kept:
      texts.append(text)
      size += len(text)
      if len(texts) == _COPIES_AMONG or size >= _COPIES_BYTES:
        break
  return Copies(len(texts), len(texts) - len(set(texts)), int(minhash.near_copies(texts).sum()))


def _kept_texts(output: Output) -> Generator[str, None, None]:
  for path in output.first_files():
    try:
      for table in FORMATS[output.manifest["output_format"]].read(path):
        yield from table["text"].to_pylist()
    except FileNotFoundError as error:
      raise WinnowError(f"{path} is missing: {output.folder} is incomplete; run winnow verify on it") from error


def bad_documents(store: ScoreStore) -> list[Bad]:
  """Reads the first documents of a store's dead letters."""
  documents: list[Bad] = []
  summary = store.summary()
  has_bad = {shard["shard"] for shard in summary["shards"] if shard["bad"]}
  for shard in store.shards():
    if shard.name in has_bad and len(documents) < _BAD_SHOWN:
      path = store.dead_letter_path(shard)
      try:
        with storage.open_input(path) as file:
          while len(documents) < _BAD_SHOWN and (line := file.readline(_LINE_BYTES)):
            documents.append(_bad(orjson.loads(line)))
      except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
          raise
        raise WinnowError(f"{path} is missing or damaged ({error}); run winnow score again") from error
  return documents


def _bad(entry: dict[str, Any]) -> Bad:
  return Bad(f"{entry['shard']}#{entry['row']}", str(entry["reason"]), cut(str(entry["text"]), _BAD_CHARACTERS))
