"""`winnow demo`: a whole run on documents that this machine already has, with the demo rater and embedder."""

import heapq
import math
import pathlib
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq
import rich.console
import rich.table

from curation.coverage import minhash
from curation.demo import corpus as demo_corpus
from curation.demo import embedder as demo_embedder
from curation.demo import rater as demo_rater
from curation.errors import WinnowError
from curation.selection import metrics
from pipelines import report, sample, score
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing
from pipelines.jobs import endings
from pipelines.output.formats.registry import FORMATS
from pipelines.registry import command_names
from pipelines.reports import axes
from pipelines.runners import commands

OUTPUT = "demo-output"
RATE = "0.2"
_SHOWN = 3
_BINS = 14
_KEPT_BINS = 2


def demo(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.DEMO, argv)
  if not storage.is_local(namespace.output or OUTPUT):
    raise WinnowError(f"--output={namespace.output} is not on this machine; the demo writes to a local folder")
  folder = pathlib.Path(namespace.output or OUTPUT)
  if folder.exists() and any(folder.iterdir()) and not (folder / "corpus").is_dir():
    raise WinnowError(f"--output={folder} holds something other than an earlier demo; choose an empty folder")
  console = rich.console.Console(highlight=False)
  with commands.writing():
    page = _run(console, folder, beam_arguments)
  console.print(f"\nOpen the report in a browser: {page.resolve().as_uri()}", soft_wrap=True, markup=False)
  if namespace.open and not webbrowser.open(page.resolve().as_uri()):
    console.print("No browser could be started on this machine; open the page yourself.")


def _run(console: rich.console.Console, folder: pathlib.Path, beam_arguments: Sequence[str]) -> pathlib.Path:
  """Runs all steps; returns the path of the report's page."""
  console.rule("[bold]1. Collect documents from this machine", align="left")
  corpus = demo_corpus.write_demo_corpus(folder / "corpus")
  kinds = ", ".join(f"{count:,} {source}s" for source, count in sorted(corpus.sources.items()))
  console.print(f"{corpus.documents:,} documents in {len(corpus.paths)} shards:\n{kinds}")

  console.rule("[bold]2. Take a small model", align="left")
  console.print(
    "The demo rater is a T5 with 1.3 million weights that comes with Winnow. It was\n"
    "trained to tell text from damaged text, and [bold]it can do nothing else[/bold]. For real\n"
    "work, use an instruction-tuned model: --model=google/flan-t5-small, or larger."
  )

  given, scores = f"--input={corpus.pattern}", f"--scores={folder / 'scores'}"
  asking = ["score", given, scores, "--name=demo", f"--model={demo_rater.folder()}", "--overwrite"]
  _step(console, "3. Score every document", score.main, asking, beam_arguments)
  drawing = ["sample", scores, f"--rate={RATE}", "--overwrite"]
  best = [*drawing, "--sampler=ask_llm", f"--output={folder / 'sample'}"]
  _step(console, "4. Keep exactly the best fifth", sample.main, best, beam_arguments)

  console.rule("[bold]5. Look at the result", align="left")
  documents = _documents(corpus)
  _histogram(console, folder)
  _extremes(console, folder, documents)
  by_quality = _read_back(console, folder / "sample")

  weighing = ["score", "--scorer=density", given, scores, "--name=density", f"--model={demo_embedder.folder()}"]
  weighing += ["--embedding_name=embeddings", "--overwrite"]
  _step(
    console, "6. Embed every document, and estimate how many others are near it", score.main, weighing, beam_arguments
  )
  fair = [*drawing, "--sampler=density", f"--output={folder / 'sample_density'}"]
  _step(console, "7. Draw a fifth, with fewer of the crowded documents", sample.main, fair, beam_arguments)
  by_density = _read_back(console, folder / "sample_density")
  _copies(console, documents, {"before": set(documents), "best fifth": by_quality, "density": by_density})
  _rare(console, folder, {"best fifth": by_quality, "density": by_density})
  drawn = f"--output={folder / 'sample'},{folder / 'sample_density'}"
  reporting = ["report", scores, drawn, f"--report={folder / 'report'}", "--overwrite"]
  _step(console, "8. Make a report about both samples", report.main, reporting, beam_arguments)
  where = rich.table.Table.grid(padding=(0, 2))
  for name, content in (
    ("corpus", "the documents, in three formats"),
    ("scores/demo", "the rater's score of each document, one Parquet file per shard"),
    ("scores/embeddings", "the embedding of each document"),
    ("scores/density", "the density around each document, and the sketch it comes from"),
    ("sample", "the best fifth: TFRecords for TFDS and seqio, with manifest.json"),
    ("sample_density", "the fifth drawn by density, in the same format"),
    ("report", "report.html, its tables as CSV, and a dataset card"),
  ):
    where.add_row(str(folder / name), content)
  console.print(where)
  return folder / "report" / report.PAGE


def _step(
  console: rich.console.Console, title: str, command, arguments: list[str], beam_arguments: Sequence[str]
) -> None:
  console.rule(f"[bold]{title}", align="left")
  console.print(f"winnow {shlex.join(arguments)}", style="dim", soft_wrap=True)
  with endings.without_suggestions():
    status = command([*arguments[1:], *beam_arguments])
  if status in (commands.INTERRUPTED, commands.TERMINATED):
    sys.exit(status)  # the command has printed why
  if status:
    raise commands.JobError(f"the demo stops here: winnow {arguments[0]} ended with status {status}")


