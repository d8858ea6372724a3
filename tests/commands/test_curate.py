"""Recipes: the paper's samplers as files, each the input of one `winnow curate`."""

import json
import os
import pathlib
import re

import corpora
import pytest
import tiny_t5
from running import run_in

from curation.errors import WinnowError
from pipelines.flags import parsing, recipes
from pipelines.registry import command_names

PAPER = sorted((pathlib.Path(__file__).parents[2] / "recipes/paper").glob("*.yaml"))
NEEDED = ["--input=in", "--scores=scores", "--output=out", "--rate=0.2"]


def test_the_papers_samplers_are_there():
  """Random, density, SemDeDup, prototypes, five raters, five sizes and five checkpoints for perplexity."""
  scorers = [parsing.parse(command_names.CURATE, [f"--recipe={path}", *NEEDED])[0] for path in PAPER]
  found = [(s.sampler or s.scorer, s.model) for s in scorers]
  sizes = ["small", "base", "large", "xl", "xxl"]
  assert sorted(model for sampler, model in found if sampler == "ask_llm") == sorted(
    f"google/flan-t5-{size}" for size in sizes
  )
  perplexities = [model for sampler, model in found if sampler == "perplexity"]
  assert perplexities.count(None) == 5 and {f"google/t5-v1_1-{size}" for size in sizes} | {None} == set(perplexities)
  once = ("random", "density", "semdedup", "prototypes")
  assert all([sampler for sampler, _ in found].count(name) == 1 for name in once)
  assert len(PAPER) == 19


@pytest.mark.local_runner
def test_recipes_run_side_by_side(tmp_path, capsys):
  """With tiny models typed beside them. Kills the mutants: a recipe that counts more than what is typed; one that is
  read and not heeded; random sampling that wants a model; a count that is explained as a score of 0."""
  corpora.write_corpus(tmp_path / "corpus", big_rows=600, small_rows=100)
  corpora.write_model(tmp_path / "rater")
  tiny_t5.make_sentence_t5(tmp_path / "embedder")
  more = {
    "ask_llm_small": ["--model=rater", "--prompt_file=prompt.txt", "--max_input_tokens=32"],
    "perplexity_small": ["--model=rater", "--max_input_tokens=40"],
    "density": ["--model=embedder", "--sketch_rows=20"],
    "semdedup": ["--model=embedder", "--num_clusters=30"],
    "prototypes": ["--model=embedder", "--num_clusters=30"],
    "random": [],
  }
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  common = ["--input=corpus/*", "--scores=scores", "--max_bad_fraction=0.1", "--rate=0.2", "--direct_num_workers=1"]
  for name, typed in more.items():
    recipe = f"--recipe={PAPER[0].parent}/{name}.yaml"
    assert run_in(tmp_path, ["curate", recipe, *common, *typed, f"--output={name}"]) == 0
  assert {path.name for path in (tmp_path / "scores").iterdir()} >= {
    "ask_llm_rater",
    "perplexity_rater",
    "density_embedder",
    "semdedup_embedder",
    "prototypes_embedder",
    "clusters_embedder",
    "random",
  }
  capsys.readouterr()
  assert run_in(tmp_path, ["explain", "big.jsonl.gz#3", "--scores=scores"]) == 0
  assert "random: counted, without a score\n" in capsys.readouterr().out
  manifests = {name: json.loads((tmp_path / name / "manifest.json").read_text()) for name in more}
  scored = {manifest["counts"]["scored"] for manifest in manifests.values()}
  assert len(scored) == 1
  assert {manifest["counts"]["selected"] for manifest in manifests.values()} == {round(0.2 * scored.pop())}
  assert manifests["density"]["request"]["method"] == "ips"
  assert manifests["prototypes"]["request"]["method"] == "top_k"
  assert "--sketch_rows=20" in manifests["density"]["command"]
  assert not any("recipe" in argument for manifest in manifests.values() for argument in manifest["command"])


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("modle: x", "has 'modle', which is no flag of this command; did you mean model?"),
    ("recipe: other.yaml", "has 'recipe', which is no flag of this command"),
    ("model: [a, b]", "model is no text, number, true or false"),
    ("- a", "is no recipe: write lines of FLAG: VALUE"),
    ("", "is no recipe"),
    ("model: !!python/object/apply:os.system [false]", "model is no text, number, true or false"),
    ("model: !!python/name:os.system x", "model is no text, number, true or false"),
    ("model: !!binary aGk=", "model is no text, number, true or false"),
    ("model: 'x", "cannot be read: while scanning"),
    ("a: " + "[" * 5_000, "cannot be read"),
    ("#" * (1 << 17), "is no recipe"),
    ("seed: x", "argument --seed: invalid int value: 'x'"),
    ("estimate: maybe", "estimate is 'maybe'; write true or false"),
    ("estimate: 1", "estimate is '1'; write true or false"),
    ("model:", "model has no value; write one, in quotes if it is 'null', or leave it out"),
    ("model: ~", "model has no value; write one, in quotes if it is '~', or leave it out"),
    ("name: Null", "name has no value; write one, in quotes if it is 'Null', or leave it out"),
    ("max_input_tokens: 0x200", "argument --max_input_tokens: invalid int value: '0x200'"),
    ("max_input_tokens: 1:30", "argument --max_input_tokens: invalid int value: '1:30'"),
    ("seed: 1\nname: a\nseed: 2", "has seed twice; leave one of them out"),
    ("stages: 3", "stages is no list of stages"),
    ("stages: []", "stages is no list of stages"),
  ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(tmp_path, text, told):
  """Kills the mutant that loads any YAML: a recipe could run code."""
  path = tmp_path / "recipe.yaml"
  path.write_text(text)
  with pytest.raises(WinnowError, match=re.escape(told)):
    parsing.parse(command_names.CURATE, [f"--recipe={path}", *NEEDED])


