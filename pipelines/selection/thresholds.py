"""The exact threshold as three Beam passes over the score files, by `search`.

A worker sends less than a megabyte for each shard and pass, and mostly much less, whatever the number of documents.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from curation.errors import WinnowError
from curation.selection import search, selection
from pipelines.corpus import blocks, stripes
from pipelines.selection import ranks
from pipelines.store import score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import adding, progress

SELECTING = "selecting documents"  # as users see it
SPEED = 1_000_000  # documents a second that one core takes through all passes

Begin = Callable[[Any], selection.Search]
Read = Callable[[Any, bool], Iterable[search.Ranked]]


def count_selected(
  store: ScoreStore,
  shard: blocks.Shard,
  request: selection.SelectionRequest,
  floor: int,
  limits: ranks.Limits = ranks.unlimited,
  *,
  rejected: bool = False,
) -> search.Selected:
  """Counts the documents of one shard that a threshold selects, or rejects if `rejected`."""
  parts = []
  for part in ranks.read(store, shard, request, limits, check_seal=True):  # this may be the only pass
    wanted = part.are_wanted(floor, rejected=rejected)
    smallest = selection.smallest_rank(part.keys[wanted], part.ties[wanted])
    if smallest is not None:
      tokens = 0 if part.num_tokens is None else int(part.num_tokens[wanted].sum(dtype=np.int64))
      parts.append(search.Selected(int(wanted.sum()), tokens, smallest))
  return search.add_selected(parts)


def find(
  items: beam.PCollection[tuple[Any, Any]], begin: Begin, read: Read, advice: str = "use another --seed"
) -> beam.PCollection[tuple[Any, search.Selected]]:
  """Adds the three passes to a pipeline: PCollection[(context, item)] -> PCollection[(context, Selected)] (one).

  The context is the same for all items; `begin` makes the search from it. `read` yields the ranks of one item, given
  whether this is the first pass. Without items there is no result. The pipeline fails with `advice` if two documents at
  the threshold have equal ranks.
  """

  def sample(pair: tuple[Any, Any]) -> tuple[Any, search.Ranked]:
    context, item = pair
    wanted = begin(context)
    return context, search.concatenate([_NO_RANKS, *(search.sample(wanted, ranked) for ranked in read(item, True))])

  def count(pair: tuple[Any, Any], edges: search.Edges) -> tuple[None, np.ndarray]:
    _, item = pair
    counts = np.zeros((2, len(edges.keys) + 1), np.int64)
    for ranked in read(item, False):
      counts += search.count(edges, ranked)
    return None, counts

  def gather(pair: tuple[Any, Any], edges: search.Edges, counts: tuple[None, np.ndarray]) -> tuple[Any, search.Ranked]:
    context, item = pair
    stretch = search.find_stretch(begin(context), edges, counts[1])
    return (context, stretch), search.concatenate(
      [_NO_RANKS, *(search.within(stretch, ranked) for ranked in read(item, False))]
    )

  def finish(gathered: tuple[tuple[Any, search.Stretch], search.Ranked]) -> tuple[Any, search.Selected]:
    (context, stretch), ranked = gathered
    try:
      return context, search.finish(stretch, ranked)
    except ValueError as error:
      raise WinnowError(f"{error}; {advice}") from error

  edges = beam.pvalue.AsSingleton(
    items
    | "Sample" >> beam.Map(sample)
    | "AddSamples" >> adding.AddUp(search.concatenate)
    | "ChooseEdges" >> beam.Map(lambda sampled: search.choose_edges(sampled[1]))
  )
  counts = beam.pvalue.AsSingleton(items | "Count" >> beam.Map(count, edges) | "AddCounts" >> adding.AddUp(sum))
  return (
    items
    | "Gather" >> beam.Map(gather, edges, counts)
    | "AddGathered" >> adding.AddUp(search.concatenate)
    | "Finish" >> beam.Map(finish)
  )


_NO_RANKS = search.Ranked(np.zeros(0, np.uint64), np.zeros(0, np.uint64))


class FindThreshold(beam.PTransform):
  """PCollection[Ledger] (one) -> PCollection[(Ledger, Selected)] (one): what a request selects from a store's shards.

  If there are `limits`, they are settled once the ledger is there. `begin` makes the search from the ledger; by default
  it is that of the request. A request that gives the threshold itself takes one pass instead of three.
  """

  def __init__(
    self,
    store: ScoreStore,
    request: selection.SelectionRequest,
    shards: Iterable[blocks.Shard],
    limits: ranks.Limits = ranks.unlimited,
    *,
    begin: Begin | None = None,
    address: progress.Address | None = None,
  ):
    super().__init__()
    self._store, self._request, self._shards, self._limits = store, request, list(shards), limits
    self._begin, self._address = begin, address

  def expand(
    self, ledger: beam.PCollection[score_store.Ledger]
  ) -> beam.PCollection[tuple[score_store.Ledger, search.Selected]]:
    store, request, limits, address = self._store, self._request, self._limits, self._address
    items = ledger | "Shards" >> stripes.Spread(self._shards, context=True)

    def read(shard: blocks.Shard, is_first: bool) -> Iterator[search.Ranked]:
      with progress.working(address, SELECTING):
        for part in ranks.read(store, shard, request, limits, check_seal=is_first):
          counted = part.only_within()
          yield search.Ranked(counted.keys, counted.ties, counted.num_tokens)

    if self._begin is None and (floor := request.floor) is not None:

      def count(pair: tuple[score_store.Ledger, blocks.Shard]) -> tuple[score_store.Ledger, search.Selected]:
        ledger, shard = pair
        with progress.working(address, SELECTING):
          return ledger, count_selected(store, shard, request, floor, limits)

      return items | "Count" >> beam.Map(count) | "AddCounts" >> adding.AddUp(search.add_selected)
    return find(items, self._begin or _begins(request), read)


def _begins(request: selection.SelectionRequest) -> Begin:
  def begin(ledger: score_store.Ledger) -> selection.Search:
    wanted = request.search(ledger.documents, ledger.num_tokens, ledger.within)
    assert wanted is not None
    return wanted

  return begin
