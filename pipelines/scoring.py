"""Scoring: stripes of shards in, durable block files out, compacted into the score store.

A document's text never leaves the worker that read it: what crosses a shuffle is stripes and counts.
"""

import concurrent.futures
import contextlib
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils import shared

from curation import domains
from curation.errors import DamagedError, WinnowError
from pipelines import (
  block_files,
  blocks,
  damage,
  failing,
  logs,
  prefetch,
  progress,
  requests,
  scorers,
  sealing,
  sources,
  storage,
  stores,
)
from pipelines.stripes import Spread, Stripe
from pipelines.survivors import Survivors

METRICS = "winnow"


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
  """What to score, with what, and to where."""

  store: stores.ScoreStore
  scorer: scorers.Description
  source: sources.Source
  max_bad_fraction: float
  progress_address: progress.Address | None = None
  resource_hints: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """What the stage that computes asks of its workers."""
  accelerator: str | None = None
  """What they were asked to have, so that none scores on its CPU at an accelerator's price."""
  number: int = 1
  """Of the stage of a recipe."""
  survivors: Survivors | None = None
  """What the stage before has selected."""

  @property
  def stage(self) -> str:
    """What the work is called, to users and among Beam's metrics."""
    name = self.store.scorer if self.store.keeps_blocks else "score"
    return name if self.number == 1 else f"{name}_{self.number}"


