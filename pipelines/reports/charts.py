"""SVG charts: those of a page as elements of it, coloured by its style and described in words; and a file of curves.

The charts of a page are `WIDTH` units wide, which is the width of a phone: where a page shows them wider, their text of
12 units grows with them. Only numbers and labels are drawn as text. No chart tells sets apart by colour alone: the
corpus is an area, an output is a line, and a threshold is a dashed line.
"""

import html
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines.reports.axes import round_numbers

WIDTH, _HEIGHT = 330, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 20, 40
_STYLES = ("-", "--", ":", "-.")
_LETTER = 6.6  # the mean width of a letter of 12 units
_LEVELS = 5


class Words(NamedTuple):
  """The words of a chart: `identity` makes its ids unique on a page; the rest is read aloud."""

  identity: str
  title: str
  description: str


class Ticks(NamedTuple):
  """The marks of an axis: pairs of a position and a label, and the name of the axis."""

  marks: Sequence[tuple[float, str]]
  label: str


class Frame:
  """The area of a chart with two axes: maps positions to units of the drawing."""

  def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = _HEIGHT):
    self.height, self.elements = height, []
    self._x, self._y = x, y
    self._width, self._tall = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM

  elements: list[str]

  def x(self, position: float) -> float:
    low, high = self._x
    share = (position - low) / (high - low) if high > low else 0.5
    return round(_LEFT + self._width * min(max(share, 0.0), 1.0), 1)

  def y(self, position: float) -> float:
    low, high = self._y
    share = (position - low) / (high - low) if high > low else 0.0
    return round(_TOP + self._tall * (1 - min(max(share, 0.0), 1.0)), 1)

  def axes(self, x: Ticks, y: Ticks) -> None:
    """Draws both axes with their marks: the label of x below, and that of y above."""
    left, right, bottom = _LEFT, WIDTH - _RIGHT, self.height - _BOTTOM
    lines = [f"M{left} {_TOP}V{bottom}H{right}"]
    lines += [f"M{self.x(place)} {bottom}v4" for place, _ in x.marks]
    lines += [f"M{left} {self.y(place)}h-4" for place, _ in y.marks]
    self.elements.append(f'<path d="{"".join(lines)}" style="fill:none;stroke:var(--ink)"/>')
    for place, label in x.marks:
      half = len(label) * _LETTER / 2
      self.text(min(max(self.x(place), half), WIDTH - half), bottom + 16, label, "middle")
    for place, label in y.marks:
      self.text(left - 6, self.y(place) + 4, label, "end")
    self.text((left + right) / 2, self.height - 6, x.label, "middle")
    self.text(2, 12, y.label)

  def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
    """Draws text at a place of the drawing."""
    self.elements.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')

  def path(self, commands: str, style: str) -> None:
    self.elements.append(f'<path d="{commands}" style="{style}"/>')

  def stairs(self, edges: Sequence[float], heights: Sequence[float]) -> str:
    """Returns the commands of a line of steps over bins, which begins and ends at the bottom."""
    commands = [f"M{self.x(edges[0])} {self.y(0)}"]
    for edge, height in zip(edges[1:], heights, strict=True):
      commands.append(f"V{self.y(height)}H{self.x(edge)}")
    return "".join([*commands, f"V{self.y(0)}"])

  def svg(self, words: Words) -> str:
    """Returns the drawing as an element of a page."""
    return svg(words, (WIDTH, self.height), self.elements)


def svg(words: Words, size: tuple[int, int], elements: Sequence[str]) -> str:
  """Returns elements as an `<svg>` with a title and a description."""
  identity = words.identity
  named = f'role="img" aria-labelledby="{identity}-title {identity}-desc"'
  return (
    f'<svg viewBox="0 0 {size[0]} {size[1]}" {named} class="chart" style="fill:var(--ink)">'
    f'<title id="{identity}-title">{html.escape(words.title)}</title>'
    f'<desc id="{identity}-desc">{html.escape(words.description)}</desc>{"".join(elements)}</svg>'
  )


