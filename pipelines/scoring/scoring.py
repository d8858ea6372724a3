"""Scoring: stripes of shards in, durable block files out, compacted into the score store.

A document's text never leaves the worker that read it: what crosses a shuffle is stripes and counts.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils import shared

from curation.errors import DamagedError, WinnowError
from curation.selection import domains
from pipelines.corpus import blocks, sources
from pipelines.corpus.stripes import Spread, Stripe
from pipelines.files import damage, fingerprints, row_bits, storage
from pipelines.scoring import bisection, known_scores, recording, stored_blocks
from pipelines.scoring.description import Description, Scorer
from pipelines.selection.survivors import Survivors
from pipelines.store import block_files, dead_letters, kinds, score_files, score_store, sealing
from pipelines.store.score_store import ScoreStore
from pipelines.worker import logs, prefetch, progress, reshuffle

GATHERING = "gathering the results of each shard"


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
  """The settings of one scoring pass: the documents, the scorer, and the store for the results."""

  store: ScoreStore
  scorer: Description
  source: stored_blocks.Source
  max_bad_fraction: float
  progress_address: progress.Address | None = None
  resource_hints: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """The resource hints of the stage that computes."""
  accelerator: str | None = None
  """The accelerator that workers should have, so that none scores on its CPU at an accelerator's price."""
  number: int = 1
  """The number of the stage, where a recipe has several; else 1."""
  survivors: Survivors | None = None
  """The documents that the stage before has selected."""
  work: tuple[str, ...] = ()
  """Folders of the preparation in the store that are not needed once the store is complete."""

  @property
  def stage(self) -> str:
    """Returns the name of the work in Beam's metrics and labels."""
    name = self.store.scorer if self.store.keeps_blocks else "score"
    return name if self.number == 1 else f"{name}_{self.number}"

  @property
  def prefix(self) -> str:
    """Returns the beginning of the names of its counters, since one pipeline may embed and score; mostly ""."""
    return "" if self.stage == "score" else f"{self.stage}_"

  @property
  def title(self) -> str:
    """Returns the name of the work on a terminal."""
    return self.store.kind.title


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A scorer that is ready, and the fingerprint of its engine."""

  scorer: Scorer
  engine: str


class _Ready(NamedTuple):
  """A block whose host work is done, for the scorer that did it."""

  block: blocks.Block
  loaded: Loaded
  prepared: Any
  known: known_scores.Known | None = None


def score_blocks(
  stripe: Stripe, config: ScoringConfig, load: Callable[[], "Loaded"]
) -> Iterator[recording.BlockCounts]:
  """Scores the blocks of a stripe that are not on record, and makes each durable; yields every block of the shard once.

  Reading and tokenising run ahead in one thread, and writing runs behind in another, so the device never waits for
  either. `load` is called when the first block needs a score. If the shard is not what it was at launch, deletes what
  this call recorded, and raises ChangedError.
  """
  store, shard = config.store, stripe.shard
  engine = store.engine()
  on_record = block_files.intact_blocks(store, shard, engine, stripe.holds)

  def is_wanted(index: int) -> bool:
    if index in on_record:
      return config.source.may_change  # read it again to compare: parsing takes little beside scoring
    # Another run of the same command, or another part, may have done the block meanwhile. It may also have compacted
    # the shard, and the block files are gone then.
    made = store.scores_path(shard), store.block_path(shard, index, engine)
    return stripe.holds(index) and not any(map(storage.exists, made))

  at_work = contextlib.ExitStack()

  def prepared() -> Iterator["blocks.AnyBlock | _Ready"]:
    loaded: Loaded | None = None
    for block in config.source.read(shard, is_wanted):
      recorded = on_record.get(block.index)
      if isinstance(block, blocks.SkippedBlock) or (
        recorded is not None and _is_same(block, recorded, config, (shard, engine), load)
      ):
        yield block
      else:
        if loaded is None:  # the stage's clock starts now: what is on record took none of its time
          loaded = load()
          at_work.enter_context(progress.working(config.progress_address, config.title))
        yield _prepare(config, shard, block, loaded)

  recorded_indices: list[int] = []
  try:
    with at_work:
      yield from _score_prepared(prepared(), config, shard, recorded_indices)
  except sources.ChangedError:
    storage.delete([store.block_path(shard, index, store.engine()) for index in recorded_indices])
    raise


def _prepare(config: ScoringConfig, shard: blocks.Shard, block: blocks.Block, loaded: Loaded) -> _Ready:
  """Does the host's work for the documents of a block whose scores no earlier store has."""
  earlier = None if config.survivors is None else config.survivors.scored_before
  known = None
  if earlier is not None and known_scores.are_usable(earlier, config.store.engine_path):
    block, known = known_scores.split(earlier, shard, block)
  return _Ready(block, loaded, bisection.prepare(loaded.scorer, block, config.scorer.reads), known)


