"""Example documents for a report: their choice and texts, counts of near-copies, and bad documents.

Texts of chosen rows are read from at most 16 files of the input. Near-copies are counted in the first records of an
output, which are a random part of it. Shape suffixes: N documents of the sample, S scorers, R raters.
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
from curation.selection import hashing, metrics
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, storage
from pipelines.output.formats.registry import FORMATS
from pipelines.reports.material import Output, Sources
from pipelines.reports.passes import Sample
from pipelines.runners import launch
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore

_GROUP_SIZE = 5
_MOST_FILES = 16
_SHOWN_CHARACTERS = 400
_READERS = 2
_COPIES_AMONG = 2_000
_COPIES_BYTES = 64 << 20
_BAD_SHOWN = 5
_LINE_BYTES = 64 << 10


class Group(NamedTuple):
  """A group of examples: its name, and the positions of its documents in the sample, in order."""

  name: str
  places: list[int]


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


def choose(sources: Sources, sample: Sample) -> list[Group]:
  """Chooses the groups of examples: random documents in and not in each output, and groups for the raters.

  The groups for the raters are those of the paper's Appendix E: the highest and the lowest mean percentile over all
  raters (E.1, E.2), and the documents that the largest rater ranks furthest above and below the smallest (E.3, E.4).
  """
  hash_N, shard_N = sample.table["hash"].to_numpy(), sample.table["shard"].to_numpy()
  names = [shard.name for shard in sources.shards]
  order = np.argsort([hashing.hash_documents("report", 0, name, np.zeros(1, np.int64))[0] for name in names])
  place_N = np.flatnonzero(np.isin(shard_N, order[:_MOST_FILES]))

  def first(key_N: np.ndarray, wanted_N: np.ndarray | None = None) -> list[int]:
    """Returns the documents with the smallest keys; hashes break ties."""
    candidate_N = place_N if wanted_N is None else place_N[wanted_N[place_N]]
    return candidate_N[np.lexsort((hash_N[candidate_N], key_N[candidate_N]))[:_GROUP_SIZE]].tolist()

  groups = []
  for output, kept_N in zip(sources.outputs, sample.kept_ON, strict=True):
    groups.append(Group(f"in {output.name}", first(hash_N, kept_N)))
    groups.append(Group(f"not in {output.name}", first(hash_N, ~kept_N)))
  if sources.raters:
    percentiles_RN = np.stack([metrics.percentiles(scores_N) for scores_N in sample.scores_SN[: len(sources.raters)]])
    mean_N, rise_N = percentiles_RN.mean(axis=0), percentiles_RN[-1] - percentiles_RN[0]
    groups += [Group(HIGH, first(-mean_N)), Group(LOW, first(mean_N))]
    if len(sources.raters) > 1:
      groups += [Group(INCREASING, first(-rise_N)), Group(DECREASING, first(rise_N))]
  return groups


HIGH, LOW = "all raters: high", "all raters: low"
INCREASING, DECREASING = "higher the larger the rater", "lower the larger the rater"


def read_texts(
  sources: Sources, namespace: argparse.Namespace, launcher: launch.Launcher, wanted: set[tuple[str, int]]
) -> tuple[dict[tuple[str, int], str], str]:
  """Reads the beginnings of the texts of documents (shard, row); also returns the reason if they cannot be read.

  Raises WinnowError if --input is given but is not what was scored.
  """
  store = next(iter(sources.scorers.values()))
  rows: dict[str, list[int]] = {}
  for name, row in sorted(wanted):
    rows.setdefault(name, []).append(row)
  try:
    shards = _find_input(store, namespace, launcher, set(rows))
    request = fingerprints.read_json(store.request_path)
    fields = blocks.Fields(**request["fields"])
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      texts = pool.map(lambda shard: _texts(store, shard, fields, request["block_rows"], rows[shard.name]), shards)
      return dict(text for shard_texts in texts for text in shard_texts), ""
  except (WinnowError, OSError) as error:
    if namespace.input is not None:
      raise
    return {}, str(error)


def _find_input(
  store: ScoreStore, namespace: argparse.Namespace, launcher: launch.Launcher, names: set[str]
) -> list[blocks.Shard]:
  """Finds the named files that a store scored, and compares only these with their checksums, which may read them."""
  path = storage.join(store.folder, score_store.INPUT_FILE)
  pattern = namespace.input or fingerprints.field(path, "input")
  folder = namespace.tfds_data_dir or fingerprints.field(path, "tfds_data_dir")
  if not isinstance(pattern, str) or not isinstance(folder, str | None):
    raise WinnowError(f"{path} does not say where the input is; restore it, or give --input=")
  matches = inputs.find_shards(pattern, folder)
  launcher.refuse_local({"input": matches[0].path})
  shards = inputs.identify([shard for shard in matches if shard.name in names])
  scored = {shard.name: shard.identity() for shard in store.shards() if shard.name in names}
  if difference := fingerprints.first_difference(scored, {shard.name: shard.identity() for shard in shards}):
    field, known, actual = difference
    raise WinnowError(
      f"the input is not what {store.folder} scored: {field} was {known} and is {actual}; score it again"
    )
  return shards


def _texts(
  store: ScoreStore, shard: blocks.Shard, fields: blocks.Fields, block_rows: int, rows: list[int]
) -> list[tuple[tuple[str, int], str]]:
  ends = np.cumsum(score_files.read_summary(store, shard).block_rows)
  wanted = set(np.searchsorted(ends, rows, side="right").tolist())
  texts = []
  for block in reading.read_blocks(shard, fields, block_rows=block_rows, want=wanted.__contains__):
    if isinstance(block, blocks.Block):
      table = block.documents
      for place in np.flatnonzero(np.isin(table["row"].to_numpy(), rows)).tolist():
        text = table["text"][place].as_py()
        texts.append(((shard.name, table["row"][place].as_py()), cut(text)))
      if block.index == max(wanted):
        break
  return texts


def cut(text: str) -> str:
  """Returns the beginning of a text."""
  return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


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
  return Bad(f"{entry['shard']}#{entry['row']}", str(entry["reason"]), cut(str(entry["text"])))
