"""Texts of a report: those of example documents, counts of near-copies, and bad documents.

Texts of chosen rows are read from at most 16 files of the input. Near-copies are counted in the first records of an
output, which are a random part of it.
"""

import argparse
import contextlib
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import orjson

from curation.coverage import minhash
from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.output.formats.registry import FORMATS
from pipelines.reports.material import Output, Sources
from pipelines.runners.workers import Workers
from pipelines.store import documents
from pipelines.store.score_store import ScoreStore

_MOST_CHARACTERS = 4_000
_BAD_CHARACTERS = 400
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
    matches = documents.find_input(store, namespace.input, namespace.tfds_data_dir)
    workers.refuse_local({"input": matches[0].path})
    tables = documents.read_rows(store, matches, {name: np.array(some) for name, some in rows.items()})
  except (WinnowError, OSError) as error:
    if namespace.input is not None:
      raise
    return {}, str(error)
  found = {}
  for name, table in tables.items():
    for row, text, url, _ in zip(*table.to_pydict().values(), strict=True):
      found[name, row] = Document(cut(text), url)
  return found, ""


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
  found: list[Bad] = []
  summary = store.summary()
  has_bad = {shard["shard"] for shard in summary["shards"] if shard["bad"]}
  for shard in store.shards():
    if shard.name in has_bad and len(found) < _BAD_SHOWN:
      path = store.dead_letter_path(shard)
      try:
        with storage.open_input(path) as file:
          while len(found) < _BAD_SHOWN and (line := file.readline(_LINE_BYTES)):
            found.append(_bad(orjson.loads(line)))
      except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
          raise
        raise WinnowError(f"{path} is missing or damaged ({error}); run winnow score again") from error
  return found


def _bad(entry: dict[str, Any]) -> Bad:
  return Bad(f"{entry['shard']}#{entry['row']}", str(entry["reason"]), cut(str(entry["text"]), _BAD_CHARACTERS))
