"""Texts that the demo's models are trained on and tested with."""

import re

import numpy as np
import pytest
import tiny_t5

from curation.demo import corpus as demo_corpus
from curation.demo.training import texts

HELD_OUT_HASHES = [8890730524700727425, 7019585733402893025, 7960286522194355700, 23025545569833457]


def test_held_out_follows_from_the_text_and_keeps_near_copies_together():
  """Kills: a hash of the whole text, with which most licences are in both halves but for a name."""
  pool = tiny_t5.make_texts(600, seed=8, longest=300)
  out_N = texts.held_out(pool)
  assert 0.07 < out_N.mean() < 0.19
  assert texts.held_out(pool[::-1]).tolist() == out_N[::-1].tolist()
  long = [i for i, text in enumerate(pool) if len(text.split()) > 150]
  copies_N = texts.held_out([f"Copyright 2020 somebody. {pool[i]}" for i in long])
  assert np.mean(copies_N == out_N[long]) > 0.97
  assert texts.not_held_out(pool) == [text for text, out in zip(pool, out_N, strict=True) if not out]


def test_held_out_texts_are_those_of_the_shipped_models():
  """Kills: another hash, as good as this one: the demo's models would be measured on what they were trained on."""
  some = ["the river near the bridge carries bread", "one word", "", "Ünïcode İ Straße don't 中文 字 a b c d"]
  assert [int(texts._min_hash(text)) for text in some] == HELD_OUT_HASHES


def test_excerpts_are_runs_of_the_text():
  """Kills: an excerpt that loses a word, or always is the beginning."""
  text = " ".join(f"w{i}{'.' if i % 11 == 10 else ''}" for i in range(2_000))
  excerpts = [texts.excerpt(text, np.random.default_rng(seed)) for seed in range(200)]
  assert all(excerpt in text for excerpt in excerpts)
  starts = [int(re.sub(r"\D", "", excerpt.split()[0])) for excerpt in excerpts]
  assert 0.3 < np.mean(np.equal(starts, 0)) < 0.6 and all(start % 11 == 0 for start in starts)
  sizes = [len(excerpt.split()) for excerpt in excerpts]
  assert min(sizes) < 20 and 200 < max(sizes) <= 330
  assert texts.excerpt("too short", np.random.default_rng(0)) == "too short"


@pytest.mark.long
def test_texts_are_read_from_all_formats_of_the_demos_corpus(tmp_path):
  """Kills: a format that is passed over in silence."""
  corpus = demo_corpus.write_demo_corpus(tmp_path)
  assert len(texts.read_texts([tmp_path])) == corpus.documents


def test_drawn_texts_are_of_all_pools_alike_and_of_long_texts_more_often():
  """Kills: a draw by pool size, and one by length instead of its root."""
  pools = [["a" * 100, "b" * 400], [], ["c" * 50]]
  drawn = texts.draw(pools, np.random.default_rng(0))
  shares = np.array([next(drawn)[0] for _ in range(6_000)])
  assert [np.mean(shares == letter) for letter in "abc"] == pytest.approx([1 / 6, 1 / 3, 1 / 2], abs=0.03)
