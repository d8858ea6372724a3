"""Sealing: the blocks of a shard become its score file, and all shards together a complete store.

Only counts cross a shuffle: the totals and the ledger of each shard.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from curation.errors import DamagedError, WinnowError
from pipelines.corpus import blocks
from pipelines.corpus.stripes import Stripe
from pipelines.files import damage, fingerprints, storage
from pipelines.store import block_files, clearing, dead_letters, score_files, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import logs

_NAMED = 3


class StripeTotals(NamedTuple):
  """The size of a whole shard, as seen by the reader of one stripe."""

  num_blocks: int
  num_rows: int


class CheckShards(beam.DoFn):
  """First Stripe of a shard that was compacted before this run -> its ShardSummary.

  If the files of the shard are damaged, yields all its stripes instead, tagged `AGAIN`. Calls `report` with the number
  of `resumed` documents.
  """

  AGAIN = "again"

  def __init__(self, store: ScoreStore, report: Callable[..., None]):
    self._store, self._report = store, report

  def process(self, first: Stripe) -> Iterator[Any]:
    summary = block_files.intact_shard(self._store, first.shard)
    if summary is not None:
      self._report(resumed=summary.read)
      yield summary
    else:
      for index in range(first.count):
        yield beam.pvalue.TaggedOutput(self.AGAIN, dataclasses.replace(first, index=index))


def finish_shard(
  store: ScoreStore, stripes_done: Iterable[tuple[blocks.Shard, StripeTotals]]
) -> score_files.ShardSummary:
  """Compacts a shard whose stripes are all done, unless a second run of the same command was faster.

  Raises WinnowError if the shard has changed, and DamagedError if one of its block files is damaged.
  """
  (shard, *_), totals = zip(*stripes_done, strict=True)
  if len(set(totals)) != 1:
    raise WinnowError(f"{shard.path} changed while it was read: its stripes saw {sorted(set(totals))}; score it again")
  try:
    summary = block_files.compact_shard(store, shard, num_blocks=totals[0].num_blocks, num_rows=totals[0].num_rows)
  except WinnowError as error:
    if storage.exists(store.scores_path(shard)):
      return score_files.read_summary(store, shard)
    if isinstance(error, DamagedError):  # after the reader of its stripe had checked it
      raise DamagedError(f"{error}; run the same command again to remake it") from error
    raise
  logs.info("shard_done", shard=shard.name, read=summary.read, scored=summary.scored, bad=summary.bad)
  return summary


def seal(
  store: ScoreStore,
  summaries: list[score_files.ShardSummary],
  shards: list[blocks.Shard],
  *,
  max_bad_fraction: float,
  work: Sequence[str],
) -> score_store.Ledger:
  """Adds up the figures of all shards and writes the summary, which makes the store complete.

  Raises WinnowError if more than `max_bad_fraction` of the documents are bad, or, with a fraction below 1, if all
  documents of a shard are bad. Nothing is lost then: the same command with a larger fraction finishes at once.
  """
  summaries = sorted(summaries, key=lambda summary: summary.shard)
  read, bad = sum(s.read for s in summaries), sum(s.bad for s in summaries)
  if not read:
    raise WinnowError("the input holds no documents; check --input")
  if bad > max_bad_fraction * read:
    named = "; ".join([name for s in summaries for name in s.first_bad][:3])
    failed = "".join(f"; {sentence}" for sentence in dead_letters.failures(store))
    raise WinnowError(
      f"{bad:,} of {read:,} documents are bad, more than --max_bad_fraction={max_bad_fraction:g}: {named}; all of them "
      f"are in {store.dead_letter_folder}{failed}; fix the input, or allow more and run the command again"
    )
  if max_bad_fraction < 1:
    _refuse_without_documents(store, summaries)
  engine = store.engine()
  for summary in summaries:
    if summary.engine != engine:
      raise WinnowError(
        f"the scores of {summary.shard} are not by the engine in {store.engine_path}, or that file is missing; make "
        "sure that no other run writes there, and run the command again with --overwrite"
      )
  ledger = {"fingerprint": store.fingerprint, "engine": engine, **add_up(summaries)}
  if storage.exists(store.summary_path) and store.readable_summary() is None:
    damage.remove(store.folder, store.summary_path, DamagedError(f"{store.summary_path} is damaged"))
  storage.create(store.summary_path, fingerprints.sealed(ledger), must_agree=True)
  clearing.tidy(store, shards, work)
  return store.ledger()


def _refuse_without_documents(store: ScoreStore, summaries: list[score_files.ShardSummary]) -> None:
  """Raises WinnowError with the shards whose rows are all bad: such files usually are not what their names say."""
  # If an earlier stage has left rows out, only few rows remain, and that stage has seen a document of the shard.
  named = [
    f"{s.shard} ({', '.join(f'{reason} {count:,}' for reason, count in s.reasons.items())})"
    for s in summaries
    if s.bad and not s.scored and not s.left_out
  ]
  if named:
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    raise WinnowError(
      f"{len(named):,} of {len(summaries):,} shards hold only bad rows: {', '.join(named[:_NAMED])}{more}; their rows "
      f"are in {store.dead_letter_folder}; fix these files or remove them from --input, or continue "
      "without their documents: --max_bad_fraction=1"
    )


def add_up(summaries: list[score_files.ShardSummary]) -> dict[str, Any]:
  """Returns the content of summary.json: sums over the shards, and the figures of each shard."""
  reasons: dict[str, int] = {}
  for summary in summaries:
    for reason, count in summary.reasons.items():
      reasons[reason] = reasons.get(reason, 0) + count
  counts_tokens = all(s.num_tokens is not None for s in summaries)
  return {
    "read": sum(s.read for s in summaries),
    "scored": sum(s.scored for s in summaries),
    "bad": sum(s.bad for s in summaries),
    "blank": sum(s.blank for s in summaries),
    "num_tokens": sum(s.num_tokens for s in summaries) if counts_tokens else None,
    "text_bytes": sum(s.text_bytes for s in summaries),
    "reasons": reasons,
    "shards": [dataclasses.asdict(s) for s in summaries],
  }
