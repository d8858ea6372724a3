"""Near-copies: counted like the exact Jaccard similarity of word runs counts them, and the same everywhere."""

import time

import numpy as np
import tiny_t5

from curation import near_copies

GOLDEN = [
  [8890730524700727425, 389395849369233337],
  [7019585733402893025, 17916211060638824074],
  [7960286522194355700, 487617019471545679],
]


def shingles(text: str) -> set[str]:
  words = text.lower().replace(".", "").split()
  return {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(one: str, other: str) -> float:
  a, b = shingles(one), shingles(other)
  return len(a & b) / len(a | b)


def long_texts(number: int, seed: int) -> list[str]:
  return [text for text in tiny_t5.make_texts(number * 3, seed=seed, longest=300) if len(text) > 900][:number]


def test_signatures_estimate_jaccard():
  """Kills: hash functions that are all one, and shingles that lose a word or the order."""
  (text,) = long_texts(1, seed=3)
  words = text.split()
  for changed in (1, 3, 8, len(words) // 2):
    other = " ".join([*words[:-changed], *(["other"] * changed)])
    one_H, other_H = near_copies.signatures([text, other], hashes=1024)
    assert abs(np.mean(one_H == other_H) - jaccard(text, other)) < 0.06
  one_H, other_H = near_copies.signatures([text, " ".join(reversed(words))], hashes=64)
  assert np.mean(one_H == other_H) < 0.2


def test_near_copies_are_those_of_an_earlier_text():
  """Kills: a count that takes in the first of a family, or finds copies only of the text just before."""
  texts = long_texts(20, seed=4)
  near = [f"Copyright 20{i} somebody else. {text}" for i, text in enumerate(texts[:7])]
  assert all(jaccard(a, b) > 0.88 for a, b in zip(texts, near, strict=False))
  copies_N = near_copies.near_copies([*texts, *near, texts[0].upper(), "short", "Short!", "other", "", " "])
  assert copies_N.tolist() == [False] * 20 + [True] * 7 + [True, False, True, False, False, True]
  assert near_copies.near_copies([]).tolist() == []


def test_half_a_copy_is_none():
  """Kills: a threshold on shared bands alone."""
  (text,) = long_texts(1, seed=5)
  words = text.split()
  half = " ".join([*words[: len(words) // 2], *reversed(words[len(words) // 2 :])])
  assert 0.2 < jaccard(text, half) < 0.5
  assert near_copies.near_copies([text, half]).tolist() == [False, False]


def test_signatures_are_the_same_everywhere():
  """Kills: Python's own hash of a word, which differs between processes, and a changed mix: held-out texts move."""
  signatures_NH = near_copies.signatures(["the river near the bridge carries bread", "one word", ""], hashes=2)
  assert signatures_NH.tolist() == GOLDEN


def test_thousands_of_texts_take_seconds():
  """Kills: a comparison of all pairs."""
  texts = tiny_t5.make_texts(5_000, seed=6, longest=200)
  started = time.monotonic()
  assert near_copies.near_copies([*texts, *texts[:500]]).sum() >= 500
  assert time.monotonic() - started < 20
