"""The miniature experiment's corpus and figures; its parts are the commands, which have tests of their own."""

import collections
import importlib
import math
import pathlib
import sys

import numpy as np
import pytest
import tiny_t5

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
  """Imports modules of `data_efficiency`."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  yield lambda name: importlib.import_module(f"data_efficiency.{name}")
  for name in [name for name in sys.modules if name == "common" or name.startswith("data_efficiency")]:
    del sys.modules[name]


def test_the_corpus_has_known_parts(benchmark):
  """Kills: a held-out text in the corpus, damage beside its whole text, and a corpus that one seed makes twice over."""
  corpus = benchmark("corpus")
  pools = {"one": tiny_t5.make_texts(400, seed=1, longest=200), "other": tiny_t5.make_texts(200, seed=2, longest=200)}
  built = corpus.build(pools, seed=3)
  counts = collections.Counter(map(corpus.kind_of, built.urls))
  whole, copy, damaged = (counts[kind] for kind in corpus.KINDS)
  assert copy == round(whole / 3) and damaged == pytest.approx(whole / 3, abs=1) and counts.total() > 200
  of = dict(zip(built.urls, built.texts, strict=True))
  assert len(of) == len(built.urls)
  names = collections.defaultdict(set)
  for url in built.urls:
    names[corpus.kind_of(url)].add("/".join(url.split("/")[-2:]))
  assert names["copy"] <= names["whole"] and not names["damaged"] & names["whole"]
  real = {text for pool in pools.values() for text in pool}
  assert all((text in real) == (corpus.kind_of(url) == "whole") for url, text in of.items() if "copy" not in url)
  held_out = {text for pool in built.held_out.values() for text in pool}
  assert held_out and not held_out & set(built.texts)
  assert corpus.build(pools, seed=3) == built and corpus.build(pools, seed=4).texts != built.texts


def test_intervals_are_students(benchmark):
  """Kills: a normal quantile, and a standard deviation that divides by n."""
  mean = benchmark("results").Mean.from_values([4.0, 4.1, 4.4])
  # t(0.975, 2) = 4.302653, s = 0.208167
  assert mean.value == pytest.approx(4.1666667) and mean.half_width == pytest.approx(0.5171156, rel=1e-5)
  assert math.isnan(benchmark("results").Mean.from_values([1.0]).half_width)


def test_the_table_and_the_plot_show_every_row(benchmark, tmp_path):
  results = benchmark("results")
  generator = np.random.default_rng(0)

  def row(sampler: str, rate: int):
    values = {name: results.Mean.from_values(list(4 + 0.1 * generator.random(3))) for name in ("c4", "documentation")}
    shares = {"whole": 0.6, "copy": 0.2, "damaged": 0.2}
    beside = dict.fromkeys(values, results.Mean(-0.0123, 0.01))
    return results.Row(sampler, rate, 100, 12_345, shares, values, beside)

  rows = [row("all", 100), *(row(s, r) for s in ("random", "density", "perplexity", "ask_llm") for r in (20, 40, 60))]
  lines = results.to_markdown(rows).splitlines()
  assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
  assert "-0.012 ± 0.010" in lines[3] and "±" not in lines[2]
  results.paint(rows, tmp_path / "plot.svg")
  drawn = (tmp_path / "plot.svg").read_text()
  assert all(word in drawn for word in ("held out: c4", "held out: documentation", "ask_llm", "all of the corpus"))
