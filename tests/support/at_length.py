"""`make faults`: injects faults into every command at length, and writes the table of docs/reliability.md."""

import argparse
import functools
import pathlib
import random
import re
import sys
import tempfile
from collections.abc import Callable

import faults
from places import COMMANDS, PROJECT, Outcome, Place

_PAGE = PROJECT / "docs/reliability.md"
_TABLE = "<!-- faults -->\n", "<!-- /faults -->"


def at_length(place: Place, count: int, generator: random.Random) -> dict[str, Callable[[], Outcome | None]]:
  """Returns all faults by name."""
  found: dict[str, Callable[[], Outcome | None]] = {}
  for name in COMMANDS:
    found[f"kills {name}"] = functools.partial(faults.kills, place, name, count, generator)
    found[f"damage {name}"] = functools.partial(faults.damaged_files, place, name, 10, generator)
    found[f"two {name}"] = functools.partial(faults.two_at_once, place, name)
    found[f"disk {name}"] = functools.partial(faults.full_disk, place, name)
  found["memory score"] = functools.partial(faults.little_memory, place)
  for name in ("score", "sample"):
    for how in ("replaced", "truncated"):
      found[f"{how} {name}"] = functools.partial(faults.changed_shard, place, name, how)
    found[f"clock {name}"] = functools.partial(faults.jumping_clock, place, name)
  for name in ("density", "curate"):
    found[f"bucket {name}"] = functools.partial(faults.kills_on_a_bucket, place, name, max(1, count // 5), generator)
  for name in ("score", "embed", "sample"):
    found[f"read {name}"] = functools.partial(faults.read_error, place, name)
  return found


def row(outcome: Outcome) -> str:
  return f"| {outcome.fault} | {outcome.injected} | {outcome.survived} | {outcome.lost} | {outcome.duplicated} |"


def write_table(outcomes: list[Outcome], *, anew: bool) -> None:
  """Writes the rows into the page; those of other faults stay unless all were injected."""
  text = _PAGE.read_text()
  start, stop = text.index(_TABLE[0]) + len(_TABLE[0]), text.index(_TABLE[1])
  rows = {} if anew else {line.split(" | ")[0]: line for line in text[start:stop].splitlines()[2:]}
  rows |= {row(outcome).split(" | ")[0]: row(outcome) for outcome in outcomes}
  head = ["| fault | injected | survived | documents lost | duplicated |", "|---|---|---|---|---|"]
  _PAGE.write_text(text[:start] + "\n".join([*head, *rows.values()]) + "\n" + text[stop:])


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=50, help="of each command")
  parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
  parser.add_argument("--only", default="", help="a regular expression of what to do, such as 'kills|read score'")
  parser.add_argument("--write", action="store_true", help="write the table of docs/reliability.md")
  namespace = parser.parse_args()
  print(f"seed {namespace.seed}", flush=True)
  outcomes = []
  with tempfile.TemporaryDirectory(prefix="winnow-faults-") as folder:
    place = Place(pathlib.Path(folder), big_rows=20_000, small_rows=600)
    for called, inject in at_length(place, namespace.kills, random.Random(namespace.seed)).items():
      if re.search(namespace.only, called) and (outcome := inject()) is not None:
        print("\n".join([row(outcome), *outcome.notes]), flush=True)
        outcomes.append(outcome)
  if namespace.write:
    write_table(outcomes, anew=not namespace.only)
  injected, survived = sum(o.injected for o in outcomes), sum(o.survived for o in outcomes)
  print(f"{injected} injected, {survived} survived")
  return 0 if all(outcome.is_good and not outcome.notes for outcome in outcomes) else 1


if __name__ == "__main__":
  sys.exit(main())
