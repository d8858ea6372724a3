"""The two passes of a report over its stores: the first draws a sample of the documents, the second counts all of them.

Stores of one corpus are read side by side, one window of rows of a shard at a time, so that memory is that of a few
windows and of the sample. Each shard gives a part; parts are concatenated or added up.

Shape suffixes: N documents of a window or of the sample, S scorers, O outputs, C = 1 + O sets (the corpus, then the
outputs), B bins, D domains, K clusters, Q scores whose ranks are counted.
"""

import concurrent.futures
import contextlib
import functools
import math
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import WinnowError
from curation.selection import hashing, metrics
from pipelines.corpus import blocks
from pipelines.reports.material import Output, Sources
from pipelines.selection import ranks
from pipelines.store import kinds, score_files

T = TypeVar("T")
SAMPLE_DOCUMENTS = 500_000  # as in the paper's Figure 7
_WINDOW_ROWS = 1 << 17
_READERS = min(4, os.cpu_count() or 1)
_EMPTY = pa.schema([kinds.ROW, kinds.SCORE_FIELD, *kinds.CLUSTER_FIELDS, kinds.NUM_TOKENS, kinds.DOMAIN]).empty_table()


class Sample(NamedTuple):
  """A random sample, or all, of the documents with scores in all stores of the whole corpus, by shards and rows.

  `table`: hash uint64 (sorting by it gives a random order), shard int32 (its number), row int64, domain string.
  `scores_SN`: float32, the scores by scorer; NaN where the scorer of a stage was not asked about the document.
  `kept_ON`: bool, the documents that each output holds. `tokens_N`: int32; None if no scorer has counted tokens.
  """

  table: pa.Table
  scores_SN: np.ndarray
  kept_ON: np.ndarray
  tokens_N: np.ndarray | None


class Questions(NamedTuple):
  """The quantities to count: ranks of scores (float32 [S, Q]), scores and lengths in bins, and domains (string [D])."""

  queries_SQ: np.ndarray
  score_edges_SE: np.ndarray
  length_edges_E: np.ndarray
  domains: pa.Array


class Counts(NamedTuple):
  """Counts of documents, int64, which add up over shards; `tokens_C` counts tokens. Without tokens lengths are 0.

  `clusters_CK`: documents by cluster; K is 0 without a store of clusters.
  """

  documents_S: np.ndarray
  ranks_S2Q: np.ndarray
  documents_C: np.ndarray
  scores_CSB: np.ndarray
  lengths_CB: np.ndarray
  tokens_C: np.ndarray
  domains_CD: np.ndarray
  clusters_CK: np.ndarray

  def add(self, other: "Counts") -> "Counts":
    """Returns the sum of two counts."""
    return Counts(*map(operator.add, self, other))


def draw_sample(sources: Sources, seed: int, most: int = SAMPLE_DOCUMENTS) -> Sample:
  """Draws the `most` documents with the smallest hashes, or a few less if stores disagree about which are bad."""
  scored = min(sources.summaries[name]["scored"] for name in sources.scorers if name not in sources.stages)
  # This share contains `most` documents, except once in a billion cases, and bounds the memory.
  share = (most + 6 * math.sqrt(most)) / max(scored, 1)
  cutoff = None if share >= 1 else int(share * 2**64)
  parts = _map_shards(sources, lambda number, shard: _sample_shard(sources, number, shard, seed, cutoff))
  tables = [table for part in parts for table in part if len(table)]
  if not tables:
    whole = ", ".join(name for name in sources.scorers if name not in sources.stages)
    raise WinnowError(f"the stores {whole} have no document with scores in all of them")
  drawn = pa.concat_tables(tables)
  hash_N = drawn["hash"].to_numpy()
  if len(hash_N) > most:
    drawn = drawn.filter(pa.array(hash_N <= np.partition(hash_N, most - 1)[most - 1]))
  drawn = drawn.combine_chunks()
  scores = [drawn[f"score{s}"].to_numpy() for s in range(len(sources.scorers))]
  kept = [drawn[f"kept{o}"].to_numpy(zero_copy_only=False) for o in range(len(sources.outputs))]
  kept_ON = np.stack(kept) if kept else np.zeros((0, len(drawn)), bool)
  tokens_N = drawn["tokens"].to_numpy() if sources.counting is not None else None
  return Sample(drawn.select(["hash", "shard", "row", "domain"]), np.stack(scores), kept_ON, tokens_N)


