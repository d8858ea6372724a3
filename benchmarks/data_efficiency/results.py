"""Results of the experiment: means over seeds with confidence intervals, the table and the plot.

A perplexity is exp of the mean NLL of a target token. Means, intervals and differences are those of the NLL. Seeds are
paired, since the runs of one seed start from the same weights.
"""

import collections
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import common
import numpy as np
import scipy.stats
from data_efficiency import corpus

from curation.models.vocabulary import Vocabulary
from pipelines.output import manifests, tfds_metadata

ALL = "all"
CONFIDENCE = 0.95
PAGE = common.PROJECT / "docs/data_efficiency.md"
FIGURE = common.PROJECT / "docs/data_efficiency.svg"
_TABLE = "<!-- table -->\n", "<!-- /table -->"
# Colours that people who do not see red or green can tell apart; the shapes differ as well.
_LINES = {
  "random": ("#666666", "o"),
  "density": ("#0072b2", "s"),
  "perplexity": ("#e69f00", "^"),
  "ask_llm": ("#009e73", "D"),
}


class Mean(NamedTuple):
  """The mean over seeds, and half of the width of its confidence interval (Student's t), NaN for one seed."""

  value: float
  half_width: float

  @classmethod
  def from_values(cls, values: Sequence[float]) -> "Mean":
    """Computes the mean of one value per seed."""
    if len(values) < 2:
      return cls(float(np.mean(values)), math.nan)
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return cls(float(np.mean(values)), float(quantile * np.std(values, ddof=1) / math.sqrt(len(values))))


class Row(NamedTuple):
  """One sampler at one rate. Shares are shares of documents, averaged over the samples drawn."""

  sampler: str
  rate: int
  documents: int
  tokens: int
  shares: dict[str, float]
  nll: dict[str, Mean]
  """The NLL by held-out corpus."""
  beside_all: dict[str, Mean]
  """The NLL minus that of the run on the whole corpus with the same seed."""


def read(folder: pathlib.Path, chosen: Iterable[Any], sample_of: Callable[[Any], str]) -> list[Row]:
  """Reads rows in the order of the runs, (sampler, rate, seed) each; `sample_of` names the sample of a run."""
  evaluated = json.loads((folder / "evaluation/evaluation.json").read_text())["models"]
  nll = {
    model["run"]: {_short(name): loss["nll_per_token"] for name, loss in model["corpora"].items() if name != ALL}
    for model in evaluated
  }
  corpora = list(next(iter(nll.values())))
  vocabulary = Vocabulary((folder / "spiece.model").read_bytes())
  grouped = collections.defaultdict(list)
  for run in chosen:
    grouped[run[0], run[1]].append(run)
  rows = []
  for (sampler, rate), runs in grouped.items():
    samples = sorted({sample_of(run) for run in runs})
    kinds, tokens = _content([folder / "samples" / name for name in samples], vocabulary)
    rows.append(
      Row(
        sampler,
        rate,
        round(kinds.total() / len(samples)),
        round(tokens / len(samples)),
        {kind: kinds[kind] / kinds.total() for kind in corpus.KINDS},
        {name: Mean.from_values([nll[_name(run)][name] for run in runs]) for name in corpora},
        {
          name: Mean.from_values([nll[_name(run)][name] - nll[_name((ALL, 100, run[2]))][name] for run in runs])
          for name in corpora
        },
      )
    )
  return rows


