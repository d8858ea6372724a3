"""Scoring by parts: the same pass as `scoring.Score`, of which this task does its share, and waits for the others'.

A shard is compacted by the part that reads its first stripe, once the blocks of all its stripes are on record.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipelines.corpus import blocks
from pipelines.corpus.stripes import Spread, Stripe
from pipelines.files import storage
from pipelines.runners.parts import Missing, Part
from pipelines.scoring import scoring
from pipelines.store import score_files, sealing
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress, reshuffle

_SHARD, _BLOCK = "shard", "block"  # as users see them, with a number


class _Division:
  """The stripes of all shards, in the order of the plan, and the part that does each."""

  def __init__(self, store: ScoreStore, part: Part, stripes: Sequence[Stripe]):
    self._store, self.part, self.stripes = store, part, stripes
    self.shards = [stripe.shard for stripe in stripes if stripe.index == 0]
    self._owners = {(stripe.shard.name, stripe.index): part.owner(place) for place, stripe in enumerate(stripes)}
    self._counts = {stripe.shard.name: stripe.count for stripe in stripes}

  def owner(self, shard: blocks.Shard, index: int) -> int:
    """Returns the part that does a stripe; that of the first stripe compacts the shard."""
    return self._owners[shard.name, index]

  def own(self) -> list[Stripe]:
    return [stripe for stripe in self.stripes if self.owner(stripe.shard, stripe.index) == self.part.index]

  def count(self, shard: blocks.Shard) -> int:
    return self._counts[shard.name]

  def stripes_of(self, shard: blocks.Shard) -> list[Stripe]:
    return [Stripe(shard, index, self.count(shard)) for index in range(self.count(shard))]

  def is_begun(self, stripe: Stripe) -> bool:
    """Tells whether a stripe has blocks on record, or is done."""
    if storage.exists(self._store.scores_path(stripe.shard)):
      return True
    return any(map(stripe.holds, self._store.finished_blocks(stripe.shard, self._store.engine())))

  def look_for_blocks(self, shard: blocks.Shard, num_blocks: int) -> Missing:
    """Looks for the blocks of a shard that are not on record; nothing is missing once it is compacted."""
    if storage.exists(self._store.scores_path(shard)):
      return Missing({})
    there = self._store.finished_blocks(shard, self._store.engine())
    missing = (index for index in range(num_blocks) if index not in there)
    return Missing(collections.Counter(self.owner(shard, index % self.count(shard)) for index in missing))

  def look_for_shards(self) -> Missing:
    """Looks for shards that are not compacted, and for the stripes that are behind."""
    done = set(self._store.finished(self.shards))
    items: collections.Counter[int] = collections.Counter()
    engine, seen = self._store.engine(), len(done)
    for shard in self.shards:
      if shard in done:
        continue
      there, count = self._store.finished_blocks(shard, engine), self.count(shard)
      seen += len(there)
      behind = {index % count for index in range(max(there, default=-1)) if index not in there}
      behind |= set(range(count)) - {index % count for index in there}
      items.update({self.owner(shard, index) for index in behind} or {self.owner(shard, 0)})
    return Missing(items, seen)


class ScorePart(beam.PTransform):
  """PCollection of one element -> PCollection[stores.Ledger]: one element, when the store is complete.

  `stripes` are those of all shards. `finished` are the shards that are compacted already, in case one proves damaged.
  """

  def __init__(
    self, config: scoring.ScoringConfig, stripes: Sequence[Stripe], finished: Sequence[blocks.Shard], part: Part
  ):
    super().__init__()
    self._config, self._finished = config, set(finished)
    self._division = _Division(config.store, part, tuple(stripes))

  def expand(self, after: Any):
    config, division = self._config, self._division
    own, finished = division.own(), self._finished
    report = functools.partial(progress.report, config.progress_address, stage=config.title)
    old = (
      after
      | "FinishedShards" >> Spread([stripe for stripe in own if stripe.shard in finished and not stripe.index])
      | "CheckShards"
      >> beam.ParDo(sealing.CheckShards(config.store, report)).with_outputs(sealing.CheckShards.AGAIN, main="whole")
    )
    todo = after | "Stripes" >> Spread([stripe for stripe in own if stripe.shard not in finished])
    again = old[sealing.CheckShards.AGAIN] | "SpreadAgain" >> reshuffle.Reshuffle()
    read = (todo, again) | "AllStripes" >> beam.Flatten() | "ScoreBlocks" >> beam.ParDo(scoring.ScoreBlocks(config))
    if division.part.steals:
      others = [stripe for stripe in division.stripes if stripe not in set(own)]
      helped = (
        after
        | "Others" >> beam.FlatMap(lambda _, read: others, beam.pvalue.AsIter(read))
        | "SpreadOthers" >> reshuffle.Reshuffle()
        | "NotBegun" >> beam.Filter(lambda stripe: not division.is_begun(stripe))
        | "Help" >> beam.ParDo(scoring.ScoreBlocks(config))
      )
      read = (read, helped) | "AllRead" >> beam.Flatten()
    compacted = read | "GroupStripes" >> beam.GroupByKey() | "CompactShards" >> beam.ParDo(_Compact(config, division))
    done = map(beam.pvalue.AsIter, (compacted, old.whole))
    return after | "Seal" >> beam.ParDo(_Seal(config, division), *done)


class _Finish(beam.DoFn):
  """What is done once the share of this part is."""

  def __init__(self, config: scoring.ScoringConfig, division: _Division):
    self._config, self._division = config, division
    self._score = scoring.ScoreBlocks(config)

  def _wait(self, look: Callable[[], Missing], what: str) -> bool:
    return self._division.part.wait(look, what, self._config.progress_address)

  def _read(self, stripes: Iterable[Stripe]) -> list[tuple[blocks.Shard, sealing.StripeTotals]]:
    return [done for stripe in stripes for _, done in self._score.process(stripe)]


class _Compact(_Finish):
  """(shard name, totals of its stripes) -> ShardSummary, once the blocks of all stripes are on record.

  Nothing, if the shard is another part's. Takes over what others have left, if the part steals.
  """

  def process(self, group: tuple[str, Iterable[tuple[blocks.Shard, sealing.StripeTotals]]]) -> Iterator[Any]:
    stripes_done, division = list(group[1]), self._division
    shard, totals = stripes_done[0]
    if not division.part.steals and division.owner(shard, 0) != division.part.index:
      return
    while not self._wait(lambda: division.look_for_blocks(shard, totals.num_blocks), _BLOCK):
      there = self._config.store.finished_blocks(shard, self._config.store.engine())
      left = {index % division.count(shard) for index in range(totals.num_blocks) if index not in there}
      stripes_done += self._read(stripe for stripe in division.stripes_of(shard) if stripe.index in left)
    yield scoring.finish_shard(self._config, stripes_done)


class _Seal(_Finish):
  """The one element -> Ledger, once all shards are compacted. Every part seals: the first writer wins."""

  def process(self, element: Any, *done: Iterable[Any]) -> Iterator[Any]:
    del element, done
    config, division = self._config, self._division
    while not self._wait(division.look_for_shards, _SHARD):
      for shard in division.shards:
        if not storage.exists(config.store.scores_path(shard)):
          scoring.finish_shard(config, self._read(division.stripes_of(shard)))
    summaries = [score_files.read_summary(config.store, shard) for shard in division.shards]
    yield scoring.seal(config, summaries, division.shards)