def count(sources: Sources, questions: Questions) -> Counts:
  """Counts all documents of the corpus, and all of each output.

  Raises WinnowError if the ledger of a store or the manifest of an output disagrees with the counts.
  """
  counts = functools.reduce(Counts.add, _map_shards(sources, lambda _, shard: _count_shard(sources, questions, shard)))
  for name, counted in zip(sources.scorers, counts.documents_S.tolist(), strict=True):
    summary = sources.summaries[name]
    if not counted == summary["scored"] == summary["read"] - summary["bad"]:
      raise WinnowError(
        f"{sources.scorers[name].summary_path} says {summary['read']:,} documents read, {summary['scored']:,} scored "
        f"and {summary['bad']:,} bad, but {counted:,} have scores; run winnow score again"
      )
  for output, counted in zip(sources.outputs, counts.documents_C[1:].tolist(), strict=True):
    if counted != output.manifest["counts"]["selected"]:
      claimed = output.manifest["counts"]["selected"]
      raise WinnowError(
        f"{output.folder} holds {claimed:,} documents by its manifest.json, but {counted:,} by its scores; run winnow "
        "verify on it"
      )
  return counts


def _map_shards(sources: Sources, work: Callable[[int, blocks.Shard], T]) -> list[T]:
  """Applies `work` to the number and the shard of each shard, in threads; returns the results in order."""
  shards = sources.shards
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    return list(pool.map(work, range(len(shards)), shards))


def _windows(sources: Sources, shard: blocks.Shard) -> Iterator[list[pa.Table]]:
  """Yields the rows of each window, one table for each store: row, score, num_tokens; the first one has domain too."""
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(score_files.ScoreFile(store, shard)) for store in sources.stores]
    if len({file.summary.num_rows for file in files}) > 1:
      raise WinnowError(
        f"the stores of {shard.name} disagree about how many rows it has; run winnow score again with --overwrite"
      )
    yield from map(list, zip(*(_cut(file, domains=not place) for place, file in enumerate(files)), strict=True))


def _cut(file: score_files.ScoreFile, *, domains: bool) -> Iterator[pa.Table]:
  batches = file.batches(_WINDOW_ROWS, domains=domains)
  schema, left = None, next(batches, None)
  for stop in range(_WINDOW_ROWS, file.summary.num_rows + _WINDOW_ROWS, _WINDOW_ROWS):
    parts = []
    while left is not None:
      schema = left.schema
      within = int(np.searchsorted(left["row"].to_numpy(), stop))
      parts.append(left.slice(0, within))
      if within < len(left):
        left = left.slice(within)
        break
      left = next(batches, None)
    yield pa.Table.from_batches(parts, schema) if parts else _EMPTY
  if left is not None:
    raise WinnowError(f"the scores of {file.summary.shard} have rows that its ledger does not; run winnow verify")


def _rows(table: pa.Table) -> np.ndarray:
  return table["row"].to_numpy()


def _at(table: pa.Table, rows_N: np.ndarray) -> np.ndarray:
  """Returns the positions in a table of the rows that it has: int64, ascending as the rows are."""
  place_N = np.searchsorted(_rows(table), rows_N)
  return place_N[_are_in(table, rows_N)]


def _are_in(table: pa.Table, rows_N: np.ndarray) -> np.ndarray:
  """Tells which rows a table has: bool [N]."""
  return np.isin(rows_N, _rows(table), assume_unique=True)


def _aligned(values: np.ndarray, table: pa.Table, rows_N: np.ndarray, missing: object) -> np.ndarray:
  """Returns the values, one for each row of a table, of given rows; `missing` for a row that it does not have: [N]."""
  aligned_N = np.full(len(rows_N), missing, values.dtype)
  aligned_N[_are_in(table, rows_N)] = values[_at(table, rows_N)]
  return aligned_N


def _kept(sources: Sources, shard: blocks.Shard) -> list[Callable[[list[pa.Table]], tuple[pa.Table, np.ndarray]]]:
  """Returns for each output a function from a window to the table of its store and bool [N]: the rows in the output."""

  def kept_by(output: Output) -> Callable[[list[pa.Table]], tuple[pa.Table, np.ndarray]]:
    place, within = sources.stores.index(output.store), output.limits(shard)

    def kept(tables: list[pa.Table]) -> tuple[pa.Table, np.ndarray]:
      ranked = ranks.rank_rows(output.request, shard.name, tables[place], within)
      return tables[place], ranked.are_wanted(output.floor, rejected=output.rejected)

    return kept

  return [kept_by(output) for output in sources.outputs]