@dataclasses.dataclass(frozen=True)
class BlockCounts:
  """What became of one block. `scored` is None where it was skipped: on record already, or another stripe's.

  `left_out`: rows that are neither read nor bad, since a stage before has not selected them.
  """

  index: int
  num_rows: int
  left_out: int = 0
  scored: int | None = None
  reasons: tuple[tuple[str, int], ...] = ()
  num_tokens: int = 0
  useful_tokens: int = 0
  computed_tokens: int = 0
  milliseconds: int = 0


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A scorer that is ready, and the fingerprint of its engine."""

  scorer: scorers.Scorer
  engine: str


def score_blocks(stripe: Stripe, config: ScoringConfig, load: Callable[[], "Loaded"]) -> Iterator[BlockCounts]:
  """Scores the blocks of a stripe that are not on record, and makes each durable; yields every block of the shard once.

  Reading and tokenising run ahead in a thread, writing behind in another, so that the device never waits for either.
  `load` is called when the first block needs a score. Raises ChangedError, and takes back what was recorded here, where
  the shard is not what it was at launch.
  """
  store, shard = config.store, stripe.shard
  engine = store.engine()
  on_record = block_files.sound_blocks(store, shard, engine, stripe.holds)

  def is_wanted(index: int) -> bool:
    if index in on_record:
      return config.source.may_change  # to be compared: what parsing takes is little beside scoring
    # Another run of the same command may compact the shard meanwhile, and its block files are gone then.
    return stripe.holds(index) and not storage.exists(store.scores_path(shard))

  def prepared() -> Iterator[tuple[blocks.Block, Loaded | None, Any]]:
    for block in config.source.read(shard, is_wanted):
      recorded = on_record.get(block.index)
      if block.documents is None or (recorded is not None and _is_same(block, recorded, config, (shard, engine), load)):
        yield block, None, None
      else:
        loaded = load()
        yield block, loaded, failing.prepare(loaded.scorer, block, config.scorer.reads)

  here: list[int] = []
  try:
    yield from _score_prepared(prepared(), config, shard, here)
  except sources.ChangedError:
    storage.delete([store.block_path(shard, index, store.engine()) for index in here])
    raise


def _is_same(
  block: blocks.Block, recorded: int, config: ScoringConfig, where: tuple[blocks.Shard, str], load: Callable[[], Loaded]
) -> bool:
  """Tells whether a block on record is of what is read now, and removes one that is not.

  A run whose input was replaced may have been killed before it noticed. `recorded`: the checksum of its documents.
  """
  store, (shard, engine) = config.store, where
  assert block.documents is not None
  path = store.block_path(shard, block.index, engine)
  is_same = block.checksum == recorded
  if is_same and stores.EMBEDDING in block.documents.schema.names:  # which come as they are, so that they are compared
    scorer = load().scorer
    scores = scorer.run(scorer.prepare(block.documents[stores.EMBEDDING])).scores
    with contextlib.suppress(DamagedError):  # gone since: another run has compacted the shard
      is_same = block_files.read_block(path).table.equals(block_table(block, scores, None))
  if not is_same:
    config.source.refuse_changed(shard)  # what is read now may be what is not as it was
    damage.remove(store.folder, path, DamagedError(f"{path} is of other documents than are read now"))
  return is_same


def _score_prepared(
  prepared: Iterator[tuple[blocks.Block, Loaded | None, Any]],
  config: ScoringConfig,
  shard: blocks.Shard,
  here: list[int],
) -> Iterator[BlockCounts]:
  """Scores and records blocks; `here` gets their indices."""
  with concurrent.futures.ThreadPoolExecutor(1, "write") as writer:
    written: concurrent.futures.Future[BlockCounts] | None = None
    # A block of embeddings takes more memory than its texts would and less time to read: fewer are held.
    is_large = config.scorer.reads == stores.EMBEDDING
    for block, loaded, ready in prefetch.prefetch(prepared, ahead=1 if is_large else 2):
      if loaded is None:
        yield BlockCounts(block.index, block.num_rows)
        continue
      started = time.monotonic()
      block, scores = failing.run(loaded.scorer, block, ready, config.scorer.reads)
      milliseconds = round(1000 * (time.monotonic() - started))
      if written is not None:
        yield written.result()
      if is_large:
        assert block.documents is not None
        block = dataclasses.replace(block, documents=block.documents.drop_columns(config.scorer.reads))
        del ready
      here.append(block.index)
      written = writer.submit(_record, (config.store, shard, loaded.engine), block, (scores, milliseconds))
    if written is not None:
      yield written.result()


def _record(
  where: tuple[stores.ScoreStore, blocks.Shard, str], block: blocks.Block, result: tuple[scorers.Scores, int]
) -> BlockCounts:
  store, shard, engine = where
  scores, milliseconds = result
  assert block.documents is not None
  tokens_N = scores.num_tokens
  if tokens_N is None and "num_tokens" in block.documents.schema.names:  # of the store that the block comes from
    column = block.documents["num_tokens"]
    tokens_N = None if column.null_count else column.to_numpy()
  table = block_table(block, scores.scores, tokens_N)
  try:
    file = block_files.BlockFile(table, block.text_bytes, block.checksum)
    block_files.write_block(store, shard, block.index, file, engine=engine)
  except (OSError, WinnowError):
    if not storage.exists(store.scores_path(shard)):  # compacted by another run, which removed the folder
      raise
  counts = table["reason"].value_counts().to_pylist()
  by_reason = {count["values"]: count["counts"] for count in counts if count["values"] is not None}
  found = BlockCounts(
    index=block.index,
    num_rows=block.num_rows,
    left_out=by_reason.pop(blocks.LEFT_OUT, 0),
    scored=table["reason"].null_count,
    reasons=tuple(by_reason.items()),
    num_tokens=0 if tokens_N is None else int(tokens_N.sum(dtype=np.int64)),
    useful_tokens=scores.useful_tokens,
    computed_tokens=scores.computed_tokens,
    milliseconds=milliseconds,
  )
  _log_block(shard, table, found)
  return found


def _log_block(shard: blocks.Shard, table: pa.Table, counts: BlockCounts) -> None:
  where = {"shard": shard.name, "block": counts.index}
  logs.tell(
    "block_done",
    **where,
    row=table["row"][0].as_py(),
    rows=counts.num_rows,
    scored=counts.scored,
    tokens=counts.useful_tokens,
    milliseconds=counts.milliseconds,
  )
  if counts.reasons:
    first = table["row"].filter(pa.compute.is_in(table["reason"], pa.array(dict(counts.reasons))))[0].as_py()
    logs.warn("bad_documents", **where, row=first, reasons=dict(counts.reasons))


def block_table(block: blocks.Block, values: np.ndarray, num_tokens_N: np.ndarray | None) -> pa.Table:
  """The rows of a block as they go on record (block_files.block_schema), good and bad in one order.

  `values`: scores float32 [N], embeddings [N, D], signatures uint32 [N, H], or records of `cluster` and `cosine` [N].
  A document without a number that can be used is a bad one: no key could order a NaN, and an embedding of zeros has no
  direction.
  """
  documents, unreadable = block.documents, block.bad
  assert documents is not None and unreadable is not None
  if values.dtype.names is not None:
    schema = block_files.block_schema(*stores.CLUSTER_FIELDS)
    columns = [pa.array(np.ascontiguousarray(values[field.name])) for field in stores.CLUSTER_FIELDS]
    reasons = {"score_is_nan": np.isnan(values["cosine"])}
  elif values.ndim == 1:
    schema, columns = block_files.BLOCK_SCHEMA, [pa.array(values, pa.float32())]
    reasons = {"score_is_nan": np.isnan(values)}
  elif values.dtype.kind == "u":
    columns, reasons = [sources.embedding_column(values)], {}
    schema = block_files.block_schema(pa.field(stores.SIGNATURE, columns[0].type))
  else:
    columns = [sources.embedding_column(values)]
    schema = block_files.block_schema(pa.field(stores.EMBEDDING, columns[0].type))
    is_finite_N = np.isfinite(values).all(axis=1)
    reasons = {"embedding_is_not_finite": ~is_finite_N, "embedding_is_zero": is_finite_N & ~values.any(axis=1)}
  is_bad_N = np.logical_or.reduce([np.zeros(len(values), bool), *reasons.values()])
  tokens = pa.nulls(len(values), pa.int32()) if num_tokens_N is None else pa.array(num_tokens_N, pa.int32())
  nulls = pa.nulls(len(values), pa.string())
  is_known = stores.DOMAIN.name in documents.schema.names  # to the store that the block comes from
  of_each = documents[stores.DOMAIN.name] if is_known else domains.registered_domains(documents["url"])
  all_rows = pa.table([documents["row"], *columns, tokens, of_each, nulls, nulls], schema=schema)
  good = all_rows.filter(pa.array(~is_bad_N))
  bad = [unreadable.select(["row", "reason", "text"])]
  for reason, is_so_N in reasons.items():
    without = documents.filter(pa.array(is_so_N))
    # Blocks of a store of embeddings have no texts; nothing is wrong with their embeddings, which were looked at.
    texts = without["text"] if "text" in without.schema.names else pa.array([""] * len(without), pa.string())
    said = pa.array([reason] * len(without), pa.string())
    shown = pa.compute.utf8_slice_codeunits(texts, 0, blocks.DEAD_TEXT_CHARACTERS)
    bad.append(pa.table({"row": without["row"], "reason": said, "text": shown}))
  return pa.concat_tables([good, *bad], promote_options="default").select(schema.names).sort_by("row")


class ScoreBlocks(beam.DoFn):
  """Stripe -> (shard name, (Shard, StripeTotals)); the work is `score_blocks`, here are the model and the counters.

  Not RunInference: its elements would be blocks of text, made by another stage, without reading ahead or writing behind
  them, and a failure would take its whole batch. The model is shared within a process by Beam's own `Shared`.
  """

  def __init__(self, config: ScoringConfig):
    self._config = config
    self._shared = shared.Shared()
    self._load_times: list[int] = []  # told by `process`: Beam drops what other threads count
    self._prefix = "" if config.stage == "score" else f"{config.stage}_"  # one pipeline may embed and score
    self._documents_read = self._counter("documents_read")
    self._documents_scored = self._counter("documents_scored")
    self._documents_resumed = self._counter("documents_scored_before")
    self._blocks = self._counter("blocks_scored")
    self._tokens = self._counter("tokens")
    self._useful_tokens = self._counter("tokens_useful")
    self._padding_tokens = self._counter("tokens_padding")
    self._block_latency = Metrics.distribution(METRICS, self._prefix + "block_latency_ms")
    self._load_latency = Metrics.distribution(METRICS, self._prefix + "model_load_ms")

  def _counter(self, name: str) -> Any:
    return Metrics.counter(METRICS, self._prefix + name)

  def process(self, stripe: Stripe) -> Iterator[tuple[str, tuple[blocks.Shard, sealing.StripeTotals]]]:
    num_blocks = num_rows = 0
    for counts in score_blocks(stripe, self._config, self._load):
      if counts.scored is not None:
        self._count(counts, counts.scored)
      elif stripe.holds(counts.index):
        self._documents_resumed.inc(counts.num_rows)
        progress.report(self._config.progress_address, stage=self._config.stage, documents=counts.num_rows)
      num_blocks += 1
      num_rows += counts.num_rows
      while self._load_times:
        self._load_latency.update(self._load_times.pop())
    yield stripe.shard.name, (stripe.shard, sealing.StripeTotals(num_blocks, num_rows))

  def _count(self, counts: BlockCounts, scored: int) -> None:
    documents = counts.num_rows - counts.left_out
    self._documents_read.inc(documents)
    self._documents_scored.inc(scored)
    for reason, bad in counts.reasons:
      self._counter(f"documents_bad_{reason}").inc(bad)
    self._blocks.inc()
    self._tokens.inc(counts.num_tokens)
    self._useful_tokens.inc(counts.useful_tokens)
    self._padding_tokens.inc(counts.computed_tokens - counts.useful_tokens)
    self._block_latency.update(counts.milliseconds)
    progress.report(
      self._config.progress_address, stage=self._config.stage, documents=documents, tokens=counts.useful_tokens
    )

  def _load(self) -> "Loaded":
    return self._shared.acquire(self._load_once)

  def _load_once(self) -> "Loaded":
    started = time.monotonic()
    release_model()  # of another stage: there may be no room for both
    scorer = self._config.scorer.load()
    store, within = self._config.store, self._config.survivors
    engine = {"method": store.method, "suffix_list": domains.suffix_list(), **scorer.describe()}
    engine |= {} if within is None else within.engine()
    if self._config.accelerator is not None and engine.get("device_kind") == "cpu":
      raise WinnowError(
        f"--accelerator={self._config.accelerator} was asked for, and JAX finds a CPU alone on {platform.node()}: the "
        "image is another accelerator's, or the driver was not installed; nothing was scored"
      )
    requests.claim(
      store.engine_path,
      engine,
      owner=f"the score store {store.folder}",
      advice=f"go on with what it was begun with, choose another --name, or delete {store.folder} to start over",
    )
    scorer.warm_up()
    milliseconds = round(1000 * (time.monotonic() - started))
    self._load_times.append(milliseconds)
    logs.tell("model_loaded", stage=self._config.stage, milliseconds=milliseconds, engine=engine)
    return Loaded(scorer, requests.fingerprint(engine))


class _Nothing:
  """What can be shared in a model's place."""


