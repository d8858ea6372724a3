"""How far scorers agree: the order that puts similar ones together, the overlap of their tops, and pairs in bins.

Shape suffixes: S scorers, N documents of the sample, G bins of percentiles.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from curation.selection import metrics
from pipelines.reports import charts
from pipelines.reports.charts import Words
from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources
from pipelines.reports.passes import Sample

TOP = 0.2
_TIED = 1.25  # a top that is this much larger than `TOP` because of ties is no top
_GRID = 14
_MOST_PAIRS = 45
_LONGEST_NAME = 16


class Cell(NamedTuple):
  """A cell of a heat map: its text, the class of its colour, and how much of the colour it gets, in percent."""

  text: str
  look: str
  share: int


class HeatRow(NamedTuple):
  """A row of a heat map, whose number is also that of its column."""

  number: int
  name: str
  cells: list[Cell]

  @property
  def short(self) -> str:
    """The name without its middle if it is long, so that a map of twenty scorers fits beside its names."""
    return self.name if len(self.name) <= _LONGEST_NAME else f"{self.name[:7]}…{self.name[7 - _LONGEST_NAME + 1 :]}"


class Pair(NamedTuple):
  """Documents by their percentiles by two scorers: int64 [G, G], the first scorer down and the second one across."""

  first: str
  second: str
  counts_GG: np.ndarray


def overlap(sources: Sources, sample: Sample) -> Figure:
  """Returns the share of the top fifth by one scorer that is in the top fifth by another, in percent.

  Only documents that both have scored are compared. A pair is empty if a scorer has too many equal scores to have a top
  fifth, as MinHash has.
  """
  names = list(sources.scorers)
  rows = []
  for i, name in enumerate(names):
    rows.append([name, *(_overlap(sample.scores_SN[i], sample.scores_SN[j]) for j in range(len(names)))])
  return Figure(["scorer", *names], rows)


def _overlap(first_N: np.ndarray, second_N: np.ndarray) -> float | None:
  both_N = ~(np.isnan(first_N) | np.isnan(second_N))
  tops = [_top(scores_N[both_N]) for scores_N in (first_N, second_N)]
  if tops[0] is None or tops[1] is None:
    return None
  return 100 * int((tops[0] & tops[1]).sum()) / max(1, min(int(tops[0].sum()), int(tops[1].sum())))


def _top(scores_N: np.ndarray) -> np.ndarray | None:
  """Tells which documents are in the top fifth, ties included: bool [N]. None if ties make it much larger."""
  wanted = round(TOP * len(scores_N))
  if not wanted:
    return None
  top_N = scores_N >= np.partition(scores_N, -wanted)[-wanted]
  return top_N if top_N.sum() <= _TIED * wanted else None


def pairs(sources: Sources, sample: Sample) -> list[Pair]:
  """Counts the documents of the sample by their percentiles by every two scorers; at most 45 pairs."""
  names = list(sources.scorers)
  found = []
  for i, j in itertools.islice(itertools.combinations(range(len(names)), 2), _MOST_PAIRS):
    both_N = ~(np.isnan(sample.scores_SN[i]) | np.isnan(sample.scores_SN[j]))
    bins = [np.int64(metrics.percentiles(sample.scores_SN[s, both_N]) * _GRID / 100).clip(0, _GRID - 1) for s in (i, j)]
    counts = np.bincount(bins[0] * _GRID + bins[1], minlength=_GRID * _GRID)
    found.append(Pair(names[i], names[j], counts.reshape(_GRID, _GRID)))
  return found


def draw(pairs: list[Pair]) -> list[str]:
  """Draws each pair as squares."""
  drawn = []
  for number, pair in enumerate(pairs):
    total = max(int(pair.counts_GG.sum()), 1)
    near = sum(int(np.trace(pair.counts_GG, offset)) for offset in (-1, 0, 1)) / total
    description = (
      f"{total:,} documents by their percentile by {pair.first}, upwards, and by {pair.second}, to the right; "
      f"{near:.0%} are within a bin of {100 / _GRID:.0f} percentiles or the one next to it."
    )
    words = Words(f"pair-{number}", f"{pair.first} against {pair.second}", description)
    drawn.append(charts.squares(words, pair.counts_GG.tolist(), x_label=pair.second, y_label=pair.first))
  return drawn


def order(tau: Figure) -> list[int]:
  """Returns the numbers of the scorers such that those that agree are beside each other.

  Average linkage over 1 − tau, with the leaves in their best order (Bar-Joseph et al. 2001). A scorer whose scores are
  all equal is as far from the others as one that has nothing in common with them.
  """
  size = len(tau.rows)
  if size < 3:
    return list(range(size))
  from scipy.cluster import hierarchy

  distances = [1 - (tau.rows[i][1 + j] or 0.0) for i, j in itertools.combinations(range(size), 2)]
  return hierarchy.leaves_list(hierarchy.linkage(np.array(distances), "average", optimal_ordering=True)).tolist()


def heat(figure: Figure, places: list[int], *, percent: bool = False) -> list[HeatRow]:
  """Returns the rows of a heat map of a square table, in a given order; values are from −1 to 1, or percent."""
  rows = []
  for number, i in enumerate(places):
    name, *values = figure.rows[i]
    rows.append(HeatRow(number + 1, name, [_cell(values[j], percent) for j in places]))
  return rows


def _cell(value: float | None, percent: bool) -> Cell:
  if value is None or math.isnan(value):
    return Cell("–", "none", 0)
  if percent:
    # As many as by chance are white.
    above = value / 100 - TOP
    return Cell(
      f"{value:.0f}", "more" if above >= 0 else "less", round(75 * abs(above) / (1 - TOP if above >= 0 else TOP))
    )
  text = f"{value:.2f}".replace("0.", ".").replace("-", "−").replace("1.00", "1")
  return Cell("0" if text in (".00", "−.00") else text, "more" if value >= 0 else "less", round(75 * abs(value)))
