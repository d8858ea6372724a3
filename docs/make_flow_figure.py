"""Draws flow.svg, the picture of README.md: `python docs/make_flow_figure.py`.

It shows the flow of the paper: a corpus is scored, a sample is drawn by the scores, and T5X trains on it. The bars and
the dots illustrate; they are no measurement. Their kept parts follow the samplers' rules.
"""

import math
import pathlib
import random
from typing import NamedTuple
from xml.sax import saxutils

FIGURE = pathlib.Path(__file__).with_name("flow.svg")
WIDTH, HEIGHT = 960, 384
RATE = 0.2
# Documents for each bar of the histogram, from the lowest scores to the highest.
BARS = (4, 7, 11, 15, 18, 20, 20, 17, 13, 10, 8, 7)
# Of each group of dots: the centre and the spread in pixels, and the number of dots.
GROUPS = (((44, 55), 8.5, 34), ((108, 48), 9, 14), ((162, 60), 8, 8), ((158, 30), 7, 4))
STYLE = """
:root { --paper: #ffffff; --card: #f4f6f8; --ink: #1b2733; --soft: #52606d; --line: #b6c0ca; --kept: #0b7285;
  --left: #c5ced7; --model: #b35c00 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12181f; --card: #1c242d; --ink: #e8edf2; --soft: #a7b3bf; --line: #4a5764; --kept: #3bc9db;
    --left: #46525e; --model: #ffa94d }
}
text { fill: var(--ink); font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px }
.title { font-size: 16px; font-weight: 600 }
.soft { fill: var(--soft) }
.command { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: var(--kept) }
.card { fill: var(--card); stroke: var(--line) }
.line { fill: none; stroke: var(--soft); stroke-width: 1.5 }
.kept { fill: var(--kept) }
.left { fill: var(--left) }
.words { stroke: var(--line); stroke-width: 3; stroke-linecap: round }
""".strip()


class Dot(NamedTuple):
  """A document in the space of its embedding, in pixels; `is_kept` if the sample has it."""

  x: float
  y: float
  is_kept: bool


def split_bars() -> list[tuple[float, float]]:
  """Returns the documents of each bar that stay out of the best fifth, and those that are in it."""
  wanted, parts = RATE * sum(BARS), []
  for count in reversed(BARS):
    kept = min(count, wanted)
    wanted -= kept
    parts.append((count - kept, kept))
  return parts[::-1]


def draw_dots() -> list[Dot]:
  """Returns the dots of all groups; a fifth is kept, with chances proportional to 1 / density."""
  generator = random.Random(3)
  places = [
    (generator.gauss(x, spread), generator.gauss(y, spread)) for (x, y), spread, count in GROUPS for _ in range(count)
  ]
  density = [sum(math.exp(-(math.dist(place, other) ** 2) / 200) for other in places) for place in places]
  keys = [generator.random() ** near for near in density]
  last = sorted(keys)[-round(RATE * len(keys))]
  return [Dot(x, y, key >= last) for (x, y), key in zip(places, keys, strict=True)]


def svg() -> str:
  """Draws five stations from left to right, with the commands that lead from one to the next below them."""
  shapes = [
    *_title(92, "1", "Corpus"),
    *_title(290, "2", "Scores"),
    *_title(522, "3", "Exact sample"),
    *_title(724, "4", "Records"),
    *_title(872, "5", "T5X"),
    *_corpus(),
    *_scorers(),
    *_samples(),
    *_records(),
    *_training(),
    *(_arrow(path) for path in ("M 150 142 H 182", "M 150 232 H 182", "M 392 142 H 422", "M 392 232 H 422")),
    *(_arrow(path) for path in ("M 622 142 C 646 142 640 180 664 180", "M 622 232 C 646 232 640 194 664 194")),
    _arrow("M 784 187 H 812"),
    *_caption(92, ("C4 or your own text:", "JSON Lines, Parquet,", "TFRecord, TFDS")),
    *_caption(290, ("every document once,", "kept in a store"), "winnow score"),
    *_caption(522, ("as many samples", "as you like"), "winnow sample"),
    *_caption(724, ("for TFDS and seqio,", "with a manifest")),
    *_caption(872, ("pre-training", "of a T5"), "python -m", "pretraining.plan"),
  ]
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    'role="img" aria-labelledby="name">\n'
    '<title id="name">A corpus is scored by Ask-LLM or density; a sample of exactly a fifth is drawn by the scores; '
    "its records train a T5 with T5X</title>\n"
    f"<style>\n{STYLE}\n</style>\n"
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M 0 0 L 8 4 L 0 8 z" style="fill: var(--soft)"/></marker></defs>\n'
    f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" '
    'style="fill: var(--paper); stroke: var(--line)"/>\n' + "\n".join(shapes) + "\n</svg>\n"
  )


