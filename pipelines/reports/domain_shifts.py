"""The domains that each output of a report gained most and lost most, as short tables."""

from typing import NamedTuple

from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources

MOST = 8  # rows of a table, all of which fit on a screen
_HEADER = ["domain", "% before", "% after", "points"]


class Shift(NamedTuple):
  """The domains whose share of an output is larger than that of the corpus, and those whose share is smaller."""

  output: str
  gained: Figure
  lost: Figure


def shifts(sources: Sources, domains: Figure) -> list[Shift]:
  """Returns the largest gains and losses of each output, in points of percent, from the table of all domains."""
  sets = 1 + len(sources.outputs)
  found = []
  for number, output in enumerate(sources.outputs):
    rows = [[row[0], row[1 + sets], row[2 + sets + number]] for row in domains.rows]
    rows = sorted(([name, before, after, after - before] for name, before, after in rows), key=lambda r: (r[3], r[0]))
    lost, gained = [row for row in rows if row[3] < 0], [row for row in reversed(rows) if row[3] > 0]
    found.append(Shift(output.name, Figure(_HEADER, gained[:MOST]), Figure(_HEADER, lost[:MOST])))
  return found
