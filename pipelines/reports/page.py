"""The page of a report: one HTML file that loads nothing else."""

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from pipelines.reports import agreement, coverage, domain_shifts, drawings, figures, news
from pipelines.reports.agreement import Pair
from pipelines.reports.axes import Axis
from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources

_SEMDEDUP = "semdedup"
_NAMED = 3  # at most so many scorers in the title
_FEW = 3  # so many scorers are named beside each example
EXCERPT = 240  # characters of a text that are shown before it is opened
# The sections of the page, in their order, by the id of each.
CONTENTS = {
  "news": "At a glance",
  "scores": "Scores",
  "agreement": "Do scorers agree?",
  "coverage": "Quality against coverage",
  "cascade": "Cascades",
  "length": "Length",
  "examples": "Examples",
  "domains": "Domains",
  "duplicates": "Duplicates kept",
  "ledger": "The ledger",
  "dead-letters": "Dead letters",
}
_FOLDED = ("duplicates", "ledger", "dead-letters")


def render(
  sources: Sources,
  scales: Sequence[Axis],
  tables: dict[str, Figure],
  pairs: list[Pair],
  documents: tuple[int, int],
  not_read: str,
) -> str:
  """Renders the page.

  `scales`: the axis of each scorer; `pairs`: documents by two scorers; `documents`: the numbers of documents of the
  sample and of the corpus.
  """
  import jinja2

  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters["shown"] = shown
  environment.filters["capital"] = lambda text: text[:1].upper() + text[1:]
  template = environment.from_string(pathlib.Path(__file__).with_name("page.html").read_text())
  order = agreement.order(tables["tau"])
  which = "all" if documents[0] == documents[1] else f"{documents[0]:,} of the"
  cascade_charts = drawings.cascades(sources, tables["cascade"])
  page = template.render(
    title=f"Winnow: {_title(sources)}",
    contents={place: title for place, title in CONTENTS.items() if place != "cascade" or cascade_charts},
    cascade_charts=cascade_charts,
    folded=_FOLDED,
    facts=news.facts(sources),
    news=news.cards(sources, tables["news"]),
    sampled=f"Kendall's τ and the quantiles are computed from {which} {documents[1]:,} documents.",
    figures=tables,
    left_out=sources.left_out,
    raters=sources.raters,
    has_semdedup=any(store.scorer == _SEMDEDUP for store in sources.scorers.values()),
    outputs=[{"name": o.name, "command": shlex.join(map(str, o.manifest["command"]))} for o in sources.outputs],
    score_charts=drawings.scores(sources, scales, tables),
    tau=agreement.heat(tables["tau"], order),
    overlap=agreement.heat(tables["overlap"], order, percent=True),
    pairs=agreement.draw(pairs),
    coverage_chart=coverage.draw(tables["coverage"]),
    length_score_charts=coverage.draw_by_length(sources, tables["length_scores"]),
    counting=list(sources.scorers)[sources.counting] if sources.counting is not None else None,
    other_counts=_other_counts(sources),
    length_charts=drawings.lengths(sources, tables),
    domain_shifts=domain_shifts.shifts(sources, tables["domains"]),
    examples=_examples(sources, tables["examples"]),
    not_read=f"The texts could not be read: {not_read}." if not_read else "",
  )
  return figures.legible(page)


def _other_counts(sources: Sources) -> list[str]:
  """Returns the scorers that have counted other tokens of the corpus than the one whose counts are shown."""
  by_total: dict[int, list[str]] = {}
  for name in sources.scorers:
    total = None if name in sources.stages else sources.summaries[name]["num_tokens"]
    if total is not None:
      by_total.setdefault(total, []).append(name)
  return [f"{total:,} by {', '.join(names)}" for total, names in list(by_total.items())[1:]]


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


def _examples(sources: Sources, figure: Figure) -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Returns what the page shows of each example, by its section and its group."""
  sections: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for section, group, by, source, url, *values, text in figure.rows:
    by_scorer = [
      (name, score, percentile)
      for name, score, percentile in zip(sources.scorers, values[::2], values[1::2], strict=True)
      if score is not None
    ]
    # A few scorers are all shown; of many, only those that matter to the group.
    chosen_by = by.split(", ") if len(by_scorer) > _FEW else [name for name, _, _ in by_scorer]
    beginning = text if text is None or len(text) <= EXCERPT else f"{text[:EXCERPT]}…"
    documents = sections.setdefault(section, {}).setdefault(group, [])
    documents.append(
      {
        "source": source,
        "url": url,
        "chosen_by": [values for values in by_scorer if values[0] in chosen_by],
        "others": [values for values in by_scorer if values[0] not in chosen_by],
        "beginning": beginning,
        "text": None if beginning == text else text,
      }
    )
  return sections
