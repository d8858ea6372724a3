"""The pages of docs/ say what is so: their links, the code on them, the figures beside the picture."""

import ast
import importlib.util
import json
import pathlib
import re
import shlex
import types

import numpy as np
import pytest
from apache_beam.options import pipeline_options

from curation.coverage import density, kernels, race
from pipelines import main
from pipelines.flags import declarations, parsing
from pipelines.registry import command_names
from pipelines.schedulers import sizes, steps

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
README = (PROJECT / "README.md").read_text()
DESIGN_PAGE = (PROJECT / "docs/design.md").read_text()
DENSITY_PAGE = (PROJECT / "docs/density.md").read_text()
CLUSTERS_PAGE = (PROJECT / "docs/clusters.md").read_text()
COVERAGE_PAGE = (PROJECT / "docs/coverage.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
  linked = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
  assert not [link for link in linked if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_project_exist(page):
  """Kills: a page that names a module, a test or a folder by a place where it no longer is."""
  folders = "benchmarks|curation|dataflow_templates|docs|pipelines|pretraining|recipes|tests"
  named = re.findall(rf"(?:`|python )((?:{folders})/[\w./*-]+)", page.read_text())
  assert not [path for path in named if not any(PROJECT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_says_the_same_twice(page):
  """Kills: a section that an edit has left in a second place, with figures of before."""
  items = re.split(r"\n\n|\n(?=- )", page.read_text())
  long = [item for item in items if len(item) > 150]
  assert not [item for item in set(long) if long.count(item) > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_flags_that_they_are_shown_with(page):
  """Kills: a flag that is renamed or that another command has, and a command that does not exist."""
  text = page.read_text().replace("\\\n", " ")
  theirs = {f"--{name}" for name in pipeline_options.PipelineOptions([]).get_all_options()} | {"--help"}
  for line in re.findall(r"(?:^ *(?:\$ )?(?:\S+/)?|`)winnow ([a-z]+ [^`\n]*)", text, re.MULTILINE):
    for part in re.split(r" -- +", line):  # winnow launch takes further commands
      command, *flags = re.findall(r"^[a-z]+|(?<!')--\w+", part)
      ours = {f"--{flag.name}" for flag in declarations.FLAGS if command in flag.commands}
      ours |= {f"--{name}" for name in re.findall(r'Flag\("(\w+)"', text)}  # which the page itself declares
      assert command in command_names.COMMANDS and not set(flags) - ours - theirs, line


@pytest.mark.parametrize("page", ["parts.md", "engines.md"])
def test_commands_are_launched_as_the_pages_show(page):
  """Kills: a flag that is missing or refused, a path that no pod sees, a command that cannot be cut into parts."""
  text = (PROJECT / "docs" / page).read_text().replace("\\\n", " ")
  lines = [line for line in re.findall(r"^ +\S*(winnow launch .*)", text, re.MULTILINE) if "..." not in line]
  assert lines
  for line in lines:
    argv = shlex.split(line.partition(" > ")[0])[2:]
    namespace, of_beam = parsing.parse(command_names.LAUNCH, argv)
    launched = steps.read(argv, namespace.scheduler, namespace.volume)
    assert not of_beam and len(launched) == len(sizes.choose(namespace, launched)) == 2


def load_script(name: str) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(name, PROJECT / f"docs/{name}.py")
  assert spec is not None and spec.loader is not None
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  return script


def test_the_picture_of_density_shows_what_its_page_says():
  """Kills: scores in place of their inverse, a sample of the wrong size, a page that tells of another mixture."""
  text = " ".join(DENSITY_PAGE.split())
  samples = load_script("make_density_figure").compute().samples
  assert [len(set(sample.drawn)) for sample in samples.values()] == [6_300, 630, 630]
  largest, smallest = re.findall(r"([\d.]+)% of all points and the smallest ([\d.]+)%", text)[0]
  assert samples["all points"].shares[[0, -1]] == pytest.approx([float(largest) / 100, float(smallest) / 100], abs=6e-3)
  (random,) = re.findall(r"even shares ([\d.]+)\)", text)
  assert samples["random"].unevenness == pytest.approx(float(random), abs=6e-3)
  largest, smallest, even = re.findall(r"by density has (\d+)% and ([\d.]+)% \(([\d.]+)\)", text)[0]
  assert samples["density"].shares[[0, -1]] == pytest.approx([float(largest) / 100, float(smallest) / 100], abs=6e-3)
  assert samples["density"].unevenness == pytest.approx(float(even), abs=6e-3)


def test_the_picture_of_the_journey_shows_the_imports_of_today():
  """Kills: an import that is added or removed, or a file that moves, while picture and page stay as they are."""
  script = load_script("make_journey_figure")
  journey = script.compute()
  drawn = script.svg(journey)
  assert script.FIGURE.read_text() == drawn, "run python docs/make_journey_figure.py"
  serving = sum(len(journey.files[folder]) for folder in script.SERVING)
  text = " ".join(DESIGN_PAGE.split())
  (counts,) = re.findall(r"goes through (\d+) files of `pipelines` and (\d+) of `curation`", text)
  assert counts == (str(journey.count("pipelines")), str(journey.count("curation"))), "correct docs/design.md"
  (handling,) = re.findall(r"Of the files of `pipelines`, (\d+) handle", text)
  assert int(handling) == journey.count("pipelines") - serving


def test_the_picture_of_the_flow_is_what_its_script_draws():
  """Kills: a picture that its script does not draw, and samples on it that are no fifth."""
  script = load_script("make_flow_figure")
  assert script.FIGURE.read_text() == script.svg(), "run python docs/make_flow_figure.py"
  dots, bars = script.draw_dots(), script.split_bars()
  assert sum(dot.is_kept for dot in dots) == round(len(dots) / 5)
  assert sum(kept for _, kept in bars) == pytest.approx(sum(script.BARS) / 5)


def test_readme_has_the_figures_of_the_experiment():
  """Kills: a figure of README that docs/data_efficiency.md does not have for this sampler and rate."""
  (table,) = re.findall(
    r"<!-- table -->\n(.*?)<!-- /table -->", (PROJECT / "docs/data_efficiency.md").read_text(), re.DOTALL
  )
  names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
  known = {(row[0], row[1]): dict(zip(names, row, strict=True)) for row in rows}
  columns = ["tokens", "damaged", "NLL beside all, documentation", "NLL beside all, c4"]
  shown = re.findall(r"^\| (\w+) \| (\d+%) \|(.*)\|$", README, re.MULTILINE)
  assert len(shown) == 4
  for sampler, rate, cells in shown:
    assert [cell.strip() for cell in cells.split("|")] == [known[sampler, rate][column] for column in columns]


@pytest.mark.long
@pytest.mark.parametrize("page", ["docs/tutorial.md", "README.md"])
def test_commands_print_what_the_pages_show(page, tmp_path, request):
  """Kills: a message, a count or a file that changes while the page goes on to show the old one."""
  script = load_script("make_tutorial")
  page = PROJECT / page
  script.prepare(
    page, tmp_path, request.getfixturevalue("shared") / script.C4_SAMPLE if page == script.README else None
  )
  # Here commands have an option of Beam's, which they repeat in the command to type next.
  option = re.compile(r"(?: \\\n +| )--direct_num_workers=1$", re.MULTILINE)
  results = [(step, option.sub("", printed)) for step, printed in script.run_page(page, tmp_path)]
  assert len(results) >= 3
  different = [
    (step.command, step.shown, printed) for step, printed in results if not script.is_same(step.shown, printed)
  ]
  assert not different, "run python docs/make_tutorial.py"


def test_outputs_may_differ_in_times_and_last_digits_alone():
  """Kills: a comparison that takes another count, word or score for the same."""
  is_same = load_script("make_tutorial").is_same
  assert is_same(
    "1,192 documents in 0:00:12, 99.1/s; 3.2 s; score -0.06908\n",
    "1,192 documents in 0:01:10, 8/s; 12 s; score -0.06909\n",
  )
  assert not is_same("1,192 documents\n", "1,193 documents\n")
  assert not is_same("20.1% kept\n", "20.2% kept\n")
  assert not is_same("20.1% kept\n", "20.1% left\n")
  assert not is_same("20.1% kept\n", "20.1% kept\nmore\n")


def test_the_page_on_design_lists_every_folder_and_the_way_to_the_score():
  """Kills: a folder that no table explains, one that is gone, and a way to log P("yes") that leads nowhere."""
  listed = set(re.findall(r"^\| `((?:pipelines|curation)/\w+)` \|", DESIGN_PAGE, re.MULTILINE))
  folders = {
    file.parent.relative_to(PROJECT) for name in ("pipelines", "curation") for file in PROJECT.glob(f"{name}/*/*.py")
  }
  assert listed == {str(folder) for folder in folders}
  last = ast.parse((PROJECT / "curation/scorers/ask_llm.py").read_text()).body[-1]
  assert isinstance(last, ast.FunctionDef) and f"`{last.name}`, the last function" in DESIGN_PAGE
  assert last.name in README


def python_on_page(about: str) -> str:
  (found,) = [code for code in re.findall(r"```python\n(.*?)```", DENSITY_PAGE, re.DOTALL) if about in code]
  return found


def test_embeddings_are_read_back_as_the_page_says(tmp_path, monkeypatch):
  """Kills: another layout of block files, or a page that forgets bad rows."""
  monkeypatch.chdir(tmp_path)
  vectors_ND = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
  vectors_ND[1] = 0
  np.save("vectors.npy", vectors_ND)
  pathlib.Path("texts.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(5)))
  arguments = ["--scores=OUT/scores", "--name=embeddings_sentence_t5_base", "--block_rows=2", "--max_bad_fraction=1"]
  folder = pathlib.Path.cwd()
  assert main.main(["embed", f"--input={folder}/*.jsonl", f"--embeddings={folder}/*.npy", *arguments]) == 0
  names: dict = {}
  exec(python_on_page("frombuffer"), names)
  assert names["embeddings"].dtype == np.float16
  np.testing.assert_allclose(names["embeddings"], race.unit_vectors(np.delete(vectors_ND, 1, axis=0)), atol=1e-3)


def test_sketches_merge_as_the_page_says(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  points_ND = race.unit_vectors(np.random.default_rng(0).standard_normal((50, 4)))
  config = race.SketchConfig(4, kernels.Kernel("l2", 0.5, 2), rows=10, counters=100)
  whole = race.Sketch(config)
  whole.add(points_ND)
  for year, part_ND in (("2025", points_ND[:30]), ("2026", points_ND[30:])):
    part = race.Sketch(config)
    part.add(part_ND)
    path = pathlib.Path(f"OUT/scores/density_{year}/sketch/sketch.safetensors")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
      race.save(part, file)
  exec(python_on_page("merge"), {})
  with open("OUT/sketch.safetensors", "rb") as file:
    merged = race.SketchFile(file, "merged").load()
  assert merged.num_points == 50
  np.testing.assert_array_equal(merged.counts_RB, whole.counts_RB)


def test_over_scaling_is_as_the_page_on_reports_says():
  (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/report.md").read_text(), re.DOTALL)
  names: dict = {}
  exec(code, names)
  (said,) = re.findall(r'"ask_llm_20"\): ([\d.]+)\.\.\.', code)
  assert f"{names['found']['small', 'ask_llm_20']:.10f}".startswith(said) and names["found"]["small", "full"] == 0


def test_the_page_on_density_names_flags_figures_and_warnings_that_exist():
  ours = re.sub(r"`python [^`]*`", "", DENSITY_PAGE)  # without the flags of a benchmark
  assert set(re.findall(r"--(\w+)", ours)) <= {flag.name for flag in declarations.FLAGS}
  points_ND = race.unit_vectors(np.random.default_rng(0).standard_normal((200, 4)))
  kernel = density.choose_kernel(points_ND)
  figures = density.diagnose(kernel, 10, 100, 0, points_ND[:150], points_ND[150:], 200)
  assert set(re.findall(r"^\| `(\w+)`", DENSITY_PAGE, re.MULTILINE)) <= set(figures)
  (warnings,) = re.findall(r"Each warning names.*?\n\n", DENSITY_PAGE, re.DOTALL)
  quoted = re.findall(r'"([^"]+)"', warnings.replace("\n", " "))
  sound = {"num_points": 1_000, "neighbours": 5, "weights_variation": 0.5, "median_relative_standard_error": 0.1}
  faults = (
    {"neighbours": 0.01},
    {"neighbours": 500, "weights_variation": 0.1},
    {"weights_variation": 0.1},
    {"rank_correlation": 0.3},
    {"median_relative_standard_error": 0.4},
    {"collisions_share": 0.9},
  )
  told = [density.warnings(sound | {"collisions_share": 0.1} | fault) for fault in faults]
  assert [[words for words in quoted if words in of[0]] for of in told] == [[words] for words in quoted]


def test_clusters_are_read_back_as_their_page_says(tmp_path, monkeypatch):
  """Kills: other columns than the page names, figures and flags that do not exist."""
  monkeypatch.chdir(tmp_path)
  np.save("vectors.npy", np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32))
  pathlib.Path("texts.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(60)))
  folder = pathlib.Path.cwd()
  embedding = ["--scores=OUT/scores", "--name=embeddings_sentence_t5_base"]
  assert main.main(["embed", f"--input={folder}/*.jsonl", f"--embeddings={folder}/*.npy", *embedding]) == 0
  assert main.main(["cluster", "--embeddings=OUT/scores/embeddings_sentence_t5_base", "--num_clusters=4"]) == 0
  names: dict = {}
  (code,) = re.findall(r"```python\n(.*?)```", CLUSTERS_PAGE, re.DOTALL)
  exec(code, names)
  assert names["centroids"].shape == (4, 3)
  (columns,) = re.findall(r"^\| `shards/<shard>.parquet` \| (.*?); row group", CLUSTERS_PAGE, re.MULTILINE)
  assert re.findall(r"`(\w+)`", columns) == names["table"].schema.names
  store = pathlib.Path("OUT/scores/clusters_sentence_t5_base/centroids")
  figures = json.loads((store / "diagnostics.json").read_text())
  told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", CLUSTERS_PAGE, re.MULTILINE)
  assert set(re.findall(r"`(\w+)`", " ".join(told))) - figures.keys() == set()
  assert set(re.findall(r"--(\w+)", CLUSTERS_PAGE)) <= {flag.name for flag in declarations.FLAGS}


def test_the_page_on_coverage_compares_samplers_that_exist(monkeypatch):
  """Kills: a command with a flag or a sampler that there is not, and one sampler of the picture left out."""
  commands = re.findall(r"^    winnow curate ((?:.*\\\n)*.*)$", COVERAGE_PAGE, re.MULTILINE)
  monkeypatch.chdir(PROJECT)  # the recipe's path is relative
  lines = [shlex.split(command.replace("\\\n", " ")) for command in commands]
  stages = [stage for line in lines for stage in parsing.parse_stages(command_names.CURATE, line)[0]]
  found = {stage.sampler or stage.scorer for stage in stages}
  assert found == {"random", "density", "minhash", "semdedup", "prototypes"} and len(stages) == len(lines) + 2
  (table,) = re.findall(r"<!-- coverage -->\n(.*?)<!-- /coverage -->", COVERAGE_PAGE, re.DOTALL)
  assert found <= set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE))