def release_model() -> None:
  """Lets go of the model that this process holds, before it loads another: there may be no room for both.

  Beam's Shared keeps what was acquired last until something else is.
  """
  shared.Shared().acquire(_Nothing)


class Score(beam.PTransform):
  """Pipeline, or PCollection of one element -> PCollection[stores.Ledger]: one element, when the store is complete.

  Of a PCollection it waits for the element. `stripes` are those of shards that are not compacted yet, `finished` those
  of the others, in case that one of them proves damaged.
  """

  def __init__(self, config: ScoringConfig, stripes: list[Stripe], finished: list[Stripe]):
    super().__init__()
    self._config, self._stripes, self._finished = config, stripes, finished

  def expand(self, after: Any):
    config, store = self._config, self._config.store
    shards = [stripe.shard for stripe in (*self._stripes, *self._finished) if stripe.index == 0]
    old = (
      after
      | "FinishedShards" >> Spread([stripe for stripe in self._finished if stripe.index == 0])
      | "CheckShards" >> beam.ParDo(sealing.CheckShards(store)).with_outputs(sealing.CheckShards.AGAIN, main="whole")
    )
    new = (
      (after | "Stripes" >> Spread(self._stripes), old[sealing.CheckShards.AGAIN] | "SpreadAgain" >> beam.Reshuffle())
      | "AllStripes" >> beam.Flatten()
      | "ScoreBlocks" >> beam.ParDo(ScoreBlocks(config)).with_resource_hints(**config.resource_hints)
      # A group, not a combine: it is the moment when the last stripe of a shard is done. Its values are two numbers.
      | "GroupStripes" >> beam.GroupByKey()
      | "CompactShards" >> beam.MapTuple(lambda _, stripes_done: sealing.finish_shard(store, stripes_done))
    )
    return (
      (new, old.whole)
      | "Flatten" >> beam.Flatten()
      | "GatherSummaries" >> beam.combiners.ToList()
      | "Seal" >> beam.Map(lambda summaries: sealing.seal(store, summaries, shards, config.max_bad_fraction))
    )
