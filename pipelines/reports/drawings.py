"""The charts of a report, drawn from its tables: scores by scorer and output, lengths, and quality against length."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.output.cascades import FIELD
from pipelines.reports import axes, charts
from pipelines.reports.axes import Axis
from pipelines.reports.charts import Ticks, Words
from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources
from pipelines.selection import cascade

_SHARES = "% of the corpus"
_ENDS = ("threshold", "upper end")


class Drawing(NamedTuple):
  """A chart with the title that stands above it."""

  title: str
  svg: str


class ScoreCharts(NamedTuple):
  """The charts of one scorer: those of the outputs that were drawn by it, or of the corpus alone; and all others."""

  scorer: str
  own: list[Drawing]
  others: list[Drawing]


def scores(sources: Sources, scales: Sequence[Axis], tables: dict[str, Figure]) -> list[ScoreCharts]:
  """Draws the scores of the corpus by each scorer, with one output in each chart."""
  news = {row[0]: dict(zip(tables["news"].header, row, strict=True)) for row in tables["news"].rows}
  drawn = []
  for number, (name, axis) in enumerate(zip(sources.scorers, scales, strict=True)):
    rows = [row[1:] for row in tables["scores"].rows if row[0] == name]
    own: list[Drawing] = []
    others: list[Drawing] = []
    for o, output in enumerate(sources.outputs):
      kept = news[output.name]
      is_own = kept["scorer"] == name
      ends = [(kept[end], kept[f"percentile of the {end}"]) for end in _ENDS if is_own and kept[end] is not None]
      chart, factor = _score_chart(f"scores-{number}-{o}", (name, output.name), axis, rows, 1 + o, ends)
      (own if is_own else others).append(Drawing(f"{name} · {output.name}{_times(factor)}", chart))
    if not own:
      own = [Drawing(name, _score_chart(f"scores-{number}", (name, ""), axis, rows, None, [])[0])]
    drawn.append(ScoreCharts(name, own, others))
  return drawn


def _score_chart(
  identity: str,
  names: tuple[str, str],
  axis: Axis,
  rows: list[list[Any]],
  column: int | None,
  ends: list[tuple[float, float | None]],
) -> tuple[str, int]:
  """Draws one set of rows (from, to, documents of each set); `column`: the set to draw beside the corpus.

  `ends`: the scores at which what an output kept begins and ends, with their percentiles.
  Returns the chart and the factor by which it shows what the set kept.
  """
  corpus, kept, factor = _shares(
    [row[2] for row in rows], None if column is None else [row[2 + column] for row in rows]
  )
  scorer, output = names
  total = sum(row[2] for row in rows)
  highest = max(rows, key=lambda row: row[2])
  description = (
    f"Scores of {total:,} documents by {scorer}; most are between {axes.number(highest[0])} and "
    f"{axes.number(highest[1])}."
  )
  if column is not None:
    description += f" {output} kept {sum(row[2 + column] for row in rows):,} of them."
  if ends:
    described = [f"{axes.number(score)}{_percentile(percentile, ' (percentile {})')}" for score, percentile in ends]
    description += (
      f" Its threshold is {described[0]}." if len(ends) == 1 else f" Its range ends at {' and '.join(described)}."
    )
  words = Words(identity, f"Scores by {scorer}" + (f", and what {output} kept" if output else ""), description)
  if axis.is_binary:
    middle = len(rows) // 2
    halves = [[sum(part[:middle]), sum(part[middle:])] for part in (corpus, [k / factor for k in kept or corpus])]
    low, high = (axes.number(value) for value in (rows[0][0], rows[-1][1]))
    return charts.bars(words, [low, high], halves[0], halves[1] if kept else None, _SHARES), 1
  edges = [axis.at(row[0]) for row in rows] + [axis.at(rows[-1][1])]
  lines = [(axis.at(score), axes.number(score) + _percentile(percentile, " · p{}")) for score, percentile in ends]
  label = axis.label + {"log": ", log scale", "logit": ", logit scale"}.get(axis.scale.name, "")
  x = Ticks(axis.ticks(edges[0], edges[-1]), label)
  return charts.histogram(words, edges, corpus, kept, x=x, y_label=_SHARES, thresholds=lines), factor


def _shares(corpus: Sequence[int], kept: Sequence[int] | None) -> tuple[list[float], list[float] | None, int]:
  """Turns counts by bin into shares of the corpus, and a small output's into a multiple of it, with the factor."""
  total = max(sum(corpus), 1)
  shares = [count / total for count in corpus]
  if kept is None:
    return shares, None, 1
  highest = max(kept) / total
  factor = 1
  while 0 < highest * factor * 10 <= max(shares):
    factor *= 10
  return shares, [factor * count / total for count in kept], factor


