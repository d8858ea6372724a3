"""`winnow status`: shows how far score stores have come and how long the rest will take, from the stores alone."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import find_stores, planning
from pipelines.jobs.durations import duration
from pipelines.output import folders
from pipelines.registry import command_names
from pipelines.runners import commands, part_records
from pipelines.scorers.registry import SCORERS
from pipelines.store import dead_letters, on_record
from pipelines.store.score_store import ScoreStore

_NAMED = 3


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


def describe(name: str, store: ScoreStore) -> list[str]:
  """Returns a few lines about one store."""
  if store.is_complete:
    summary = store.summary()
    return [
      f"{name}: {store.kind.contents}, complete",
      *_figures(summary["read"], summary["scored"], summary["bad"], summary),
      *(f"  {line}" for line in dead_letters.lines(store, summary["shards"])),
    ]
  progress = on_record.Record(store).look(time.time())
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
  lines += [f"  {line}" for line in part_records.lines(store.folder)]
  if progress.silent_seconds is not None and progress.silent_seconds > on_record.PAUSE_SECONDS:
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
