"""Quality against coverage (the paper's Figure 2), and quality against length.

Shape suffixes: S scorers, N documents of the sample, C sets of documents (the corpus, then the outputs), K clusters.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selection import metrics
from pipelines.reports import axes, charts
from pipelines.reports.charts import Ticks, Words
from pipelines.reports.drawings import Drawing, length_ticks
from pipelines.reports.figures import CORPUS, Figure
from pipelines.reports.material import Sources
from pipelines.reports.passes import Counts, Sample

CLUSTERS, DOMAINS = "effective clusters", "effective domains"
_FEWEST = 10  # a median of fewer documents says little
_QUARTILES = (25, 50, 75)


def figure(sources: Sources, sample: Sample, counts: Counts) -> Figure:
  """Returns the mean percentile of the corpus and of each output by the largest rater, and how much each covers.

  Coverage is the effective number of clusters, exp(entropy) of the documents by cluster; without a store of clusters
  that of domains in the sample. No rows without a rater, or without clusters and domains.
  """
  unit = CLUSTERS if sources.clusters is not None else DOMAINS
  rater = sources.raters[-1] if sources.raters else None
  header = ["documents of", f"mean percentile by {rater}", unit]
  if rater is None:
    return Figure(["documents of", "mean percentile", unit], [])
  scores_N = sample.scores_SN[list(sources.scorers).index(rater)]
  has_score_N = ~np.isnan(scores_N)
  percentile_N = metrics.percentiles(scores_N[has_score_N])
  rows: list[list[Any]] = []
  kept = [np.ones(len(scores_N), bool), *sample.kept_ON]
  for c, (name, kept_N) in enumerate(zip([CORPUS, *(o.name for o in sources.outputs)], kept, strict=True)):
    if sources.clusters is not None:
      covered = effective_number(counts.clusters_CK[c])
    else:
      domains = pc.value_counts(sample.table["domain"].filter(pa.array(kept_N)).drop_null())
      covered = effective_number(domains.field("counts").to_numpy())
    quality_N = percentile_N[kept_N[has_score_N]]
    if covered and len(quality_N):
      rows.append([name, float(quality_N.mean()), covered])
  return Figure(header, rows)


def effective_number(counts_K: np.ndarray) -> float:
  """Returns exp(entropy) of the shares: K for K equal counts, 1 if one has everything; 0 without any (Hill 1973)."""
  shares = counts_K[counts_K > 0] / max(1, counts_K.sum())
  return math.exp(-float((shares * np.log(shares)).sum())) if len(shares) else 0.0


def draw(figure: Figure) -> str | None:
  """Draws each set as a point, with the number of its row beside it; None if there are no outputs to compare."""
  if len(figure.rows) < 2:
    return None
  _, quality, unit = figure.header
  _, up, across = zip(*figure.rows, strict=True)
  span = (*_wider(min(across), max(across)), *_wider(min(up), max(up)))
  x = Ticks([(value, axes.number(value)) for value in axes.round_numbers(*span[:2], 4)], f"{unit} →")
  y = Ticks([(value, f"{value:g}") for value in axes.round_numbers(*span[2:], 4)], f"↑ {quality}")
  best, widest = (max(figure.rows[1:], key=lambda row: row[column]) for column in (1, 2))
  description = (
    f"{len(figure.rows) - 1} outputs and the corpus. The highest mean percentile is {best[1]:.0f}, of {best[0]}, which "
    f"has {best[2]:.0f} {unit}. The most {unit} of an output are {widest[2]:.0f}, of {widest[0]}, whose mean "
    f"percentile is {widest[1]:.0f}. The corpus has {figure.rows[0][2]:.0f}."
  )
  words = Words("coverage-chart", "Quality against coverage", description)
  places = [(str(number or CORPUS), row[2], row[1]) for number, row in enumerate(figure.rows)]
  return charts.points(words, places, x=x, y=y, span=span)


def _wider(low: float, high: float) -> tuple[float, float]:
  margin = max((high - low) * 0.12, 0.5)
  return max(0.0, low - margin), high + margin


def by_length(sources: Sources, sample: Sample) -> Figure:
  """Returns the median score of documents by their number of tokens, and the quartiles of its percentile.

  Bins are octaves; those of fewer than 10 documents of the sample are left out.
  """
  rows: list[list[Any]] = []
  header = ["scorer", "from", "to", "documents", "median score", *(f"percentile at {q}%" for q in _QUARTILES)]
  if sample.tokens_N is None:
    return Figure(header, rows)
  for name, scores_N in zip(sources.scorers, sample.scores_SN, strict=True):
    has_score_N = ~np.isnan(scores_N)
    scores_N, tokens_N = scores_N[has_score_N], sample.tokens_N[has_score_N]
    percentile_N = metrics.percentiles(scores_N)
    octave_N = np.log2(np.maximum(tokens_N, 1)).astype(np.int64)
    for octave in np.unique(octave_N).tolist():
      in_bin_N = octave_N == octave
      if in_bin_N.sum() >= _FEWEST:
        quartiles = np.percentile(percentile_N[in_bin_N], _QUARTILES).tolist()
        median = float(np.quantile(scores_N[in_bin_N], 0.5, method="inverted_cdf"))
        rows.append([name, 2**octave, 2 ** (octave + 1), int(in_bin_N.sum()), median, *quartiles])
  return Figure(header, rows)


def draw_by_length(sources: Sources, figure: Figure) -> list[Drawing]:
  """Draws percentiles against tokens for each scorer that has at least two bins."""
  drawn = []
  for number, name in enumerate(sources.scorers):
    rows = [row[1:] for row in figure.rows if row[0] == name]
    if len(rows) < 2:
      continue
    points = [(math.log2(row[0]) + 0.5, row[4], row[5], row[6]) for row in rows]
    high, low = max(rows, key=lambda row: row[5]), min(rows, key=lambda row: row[5])
    description = (
      f"Median percentile by {name}: highest, {high[5]:.0f}, for documents of {high[0]:,} to {high[1]:,} tokens; "
      f"lowest, {low[5]:.0f}, for those of {low[0]:,} to {low[1]:,}."
    )
    words = Words(f"by-length-{number}", f"Percentile by {name} against length", description)
    chart = charts.band(words, points, x=length_ticks(points[0][0], points[-1][0]), y_label="percentile of the score")
    drawn.append(Drawing(name, chart))
  return drawn