def _is_same(
  block: blocks.Block, recorded: int, config: ScoringConfig, where: tuple[blocks.Shard, str], load: Callable[[], Loaded]
) -> bool:
  """Tells whether a block on record belongs to the documents that are read now, and removes it if it does not.

  A run whose input was replaced may have been killed before it noticed. `recorded`: the checksum of the documents of
  the block on record.
  """
  store, (shard, engine) = config.store, where
  path = store.block_path(shard, block.index, engine)
  is_same = block.checksum == recorded
  if is_same and kinds.EMBEDDING in block.documents.schema.names:  # computed elsewhere, so compare them too
    scorer = load().scorer
    scores = scorer.run(scorer.prepare(block.documents[kinds.EMBEDDING])).scores
    with contextlib.suppress(DamagedError):  # the file is gone: another run has compacted the shard
      is_same = block_files.read_block(path).table.equals(recording.block_table(store.kind, block, scores, None))
  if not is_same:
    config.source.refuse_changed(shard)  # the change may be in what is read now
    damage.remove(store.folder, path, DamagedError(f"{path} holds results of other documents than are read now"))
  return is_same


def _score_prepared(
  prepared: Iterator["blocks.AnyBlock | _Ready"],
  config: ScoringConfig,
  shard: blocks.Shard,
  recorded_indices: list[int],
) -> Iterator[recording.BlockCounts]:
  """Scores and records blocks, and adds their indices to `recorded_indices`."""
  kept = None if config.survivors is None else config.survivors.kept(shard)
  on_failure = functools.partial(dead_letters.record_failure, config.store, shard)
  with concurrent.futures.ThreadPoolExecutor(1, "write") as writer:
    written: concurrent.futures.Future[recording.BlockCounts] | None = None
    # A block of embeddings takes more memory than its texts would, and less time to read: fewer are read ahead.
    is_large = config.scorer.reads == kinds.EMBEDDING
    for item in prefetch.prefetch(prepared, ahead=1 if is_large else 2):
      if not isinstance(item, _Ready):
        yield recording.BlockCounts(item.index, item.num_rows, _not_read(item, kept))
        continue
      block, loaded, ready, known = item
      started, block_progress = time.monotonic(), progress.Block(config.progress_address, config.title)
      block, scores = bisection.run(
        *(loaded.scorer, block, ready, config.scorer.reads), on_batch=block_progress.add, on_failure=on_failure
      )
      if known is not None:
        block, scores = known_scores.join(known, block, scores)
      milliseconds = round(1000 * (time.monotonic() - started))
      block_progress.finish(block.num_rows - _not_read(block, kept), scores.useful_tokens)
      if written is not None:
        yield written.result()
      if is_large:
        block = dataclasses.replace(block, documents=block.documents.drop_columns(config.scorer.reads))
        del ready, item
      recorded_indices.append(block.index)
      written = writer.submit(recording.record, (config.store, shard, loaded.engine), block, (scores, milliseconds))
    if written is not None:
      yield written.result()


def _not_read(block: blocks.AnyBlock, kept: np.ndarray | None) -> int:
  """Counts the rows of a block that are no documents; in a skipped block, as far as the bits of survivors tell."""
  if isinstance(block, blocks.Block):
    return block.not_read
  if kept is None:
    return 0
  rows = np.arange(block.first_row, block.first_row + block.num_rows)
  return block.num_rows - int(row_bits.look_up(kept, rows).sum())