def histogram(
  words: Words,
  edges: Sequence[float],
  corpus: Sequence[float],
  kept: Sequence[float] | None,
  *,
  x: Ticks,
  y_label: str,
  thresholds: Sequence[tuple[float, str]] = (),
) -> str:
  """Draws shares of a corpus by bin as an area, what an output kept as a line, and its thresholds with their labels."""
  frame = _shares_frame((edges[0], edges[-1]), [*corpus, *(kept or [])], x, y_label)
  area = frame.stairs(edges, corpus)
  frame.elements.insert(0, f'<path d="{area}" style="fill:var(--fill)"/>')
  if kept is not None:
    frame.path(frame.stairs(edges, kept), "fill:none;stroke:var(--line-0);stroke-width:2")
  for place, _ in thresholds:
    frame.path(
      f"M{frame.x(place)} {_TOP - 4}V{frame.height - _BOTTOM}",
      "fill:none;stroke:var(--line-1);stroke-width:2;stroke-dasharray:5 3",
    )
  labels = [label for _, label in thresholds]
  places = _apart([frame.x(place) for place, _ in thresholds], labels, 2 + _LETTER * len(y_label))
  for place, label in zip(places, labels, strict=True):
    frame.text(place, 12, label, "middle")
  return frame.svg(words)


def _apart(middles: Sequence[float], labels: Sequence[str], left: float) -> list[float]:
  """Returns the middles of labels in one line, in ascending order: as near to `middles` as they fit beside each other.

  They keep to the right of `left` if there is room.
  """
  halves = [len(label) * _LETTER / 2 for label in labels]
  places = list(middles)
  right: float = WIDTH
  for number in reversed(range(len(places))):
    places[number] = min(places[number], right - halves[number])
    right = places[number] - halves[number] - _LETTER
  for number, half in enumerate(halves):
    places[number] = max(places[number], left + half)
    left = places[number] + half + _LETTER
  return places


def bars(
  words: Words, names: Sequence[str], corpus: Sequence[float], kept: Sequence[float] | None, y_label: str
) -> str:
  """Draws a bar for each of a few values: the corpus as a filled bar, and what an output kept as a frame in it."""
  frame = _shares_frame((0, len(names)), [*corpus, *(kept or [])], Ticks([], ""), y_label)
  bottom = frame.y(0)
  for place, name in enumerate(names):
    left, right, middle = (frame.x(place + share) for share in (0.2, 0.8, 0.5))
    top = frame.y(corpus[place])
    frame.path(f"M{left} {bottom}V{top}H{right}V{bottom}Z", "fill:var(--fill)")
    if kept is not None:
      top_kept = frame.y(kept[place])
      frame.path(f"M{left} {bottom}V{top_kept}H{right}V{bottom}", "fill:none;stroke:var(--line-0);stroke-width:2")
    frame.text(middle, bottom + 16, name, "middle")
    shown = f"{corpus[place]:.1%}" + (f", kept {kept[place]:.1%}" if kept is not None else "")
    frame.text(middle, bottom + 32, shown, "middle")
  return frame.svg(words)


def _shares_frame(x: tuple[float, float], shares: Sequence[float], ticks: Ticks, y_label: str) -> Frame:
  highest = max(shares, default=0) or 1
  frame = Frame(x, (0, highest))
  marks = [(share, f"{100 * share:.3g}%") for share in round_numbers(0, highest, 3)]
  frame.axes(ticks, Ticks(marks, y_label))
  return frame


def band(words: Words, points: Sequence[tuple[float, float, float, float]], *, x: Ticks, y_label: str) -> str:
  """Draws points (x, lower, middle, upper), all but x in percentiles: a band, a line in it, and a dashed line at 50."""
  frame = Frame((points[0][0], points[-1][0]), (0, 100))
  upper = "L".join(f"{frame.x(point[0])} {frame.y(point[3])}" for point in points)
  lower = "L".join(f"{frame.x(point[0])} {frame.y(point[1])}" for point in reversed(points))
  middle = "L".join(f"{frame.x(point[0])} {frame.y(point[2])}" for point in points)
  frame.path(f"M{upper}L{lower}Z", "fill:var(--fill)")
  half = f"M{_LEFT} {frame.y(50)}H{WIDTH - _RIGHT}"
  frame.path(half, "fill:none;stroke:var(--quiet);stroke-dasharray:2 3")
  frame.path(f"M{middle}", "fill:none;stroke:var(--line-0);stroke-width:2")
  frame.axes(x, Ticks([(place, f"{place:.0f}") for place in (0, 50, 100)], y_label))
  return frame.svg(words)


