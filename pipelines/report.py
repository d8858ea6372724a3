"""`winnow report`: one page about a corpus's scores and the outputs drawn by them, and every figure of it as CSV."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from curation.errors import WinnowError
from pipelines import plans, report_charts, report_examples, report_figures, report_passes, report_sources
from pipelines.corpus import inputs
from pipelines.files import storage
from pipelines.flags import command_names, parsing
from pipelines.report_figures import Figure
from pipelines.report_sources import Sources
from pipelines.runners import commands, launch

PAGE = "report.html"
FIGURES = (
  *("ledger", "inputs", "scores", "quantiles", "tau", "examples", "means", "lengths", "domains", "duplicates"),
  *("dead_letters", "bad"),
)
_NAMED = 3  # scorers, in the title


def report(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.REPORT, argv)
  launcher = plans.make_launcher(namespace, beam_arguments)
  folder = inputs.absolute(namespace.report)
  paths = [storage.join(folder, name) for name in (PAGE, *(f"{name}.csv" for name in FIGURES))]
  if not namespace.overwrite and (there := [path for path in paths if storage.exists(path)]):
    raise WinnowError(f"{there[0]} is there already; choose another folder, or replace the report with --overwrite")
  storage.refuse_unwritable(folder)
  with _settled(report_sources.find(namespace), launcher, folder) as sources:
    sample = report_passes.draw_sample(sources, namespace.seed)
    groups = report_examples.choose(sources, sample)
    questions = report_figures.ask(sources, sample, groups)
    counts = report_passes.count(sources, questions)
    wanted = {report_figures.identity(sources, sample, place) for group in groups for place in group.places}
    texts, not_read = report_examples.read_texts(sources, namespace, launcher, wanted)
    figures = {
      "ledger": report_figures.ledger(sources),
      "inputs": report_figures.inputs_of(sources),
      "scores": report_figures.scores(sources, questions, counts),
      "quantiles": report_figures.quantiles(sources, sample, counts),
      "tau": report_figures.tau(sources, sample),
      "examples": report_figures.examples(sources, sample, groups, counts, texts),
      "means": report_figures.means(sources, counts),
      "lengths": report_figures.lengths(sources, counts),
      "domains": report_figures.domains(sources, questions, counts),
      "duplicates": report_figures.copies(sources),
      "dead_letters": report_figures.dead_letters(sources),
      "bad": report_figures.bad(sources),
    }
    documents = len(sample.table), int(counts.documents_C[0])
    page = render(sources, figures, documents, not_read)
  with commands.writing():
    # The page goes first and comes last: where there is one, its tables are beside it.
    storage.delete(paths)
    for name in FIGURES:
      storage.create(storage.join(folder, f"{name}.csv"), figures[name].to_csv())
    storage.create(paths[0], page.encode())
  if not_read:
    print(f"winnow: the report has no texts: {not_read}", file=sys.stderr)
  found = f"{len(sources.scorers)} scorers and {len(sources.outputs)} outputs"
  print(f"{found} over {documents[1]:,} documents: {paths[0]}")


@contextlib.contextmanager
def _settled(sources: Sources, launcher: launch.Launcher, folder: str) -> Iterator[Sources]:
  """The sources with the limits of outputs that have any, which take a folder for a while."""
  if all(output.request.group_by is None and output.request.percentile_range is None for output in sources.outputs):
    yield sources
    return
  work = report_sources.work_folder(folder)
  try:
    with commands.writing():
      settled = report_sources.settle_limits(sources, launcher, work)
    yield settled
  finally:
    storage.delete_folder(work)


def render(sources: Sources, figures: dict[str, Figure], documents: tuple[int, int], not_read: str) -> str:
  """The page. `documents`: of the sample, and of the corpus."""
  import jinja2
  import markupsafe

  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters["shown"] = shown
  template = environment.from_string(pathlib.Path(__file__).with_name("report_page.html").read_text())
  scores, lengths = figures["scores"], figures["lengths"]
  totals = [row[1] for row in figures["means"].rows]
  charts = []
  for number, name in enumerate(sources.scorers):
    rows = [row[1:] for row in scores.rows if row[0] == name]
    charts.append((name, markupsafe.Markup(_chart(f"scores-{number}", f"Scores by {name}", rows, totals, "score"))))
  length_chart = None
  if sources.counting is not None:
    drawn = _chart("lengths", "Tokens of a document", lengths.rows, totals, "tokens", is_log=True)
    length_chart = markupsafe.Markup(drawn)
  of_all = "all" if documents[0] == documents[1] else f"{documents[0]:,} of the"
  return template.render(
    title=shown(f"Winnow: {_title(sources)}"),
    sampled=f"Kendall's τ and quantiles are those of {of_all} {documents[1]:,} documents.",
    figures=figures,
    left_out=sources.left_out,
    raters=sources.raters,
    outputs=[{"name": o.name, "command": shlex.join(map(str, o.manifest["command"]))} for o in sources.outputs],
    sets=[(name, report_charts.legend_class(number)) for number, name in enumerate(scores.header[3:])],
    score_charts=charts,
    length_chart=length_chart,
    examples=_examples(sources, figures["examples"]),
    not_read=f"They could not be read: {not_read}." if not_read else "",
  )


def shown(value: Any) -> str:
  """A value as a reader sees it: numbers short, whole ones with commas, no character that a page may not hold."""
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:.4g}"
  if isinstance(value, int):
    return f"{value:,}"
  return report_figures.legible(str(value))


def _title(sources: Sources) -> str:
  names = list(sources.scorers)
  return ", ".join(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _chart(
  identity: str, title: str, rows: list[list[Any]], totals: list[int], x_label: str, *, is_log: bool = False
) -> str:
  """A histogram of rows of (from, to, documents of each set)."""
  counted = [place for place, row in enumerate(rows) if any(row[2:])]
  if is_log and counted:
    rows = rows[counted[0] : counted[-1] + 1]
  edges = [row[0] for row in rows] + [rows[-1][1]]
  of_sets = [[row[2 + number] for row in rows] for number in range(len(totals))]
  highest = max(rows, key=lambda row: row[2])
  described = (
    f"Histogram of {len(rows)} bins from {shown(edges[0])} to {shown(edges[-1])}, of the corpus and "
    f"{len(totals) - 1} outputs; most documents of the corpus are between {shown(highest[0])} and {shown(highest[1])}. "
    "A table below has the numbers."
  )
  return report_charts.histogram(
    edges,
    report_charts.shares(of_sets, totals),
    identity=identity,
    title=shown(title),
    description=described,
    x_label=x_label,
    is_log=is_log,
  )


def _examples(sources: Sources, figure: Figure) -> dict[str, list[dict[str, Any]]]:
  found: dict[str, list[dict[str, Any]]] = {}
  for group, source, *percentiles, text in figure.rows:
    by_scorer = list(zip(sources.scorers, percentiles, strict=True))
    found.setdefault(group, []).append({"source": source, "percentiles": by_scorer, "text": text})
  return found


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(report, argv)


if __name__ == "__main__":
  sys.exit(main())
