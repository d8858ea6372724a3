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
from pipelines.store import dead_letters, score_files
from pipelines.store.score_store import ScoreStore

_READERS = 16
_PAUSE_SECONDS = 600.0  # if nothing was finished for longer, a run has ended or is stuck
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Progress:
  """The progress of a store. Figures that are only estimated are floats."""

  finished: list[score_files.ShardSummary]
  waiting: list[blocks.Shard]
  begun: int
  """The number of waiting shards that have blocks on record."""
  damaged: list[str]
  documents: float
  expected: float | None
  """The number of documents in all; None if no shard is finished, since nothing else tells."""
  rate: float | None
  """The documents a second since the last pause of ten minutes; None if too little is on record."""
  silent_seconds: float | None
  """The seconds since the last file was written; None if none was."""


def status(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.STATUS, argv)
  planning.make_launcher(namespace, beam_arguments)  # sets what Beam's file systems need: credentials, endpoints
  folder = inputs.absolute(namespace.folder)
  store = ScoreStore.at(folder)
  listing = find_stores.Found({storage.base_name(folder): store}, {}) if store else find_stores.find_stores(folder)
  if not (listing.stores or listing.unreadable):
    raise WinnowError(f"{namespace.folder} {folders.instead_of_stores(folder)}")
  for name, store in sorted(listing.stores.items()):
    print("\n".join(describe(name, store)))
  for name, reason in sorted(listing.unreadable.items()):
    print(f"{name}: {reason}")


def look(store: ScoreStore, now: float) -> Progress:
  """Reads the progress of a store from listings, and from the footers of its finished shards."""
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
  events += [(written, block_rows) for times_of_blocks in blocks_by_folder.values() for written in times_of_blocks]
  on_record = read + block_rows * sum(map(len, blocks_by_folder.values()))
  expected = None
  if read:
    finished_size = max(1, sum(by_name[s.shard].size for s in finished))
    expected = max(on_record, read / finished_size * sum(shard.size for shard in shards))
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
    results = list(pool.map(read, shards))
  return [s for s in results if isinstance(s, score_files.ShardSummary)], [s for s in results if isinstance(s, str)]


def _rate(events: list[tuple[float, float]], now: float) -> tuple[float | None, float | None]:
  """Returns the documents a second since the last pause, by the times of files, and the seconds since the last file."""
  if not events:
    return None, None
  first = len(events) - 1
  while first and events[first][0] - events[first - 1][0] < _PAUSE_SECONDS:
    first -= 1
  seconds = events[-1][0] - events[first][0]
  documents = sum(count for _, count in events[first + 1 :])
  return (documents / seconds if documents and seconds > 1 else None), max(0.0, now - events[-1][0])


def describe(name: str, store: ScoreStore) -> list[str]:
  """Returns a few lines about one store."""
  if store.is_complete:
    summary = store.summary()
    return [
      f"{name}: {store.kind.contents}, complete",
      *_figures(summary["read"], summary["scored"], summary["bad"], summary),
      *(f"  {line}" for line in dead_letters.lines(store, summary["shards"])),
    ]
  progress = look(store, time.time())
  shards = len(progress.finished) + len(progress.waiting)
  lines = [f"{name}: {store.kind.contents}, incomplete"]
  lines += _preparation(store)
  lines.append(
    f"  {len(progress.finished):,} of {shards:,} shards finished, {progress.begun:,} partly done, "
    f"{len(progress.waiting) - progress.begun:,} not started"
  )
  share = ""
  if progress.expected:
    # An incomplete store lacks something, however little, so never say 100%.
    share = f", {min(int(100 * progress.documents / progress.expected), 99)}% of about {progress.expected:,.0f}"
  lines.append(f"  about {progress.documents:,.0f} documents done{share}")
  if progress.finished:
    scored, bad = sum(s.scored for s in progress.finished), sum(s.bad for s in progress.finished)
    blank = sum(s.blank for s in progress.finished)
    and_blank = f"; {blank:,} blank lines" if blank else ""
    lines.append(f"  documents in finished shards: {scored:,} scored, {bad:,} bad{and_blank}")
    lines += [f"  {line}" for line in dead_letters.lines(store, map(dataclasses.asdict, progress.finished))]
  if progress.silent_seconds is not None and progress.silent_seconds > _PAUSE_SECONDS:
    lines.append(
      f"  nothing was written for {duration(progress.silent_seconds)}: if no run is working on it, run its command "
      "again"
    )
  elif progress.rate:
    left = ""
    if progress.expected:
      left = f", about {duration(max(0.0, progress.expected - progress.documents) / progress.rate)} left"
    lines.append(f"  about {progress.rate:,.1f} documents/s{left}")
  if progress.waiting:
    named = ", ".join(shard.name for shard in progress.waiting[:_NAMED])
    more = f" and {len(progress.waiting) - _NAMED:,} more" if len(progress.waiting) > _NAMED else ""
    lines.append(f"  shards to do: {named}{more}")
  elif not progress.damaged:
    lines.append("  all shards are finished, but the store is not complete: run its command again")
  return lines + [f"  damaged: {reason}" for reason in progress.damaged]


def _preparation(store: ScoreStore) -> list[str]:
  """Returns lines about the progress of the preparation, such as a sketch."""
  preparation = SCORERS[store.scorer].preparation if store.scorer in SCORERS else None
  return [] if preparation is None else [f"  {line}" for line in preparation().state(store)]


def _figures(read: int, scored: int, bad: int, summary: dict[str, Any]) -> list[str]:
  shards = len(summary["shards"])
  counted = f"{shards:,} shard{'' if shards == 1 else 's'}"
  lines = [f"  {read:,} documents read = {scored:,} scored + {bad:,} bad, in {counted}"]
  if summary["blank"]:
    lines.append(f"  {summary['blank']:,} blank lines, which are no documents")
  if summary["num_tokens"] is not None:
    lines.append(f"  {summary['num_tokens']:,} tokens")
  return lines


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(status, argv)


if __name__ == "__main__":
  sys.exit(main())
