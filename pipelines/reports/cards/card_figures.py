"""The figures of a dataset card: PNG files, which any page shows, drawn by matplotlib."""

import io
from collections.abc import Sequence
from typing import Any

from pipelines.reports import drawings, figures
from pipelines.reports.axes import Axis
from pipelines.reports.figures import Figure
from pipelines.reports.material import Sources

_CORPUS = "#b4bec9"
_LINES = ("#0550ae", "#a8360b", "#116329", "#8250df", "#8a1f5c", "#5f5200")
_STYLES = ("-", "--", ":", "-.")
_MOST_PANELS = 4


def scores(sources: Sources, scales: Sequence[Axis], figure: Figure) -> bytes:
  """Draws the scores by each scorer that outputs were drawn by, of the corpus and of its outputs; empty if by none."""
  names, drawn_by = list(sources.scorers), [sources.scorer_of(output) for output in sources.outputs]
  panels = [place for place, name in enumerate(names) if name in drawn_by][:_MOST_PANELS]
  if not panels:
    return b""
  drawing, all_axes = _panels(len(panels))
  for axes, place in zip(all_axes, panels, strict=True):
    rows = [row[1:] for row in figure.rows if row[0] == names[place]]
    edges = [scales[place].at(row[0]) for row in rows] + [scales[place].at(rows[-1][1])]
    drawn = [number for number, name in enumerate(drawn_by) if name == names[place]]
    _draw(sources, axes, edges, [row[2:] for row in rows], drawn)
    ticks = scales[place].ticks(edges[0], edges[-1])
    axes.set_xticks([position for position, _ in ticks], [label for _, label in ticks])
    axes.set_xlabel(figures.legible(f"{scales[place].label} by {names[place]}"), parse_math=False)
  return _png(drawing)


def lengths(sources: Sources, figure: Figure) -> bytes:
  """Draws the tokens of documents, of the corpus and of each output; empty if no tokens were counted."""
  from matplotlib import ticker

  rows = drawings.counted(figure.rows)
  if not rows:
    return b""
  drawing, (axes,) = _panels(1)
  edges = [row[0] for row in rows] + [rows[-1][1]]
  _draw(sources, axes, edges, [row[2:] for row in rows], list(range(len(sources.outputs))))
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
  axes.set_xlabel("tokens of a document")
  return _png(drawing)


def _panels(number: int) -> tuple[Any, list[Any]]:
  from matplotlib import figure

  drawing = figure.Figure(figsize=(6.4, 3.0 * number), layout="constrained", dpi=144)
  return drawing, list(drawing.subplots(number, 1, squeeze=False)[:, 0])


def _draw(sources: Sources, axes: Any, edges: list[float], counts: list[list[int]], drawn: list[int]) -> None:
  """Draws shares by bin: the corpus, the first column of `counts`, as an area, and some outputs as lines."""
  from matplotlib import ticker

  columns = list(zip(*counts, strict=True))
  shares = [[count / max(sum(column), 1) for count in column] for column in columns]
  axes.stairs(shares[0], edges, fill=True, color=_CORPUS, label=" corpus")
  for number in drawn:
    style = _STYLES[number // len(_LINES) % len(_STYLES)]
    # With a space, since a legend leaves out names that begin with an underscore.
    label = f" {figures.legible(sources.outputs[number].name)}"
    axes.stairs(
      shares[1 + number], edges, color=_LINES[number % len(_LINES)], linewidth=1.6, linestyle=style, label=label
    )
  axes.set_xlim(edges[0], edges[-1])
  axes.set_ylim(bottom=0)
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes.set_ylabel("share of documents")
  axes.spines[["top", "right"]].set_visible(False)
  for text in axes.legend(frameon=False, fontsize=8).get_texts():
    text.set_parse_math(False)


def _png(drawing: Any) -> bytes:
  written = io.BytesIO()
  # Without the version of matplotlib, which would change the bytes.
  drawing.savefig(written, format="png", metadata={"Software": None})
  return written.getvalue()
