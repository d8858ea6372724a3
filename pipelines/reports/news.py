"""The summary on top of a report: facts about its corpus, and what each output kept, as figures and sentences."""

import datetime
from typing import Any, NamedTuple

import numpy as np

from pipelines.files import fingerprints, globs, storage
from pipelines.output import manifests
from pipelines.reports import axes, choices
from pipelines.reports.figures import Figure
from pipelines.reports.material import Output, Sources
from pipelines.reports.passes import Counts, Questions, Sample
from pipelines.store import score_store

_MINHASH = "minhash"
_LARGEST = 10  # so many domains count as the largest ones
_HEADER = [
  *("output", "% of documents", "% of tokens", "tokens a document before", "tokens a document after"),
  *("scorer", "threshold", "percentile of the threshold", "upper end", "percentile of the upper end"),
  *("% near-copies before", "% near-copies after"),
  *("% in the largest domains before", "% in the largest domains after"),
]


class Card(NamedTuple):
  """The summary of one output: pairs of a figure and the sentence that explains it."""

  name: str
  figures: list[tuple[str, str]]


def facts(sources: Sources) -> list[tuple[str, str]]:
  """Returns the corpus, its documents, the models and the date, as pairs of a name and a text.

  The date is that on which the newest store or output was complete, so that the page does not depend on the day on
  which it is made.
  """
  first = next(iter(sources.scorers.values()))
  corpus = fingerprints.field(storage.join(first.folder, score_store.INPUT_FILE), "input")
  summary = next(iter(sources.summaries.values()))
  found = [("corpus", str(corpus or "unknown"))] if corpus else []
  found.append(("documents", f"{summary['scored']:,} scored of {summary['read']:,} read"))
  for name, store in sources.scorers.items():
    made_with = fingerprints.field(storage.join(store.folder, score_store.INPUT_FILE), score_store.MADE_WITH)
    models = ", ".join(map(str, made_with.values())) if isinstance(made_with, dict) else ""
    found.append((name, f"{store.scorer}, by {models}" if models else store.scorer))
  paths = [store.summary_path for store in sources.stores]
  paths += [storage.join(output.folder, manifests.MANIFEST_FILE) for output in sources.outputs]
  times = [time for path in paths for time in storage.list_times(globs.escape(path)).values()]
  if times:
    date = datetime.datetime.fromtimestamp(max(times), datetime.UTC).date()
    found.append(("date", f"{date.isoformat()}, when the last of the stores and outputs was complete"))
  return found


def figure(sources: Sources, sample: Sample, questions: Questions, counts: Counts) -> Figure:
  """Returns what each output kept: shares of documents, tokens, near-copies and domains, and its threshold."""
  copies_C = _near_copies(sources, questions, counts)
  # Only counted domains can be among the largest; they are those that are frequent in the sample.
  largest_C = np.sort(counts.domains_CD, axis=1)[:, -_LARGEST:].sum(axis=1)
  domains_C = _percent(largest_C, counts.documents_C) if counts.domains_CD.any() else [None] * len(largest_C)
  has_tokens = sources.counting is not None
  means_C = counts.tokens_C / np.maximum(counts.documents_C, 1)
  rows: list[list[Any]] = []
  for o, output in enumerate(sources.outputs):
    c = 1 + o
    row: list[Any] = [output.name, 100 * int(counts.documents_C[c]) / max(int(counts.documents_C[0]), 1)]
    tokens = [100 * int(counts.tokens_C[c]) / max(int(counts.tokens_C[0]), 1), float(means_C[0]), float(means_C[c])]
    row += tokens if has_tokens else [None] * 3
    row += [*_ends(sources, sample, output), copies_C[0], copies_C[c], domains_C[0], domains_C[c]]
    rows.append(row)
  return Figure(_HEADER, rows)


def _near_copies(sources: Sources, questions: Questions, counts: Counts) -> list[float | None]:
  """Returns the % of near-copies in each set by the first store of MinHash: documents whose score is 0 and not 1."""
  for s, store in enumerate(sources.scorers.values()):
    if store.scorer == _MINHASH:
      is_copy_B = questions.score_edges_SE[s][1:] <= 0.5 if questions.score_edges_SE[s][-1] > 0.5 else slice(None)
      scores_CB = counts.scores_CSB[:, s]
      return _percent(scores_CB[:, is_copy_B].sum(axis=1), scores_CB.sum(axis=1))
  return [None] * len(counts.documents_C)


def _percent(counts_C: np.ndarray, totals_C: np.ndarray) -> list[float | None]:
  return [
    100 * count / total if total else None for count, total in zip(counts_C.tolist(), totals_C.tolist(), strict=True)
  ]


def _ends(sources: Sources, sample: Sample, output: Output) -> list[Any]:
  """Returns the scorer of an output, its threshold and the upper end of its scores, each with its percentile.

  Percentiles are those of the sample; what an output does not have is None.
  """
  scorer = sources.scorer_of(output)
  cells: list[Any] = []
  if scorer is not None:
    scores_N = sample.scores_SN[list(sources.scorers).index(scorer)]
    scores_N = scores_N[~np.isnan(scores_N)]
    for score in choices.ends_of(output):
      cells += [float(score), 100 * float(np.mean(scores_N < score)) if len(scores_N) else None]
  return [scorer, *cells, *[None] * (4 - len(cells))]


def cards(sources: Sources, figure: Figure) -> list[Card]:
  """Words the table of `figure`: what an output has no figure for is left out."""
  scorers = {name: store.scorer for name, store in sources.scorers.items()}
  return [_card(dict(zip(_HEADER, row, strict=True)), scorers) for row in figure.rows]


def _card(row: dict[str, Any], scorers: dict[str, str]) -> Card:
  documents, tokens = row["% of documents"], row["% of tokens"]
  if tokens is None:
    lines = [(percent(documents), "of the documents were kept.")]
  else:
    before, after = row["tokens a document before"], row["tokens a document after"]
    lines = [
      (f"{percent(documents)}, {percent(tokens)}", "of the documents and of the tokens were kept."),
      (f"{before:,.0f} → {after:,.0f}", "tokens per document on average, corpus → output."),
    ]
  if row["threshold"] is not None:
    unit = "log P" if axes.is_log_probability(scorers[row["scorer"]]) else "score"
    low, percentile = f"{row['threshold']:.3g}", f"{row['percentile of the threshold']:.0f}"
    if row["upper end"] is None:
      line = f"{unit} = {low}", f"is the threshold of {row['scorer']}, at percentile {percentile}."
    else:
      high, upper = f"{row['upper end']:.3g}", f"{row['percentile of the upper end']:.0f}"
      line = (
        f"{unit} = {low}, {high}",
        f"are the ends of the range by {row['scorer']}, at percentiles {percentile} and {upper}.",
      )
    lines.append((line[0].replace("-", "−"), line[1]))
  if row["% near-copies before"] is not None and row["% near-copies after"] is not None:
    lines.append(
      (
        f"{percent(row['% near-copies before'])} → {percent(row['% near-copies after'])}",
        "are near-copies of an earlier document.",
      )
    )
  if row["% in the largest domains before"] is not None and row["% in the largest domains after"] is not None:
    before, after = row["% in the largest domains before"], row["% in the largest domains after"]
    lines.append((f"{percent(before)} → {percent(after)}", f"of the documents are in the {_LARGEST} largest domains."))
  return Card(row["output"], lines)


def percent(value: float) -> str:
  """Formats a share in percent for readers: 20.0%, and more digits where there is less than 1%."""
  return f"{value:.1f}%" if value >= 1 or value == 0 else f"{value:.2g}%"