class ScoreBlocks(beam.DoFn):
  """Stripe -> (shard name, (Shard, StripeTotals)): wraps `score_blocks`, and adds the model and the counters.

  It is not RunInference. The elements of RunInference would be blocks of text, made by another stage. It neither reads
  ahead nor writes behind, and a failure would take its whole batch. Beam's own `Shared` shares the model in a process.
  """

  def __init__(self, config: ScoringConfig):
    self._config = config
    self._shared = shared.Shared()
    self._load_times: list[int] = []  # reported by `process`: Beam drops what other threads count
    self._documents_read = self._counter("documents_read")
    self._documents_scored = self._counter("documents_scored")
    self._documents_resumed = self._counter("documents_scored_before")
    self._documents_nonstandard = self._counter("documents_nonstandard")
    self._blocks = self._counter("blocks_scored")
    self._tokens = self._counter("tokens")
    self._useful_tokens = self._counter("tokens_useful")
    self._padding_tokens = self._counter("tokens_padding")
    self._block_latency = Metrics.distribution(progress.METRICS, config.prefix + "block_latency_ms")
    self._load_latency = Metrics.distribution(progress.METRICS, config.prefix + "model_load_ms")

  def _counter(self, name: str) -> Any:
    return Metrics.counter(progress.METRICS, self._config.prefix + name)

  def process(self, stripe: Stripe) -> Iterator[tuple[str, tuple[blocks.Shard, sealing.StripeTotals]]]:
    num_blocks = num_rows = 0
    for counts in score_blocks(stripe, self._config, self._load):
      if counts.scored is not None:
        self._count(counts, counts.scored)
      elif stripe.holds(counts.index):
        documents = counts.num_rows - counts.not_read
        self._documents_resumed.inc(documents)
        progress.report(self._config.progress_address, stage=self._config.title, resumed=documents)
      num_blocks += 1
      num_rows += counts.num_rows
      while self._load_times:
        self._load_latency.update(self._load_times.pop())
    yield stripe.shard.name, (stripe.shard, sealing.StripeTotals(num_blocks, num_rows))

  def _count(self, counts: recording.BlockCounts, scored: int) -> None:
    documents = counts.num_rows - counts.not_read
    self._documents_read.inc(documents)
    self._documents_scored.inc(scored)
    self._documents_nonstandard.inc(counts.nonstandard)
    for reason, bad in counts.reasons:
      self._counter(f"documents_bad_{reason}").inc(bad)
    self._blocks.inc()
    self._tokens.inc(counts.num_tokens)
    self._useful_tokens.inc(counts.useful_tokens)
    self._padding_tokens.inc(counts.computed_tokens - counts.useful_tokens)
    self._block_latency.update(counts.milliseconds)

  def _load(self) -> "Loaded":
    return self._shared.acquire(self._load_once)

  def _load_once(self) -> "Loaded":
    loading = self._config.scorer.loading
    with progress.working(self._config.progress_address, loading) if loading else contextlib.nullcontext():
      return self._load_now()

  def _load_now(self) -> "Loaded":
    started = time.monotonic()
    release_model()  # another stage's: there may be no room for both
    scorer = self._config.scorer.load()
    store, survivors = self._config.store, self._config.survivors
    engine = {"method": store.method, "suffix_list": domains.suffix_list(), **scorer.describe()}
    engine |= {} if survivors is None else survivors.engine()
    if self._config.accelerator is not None and engine.get("device_kind") == "cpu":
      raise WinnowError(
        f"--accelerator={self._config.accelerator} was asked for, but JAX finds only a CPU on {platform.node()}: the "
        "image is for another accelerator, or the driver was not installed; nothing was scored"
      )
    fingerprints.claim(
      store.engine_path,
      engine,
      owner=f"the score store {store.folder}",
      advice=f"go on with what it was begun with, choose another --name, or delete {store.folder} to start over",
    )
    scorer.warm_up()
    milliseconds = round(1000 * (time.monotonic() - started))
    self._load_times.append(milliseconds)
    logs.info("model_loaded", stage=self._config.stage, milliseconds=milliseconds, engine=engine)
    return Loaded(scorer, fingerprints.fingerprint(engine))


class _Nothing:
  """A placeholder to share in a model's place."""


def release_model() -> None:
  """Releases the model that this process holds, before it loads another: there may be no room for both.

  Beam's Shared keeps what was acquired last until something else is acquired.
  """
  shared.Shared().acquire(_Nothing)


def finish_shard(
  config: ScoringConfig, stripes_done: Iterable[tuple[blocks.Shard, sealing.StripeTotals]]
) -> score_files.ShardSummary:
  """Compacts a shard whose stripes are all done."""
  with progress.working(config.progress_address, GATHERING):
    return sealing.finish_shard(config.store, stripes_done)


def seal(
  config: ScoringConfig, summaries: list[score_files.ShardSummary], shards: list[blocks.Shard]
) -> score_store.Ledger:
  """Makes the store complete, by the ledgers of its shards."""
  return sealing.seal(config.store, summaries, shards, max_bad_fraction=config.max_bad_fraction, work=config.work)


class Score(beam.PTransform):
  """PCollection of one element -> PCollection[stores.Ledger]: one element, when the store is complete.

  It begins when the element is there. `stripes` belong to shards that are not compacted yet. `finished` belong to the
  other shards, in case one of them proves damaged.
  """

  def __init__(self, config: ScoringConfig, stripes: list[Stripe], finished: list[Stripe]):
    super().__init__()
    self._config, self._stripes, self._finished = config, stripes, finished

  def expand(self, after: Any):
    config, store = self._config, self._config.store
    shards = [stripe.shard for stripe in (*self._stripes, *self._finished) if stripe.index == 0]
    todo = [after | "Stripes" >> Spread(self._stripes)] if self._stripes else []
    summaries = []
    if self._finished:
      report = functools.partial(progress.report, config.progress_address, stage=config.title)
      old = (
        after
        | "FinishedShards" >> Spread([stripe for stripe in self._finished if stripe.index == 0])
        | "CheckShards"
        >> beam.ParDo(sealing.CheckShards(store, report)).with_outputs(sealing.CheckShards.AGAIN, main="whole")
      )
      todo.append(old[sealing.CheckShards.AGAIN] | "SpreadAgain" >> reshuffle.Reshuffle())
      summaries.append(old.whole)
    new = (
      (todo[0] if len(todo) == 1 else tuple(todo) | "AllStripes" >> beam.Flatten())
      | "ScoreBlocks" >> beam.ParDo(ScoreBlocks(config)).with_resource_hints(**config.resource_hints)
      # A group, not a combine: it ends when the last stripe of a shard is done. Its values are two numbers.
      | "GroupStripes" >> beam.GroupByKey()
      | "CompactShards" >> beam.MapTuple(lambda _, stripes_done: finish_shard(config, stripes_done))
    )
    return after | "Seal" >> beam.Map(
      lambda _, *summaries: seal(config, list(itertools.chain(*summaries)), shards),
      *map(beam.pvalue.AsList, (new, *summaries)),
    )