def _corpus() -> list[str]:
  shapes = []
  for number in range(3):
    left, top = 42 + 13 * number, 104 + 17 * number
    shapes.append(f'<rect class="card" x="{left}" y="{top}" width="76" height="112" rx="4"/>')
  for number, length in enumerate((52, 44, 52, 30, 52, 48, 38)):
    top = 153 + 13 * number
    shapes.append(f'<line class="words" x1="80" y1="{top}" x2="{80 + length}" y2="{top}"/>')
  return shapes


def _scorers() -> list[str]:
  shapes = []
  for top, name, asked, score in (
    (100, "Ask-LLM", "Is it worth reading?", 'log P("yes")'),
    (190, "Density", "How many are like it?", "kernel density"),
  ):
    shapes += [
      f'<rect class="card" x="188" y="{top}" width="204" height="84" rx="8"/>',
      _text(204, top + 25, name, 'font-weight="600"'),
      _text(204, top + 46, asked, 'class="soft"'),
      _text(204, top + 68, f"→ {score}"),
    ]
  return shapes


def _samples() -> list[str]:
  shapes = []
  for top, rule in ((100, "the best fifth"), (190, "a fifth, few from crowds")):
    shapes.append(f'<rect class="card" x="428" y="{top}" width="194" height="84" rx="8"/>')
    shapes.append(_text(436, top + 18, rule))
  for number, (out, kept) in enumerate(split_bars()):
    left, base = 442 + 14 * number, 176
    height, above = round(2.4 * out, 1), round(2.4 * kept, 1)
    if kept and not out:
      shapes.append(f'<rect class="kept" x="{left}" y="{base - above:g}" width="11" height="{above:g}"/>')
    else:
      shapes.append(f'<rect class="left" x="{left}" y="{base - height:g}" width="11" height="{height:g}"/>')
    if kept and out:
      shapes.append(f'<rect class="kept" x="{left}" y="{base - height - above:g}" width="11" height="{above:g}"/>')
  dots = sorted(draw_dots(), key=lambda dot: dot.is_kept)  # the kept ones on top
  for dot in dots:
    kind, radius = ("kept", 4) if dot.is_kept else ("left", 2.6)
    shapes.append(f'<circle class="{kind}" cx="{430 + dot.x:.1f}" cy="{188 + dot.y:.1f}" r="{radius}"/>')
  return shapes


def _records() -> list[str]:
  shapes = []
  for number in range(4):
    top = 118 + 36 * number
    shapes.append(f'<rect class="card" x="670" y="{top}" width="108" height="30" rx="6"/>')
    shapes.append(f'<rect class="kept" x="670" y="{top}" width="7" height="30" rx="3"/>')
    shapes.append(f'<line class="words" x1="690" y1="{top + 11}" x2="762" y2="{top + 11}"/>')
    shapes.append(f'<line class="words" x1="690" y1="{top + 20}" x2="{744 - 9 * number}" y2="{top + 20}"/>')
  return shapes


def _training() -> list[str]:
  return [
    '<rect class="card" x="818" y="126" width="108" height="122" rx="8"/>',
    _text(832, 146, "loss", 'class="soft"'),
    '<path class="line" d="M 832 152 V 234 H 914"/>',
    '<path d="M 838 158 C 846 206 866 216 910 221" fill="none" style="stroke: var(--model)" stroke-width="3"/>',
  ]


def _title(middle: float, number: str, name: str) -> list[str]:
  return [_text(middle, 44, number, 'class="soft" text-anchor="middle"'), _middle(middle, 68, name, "title")]


def _caption(middle: float, lines: tuple[str, ...], *command: str) -> list[str]:
  shapes = [_middle(middle, 304 + 18 * number, line, "soft") for number, line in enumerate(lines)]
  return shapes + [_middle(middle, 352 + 17 * number, line, "command") for number, line in enumerate(command)]


def _arrow(path: str) -> str:
  return f'<path class="line" d="{path}" marker-end="url(#head)"/>'


def _middle(x: float, y: float, text: str, kind: str) -> str:
  return _text(x, y, text, f'class="{kind}" text-anchor="middle"')


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
  return f'<text x="{x}" y="{y}" {attributes}>{saxutils.escape(text)}</text>'.replace(" >", ">")


if __name__ == "__main__":
  FIGURE.write_text(svg())
