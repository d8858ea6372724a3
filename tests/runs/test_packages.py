"""A package that brings a scorer over texts, one over a store, a reader and a format: the one of docs/extending.md."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpora import sentences
from running import content

PROJECT = pathlib.Path(__file__).parents[2]
PAGE = (PROJECT / "docs/extending.md").read_text()
ROWS, SHARDS, BLOCK_ROWS = 240, 3, 20
COMMON = ["--input=corpus/*.txt", f"--block_rows={BLOCK_ROWS}", "--max_bad_fraction=0.1"]
SCORE = ["score", "--scorer=distinct", "--ignore_case", *COMMON]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> pathlib.Path:
  """Returns what `pip install` makes of the page's package: its modules, and a dist-info with its entry points."""
  folder = tmp_path_factory.mktemp("package")
  modules = re.findall(r"`(winnow_example/\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)
  assert len(modules) == 4
  for name, code in modules:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(code)
  (described,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
  project = tomllib.loads(described)["project"]
  info = folder / "winnow_example-1.0.dist-info"
  info.mkdir()
  (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
  groups = project["entry-points"].items()
  lines = [f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in e.items()) for group, e in groups]
  (info / "entry_points.txt").write_text("\n".join(lines))
  return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """Returns a folder of three text files of many blocks, with a bad line in the middle, and of their embeddings."""
  folder = tmp_path_factory.mktemp("place")
  for name in ("corpus", "made"):
    (folder / name).mkdir()
  for shard in range(SHARDS):
    lines = [f"{text} {text.upper()} {text}".encode() for text in sentences(ROWS, shard)]
    lines[ROWS // 2], lines[ROWS // 2 + 1] = b"\xff\xfe", b""
    (folder / f"corpus/{shard}.txt").write_bytes(b"\n".join(lines) + b"\n")
    np.save(folder / f"made/{shard}.npy", np.random.default_rng(shard).standard_normal((ROWS, 4)).astype(np.float32))
  return folder


def start(package: pathlib.Path, place: pathlib.Path, *arguments: str, **options) -> subprocess.Popen:
  environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{package}"}
  command = [sys.executable, "-m", "pipelines.main", *arguments]
  return subprocess.Popen(command, cwd=place, env=environment, text=True, start_new_session=True, **options)


def run(package: pathlib.Path, place: pathlib.Path, *arguments: str) -> str:
  process = start(package, place, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  output, error = process.communicate(timeout=300)
  assert process.returncode == 0, error
  return output


def test_its_scorer_reader_and_format_are_winnows_own_to_a_user(package, place):
  """Two workers score three shards with bad lines. Kills the mutants: choices of flags that are hard-coded; a worker
  that knows only our own entries; a format whose name `verify` does not find.
  """
  whole = run(package, place, *SCORE, "--scores=scores", "--direct_num_workers=2")
  num_documents = SHARDS * (ROWS - 2)
  assert f"{SHARDS * (ROWS - 1):,} documents read = {num_documents:,} scored + {SHARDS} bad, invalid_utf8 3" in whole
  store = place / "scores/distinct"
  rows = pq.read_table(store / "shards/0.txt.parquet").to_pylist()
  texts = (place / "corpus/0.txt").read_bytes().split(b"\n")
  for row in rows[:: len(rows) // 7]:
    words = texts[row["row"]].decode().lower().split()
    assert row["score"] == np.float32(len(set(words)) / len(words))

  drawing = ["sample", "--sampler=distinct", "--scores=scores", "--rate=0.2", "--direct_num_workers=1"]
  run(package, place, *drawing, "--output=sample", "--output_format=tsv")
  shard = next((place / "sample").glob("sample-train-*.tsv"))
  kept = [float(line.split(b"\t")[-1]) for line in shard.read_bytes().splitlines()]
  scores = np.sort(np.concatenate([pq.read_table(p)["score"].to_numpy() for p in (store / "shards").iterdir()]))
  assert len(kept) == round(0.2 * num_documents) and np.float32(min(kept)) == scores[-len(kept)]
  assert "are those that the scores select, each once" in run(package, place, "verify", "sample")
  assert "distinct: distinct scores, complete" in run(package, place, "status", "scores")
  assert re.search(r"distinct: distinct [\d.]+; above", run(package, place, "explain", "1.txt#5", "--scores=scores"))
  run(package, place, "report", "--scores=scores", "--output=sample", "--report=page", "--direct_num_workers=1")
  assert "share of distinct words" in (place / "page/report.html").read_text()  # the unit that its entry names
  assert "time of distinct" in run(package, place, *SCORE, "--scores=scores", "--estimate")


def test_its_scorer_scores_texts_of_a_program(package):
  """Kills: a face that knows only our own scorers, or that drops the settings of others."""
  code = """
import pipelines.api as winnow
for settings in ({"ignore_case": True}, {}):
  print(winnow.score(["a A b", None, "a b"], "distinct", **settings).tolist())
"""
  environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{package}"}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert done.stdout == f"[{np.float32(2 / 3)}, nan, 1.0]\n[1.0, nan, 1.0]\n"


@pytest.mark.long
def test_its_scorer_that_was_killed_goes_on_to_the_same_bytes(package, place):
  """Invariant 4, with two workers that are killed."""
  process = start(package, place, *SCORE, "--scores=killed", "--direct_num_workers=2", stderr=subprocess.DEVNULL)
  blocks = place / "killed/distinct/blocks"
  while process.poll() is None and len(list(blocks.rglob("*.parquet"))) < 3:
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert not (place / "killed/distinct/summary.json").exists()
  run(package, place, *SCORE, "--scores=killed", "--direct_num_workers=1")
  run(package, place, *SCORE, "--scores=undisturbed", "--direct_num_workers=1")
  resumed, undisturbed = content(place / "killed"), content(place / "undisturbed")
  assert {n: d for n, d in resumed.items() if not n.endswith("input.json")} == {
    n: d for n, d in undisturbed.items() if not n.endswith("input.json")
  }


def test_its_scorer_over_a_store_makes_the_store_first(package, place):
  """Kills the mutant that has the flags of embeddings for our own scorers alone."""
  command = ["score", "--scorer=outlying", "--embeddings=made/*.npy", *COMMON, "--scores=stored"]
  run(package, place, *command, "--direct_num_workers=1")
  points = np.load(place / "made/2.npy")
  points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
  table = pq.read_table(place / "stored/outlying_made/shards/2.txt.parquet")
  expected = np.abs(points).max(axis=1)[table["row"].to_numpy()].astype(np.float32)
  np.testing.assert_allclose(table["score"].to_numpy(), expected, rtol=2e-3)
  assert (place / "stored/embeddings_made/summary.json").exists()


def test_the_reference_and_help_have_its_flags(package, place):
  output = run(package, place, "score", "--help")
  assert "--ignore_case" in output and "distinct,outlying" in output
  refused = start(package, place, *SCORE, "--scores=x", "--sketch_rows=3", stderr=subprocess.PIPE)
  assert "--sketch_rows is for --scorer=density" in refused.communicate()[1]


def test_a_flag_that_winnow_has_is_refused(package, place, tmp_path):
  """Kills the mutant that lets it pass: `winnow curate` would give the scorer the sampler's seed."""
  shutil.copytree(package, tmp_path / "other")
  module = tmp_path / "other/winnow_example/distinct.py"
  module.write_text(module.read_text().replace('Flag("ignore_case"', 'Flag("seed"'))
  process = start(tmp_path / "other", place, "status", "scores", stderr=subprocess.PIPE)
  error = process.communicate()[1]
  assert process.returncode == 2 and error.count("\n") == 1
  assert "the scorer distinct brings the flag --seed, and there is one of that name" in error


def test_a_package_that_cannot_be_loaded_is_named(package, place, tmp_path):
  """Kills the mutant that silently leaves it out: its scorer would be an 'invalid choice' without a reason."""
  shutil.copytree(package, tmp_path / "broken")
  (tmp_path / "broken/winnow_example/distinct.py").write_text("import nothing_of_this_name\n")
  process = start(tmp_path / "broken", place, *SCORE, "--scores=x", stderr=subprocess.PIPE)
  error = process.communicate()[1]
  assert process.returncode == 2 and error.count("\n") == 1
  assert "the scorer distinct cannot be loaded from winnow_example.distinct:ENTRY: ModuleNotFoundError" in error
  assert not (place / "x").exists()