def _sample_shard(sources: Sources, number: int, shard: blocks.Shard, seed: int, cutoff: int | None) -> list[pa.Table]:
  kept_rows = _kept(sources, shard)
  # A stage scores only what the stage before has selected, so its store must not decide what is sampled.
  whole = [place for place, name in enumerate(sources.scorers) if name not in sources.stages]
  windows = []
  for tables in _windows(sources, shard):
    rows_N = _rows(tables[0])
    hash_N = hashing.hash_documents("report", seed, shard.name, rows_N)
    if cutoff is not None:
      rows_N, hash_N = rows_N[hash_N < cutoff], hash_N[hash_N < cutoff]
    for place in whole:
      is_present_N = _are_in(tables[place], rows_N)
      rows_N, hash_N = rows_N[is_present_N], hash_N[is_present_N]
    columns: dict[str, Any] = {"hash": hash_N, "shard": np.full(len(rows_N), number, np.int32), "row": rows_N}
    columns["domain"] = tables[0]["domain"].take(pa.array(_at(tables[0], rows_N)))
    if sources.counting is not None:
      counting = tables[sources.counting]
      columns["tokens"] = counting["num_tokens"].take(pa.array(_at(counting, rows_N)))
    for s, table in enumerate(tables[: len(sources.scorers)]):
      columns[f"score{s}"] = _aligned(table["score"].to_numpy(), table, rows_N, np.nan)
    for o, kept in enumerate(kept_rows):
      table, kept_N = kept(tables)
      columns[f"kept{o}"] = _aligned(kept_N, table, rows_N, False)
    windows.append(pa.table(columns).combine_chunks())
  return windows


def _count_shard(sources: Sources, questions: Questions, shard: blocks.Shard) -> Counts:
  num_scorers, kept_rows = len(sources.scorers), _kept(sources, shard)
  num_sets, (_, num_edges) = 1 + len(kept_rows), questions.score_edges_SE.shape
  counts = Counts(
    documents_S=np.zeros(num_scorers, np.int64),
    ranks_S2Q=np.zeros((num_scorers, 2, questions.queries_SQ.shape[1]), np.int64),
    documents_C=np.zeros(num_sets, np.int64),
    scores_CSB=np.zeros((num_sets, num_scorers, num_edges - 1), np.int64),
    lengths_CB=np.zeros((num_sets, len(questions.length_edges_E) - 1), np.int64),
    tokens_C=np.zeros(num_sets, np.int64),
    domains_CD=np.zeros((num_sets, len(questions.domains)), np.int64),
    clusters_CK=np.zeros((num_sets, sources.num_clusters), np.int64),
  )
  for tables in _windows(sources, shard):
    for s, table in enumerate(tables[:num_scorers]):
      counts.documents_S[s] += len(table)
      counts.ranks_S2Q[s] += metrics.count_ranks(questions.queries_SQ[s], table["score"].to_numpy())
    counts.documents_C[0] += len(tables[0])
    _count_set(sources, questions, tables, None, _set_counts(counts, 0))
    for o, kept in enumerate(kept_rows):
      table, kept_N = kept(tables)
      counts.documents_C[1 + o] += kept_N.sum()
      _count_set(sources, questions, tables, _rows(table)[kept_N], _set_counts(counts, 1 + o))
  return counts


class _SetCounts(NamedTuple):
  """The parts of `Counts` for one set of documents, as views."""

  scores_SB: np.ndarray
  lengths_B: np.ndarray
  tokens: np.ndarray  # int64 [1]
  domains_D: np.ndarray
  clusters_K: np.ndarray


def _set_counts(counts: Counts, c: int) -> _SetCounts:
  tokens = counts.tokens_C[c : c + 1]
  return _SetCounts(counts.scores_CSB[c], counts.lengths_CB[c], tokens, counts.domains_CD[c], counts.clusters_CK[c])


def _count_set(
  sources: Sources, questions: Questions, tables: list[pa.Table], rows_N: np.ndarray | None, counts: _SetCounts
) -> None:
  """Adds the documents of a window that are in one set; all documents of each store if `rows_N` is None."""

  def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name] if rows_N is None else table[name].take(pa.array(_at(table, rows_N)))

  for s, edges_E in enumerate(questions.score_edges_SE):
    counts.scores_SB[s] += metrics.histogram(column(tables[s], "score").to_numpy(), edges_E)
  if sources.counting is not None:
    tokens_N = column(tables[sources.counting], "num_tokens").to_numpy()
    counts.lengths_B[:] += metrics.histogram(tokens_N, questions.length_edges_E)
    counts.tokens[:] += tokens_N.sum(dtype=np.int64)
  names = column(tables[0], "domain")
  index_N = pc.index_in(names, value_set=questions.domains).drop_null().to_numpy()
  counts.domains_D[:] += np.bincount(index_N, minlength=len(questions.domains))
  if sources.clusters is not None:
    cluster_N = column(tables[-1], kinds.CLUSTER).to_numpy()
    counts.clusters_K[:] += np.bincount(cluster_N, minlength=sources.num_clusters)
