"""The exact threshold as Beam passes: each is one histogram over the score files, combined to 65,536 numbers."""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from curation import selection
from curation.errors import WinnowError
from pipelines import block_files, blocks, stores

_BATCH_ROWS = 1 << 18


class Ranks(NamedTuple):
  """Scored documents of one shard: int64, uint64, uint64, int32 (None where the store counts no tokens), each [N]."""

  rows: np.ndarray
  keys: np.ndarray
  ties: np.ndarray
  num_tokens: np.ndarray | None


class Selected(NamedTuple):
  """What lies above a threshold, or part of it. `floor` is the smallest rank among it."""

  documents: int
  num_tokens: int
  floor: int


def rank_rows(request: selection.SelectionRequest, shard: str, table: Any) -> Ranks:
  """The ranks of the rows of a score file (or of a row group or batch of it)."""
  rows, scores = table["row"].to_numpy(), table["score"].to_numpy()
  num_tokens = None if table["num_tokens"].null_count else table["num_tokens"].to_numpy()
  return Ranks(
    rows,
    selection.document_keys(request, shard, rows, scores),
    selection.tie_hashes(request.seed, shard, rows),
    num_tokens,
  )


def read_ranks(store: stores.ScoreStore, shard: blocks.Shard, request: selection.SelectionRequest) -> Iterator[Ranks]:
  """The ranks of a shard's documents, in batches of bounded size."""
  with block_files.removing_damaged(store, shard), stores.ScoreFile(store, shard) as scores:
    for batch in scores.batches(_BATCH_ROWS):
      yield rank_rows(request, shard.name, batch)


def count_bins(
  store: stores.ScoreStore, shard: blocks.Shard, request: selection.SelectionRequest, search: selection.RadixSearch
) -> Iterator[np.ndarray]:
  """One shard's part of a pass: histograms int64 [65,536]; nothing if the search is over."""
  if search.done:
    return
  for ranks in read_ranks(store, shard, request):
    weights = None if search.by_count else ranks.num_tokens
    yield selection.histogram(search, ranks.keys, ranks.ties, weight_N=weights)


def is_wanted(ranks: Ranks, floor: int, *, rejected: bool = False) -> np.ndarray:
  """Tells which documents lie above a threshold, or below it: bool [N]."""
  return selection.is_selected(floor, ranks.keys, ranks.ties) ^ rejected


def count_selected(
  store: stores.ScoreStore,
  shard: blocks.Shard,
  request: selection.SelectionRequest,
  floor: int,
  *,
  rejected: bool = False,
) -> Iterator[Selected]:
  """Counts the documents of one shard above a threshold, or below it."""
  for ranks in read_ranks(store, shard, request):
    above = is_wanted(ranks, floor, rejected=rejected)
    smallest = selection.smallest_rank(ranks.keys[above], ranks.ties[above])
    if smallest is not None:
      tokens = 0 if ranks.num_tokens is None else int(ranks.num_tokens[above].sum(dtype=np.int64))
      yield Selected(int(above.sum()), tokens, smallest)


class HistogramFn(beam.CombineFn):
  """Adds up histograms; the empty one is all zeros."""

  def create_accumulator(self) -> np.ndarray:
    return np.zeros(selection.NUM_BINS, np.int64)

  def add_input(self, accumulator: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    return operator.iadd(accumulator, histogram)

  def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
    total = self.create_accumulator()
    for accumulator in accumulators:
      total += accumulator
    return total

  def extract_output(self, accumulator: np.ndarray) -> np.ndarray:
    return accumulator


def add_selected(parts: Iterable[Selected]) -> Selected:
  """Adds up counts and takes the smallest floor; the sum of nothing has a floor above every rank."""
  documents, num_tokens, floor = 0, 0, 1 << 128
  for part in parts:
    documents, num_tokens, floor = documents + part.documents, num_tokens + part.num_tokens, min(floor, part.floor)
  return Selected(documents, num_tokens, floor)


def refine(search: selection.RadixSearch, histogram: np.ndarray) -> selection.RadixSearch:
  try:
    return selection.refine(search, histogram)
  except ValueError as error:
    raise WinnowError(f"{error}; take another --seed") from error


class FindThreshold(beam.PTransform):
  """PCollection[blocks.Shard] -> PCollection[Selected]: one element, how many documents and from which rank on.

  `ledger` is a PCollection of one stores.Ledger. The passes are unrolled; those after the search is over read nothing.
  """

  def __init__(self, store: stores.ScoreStore, request: selection.SelectionRequest, ledger: Any):
    super().__init__()
    self._store, self._request, self._ledger = store, request, ledger

  def expand(self, shards: Any):
    store, request = self._store, self._request
    search = self._ledger | "Begin" >> beam.Map(lambda ledger: request.search(ledger.documents, ledger.num_tokens))
    for index in range(selection.NUM_PASSES):
      histogram = (
        shards
        | f"CountBins{index}"
        >> beam.FlatMap(
          lambda shard, search: count_bins(store, shard, request, search), search=beam.pvalue.AsSingleton(search)
        )
        | f"AddBins{index}" >> beam.CombineGlobally(HistogramFn())
      )
      search = search | f"Refine{index}" >> beam.Map(refine, histogram=beam.pvalue.AsSingleton(histogram))
    return (
      shards
      | "CountSelected"
      >> beam.FlatMap(
        lambda shard, search: count_selected(store, shard, request, search.floor),
        search=beam.pvalue.AsSingleton(search),
      )
      | "AddSelected" >> beam.CombineGlobally(add_selected)
    )
