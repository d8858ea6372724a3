"""The page of a report: one HTML file that loads nothing else."""

import pathlib
import shlex
from typing import Any

from pipelines.reports import charts, figures, news
from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources

_NAMED = 3  # at most so many scorers in the title
# The sections of the page, in their order, by the id of each.
CONTENTS = {
  "news": "The news",
  "scores": "Scores",
  "agreement": "Do scorers agree?",
  "length": "Length",
  "examples": "Examples",
  "domains": "Domains",
  "duplicates": "Duplicates kept",
  "ledger": "The ledger",
  "dead-letters": "Dead letters",
}
_FOLDED = ("ledger", "dead-letters")


def render(sources: Sources, tables: dict[str, Figure], documents: tuple[int, int], not_read: str) -> str:
  """Renders the page. `documents`: the numbers of documents of the sample and of the corpus."""
  import jinja2
  import markupsafe

  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters["shown"] = shown
  template = environment.from_string(pathlib.Path(__file__).with_name("page.html").read_text())
  scores, lengths = tables["scores"], tables["lengths"]
  totals = [row[1] for row in tables["means"].rows]
  score_charts = []
  for number, name in enumerate(sources.scorers):
    rows = [row[1:] for row in scores.rows if row[0] == name]
    score_charts.append(
      (name, markupsafe.Markup(_chart(f"scores-{number}", f"Scores by {name}", rows, totals, "score")))
    )
  length_chart = None
  if sources.counting is not None:
    drawn = _chart("lengths", "Tokens of a document", lengths.rows, totals, "tokens", is_log=True)
    length_chart = markupsafe.Markup(drawn)
  which = "all" if documents[0] == documents[1] else f"{documents[0]:,} of the"
  return template.render(
    title=shown(f"Winnow: {_title(sources)}"),
    contents=CONTENTS,
    folded=_FOLDED,
    facts=news.facts(sources),
    news=news.cards(sources, tables["news"]),
    sampled=f"Kendall's τ and quantiles are those of {which} {documents[1]:,} documents.",
    figures=tables,
    left_out=sources.left_out,
    raters=sources.raters,
    outputs=[{"name": o.name, "command": shlex.join(map(str, o.manifest["command"]))} for o in sources.outputs],
    sets=[(name, charts.legend_class(number)) for number, name in enumerate(scores.header[3:])],
    score_charts=score_charts,
    length_chart=length_chart,
    examples=_examples(sources, tables["examples"]),
    not_read=f"They could not be read: {not_read}." if not_read else "",
  )


def shown(value: object) -> str:
  """Formats a value for readers: short numbers, integers with commas, and only characters that a page may hold."""
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:.4g}"
  if isinstance(value, int):
    return f"{value:,}"
  return figures.legible(str(value))


def _title(sources: Sources) -> str:
  names = list(sources.scorers)
  return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _chart(
  identity: str, title: str, rows: list[list[Any]], totals: list[int], x_label: str, *, is_log: bool = False
) -> str:
  """Draws a histogram from rows of (from, to, documents of each set)."""
  counted = [place for place, row in enumerate(rows) if any(row[2:])]
  if is_log and counted:
    rows = rows[counted[0] : counted[-1] + 1]
  edges = [row[0] for row in rows] + [rows[-1][1]]
  counts = [[row[2 + number] for row in rows] for number in range(len(totals))]
  highest = max(rows, key=lambda row: row[2])
  description = (
    f"Histogram of {len(rows)} bins from {shown(edges[0])} to {shown(edges[-1])}, of the corpus and "
    f"{len(totals) - 1} outputs; most documents of the corpus are between {shown(highest[0])} and {shown(highest[1])}. "
    "A table below has the numbers."
  )
  return charts.histogram(
    edges,
    charts.shares(counts, totals),
    identity=identity,
    title=shown(title),
    description=description,
    x_label=x_label,
    is_log=is_log,
  )


def _examples(sources: Sources, figure: Figure) -> dict[str, list[dict[str, Any]]]:
  groups: dict[str, list[dict[str, Any]]] = {}
  for group, source, *percentiles, text in figure.rows:
    by_scorer = list(zip(sources.scorers, percentiles, strict=True))
    groups.setdefault(group, []).append({"source": source, "percentiles": by_scorer, "text": text})
  return groups