@pytest.mark.parametrize(
  ("text", "name", "value"),
  [
    ("name: 2024_01", "name", "2024_01"),
    ("name: 0512", "name", "0512"),
    ("name: 'null'", "name", "null"),
    ("name: 2024-01-31", "name", "2024-01-31"),
    ("text_field: on", "text_field", "on"),
    ("yes_token: yes", "yes_token", "yes"),
    ("yes_token: True", "yes_token", "True"),
    ("rate: 0.10", "rate", "0.10"),
    ("rate: !!str 0.5", "rate", "0.5"),
    ("max_input_tokens: 0512", "max_input_tokens", 512),
    ("num_examples: 1_000", "num_examples", 1000),
    ("seed: -3", "seed", -3),
    ("max_bad_fraction: 1e-2", "max_bad_fraction", 0.01),
    ("max_bad_fraction: .5", "max_bad_fraction", 0.5),
    ("overwrite: true", "overwrite", True),
    ("overwrite: Yes", "overwrite", True),
    ("overwrite: 'on'", "overwrite", True),
    ("overwrite: off", "overwrite", False),
    ("output: 007/x", "output", "007/x"),
    ("dtype: bfloat16", "dtype", "bfloat16"),
    ("vocabulary: 'C:/a#b'", "vocabulary", "C:/a#b"),
  ],
)
def test_values_of_a_recipe_are_read_as_they_are_written(tmp_path, text, name, value):
  """For every type of flag. Kills the mutant that reads YAML's own types: 2024_01 is 202401 there, and 0512 is 330."""
  path = tmp_path / "recipe.yaml"
  path.write_text(text)
  needed = [flag for flag in NEEDED if not (name in ("rate", "output") and flag.startswith(f"--{name}="))]
  needed = [flag for flag in needed if name != "num_examples" or not flag.startswith("--rate=")]
  found = getattr(parsing.parse(command_names.CURATE, [f"--recipe={path}", *needed])[0], name)
  assert (found, type(found)) == (value, type(value))


