"""`winnow report`: makes one page about a corpus's scores and the outputs drawn by them, and its tables as CSV."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import endings, planning
from pipelines.registry import command_names
from pipelines.reports import agreement, choices, coverage, examples, figures, material, news, page, passes
from pipelines.reports.cards import dataset_card
from pipelines.reports.material import Sources
from pipelines.runners import commands, launch

PAGE = "report.html"
FIGURES = (
  *("ledger", "inputs", "scores", "quantiles", "tau", "examples", "means", "lengths", "domains", "duplicates"),
  *("dead_letters", "bad", "news", "overlap", "coverage", "cascade", "length_scores"),
)


def report(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.REPORT, argv)
  stopwatch = endings.Stopwatch()
  launcher = planning.make_launcher(namespace, beam_arguments)
  folder = inputs.absolute(namespace.report)
  names = (PAGE, *(f"{name}.csv" for name in FIGURES), *dataset_card.FILES)
  paths = [storage.join(folder, name) for name in names]
  if not namespace.overwrite and (existing := [path for path in paths if storage.exists(path)]):
    raise WinnowError(f"{existing[0]} exists already; choose another folder, or replace the report with --overwrite")
  storage.refuse_unwritable(folder)
  with _settled(material.find(namespace), launcher, folder) as sources:
    sample = passes.draw_sample(sources, namespace.seed)
    groups = choices.choose(sources, sample)
    scales = figures.choose_axes(sources, sample)
    questions = figures.ask(sample, groups, scales)
    counts = passes.count(sources, questions)
    wanted = {figures.identity(sources, sample, place) for group in groups for place in group.places}
    texts, not_read = examples.read_texts(sources, namespace, launcher, wanted)
    tables = {
      "ledger": figures.ledger(sources),
      "inputs": figures.input_files(sources),
      "scores": figures.scores(sources, questions, counts),
      "quantiles": figures.quantiles(sources, sample, counts),
      "tau": figures.tau(sources, sample),
      "overlap": agreement.overlap(sources, sample),
      "coverage": coverage.figure(sources, sample, counts),
      "cascade": figures.cascade(sources),
      "length_scores": coverage.by_length(sources, sample),
      "examples": figures.example_texts(sources, sample, groups, counts, texts),
      "means": figures.means(sources, counts),
      "lengths": figures.lengths(sources, counts),
      "domains": figures.domains(sources, questions, counts),
      "duplicates": figures.copies(sources),
      "dead_letters": figures.dead_letters(sources),
      "bad": figures.bad(sources),
      "news": news.figure(sources, sample, questions, counts),
    }
    documents = len(sample.table), int(counts.documents_C[0])
    html = page.render(sources, scales, tables, agreement.pairs(sources, sample), documents, not_read)
    card = dataset_card.render(sources, scales, tables)
  with commands.writing():
    # The page is deleted first and written last: where there is a page, its tables are beside it.
    storage.delete(paths)
    for name in FIGURES:
      storage.create(storage.join(folder, f"{name}.csv"), tables[name].to_csv())
    for name, content in card.items():
      storage.create(storage.join(folder, name), content)
    storage.create(paths[0], html.encode())
  if not_read:
    print(f"winnow: the report has no texts: {not_read}", file=sys.stderr)
  counted = [(len(sources.scorers), "scorer"), (len(sources.outputs), "output")]
  contents = " and ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counted)
  print(f"{contents} over {documents[1]:,} documents: {paths[0]}")
  if card:
    print(f"for publishing the outputs on the Hugging Face hub: {storage.join(folder, dataset_card.CARD)}")
  print(f"done in {stopwatch.shown()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _settled(sources: Sources, launcher: launch.Launcher, folder: str) -> Iterator[Sources]:
  """Yields the sources with the limits of those outputs that have any; to settle them takes a folder for a while."""
  if all(output.request.group_by is None and output.request.percentile_range is None for output in sources.outputs):
    yield sources
    return
  work = material.work_folder(folder)
  try:
    with commands.writing():
      settled = material.settle_limits(sources, launcher, work)
    yield settled
  finally:
    storage.delete_folder(work)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(report, argv)


if __name__ == "__main__":
  sys.exit(main())
