"""The page of `winnow report`: content of the corpus is only text on it, and a browser shows it in light and dark
mode."""

import csv
import html.parser
import io
import os
import pathlib
import re
import shutil

import numpy as np
import pyarrow.csv
import pytest
import reported
import yaml
from reported import HOSTILE, ROWS, SCORERS, make, read
from running import run_in

from pipelines.reports import axes, charts, figures, page
from pipelines.reports.page import EXCERPT

OUTPUTS = ("best", "rest")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
  place = tmp_path_factory.mktemp("page")
  reported.build(place, OUTPUTS)
  assert make(place, OUTPUTS) == 0
  return place


class Page(html.parser.HTMLParser):
  """A parsed page: its elements, and the text outside of its style."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.texts: list[str] = []
    self._in_style = False
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self._in_style = tag == "style"

  def handle_endtag(self, tag):
    self._in_style = False

  def handle_data(self, data):
    if not self._in_style:
      self.texts.append(data)


def test_what_the_corpus_says_is_text(made):
  """Kills the mutants: a page without autoescape; a text, domain, reason or command that is marked as safe; a template
  that is rendered twice; raw control characters, and raw overrides of the order of letters."""
  text = (made / "page/report.html").read_text()
  page = Page(text)
  assert len(text) < 3_000_000
  tags = {tag for tag, _ in page.elements}
  assert not tags & {"script", "img", "b", "iframe", "object", "link", "base", "form"}
  names = {name for _, attributes in page.elements for name in attributes}
  assert not [name for name in names if name.startswith("on")]
  places = [value for _, attributes in page.elements for name, value in attributes.items() if name.endswith("href")]
  assert all(re.fullmatch(r"\w+\.csv|#[\w.-]+", place or "") for place in places)
  assert "://" not in re.sub(r' xmlns(:\w+)?="[^"]*"', "", "".join(re.findall(r"<[^>]*>", text)))
  shown = "".join(page.texts)
  expected = HOSTILE.replace("\x01\x00\r", "␁␀␍").replace("\u202e", "\ufffd")
  texts = [row["text"] for row in read(made, "examples")]
  times = sum((1 + (len(text) > EXCERPT)) * (expected in text) for text in texts)
  assert shown.count(expected) == times > 3
  assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
  assert '<script>"' not in text and shown.count("<script>" * 9) == len(ROWS)  # of the dead letters
  assert "SemDeDup" not in shown  # no store has its scores
  assert "<b>" in "".join(row["domain"] for row in read(made, "domains")) and "Content-Security-Policy" in text


def test_names_of_folders_are_text(made, tmp_path):
  """Kills the mutants: raw control characters in the names of charts and facts; names that matplotlib takes for
  formulas; two outputs with one name in the card."""
  store, outputs = (
    'large $\\frac$ <b>"|`\x01\u202e',
    ['best $\\frac$ <b>"|`\x01\n--- \u202e', "best", "best_4", "best-"],
  )
  shutil.copytree(made / "scores", tmp_path / "scores")
  (tmp_path / "scores/large").rename(tmp_path / "scores" / store)
  for number, name in enumerate(outputs):
    shutil.copytree(made / "best", tmp_path / f"{number}" / name)
  command = ["report", "--scores=scores", "--report=page", "--output=*/best*", "--direct_num_workers=1"]
  assert run_in(tmp_path, command) == 0
  text = (tmp_path / "page/report.html").read_text()
  page = Page(text)
  assert "b" not in {tag for tag, _ in page.elements} and not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
  assert 'large $\\frac$ <b>"|`␁' in "".join(page.texts)
  card = (tmp_path / "page/dataset_card.md").read_text()
  names = re.findall(r"^## How `(\w+)` was made$", card, re.MULTILINE)
  assert len(names) == len(set(names)) == len(outputs)
  assert yaml.safe_load(card.split("---\n")[1])["pretty_name"] == ", ".join(names)


def test_charts_have_names_and_ids_of_their_own(made):
  """Kills the mutants: the raw ids of matplotlib, by which one chart clips another; fixed colours."""
  text = (made / "page/report.html").read_text()
  page = Page(text)
  ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
  assert len(ids) == len(set(ids))
  charts = [attributes for tag, attributes in page.elements if tag == "svg"]
  # Two outputs by three scorers, both by the scores of one of them, so that two scorers have a chart of their own;
  # then charts of lengths and of every two scorers, of each scorer against length, and of coverage.
  assert len(charts) == len(OUTPUTS) * len(SCORERS) + 2 + len(OUTPUTS) + 3 + len(SCORERS) + 1
  assert all(chart["role"] == "img" and set(str(chart["aria-labelledby"]).split()) <= set(ids) for chart in charts)
  referred = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
  assert referred and set(referred) <= set(ids)
  drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
  assert not re.search(r"(fill|stroke): #", drawn) and "var(--ink)" in drawn


@pytest.fixture(scope="module")
def browser():
  from playwright import sync_api

  found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
  if found is None:
    assert os.environ.get("CI") != "true", "CI needs chromium"
    pytest.skip("there is no Chromium on this machine")
  with sync_api.sync_playwright() as playwright:
    started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
    yield started
    started.close()


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_it_and_runs_nothing(made, browser, scheme, width):
  """axe-core finds nothing, contrast included. Kills the mutants: a colour for only the light scheme; a table that
  makes the page scroll sideways; anything that is fetched; a script that runs where the policy is ignored."""
  from axe_playwright_python.sync_playwright import Axe

  # The policy is off, so that a script that escaping lets through would run, and so that axe can run.
  context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": width, "height": 800})
  page = context.new_page()
  asked, told = [], []
  page.on("request", lambda request: asked.append(request.url))
  page.on("console", lambda message: told.append(message.text))
  page.goto((made / "page/report.html").as_uri())
  assert page.title() == "Winnow: small, large, density" and len(asked) == 1 and not told
  page.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
  found = [(of["id"], of["nodes"][0]["html"]) for of in Axe().run(page).response["violations"]]
  assert not found
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  assert page.locator("svg").first.bounding_box()["height"] > 100
  dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
  assert dark == (scheme == "dark")
  ink = "getComputedStyle(document.querySelector('svg text')).fill"
  assert page.evaluate(ink) == page.evaluate("getComputedStyle(document.body).color")
  context.close()


def test_text_that_a_spreadsheet_would_take_for_a_formula_is_text():
  """Kills the mutants: a raw formula, even after a space; a number that gets an apostrophe."""
  figure = figures.Figure(["=a", "b"], [["=1+1", -2.5], ["@x", None], ['say "no", no', 7], ["\ud800", 0]])
  assert figure.to_csv().decode() == '\'=a,b\n\'=1+1,-2.5\n\'@x,\n"say ""no"", no",7\n?,0\n'
  formulas = ["=1", "+1", "-1", "@x", "\t=1", "\n1", " =1", "\u3000=1", "＝1", "－1"]
  written = figures.Figure(["a"], [[text] for text in [*formulas, "a=1", "\r=1", "'=1"]]).to_csv().decode()
  found = [row[0] for row in csv.reader(io.StringIO(written, newline=""))]
  assert found == ["a", *(f"'{text}" for text in formulas), "a=1", "␍=1", "'=1"]


def test_any_text_is_one_cell_of_a_csv_without_control_characters():
  """Holds for any reader. Kills: a NUL, which ends a file for some readers; a lone carriage return, which ends a row
  and which Python does not quote; lines of Windows that are read as two."""
  texts = [f"a{chr(point)}b" for point in (*range(0x300), 0x202E, 0x2028, 0xFEFF)] + [
    "a\r\nb",
    "a\rb\n",
    "\0",
    "\ud800",
    "",
  ]
  written = figures.Figure(["text", "n"], [[text, n] for n, text in enumerate(texts)]).to_csv()
  assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", written.decode())
  rows = list(csv.reader(io.StringIO(written.decode(), newline="")))
  assert [row[1:] for row in rows[1:]] == [[str(n)] for n in range(len(texts))]
  assert [rows[1 + of][0] for of in (0, 13, 10, 65, 127, 133)] == ["a␀b", "a␍b", "a\nb", "aAb", "a␡b", "a\ufffdb"]
  assert [row[0] for row in rows[-5:]] == ["a\nb", "a␍b\n", "␀", "?", ""]
  options = pyarrow.csv.ParseOptions(newlines_in_values=True)
  assert pyarrow.csv.read_csv(io.BytesIO(written), parse_options=options)["n"].to_pylist() == list(range(len(texts)))


def test_values_are_shown_short():
  values = (None, 1234567, 0.123456, 12.0, "\ud800\x00\u2066")
  assert [page.shown(of) for of in values] == ["", "1,234,567", "0.1235", "12", "?␀\ufffd"]


def test_a_chart_draws_labels_as_text_and_stays_in_its_frame():
  """Kills the mutants: a label that is markup; a share above the top; a threshold beyond the ends."""
  words = charts.Words("i", "<t>", "&")
  ticks = charts.Ticks([(0, "<0>"), (2, "2")], "$x$")
  drawn = charts.histogram(words, [0, 1, 2], [0.75, 0.25], [0.5, 0.0], x=ticks, y_label="<y>", thresholds=[(9, "p99")])
  assert "&lt;t&gt;" in drawn and "&amp;</desc>" in drawn and "$x$" in drawn and not re.search("<[ty]>|<0>", drawn)
  widths = [float(place) for place in re.findall(r"[MH]([\d.]+)", drawn)]
  assert widths and max(widths) <= charts.WIDTH
  assert "stroke-dasharray" in drawn and drawn.count("var(--line-0)") == 1
  assert charts.histogram(words, [0, 1], [1.0], None, x=ticks, y_label="").count("var(--line-0)") == 0


def test_labels_of_two_lines_stand_beside_each_other():
  """Kills: labels on top of each other, out of the drawing, or away from their lines without need."""
  words, ticks = charts.Words("i", "t", "d"), charts.Ticks([(0, "0"), (2, "2")], "x")
  for ends in ((0.0, 2.0), (1.0, 1.01), (1.99, 2.0), (0.0, 0.0)):
    lines = [(place, f"0.{number}23456 · p50") for number, place in enumerate(ends)]
    drawn = charts.histogram(words, [0, 1, 2], [0.5, 0.5], [0.1, 0.1], x=ticks, y_label="% of it", thresholds=lines)
    (first, second) = (float(place) for place in re.findall(r'<text x="([\d.]+)"[^>]*>0\.\d23456', drawn))
    assert second - first >= 6 * len(lines[0][1]) and first > 6 * len(lines[0][1]) / 2
    assert second + 6 * len(lines[0][1]) / 2 <= charts.WIDTH and drawn.count("stroke-dasharray") == 2
  thin = charts.histogram(words, [0, 1, 2], [0.5, 0.5], None, x=ticks, y_label="", thresholds=[(0.5, "a"), (1.5, "b")])
  frame = charts.Frame((0, 2), (0, 1))
  assert all(f'<text x="{frame.x(place):.1f}" y="12.0"' in thin for place in (0.5, 1.5))


def test_bars_say_their_shares():
  words = charts.Words("i", "t", "d")
  drawn = charts.bars(words, ["0", "1"], [0.18, 0.82], [0.03, 0.5], "y")
  assert "18.0%, kept 3.0%" in drawn and "82.0%, kept 50.0%" in drawn
  assert "kept" not in charts.bars(words, ["0", "1"], [0.18, 0.82], None, "y")


def test_the_axis_of_log_p_opens_its_upper_end():
  """Half of these probabilities are above 0.99: equally wide bins of log P would hold them in one bin of 48."""
  log_p = np.log(np.concatenate([np.linspace(0.01, 0.99, 500), 1 - np.geomspace(0.01, 1e-5, 500)])).astype(np.float32)
  axis = axes.choose("ask_llm", log_p)
  assert axis.scale is axes.LOGIT and not axis.is_binary
  edges_E = axis.edges(log_p, 48)
  assert len(edges_E) == 49 and (np.diff(edges_E) > 0).all()
  assert (edges_E > np.log(0.99)).sum() > 15
  assert np.allclose([axis.at(edge) for edge in edges_E], np.linspace(axis.at(edges_E[0]), axis.at(edges_E[-1]), 49))
  labels = [label for _, label in axis.ticks(axis.at(edges_E[0]), axis.at(edges_E[-1]))]
  assert 3 <= len(labels) <= 7 and all(label.startswith("−") for label in labels)


def test_the_axis_of_other_scores_follows_their_range():
  """Kills the mutants: a logarithm of 0; two values that are drawn as a curve; edges that fall together."""
  assert axes.choose("density", np.geomspace(0.01, 1000, 500).astype(np.float32)).scale is axes.LOG
  assert axes.choose("density", np.linspace(0, 1000, 500).astype(np.float32)).scale is axes.RAW
  assert axes.choose("minhash", np.array([0, 1, 1], np.float32)).is_binary
  for scores_N in ([], [3.0], [-np.inf, 0.0, np.inf], [-1e-9, -1e-9, -5.0], [1e-30, 1.0, 1e30]):
    for scorer in ("ask_llm", "density"):
      scores_N = np.array(scores_N, np.float32)
      edges_E = axes.choose(scorer, scores_N).edges(scores_N, 48)
      assert np.isfinite(edges_E).all() and (np.diff(edges_E) > 0).all()