def test_a_recipe_may_be_written_in_place_of_its_file():
  """And stages that are said again are the same stages. Kills: text that YAML reads as something else."""
  typed = ["--recipe={stages: [{scorer: minhash, rate: .5}, {scorer: density, hashes: 2}]}", "--model=m #1", *NEEDED]
  stages, _ = parsing.parse_stages(command_names.CURATE, typed)
  assert [(stage.scorer, stage.rate, stage.model) for stage in stages] == [
    ("minhash", ".5", "m #1"),
    ("density", "0.2", "m #1"),
  ]
  stages[1].yes_token, stages[1].correct_collisions = '\u00fc "ja": \n{\U0001f600}', True
  stages[1].scorer, stages[1].hashes, stages[1].correct_collisions = "ask_llm", None, False
  stages[0].scorer = "density"
  stages[0].correct_collisions = True
  said = parsing.own_arguments(command_names.CURATE, stages)
  again, _ = parsing.parse_stages(command_names.CURATE, said[2:])
  for before, after in zip(stages, again, strict=True):
    of_run = {"recipe": None, "given": None}
    assert vars(after) | of_run == vars(before) | of_run


def test_recipes_of_winnow_are_known_by_their_names(tmp_path, monkeypatch):
  """Kills: names that are looked for in the folder that a command starts in, and ones that hide a file of the user."""
  monkeypatch.chdir(tmp_path)
  for name in (*(f"paper/{path.stem}" for path in PAPER), "cascade", "d4", "d4.yaml"):
    path = PAPER[0].parents[1] / name
    stages, typed = (
      parsing.parse_stages(command_names.CURATE, [f"--recipe={given}", *NEEDED])[0]
      for given in (path.with_suffix(".yaml"), name)
    )
    assert [vars(stage) | {"recipe": ""} for stage in typed] == [vars(stage) | {"recipe": ""} for stage in stages]
  pathlib.Path("d4").write_text("seed: 8")
  assert parsing.parse(command_names.CURATE, ["--recipe=d4", *NEEDED])[0].seed == 8


@pytest.mark.parametrize(
  ("name", "hint"), [("paper/ask_lm_xl", "did you mean paper/ask_llm_xl? "), ("recipes/x.yaml", "")]
)
def test_a_recipe_of_no_such_name_lists_those_that_there_are(tmp_path, monkeypatch, name, hint):
  monkeypatch.chdir(tmp_path)
  known = ["cascade", "d4", *(f"paper/{path.stem}" for path in PAPER), "teach"]
  told = f"--recipe={name} is neither a file nor the name of a recipe that comes with Winnow: {hint}They are "
  with pytest.raises(WinnowError, match=re.escape(told + ", ".join(known)) + "$"):
    parsing.parse(command_names.CURATE, [f"--recipe={name}", *NEEDED])


def test_a_recipe_that_is_written_out_reads_as_it_was():
  """Kills the mutant that leaves YAML what it takes for the end of a line, or refuses."""
  stages = [{"scorer": "minhash"}, {"name": 'a\x7f b\x85 c\u2028 d\u2029 e\ufeff f"\\ ü 😀 g', "overwrite": True}]
  _, found = recipes.read(recipes.inline(stages))
  assert [{key: value.text for key, value in stage.items()} for stage in found] == [
    stages[0],
    stages[1] | {"overwrite": "true"},
  ]


def test_a_recipe_may_come_from_a_pipe():
  """As `--recipe=<(...)` in a shell gives it. Kills the mutant that takes whatever is no plain file for a name."""
  reading, writing = os.pipe()
  os.write(writing, b"scorer: minhash\n")
  os.close(writing)
  try:
    assert parsing.parse(command_names.CURATE, [f"--recipe=/dev/fd/{reading}", *NEEDED])[0].scorer == "minhash"
  finally:
    os.close(reading)
