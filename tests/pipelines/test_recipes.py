"""Recipes: the paper's samplers as files, each the input of one `winnow curate`."""

import json
import pathlib
import re

import corpora
import pytest
import tiny_t5
from running import run_in

from curation.errors import WinnowError
from pipelines import flags, options

PAPER = sorted((pathlib.Path(__file__).parents[2] / "recipes/paper").glob("*.yaml"))
NEEDED = ["--input=in", "--scores=scores", "--output=out", "--rate=0.2"]


def test_the_papers_samplers_are_there():
  """Random, density, SemDeDup, prototypes, five raters, five sizes and five checkpoints for perplexity."""
  scorers = [options.parse(flags.CURATE, [f"--recipe={path}", *NEEDED])[0] for path in PAPER]
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
    ("model: !!python/object/apply:os.system [false]", "cannot be read: could not determine a constructor"),
    ("model: 'x", "cannot be read: while scanning"),
    ("a: " + "[" * 5_000, "cannot be read"),
    ("#" * (1 << 17), "is no recipe"),
    ("seed: x", "argument --seed: invalid int value: 'x'"),
    ("estimate: maybe", "is neither --estimate=true nor --estimate=false"),
  ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(tmp_path, text, told):
  """Kills the mutant that loads any YAML: a recipe could run code."""
  path = tmp_path / "recipe.yaml"
  path.write_text(text)
  with pytest.raises(WinnowError, match=re.escape(told)):
    options.parse(flags.CURATE, [f"--recipe={path}", *NEEDED])
