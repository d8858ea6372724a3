"""A manifest's command makes the same output again, of flags, recipes and stages, when nothing else is left."""

import json
import pathlib
import shutil

import corpora
import pytest
from running import content, run_in

ONE = "--direct_num_workers=1"
READING = [
  "--input=corpus/*",
  "--scores=scores",
  "--output=out",
  "--block_rows=50",
  "--max_bad_fraction=0.2",
  "--seed=7",
]
ASKING = ["--model=rater", "--prompt_file=prompt.txt", "--max_input_tokens=32"]
STAGES = """
model: rater
stages:
- {scorer: ask_llm, prompt_file: prompt.txt, max_input_tokens: 032, method: bottom_k, rate: 0.75}
- {sampler: random, rate: 0.50}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("reproduced")
  (folder / "corpus").mkdir()
  for name in ("a", "b"):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(130, ord(name))]
    (folder / f"corpus/{name}.jsonl").write_text("\n".join([*lines[:70], "{cut off", *lines[70:]]) + "\n")
  corpora.write_model(folder / "rater")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


def made_again(folder: pathlib.Path, arguments: list[str]) -> dict:
  """The manifest of a command, whose own command makes the same bytes of a folder without stores and recipes."""
  assert run_in(folder, [*arguments, ONE]) == 0
  before = content(folder / "out")
  manifest = json.loads(before["manifest.json"])
  for gone in ("scores", "out"):
    shutil.rmtree(folder / gone)
  for recipe in folder.glob("*.yaml"):
    recipe.unlink()
  program, *again = manifest["command"]
  assert program == "winnow"
  assert run_in(folder, [*again, ONE]) == 0
  assert content(folder / "out") == before
  for gone in ("scores", "out"):
    shutil.rmtree(folder / gone)
  return manifest


@pytest.mark.local_runner
def test_a_manifests_command_makes_the_output_again(place):
  """Kills the mutant that tells a command without what a flag at another value than its default says."""
  manifest = made_again(place, ["curate", *READING, *ASKING, "--num_examples=100", "--num_shards=3"])
  assert manifest["made_with"] == {"model": "rater"}
  assert "--model=rater" in manifest["command"]


@pytest.mark.local_runner
def test_so_does_that_of_a_recipe_without_its_file(place, monkeypatch):
  """With home folders in it. Kills the mutant that names the recipe in place of what it said."""
  monkeypatch.setenv("HOME", str(place))
  (place / "half.yaml").write_text("sampler: random\nrate: 0.50\nmax_bad_fraction: 2e-1\nblock_rows: 0_50\n")
  where = ["--input=~/corpus/*", "--scores=~/scores", "--output=~/out", "--dataset_name=d2024_01"]
  manifest = made_again(place, ["curate", "--recipe=~/half.yaml", *where])
  assert f"--output={place}/out" in manifest["command"]
  assert manifest["dataset"] == "d2024_01"


@pytest.mark.local_runner
def test_so_does_that_of_a_recipe_of_stages(place):
  """Kills the mutants: a command of the last stage alone, which would draw from all documents; one that needs the
  recipe's file; one that gives a stage what another one said."""
  (place / "stages.yaml").write_text(STAGES)
  manifest = made_again(place, ["curate", "--recipe=stages.yaml", *READING])
  assert sum(argument.startswith("--recipe={") for argument in manifest["command"]) == 1
  assert (manifest["counts"]["scored"], manifest["counts"]["selected"]) == (195, 98)
  assert manifest["scores"]["request"]["within"]["scores"]["scorer"] == "ask_llm"


@pytest.mark.local_runner
def test_a_sample_names_the_model_of_its_store(place):
  """Kills the mutant that tells checksums alone: nobody finds a model by them."""
  score = [flag for flag in READING if not flag.startswith(("--output", "--seed"))]
  assert run_in(place, ["score", *score, *ASKING, ONE]) == 0
  assert run_in(place, ["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.3", "--output=out", ONE]) == 0
  before = content(place / "out")
  manifest = json.loads(before["manifest.json"])
  assert manifest["made_with"] == {"model": "rater"}
  shutil.rmtree(place / "out")
  assert run_in(place, [*manifest["command"][1:], ONE]) == 0
  assert content(place / "out") == before
