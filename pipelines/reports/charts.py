"""SVG charts for a page: drawn by matplotlib, coloured by the style of the page, and described in words."""

import html
import io
import re
from collections.abc import Mapping, Sequence

# Placeholder colours that the style of the page replaces, so that a chart follows light and dark mode.
_INK, _FILL = "#010203", "#010204"
_LINES = tuple(f"#0102{number:02x}" for number in range(0x10, 0x16))
_STYLES = ("-", "--", ":", "-.")
_VARIABLES = {_INK: "var(--ink)", _FILL: "var(--fill)"} | {c: f"var(--line-{i})" for i, c in enumerate(_LINES)}


def legend_class(number: int) -> str:
  """Returns the CSS class of a swatch in a legend; number 0 is the corpus."""
  return f"line-{(number - 1) % len(_LINES)} dash-{(number - 1) // len(_LINES) % len(_STYLES)}" if number else "fill"


def histogram(
  edges: Sequence[float],
  shares: Sequence[Sequence[float]],
  *,
  identity: str,
  title: str,
  description: str,
  x_label: str,
  is_log: bool = False,
) -> str:
  """Draws shares (0 to 1) by bin, a corpus as an area and outputs as lines: an `<svg>` with title and description.

  `identity` makes the ids in it unique on the page. Only numbers and `x_label` are drawn as text, so that no name can
  be taken for a formula.
  """
  from matplotlib import figure, rc_context, ticker

  with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity, "font.size": 9, "text.parse_math": False}):
    drawing = figure.Figure(figsize=(5.4, 2.5), layout="constrained")
    axes = drawing.add_subplot()
    axes.stairs(shares[0], edges, fill=True, color=_FILL)
    for number, output_shares in enumerate(shares[1:]):
      style = _STYLES[number // len(_LINES) % len(_STYLES)]
      axes.stairs(output_shares, edges, color=_LINES[number % len(_LINES)], linewidth=1.6, linestyle=style)
    if is_log:
      axes.set_xscale("log", base=2)
      axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel("share of documents", color=_INK)
    axes.tick_params(colors=_INK, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    written = io.StringIO()
    drawing.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
  return _inline(written.getvalue(), identity, title, description)


def curves(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> bytes:
  """Draws named lines through points (x and y; y is above 0, on a logarithmic axis) as a complete SVG file."""
  from matplotlib import figure, rc_context, ticker

  with rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9, "text.parse_math": False}):
    drawing = figure.Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawing.add_subplot()
    for number, (name, (x, y)) in enumerate(points.items()):
      style = _STYLES[number // 10 % len(_STYLES)]  # matplotlib has ten colours
      # With a space, since a legend leaves out names that begin with an underscore.
      axes.plot(x, y, marker="o", markersize=3, linewidth=1.4, linestyle=style, label=f" {name}")
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
      set_formatter(ticker.StrMethodFormatter("{x:,.4g}"))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    written = io.BytesIO()
    drawing.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
  return written.getvalue()


def _inline(svg: str, identity: str, title: str, description: str) -> str:
  """Turns an SVG file into an element of a page, with unique ids, its colours and fonts, a title and a description."""
  svg = svg[svg.index("<svg ") :]
  svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{identity}-", svg)
  for written, variable in _VARIABLES.items():
    svg = svg.replace(written, variable)
  svg = re.sub(r"font: [^;\"]*", "font: 9px system-ui, sans-serif", svg)
  size = svg[svg.index("viewBox=") :].split('"')[1]
  head = f'<svg viewBox="{size}" role="img" aria-labelledby="{identity}-title {identity}-desc" class="chart">'
  words = {"title": title, "desc": description}
  elements = [f'<{tag} id="{identity}-{tag}">{html.escape(text)}</{tag}>' for tag, text in words.items()]
  return "".join([head, *elements, svg[svg.index(">") + 1 :]])


def shares(counts: Sequence[Sequence[int]], totals: Sequence[int]) -> list[list[float]]:
  """Turns counts by bin, for several sets of documents, into shares of each set."""
  return [[count / max(total, 1) for count in bins] for bins, total in zip(counts, totals, strict=True)]