def _documents(corpus: demo_corpus.DemoCorpus) -> dict[str, tuple[str, str]]:
  """Returns the text and url of every document by its source, `shard#row`; the demo's corpus is small."""
  documents: dict[str, tuple[str, str]] = {}
  for shard in inputs.find_shards(corpus.pattern):
    for block in reading.read_blocks(shard, blocks.Fields()):
      if isinstance(block, blocks.Block):
        rows, texts, urls = (block.documents[name].to_pylist() for name in ("row", "text", "url"))
        documents |= {f"{shard.name}#{row}": (text, url) for row, text, url in zip(rows, texts, urls, strict=True)}
  return documents


def _scores(folder: pathlib.Path, name: str = "demo") -> Iterator[tuple[float, str, int]]:
  for path in sorted((folder / "scores" / name / "shards").glob("*.parquet")):
    table = pq.read_table(path, columns=["score", "shard", "row"])
    yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def _edges(scores: np.ndarray, threshold: float) -> np.ndarray:
  """Returns edges of bins for log probabilities, of which the last bins are those above the threshold: float64 [E].

  Most probabilities are near 1, so that equally wide bins of log P would put nearly all documents into one. These are
  equally wide in log P / (1 - P), down from the largest score; the first bin holds all documents below the others.
  """
  top, cut = axes.LOGIT.position(np.array([scores.max(), threshold], np.float64))
  edges = axes.LOGIT.score(top - (top - cut) / _KEPT_BINS * np.arange(_BINS, -1, -1))
  edges[-1 - _KEPT_BINS], edges[0] = threshold, min(edges[0], scores.min())
  return edges if (np.diff(edges) > 0).all() else metrics.bin_edges(float(scores.min()), float(scores.max()), _BINS)


def _histogram(console: rich.console.Console, folder: pathlib.Path) -> None:
  scores = np.array([score for score, _, _ in _scores(folder)], np.float32)
  threshold = fingerprints.read_json(str(folder / "sample/manifest.json"))["threshold"]["score"]
  edges = _edges(scores, threshold)
  counts = metrics.histogram(scores, edges)
  table = rich.table.Table(title="Scores of all documents: log P(yes)", title_justify="left", box=None, padding=(0, 1))
  for name in ("log P from", "P from", "documents"):
    table.add_column(name, justify="right")
  table.add_column("")
  for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
    kept = " kept" if left >= threshold else " kept in part" if right > threshold else ""
    bar = "█" * round(36 * count / max(counts))
    table.add_row(f"{left:.3f}", f"{math.exp(left):.1%}", f"{count:,}", bar + kept)
  console.print(table)


def _extremes(console: rich.console.Console, folder: pathlib.Path, documents: dict[str, tuple[str, str]]) -> None:
  for title, extremes in (
    ("Highest scores", heapq.nlargest(_SHOWN, _scores(folder))),
    ("Lowest scores", heapq.nsmallest(_SHOWN, _scores(folder))),
  ):
    console.print(f"[bold]{title}[/bold] by the demo rater")
    for score_, shard, row in extremes:
      text, _ = documents[f"{shard}#{row}"]
      console.print(f"{score_:8.3f}  {' '.join(text.split())}", overflow="ellipsis", no_wrap=True, markup=False)


def _copies(console: rich.console.Console, documents: dict[str, tuple[str, str]], samples: dict[str, set[str]]) -> None:
  """Shows how many licences repeat an earlier one, among all documents and in each sample.

  A rater gives each copy of a good document the same high score, so quality is not coverage.
  """
  table = rich.table.Table(title="Licences of packages", title_justify="left", box=None, padding=(0, 2))
  for name in ("", "all", "near-copies of an earlier licence"):
    table.add_column(name, justify="right" if name else "left")
  for name, kept in samples.items():
    texts = [documents[source][0] for source in sorted(kept) if demo_corpus.is_licence(documents[source][1])]
    table.add_row(name, f"{len(texts):,}", f"{int(minhash.near_copies(texts).sum()):,}")
  console.print(table)


def _rare(console: rich.console.Console, folder: pathlib.Path, samples: dict[str, set[str]]) -> None:
  """Shows the share that is kept of the documents with the fewest others near them, and of those with the most."""
  ranked = [f"{shard}#{row}" for _, shard, row in sorted(_scores(folder, "density"))]
  size = len(ranked) // 10
  table = rich.table.Table(title="Share of documents kept", title_justify="left", box=None, padding=(0, 2))
  for name in ("", "of the loneliest tenth", "of the most crowded tenth"):
    table.add_column(name, justify="right" if name else "left")
  for name, kept in samples.items():
    ends = (ranked[:size], ranked[-size:])
    table.add_row(name, *(f"{sum(source in kept for source in end) / size:.0%}" for end in ends))
  console.print(table)
  console.print(
    "A rater looks at one document at a time. Density counts how many others are like\n"
    f"it. A random sample would keep {float(RATE):.0%} of each tenth. The demo embedder comes with\n"
    "Winnow; it was trained to tell texts apart, and [bold]it can do nothing else[/bold].\n"
  )


def _read_back(console: rich.console.Console, folder: pathlib.Path) -> set[str]:
  """Reads the sample's TFRecords and compares them with its manifest; returns the sources of its documents."""
  shards = sorted(folder.glob("*-train.tfrecord-*"))
  tables = [table for shard in shards for table in FORMATS["tfrecord"].read(str(shard))]
  sources = [source for table in tables for source in table["source"].to_pylist()]
  manifest = fingerprints.read_json(str(folder / "manifest.json"))
  if len(set(sources)) != manifest["counts"]["selected"] or len(set(sources)) != len(sources):
    raise commands.JobError(
      f"{folder} holds {len(sources)} documents and {manifest['counts']['selected']} were selected"
    )
  tokens = manifest["tokens"]["selected"]
  console.print(f"\nRead back from TFRecords: {len(sources):,} documents with {tokens:,} tokens\n")
  return set(sources)


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(demo, argv)


if __name__ == "__main__":
  sys.exit(main())
