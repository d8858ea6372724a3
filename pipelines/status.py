"""`winnow status`: shows how far score stores have come and how long the rest will take, from the stores alone."""

import concurrent.futures
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from curation.errors import DamagedError, WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing
from pipelines.jobs import find_stores, planning
from pipelines.jobs.durations import duration
from pipelines.output import folders
from pipelines.registry import command_names
from pipelines.runners import commands
from pipelines.scorers.registry import SCORERS
from pipelines.store import score_files
from pipelines.store.score_store import ScoreStore

_READERS = 16
_PAUSE_SECONDS = 600.0  # with nothing finished for longer, a run has ended, or stands
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a store has come. What is only estimated is a float."""

  finished: list[score_files.ShardSummary]
  waiting: list[blocks.Shard]
  begun: int
  """Those of the waiting ones that have blocks on record."""
  damaged: list[str]
  documents: float
  expected: float | None
  """Documents in all; None where no shard is finished, from which to tell."""
  rate: float | None
  """Documents a second, since the last pause of ten minutes; None where too little is on record."""
  silent_seconds: float | None


def status(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.STATUS, argv)
  planning.make_launcher(namespace, beam_arguments)  # which sets what Beam's file systems need: credentials, endpoints
  folder = inputs.absolute(namespace.folder)
  store = ScoreStore.at(folder)
  there = find_stores.Found({storage.base_name(folder): store}, {}) if store else find_stores.find_stores(folder)
  if not (there.stores or there.unreadable):
    raise WinnowError(f"{namespace.folder} {folders.instead_of_stores(folder)}")
  for name, store in sorted(there.stores.items()):
    print("\n".join(describe(name, store)))
  for name, told in sorted(there.unreadable.items()):
    print(f"{name}: {told}")


def look(store: ScoreStore, now: float) -> Progress:
  """Reads how far a store has come: listings, and the footers of its finished shards."""
  shards = store.shards()
  times = storage.list_times(storage.join(storage.escape(store.shards_folder), "*.parquet"))
  finished, damaged = _summaries(store, store.finished(shards))
  done = {summary.shard for summary in finished}
  waiting = [shard for shard in shards if shard.name not in done]
  engine = store.engine()
  folders = {store.block_folder(shard, engine): shard for shard in waiting}
  listed = storage.list_times(storage.join(storage.escape(store.blocks_folder), "*", "*.parquet"))
  blocks_by_folder: dict[str, list[float]] = {}
  for path, written in listed.items():
    if path.rsplit("/", 1)[0] in folders:
      blocks_by_folder.setdefault(path.rsplit("/", 1)[0], []).append(written)
  num_blocks, read = sum(len(s.block_rows) for s in finished), sum(s.read for s in finished)
  block_rows = read / num_blocks if num_blocks else float(fingerprints.field(store.request_path, "block_rows") or 0)
  by_name = {shard.name: shard for shard in shards}
  paths = {s.shard: store.scores_path(by_name[s.shard]) for s in finished}
  events = [(times[paths[s.shard]], float(s.read)) for s in finished if paths[s.shard] in times]
  events += [(written, block_rows) for of_folder in blocks_by_folder.values() for written in of_folder]
  on_record = read + block_rows * sum(map(len, blocks_by_folder.values()))
  expected = None
  if read:
    of_finished = max(1, sum(by_name[s.shard].size for s in finished))
    expected = max(on_record, read / of_finished * sum(shard.size for shard in shards))
  rate, silent = _rate(sorted(events), now)
  return Progress(finished, waiting, len(blocks_by_folder), damaged, on_record, expected, rate, silent)


def _summaries(store: ScoreStore, shards: list[blocks.Shard]) -> tuple[list[score_files.ShardSummary], list[str]]:
  def read(shard: blocks.Shard) -> score_files.ShardSummary | str:
    try:
      return score_files.read_summary(store, shard)
    except storage.AccessError:
      raise
    except DamagedError as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    found = list(pool.map(read, shards))
  return [s for s in found if isinstance(s, score_files.ShardSummary)], [s for s in found if isinstance(s, str)]


def _rate(events: list[tuple[float, float]], now: float) -> tuple[float | None, float | None]:
  """Documents a second since the last pause, by when files were written; seconds since the last of them."""
  if not events:
    return None, None
  first = len(events) - 1
  while first and events[first][0] - events[first - 1][0] < _PAUSE_SECONDS:
    first -= 1
  seconds = events[-1][0] - events[first][0]
  documents = sum(count for _, count in events[first + 1 :])
  return (documents / seconds if documents and seconds > 1 else None), max(0.0, now - events[-1][0])


def describe(name: str, store: ScoreStore) -> list[str]:
  """A few lines about one store."""
  if store.is_complete:
    summary = store.summary()
    return [
      f"{name}: {store.kind.contents}, complete",
      *_figures(summary["read"], summary["scored"], summary["bad"], summary),
    ]
  found = look(store, time.time())
  shards = len(found.finished) + len(found.waiting)
  lines = [f"{name}: {store.kind.contents}, incomplete"]
  lines += _preparation(store)
  lines.append(
    f"  {len(found.finished):,} of {shards:,} shards finished, {found.begun:,} partly done, "
    f"{len(found.waiting) - found.begun:,} not started"
  )
  of_all = ""
  if found.expected:
    # A store that is not complete lacks something, however little.
    of_all = f", {min(int(100 * found.documents / found.expected), 99)}% of about {found.expected:,.0f}"
  lines.append(f"  about {found.documents:,.0f} documents done{of_all}")
  if found.finished:
    scored, bad = sum(s.scored for s in found.finished), sum(s.bad for s in found.finished)
    blank = sum(s.blank for s in found.finished)
    and_blank = f"; {blank:,} blank lines" if blank else ""
    lines.append(f"  documents in finished shards: {scored:,} scored, {bad:,} bad{and_blank}")
  if found.silent_seconds is not None and found.silent_seconds > _PAUSE_SECONDS:
    lines.append(
      f"  nothing was written for {duration(found.silent_seconds)}: if no run is working on it, run its command again"
    )
  elif found.rate:
    left = ""
    if found.expected:
      left = f", about {duration(max(0.0, found.expected - found.documents) / found.rate)} left"
    lines.append(f"  about {found.rate:,.1f} documents/s{left}")
  if found.waiting:
    named = ", ".join(shard.name for shard in found.waiting[:_NAMED])
    more = f" and {len(found.waiting) - _NAMED:,} more" if len(found.waiting) > _NAMED else ""
    lines.append(f"  shards to do: {named}{more}")
  elif not found.damaged:
    lines.append("  all shards are finished, but the store is not complete: run its command again")
  return lines + [f"  damaged: {told}" for told in found.damaged]


def _preparation(store: ScoreStore) -> list[str]:
  """Returns how far what scores are read from has come, such as a sketch."""
  preparation = SCORERS[store.scorer].preparation if store.scorer in SCORERS else None
  return [] if preparation is None else [f"  {line}" for line in preparation.state(store)]


def _figures(read: int, scored: int, bad: int, summary: dict[str, Any]) -> list[str]:
  lines = [f"  {read:,} documents read = {scored:,} scored + {bad:,} bad, in {len(summary['shards']):,} shards"]
  if summary["blank"]:
    lines.append(f"  {summary['blank']:,} blank lines, which are no documents")
  if summary["num_tokens"] is not None:
    lines.append(f"  {summary['num_tokens']:,} tokens")
  return lines


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(status, argv)


if __name__ == "__main__":
  sys.exit(main())