def line(words: Words, points: Sequence[tuple[float, float]], *, x: Ticks, y: Ticks, mark: tuple[float, str]) -> str:
  """Draws a line through points (x, y), both from 0 to 100, and a dashed line at the place of `mark` with its label."""
  frame = Frame((0, 100), (0, 100))
  through = "L".join(f"{frame.x(across)} {frame.y(up)}" for across, up in points)
  frame.path(f"M{through}", "fill:none;stroke:var(--line-0);stroke-width:2")
  frame.path(
    f"M{frame.x(mark[0])} {_TOP - 4}V{frame.height - _BOTTOM}",
    "fill:none;stroke:var(--line-1);stroke-width:2;stroke-dasharray:5 3",
  )
  (place,) = _apart([frame.x(mark[0])], [mark[1]], 2 + _LETTER * len(y.label))
  frame.text(place, 12, mark[1], "middle")
  frame.axes(x, y)
  return frame.svg(words)


def points(
  words: Words,
  places: Sequence[tuple[str, float, float]],
  *,
  x: Ticks,
  y: Ticks,
  span: tuple[float, float, float, float],
) -> str:
  """Draws points (label, x, y) over `span` (low and high of x, then of y); short labels stand beside their points.

  The first point is a ring and the others are discs, since the first one is that of the corpus.
  """
  frame = Frame(span[:2], span[2:], height=260)
  frame.axes(x, y)
  taken = [(frame.x(across), frame.y(up)) for _, across, up in places]
  for number, (label, across, up) in enumerate(places):
    left, top = frame.x(across), frame.y(up)
    look = "fill:var(--line-0)" if number else "fill:none;stroke:var(--line-1);stroke-width:2"
    frame.elements.append(f'<circle cx="{left}" cy="{top}" r="4" style="{look}"/>')
    width = len(label) * _LETTER
    # The first of eight places around the point where no other label or point is.
    around = [(8 + width / 2, 4), (-8 - width / 2, 4), (0, -8), (0, 17), (10, -6), (-10, -6), (10, 15), (-10, 15)]
    free = [
      (left + right, top + down)
      for right, down in around
      if left + right - width / 2 > _LEFT
      and left + right + width / 2 < WIDTH
      and top + down < frame.height - _BOTTOM - 2
      and all(abs(left + right - other) > width / 2 + 6 or abs(top + down - 4 - high) > 9 for other, high in taken)
    ]
    middle, baseline = free[0] if free else (left + around[0][0], top + 4)
    taken.append((middle, baseline - 4))
    frame.text(middle, baseline, label, "middle")
  return frame.svg(words)


def squares(words: Words, counts: Sequence[Sequence[int]], *, x_label: str, y_label: str) -> str:
  """Draws counts by two coordinates as squares, the more the darker; the first row is at the bottom."""
  size, side = len(counts), 180
  unit, highest = side / len(counts), max(map(max, counts)) or 1
  levels: list[list[str]] = [[] for _ in range(_LEVELS)]
  for row, numbers in enumerate(counts):
    for column, count in enumerate(numbers):
      if count:
        level = min(_LEVELS - 1, int(_LEVELS * (count / highest) ** 0.5))
        levels[level].append(
          f"M{20 + column * unit:.4g} {16 + (size - 1 - row) * unit:.4g}h{unit:.4g}v{unit:.4g}h-{unit:.4g}z"
        )
  elements = [
    f'<path d="{"".join(commands)}" style="fill:var(--line-0);opacity:{(level + 1) / _LEVELS:.1f}"/>'
    for level, commands in enumerate(levels)
    if commands
  ]
  elements.append(f'<path d="M20 16v{side}h{side}" style="fill:none;stroke:var(--ink)"/>')
  elements.append(f'<text x="{20 + side / 2}" y="{side + 32}" text-anchor="middle">{html.escape(x_label)} →</text>')
  elements.append(f'<text x="2" y="11">↑ {html.escape(y_label)}</text>')
  return svg(words, (side + 24, side + 38), elements)


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