def _percentile(value: float | None, words: str) -> str:
  """Returns the words with the percentile in place of {}, or nothing if there is none."""
  return "" if value is None else words.format(f"{value:.0f}")


def _times(factor: int) -> str:
  return f" (kept × {factor:,})" if factor > 1 else ""


class CascadeChart(NamedTuple):
  """The curve of a cascade, and what it asks and promises, in a sentence."""

  sentence: str
  drawing: Drawing


def lengths(sources: Sources, tables: dict[str, Figure]) -> list[Drawing]:
  """Draws the tokens of documents, with one output in each chart; none if no scorer has counted tokens."""
  rows = counted(tables["lengths"].rows)
  if sources.counting is None or not rows:
    return []
  edges = [math.log2(row[0]) for row in rows] + [math.log2(rows[-1][1])]
  x = length_ticks(edges[0], edges[-1])
  means = {row[0]: row[3] for row in tables["means"].rows}
  drawn = []
  for o, name in enumerate([None, *(output.name for output in sources.outputs)]):
    if name is None and sources.outputs:
      continue
    corpus, kept, factor = _shares([row[2] for row in rows], None if name is None else [row[2 + o] for row in rows])
    mean = means.get(name or "corpus") or 0
    description = (
      f"Documents by tokens, from {rows[0][0]:,} to {rows[-1][1]:,}; {means.get('corpus') or 0:,.0f} on average"
    )
    description += f" in the corpus, and {mean:,.0f} in {name}." if name else "."
    words = Words(f"lengths-{o}", f"Tokens of a document{f', and what {name} kept' if name else ''}", description)
    lines = [(math.log2(mean), f"mean {mean:,.0f}")] if mean >= 1 else []
    chart = charts.histogram(words, edges, corpus, kept, x=x, y_label=_SHARES, thresholds=lines)
    drawn.append(Drawing(f"{name}{_times(factor)}" if name else "the corpus", chart))
  return drawn


def cascades(sources: Sources, table: Figure) -> list[CascadeChart]:
  """Draws the curve of recall against the share that is asked, for each output of a cascade."""
  drawn = []
  for number, output in enumerate(sources.outputs):
    record = output.manifest.get(FIELD)
    points = [(row[1], row[2]) for row in table.rows if row[0] == output.name]
    if record is None or not points:
      continue
    sentence = cascade.summary(record)
    share = 100 * record["asked"] / record["certificate"]["documents"]
    words = Words(f"cascade-{number}", f"Recall of the audit of {output.name} by the share asked", f"{sentence}.")
    chart = charts.line(
      words,
      [(0.0, 0.0), *points],
      x=Ticks([(place, f"{place}%") for place in (0, 25, 50, 75, 100)], "of the documents, best by the proxy first"),
      y=Ticks([(place, f"{place}%") for place in (0, 50, 100)], "of the audit's best"),
      mark=(share, f"asked {share:.1f}%"),
    )
    drawn.append(CascadeChart(f"{sentence[:1].upper()}{sentence[1:]}.", Drawing(output.name, chart)))
  return drawn


def length_ticks(low: float, high: float) -> Ticks:
  """Returns the marks of an axis of tokens between two powers of two."""
  powers = range(math.ceil(low), math.floor(high) + 1)
  step = max(1, math.ceil(len(powers) / 6))
  return Ticks([(power, f"{2**power:,}") for power in powers[::step]], "tokens, log scale")


def counted(rows: list[list[Any]]) -> list[list[Any]]:
  """Returns the rows of bins without the empty ones at both ends."""
  counted = [place for place, row in enumerate(rows) if any(row[2:])]
  return rows[counted[0] : counted[-1] + 1] if counted else []
