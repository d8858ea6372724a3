"""What the pictures of docs/coverage.md are made of: planted copies and how they are counted, coverage, the drawing."""

import importlib
import itertools
import pathlib
import sys

import numpy as np
import pytest
import tiny_t5

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
  """Imports scripts of benchmarks/."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  before = set(sys.modules)
  yield importlib.import_module
  for name in set(sys.modules) - before:
    if getattr(sys.modules[name], "__file__", None) and pathlib.Path(sys.modules[name].__file__).parent == BENCHMARKS:
      del sys.modules[name]


def test_copies_are_planted_in_turn_and_known(benchmark):
  """Kills: places of the order before mixing, a copy of a copy, a document with two copies."""
  copies = benchmark("bench_planted_copies")
  texts = tiny_t5.make_texts(200, seed=1, longest=300)
  planted = copies.plant(texts, seed=2)
  assert len(planted.texts) == 350 and np.bincount(planted.kinds_P).tolist() == [50, 50, 50]
  both = [*planted.originals_P, *planted.copies_P]
  assert len(set(both)) == len(both) == 300
  assert {planted.texts[i] for i in set(range(350)) - set(planted.copies_P)} == set(texts)
  for original, copy, kind in zip(planted.originals_P, planted.copies_P, planted.kinds_P, strict=True):
    assert planted.texts[original] in texts
    assert (planted.texts[original] == planted.texts[copy]) == (kind == 0)
    if kind == 2:
      assert set(planted.texts[copy].split()) <= set(planted.texts[original].split())
  assert copies.plant(texts, seed=2).texts == planted.texts


def test_a_cut_leaves_most_sentences_and_words(benchmark):
  """Kills: a cut that keeps all sentences, one that keeps their order, one that changes no word."""
  copies = benchmark("bench_planted_copies")
  text = " ".join(f"s{i}a s{i}b s{i}c s{i}d s{i}e." for i in range(3_000))
  left = copies.cut(text, np.random.default_rng(0)).split()
  assert len(left) == pytest.approx(2 / 3 * 15_000 * (1 - 0.15 / 2), rel=0.04)
  pairs = list(itertools.pairwise(left))
  followed = {(f"s{i}{a}", f"s{i}{b}") for i in range(3_000) for a, b in ("ab", "bc", "cd")}
  assert np.mean([pair in followed for pair in pairs if pair[0][-1] in "abc"]) == pytest.approx(
    0.85**2 / 0.925, abs=0.03
  )
  places = [int(word[1:-1]) for word in left if word.endswith("a")]
  assert 0.1 < np.mean(np.diff(places) < 0) < 0.5
  assert copies.cut("word", np.random.default_rng(0)) in ("", "word")


def test_a_pair_is_found_where_one_of_it_goes(benchmark):
  """Kills: pairs that count only if the copy goes, a precision that counts a pair twice, or leaves others out."""
  copies = benchmark("bench_planted_copies")
  planted = copies.Planted([""] * 8, np.array([0, 1, 2]), np.array([4, 5, 6]), np.array([0, 1, 2]))
  removed = np.array([[0, 0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 1], [0] * 8], bool)
  found = copies.measure(planted, removed)
  assert found.removed.tolist() == [1, 5, 0]
  assert found.recall.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
  np.testing.assert_equal(found.precision, [1, 2 / 5, np.nan])


def test_exact_similarities_find_exact_copies_as_minhash_does(benchmark):
  """Kills: pairs that are as similar and not joined, and components whose first goes while the others stay."""
  copies = benchmark("bench_planted_copies")
  texts = tiny_t5.make_texts(40, seed=3, longest=300)
  planted = copies.Planted([*texts, *texts[:9]], np.arange(9), np.arange(40, 49), np.arange(9) % 3)
  found, pairs = copies.by_exact_similarity(planted, np.array([0.9, 1.0]))
  assert found.recall.tolist() == [[1, 1, 1]] * 2 and found.removed.tolist() == [9, 9]
  assert pairs.tolist() == [[1, 1]] * 2


def test_coverage_is_what_its_words_say(benchmark):
  """Kills: distances to the farthest kept one or among the kept alone, cells of all, copies of what is not kept."""
  coverage = benchmark("bench_coverage")
  angles_N = np.radians([0, 0, 60, 90, 180])
  embeddings = np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1).astype(np.float32)
  texts = ["one two three four five six", "one two three four five six", "seven eight nine", "ten", "eleven twelve"]
  corpus = coverage.Corpus(list("abcde"), np.array(["docstring"] * 5), texts, embeddings, np.array([0, 0, 1, 1, 2]))
  found = coverage.measure(corpus, np.array([1, 3]))
  assert (found.documents, found.cells, found.near_copies, found.words) == (2, 2 / 3, 0, 7 / 18)
  chords = [0, 0, 2 * np.sin(np.radians(15)), 0, 2 * np.sin(np.radians(45))]
  assert found.distance == pytest.approx(np.mean(chords), abs=1e-3)
  assert coverage.measure(corpus, np.array([0, 1])).near_copies == 0.5


def test_pictures_show_every_sampler_and_figure(benchmark, tmp_path):
  coverage, copies = benchmark("bench_coverage"), benchmark("bench_planted_copies")
  assert coverage.TITLES.keys() == coverage.SAMPLERS.keys()
  generator = np.random.default_rng(0)
  kinds_N = generator.choice(list(coverage._COLOURS), 100)
  samples = {name: np.arange(0, 100, 5) for name in coverage.SAMPLERS}
  figures = {name: coverage.Coverage(20, 0.71, 0.314, 0.0425, 0.2) for name in samples}
  coverage.paint(generator.standard_normal((100, 2)), kinds_N, samples, figures, tmp_path / "coverage.svg")
  drawn = (tmp_path / "coverage.svg").read_text()
  assert all(word in drawn for word in (*coverage.TITLES.values(), "71% of the cells", "kept at 0.31", "4.2% near"))
  curve = copies.Curve(np.arange(3), generator.random((3, 3)), generator.random(3))
  panels = [(name, "threshold", np.linspace(0.5, 1, 3), curve, curve) for name in ("one way", "another way")]
  copies.paint(panels, tmp_path / "copies.svg")
  drawn = (tmp_path / "copies.svg").read_text()
  assert all(word in drawn for word in ("one way", "another way", "precision", *copies.KINDS))
