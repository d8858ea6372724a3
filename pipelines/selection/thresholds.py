"""The exact threshold as Beam passes, each of which adds up histograms of the score files: 65,536 numbers."""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import numpy as np

from curation.errors import WinnowError
from curation.selection import selection
from pipelines.corpus import blocks
from pipelines.selection import ranks
from pipelines.store import score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress

T = TypeVar("T")
SELECTING = "selecting documents"  # as users see it
SPEED = 500_000  # documents a second that one core takes through all passes


class Selected(NamedTuple):
  """The documents above a threshold, or some of them. `floor` is their smallest rank."""

  documents: int
  num_tokens: int
  floor: int


def count_bins(
  store: ScoreStore,
  shard: blocks.Shard,
  request: selection.SelectionRequest,
  search: selection.RadixSearch,
  limits: ranks.Limits = ranks.unlimited,
  *,
  is_first: bool = False,
) -> Iterator[np.ndarray]:
  """Yields one shard's histograms of a pass, int64 [65,536]; nothing if the search is over."""
  if search.done:
    return
  for part in ranks.read(store, shard, request, limits, check_seal=is_first):
    counted = part.only_within()
    weights = None if search.by_count else counted.num_tokens
    yield selection.histogram(search, counted.keys, counted.ties, weight_N=weights)


def count_selected(
  store: ScoreStore,
  shard: blocks.Shard,
  request: selection.SelectionRequest,
  floor: int,
  limits: ranks.Limits = ranks.unlimited,
  *,
  rejected: bool = False,
) -> Iterator[Selected]:
  """Counts the documents of one shard that a threshold selects, or rejects if `rejected`."""
  for part in ranks.read(store, shard, request, limits, check_seal=True):  # this may be the only pass
    wanted = part.are_wanted(floor, rejected=rejected)
    smallest = selection.smallest_rank(part.keys[wanted], part.ties[wanted])
    if smallest is not None:
      tokens = 0 if part.num_tokens is None else int(part.num_tokens[wanted].sum(dtype=np.int64))
      yield Selected(int(wanted.sum()), tokens, smallest)


class HistogramFn(beam.CombineFn):
  """Adds up histograms; the sum of none is all zeros. In a shuffle, None stands for that sum and takes no space."""

  def create_accumulator(self) -> np.ndarray | None:
    return None

  def add_input(self, accumulator: np.ndarray | None, histogram: np.ndarray | None) -> np.ndarray | None:
    return self.merge_accumulators([accumulator, None if histogram is None else histogram.copy()])

  def merge_accumulators(self, accumulators: Iterable[np.ndarray | None]) -> np.ndarray | None:
    total = None
    for accumulator in accumulators:
      if total is None:
        total = accumulator
      elif accumulator is not None:
        total = operator.iadd(total, accumulator)
    return total

  def extract_output(self, accumulator: np.ndarray | None) -> np.ndarray:
    return np.zeros(selection.NUM_BINS, np.int64) if accumulator is None else accumulator


def add_selected(parts: Iterable[Selected]) -> Selected:
  """Adds up counts and takes the smallest floor; the sum of nothing has a floor above every rank."""
  documents, num_tokens, floor = 0, 0, 1 << 128
  for part in parts:
    documents, num_tokens, floor = documents + part.documents, num_tokens + part.num_tokens, min(floor, part.floor)
  return Selected(documents, num_tokens, floor)


def refine(
  search: selection.RadixSearch, histogram: np.ndarray, advice: str = "use another --seed"
) -> selection.RadixSearch:
  """Narrows a search to one bin of a pass; raises WinnowError, with the advice, if documents have equal ranks."""
  try:
    return selection.refine(search, histogram)
  except ValueError as error:
    raise WinnowError(f"{error}; {advice}") from error


def narrowed(
  items: beam.PCollection,
  search: beam.PCollection[selection.RadixSearch],
  count: Callable[[Any, selection.RadixSearch, bool], Iterator[np.ndarray]],
  refine: Callable[[selection.RadixSearch, np.ndarray], selection.RadixSearch] = refine,
) -> beam.PCollection[selection.RadixSearch]:
  """Adds all passes to a pipeline, unrolled: PCollection[RadixSearch] (one) -> PCollection[RadixSearch] (one).

  `count` yields the histograms of one item, given the search so far and whether this is the first pass. `refine`
  narrows a search by the sum of all histograms. Without items there is no search in the end.
  """

  def bins(item: Any, search: selection.RadixSearch, is_first: bool) -> Iterator[tuple[int, Any]]:
    yield 0, None  # so that there is a sum even if the search is over, or no item has documents
    for histogram in count(item, search, is_first):
      yield 0, histogram

  for index in range(selection.NUM_PASSES):
    search = (
      items
      | f"CountBins{index}"
      >> beam.FlatMap(bins, beam.pvalue.AsSingleton(search), is_first=index == 0).with_output_types(tuple[int, Any])
      | f"AddBins{index}" >> beam.CombinePerKey(HistogramFn())
      | f"Refine{index}"
      >> beam.Map(lambda histogram, search: refine(search, histogram[1]), search=beam.pvalue.AsSingleton(search))
    )
  return search


def _working(address: progress.Address | None, parts: Iterator[T]) -> Iterator[T]:
  with progress.working(address, SELECTING):
    yield from parts


class FindThreshold(beam.PTransform):
  """PCollection[Shard] -> PCollection[Selected] (one): how many documents are selected, and from which rank on.

  `ledger` is a PCollection of one Ledger, whose limits are settled if there are `limits`. `begin` makes
  the search that the passes begin with; by default it is that of the request. The passes are unrolled. Those after the
  end of the search read nothing, and a request that gives the threshold itself needs none.
  """

  def __init__(
    self,
    store: ScoreStore,
    request: selection.SelectionRequest,
    ledger: beam.PCollection[score_store.Ledger],
    limits: ranks.Limits = ranks.unlimited,
    *,
    begin: Callable[[score_store.Ledger], selection.RadixSearch] | None = None,
    address: progress.Address | None = None,
  ):
    super().__init__()
    self._store, self._request, self._ledger, self._limits, self._address = store, request, ledger, limits, address
    self._searches = begin is not None or request.searches
    self._begin = begin or (lambda ledger: request.search(ledger.documents, ledger.num_tokens, ledger.within))

  def expand(self, shards: beam.PCollection[blocks.Shard]) -> beam.PCollection[Selected]:
    store, request, limits, address = self._store, self._request, self._limits, self._address

    def count(shard: blocks.Shard, search: selection.RadixSearch, is_first: bool) -> Iterator[np.ndarray]:
      yield from _working(address, count_bins(store, shard, request, search, limits, is_first=is_first))

    search = self._ledger | "Begin" >> beam.Map(self._begin)
    if self._searches:
      search = narrowed(shards, search, count)
    counted = shards | "CountSelected" >> beam.FlatMap(
      lambda shard, search: _working(address, count_selected(store, shard, request, search.floor, limits)),
      search=beam.pvalue.AsSingleton(search),
    )
    return search | "AddSelected" >> beam.Map(lambda _, parts: add_selected(parts), parts=beam.pvalue.AsIter(counted))