def to_markdown(rows: Sequence[Row]) -> str:
  """Returns the table."""
  corpora = list(rows[0].nll)
  head = ["sampler", "rate", "documents", "tokens", "whole", "copies", "damaged"]
  head += [column for name in corpora for column in (f"perplexity, {name}", f"NLL beside all, {name}")]
  lines = [head, ["---"] * len(head)]
  for row in rows:
    cells = [row.sampler, f"{row.rate}%", f"{row.documents:,}", f"{row.tokens:,}"]
    cells += [f"{row.shares[kind]:.1%}" for kind in corpus.KINDS]
    for name in corpora:
      low, high = (math.exp(row.nll[name].value + sign * row.nll[name].half_width) for sign in (-1, 1))
      cells.append(f"{math.exp(row.nll[name].value):.1f} ({low:.1f} to {high:.1f})")
      difference = row.beside_all[name]
      cells.append("" if row.sampler == ALL else f"{difference.value:+.3f} ± {difference.half_width:.3f}")
    lines.append(cells)
  return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(rows: Sequence[Row]) -> None:
  """Writes the table into the page and draws the plot."""
  text = PAGE.read_text()
  start, stop = text.index(_TABLE[0]) + len(_TABLE[0]), text.index(_TABLE[1])
  PAGE.write_text(f"{text[:start]}{to_markdown(rows)}\n{text[stop:]}")
  paint(rows, FIGURE)


def paint(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Plots perplexity by rate for each sampler, a panel per held-out corpus, with the whole corpus as a line across."""
  from matplotlib import figure, rc_context, ticker

  with rc_context({"svg.fonttype": "none", "svg.hashsalt": "data_efficiency", "font.size": 9}):
    drawing = figure.Figure(figsize=(8.4, 3.8), layout="constrained", facecolor="white")
    panels = drawing.subplots(1, len(rows[0].nll), squeeze=False)[0]
    for axes, name in zip(panels, rows[0].nll, strict=True):
      whole = next(row for row in rows if row.sampler == ALL).nll[name]
      axes.axhspan(*_interval(whole), color="0.9")
      axes.axhline(math.exp(whole.value), color="0.3", linewidth=1, linestyle="--", label="all of the corpus")
      for place, (sampler, (colour, marker)) in enumerate(_LINES.items()):
        points = [row for row in rows if row.sampler == sampler]
        rates = [row.rate + 0.6 * (place - 1.5) for row in points]  # side by side
        middle = np.array([math.exp(row.nll[name].value) for row in points])
        bars = np.abs(np.array([_interval(row.nll[name]) for row in points]).T - middle)
        axes.errorbar(
          rates, middle, bars, color=colour, marker=marker, markersize=4, linewidth=1.3, capsize=2, label=sampler
        )
      axes.set_title(f"held out: {name}")
      axes.set_xlabel("sampling rate, % of the documents")
      axes.xaxis.set_major_locator(ticker.FixedLocator(sorted({row.rate for row in rows} - {100})))
      axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("perplexity (lower is better)")
    panels[-1].legend(frameon=False)
    drawing.savefig(path, metadata={"Date": None, "Creator": None})


def _interval(mean: Mean) -> tuple[float, float]:
  half = 0.0 if math.isnan(mean.half_width) else mean.half_width
  return math.exp(mean.value - half), math.exp(mean.value + half)


def _short(corpus_name: str) -> str:
  """Returns the experiment's name for a corpus that an evaluation names by folder and file."""
  return corpus_name.removeprefix("held_out_").removesuffix("_json_gz")


def _name(run: tuple[str, int, int]) -> str:
  return "_".join(map(str, run))


def _content(samples: Iterable[pathlib.Path], vocabulary: Vocabulary) -> tuple[collections.Counter, int]:
  """Counts the documents of samples by kind, one of KINDS, and all their tokens."""
  import tensorflow as tf

  kinds, tokens = collections.Counter(), 0
  features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("text", "url")}
  for sample in samples:
    name = json.loads((sample / manifests.MANIFEST_FILE).read_text())["dataset"]
    records = tf.data.TFRecordDataset(sorted(map(str, sample.glob(f"{name}-{tfds_metadata.SPLIT}.tfrecord-*"))))
    for examples in records.batch(1_024).as_numpy_iterator():
      parsed = tf.io.parse_example(examples, features)
      kinds.update(corpus.kind_of(url.decode()) for url in parsed["url"].numpy())
      tokens += len(vocabulary.encode([text.decode() for text in parsed["text"].numpy()]).ids)
  return kinds, tokens
