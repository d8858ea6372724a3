"""MinHash of texts of few words, or of none: what they show tells them apart."""

import numpy as np
import pyarrow as pa
from minhash_by_hand import signature_by_hand

from curation.coverage import minhash

ALL_DIFFERENT = [
  *(
    "∑∫√",
    "∂∇",
    "∑∫",
    "☀☂",
    "☀\ufe0f",
    "❤\ufe0f",
    "!!!",
    "---",
    "...",
    "\ue000",
    "\ue001",
    "\u0301",
    "\u0301\u0302",
    "\ufffd",
  ),
  *(
    "x < 5",
    "x > 5",
    "x 5",
    "a ∑",
    "a √",
    "😀 ∑",
    "😀 √",
    "😀",
    "🎈",
    "👍🏽",
    "👍🏿",
    "1",
    "2",
    "a",
    "b",
    "yes",
    "no",
    "no ©",
    "é",
  ),
  *(
    "你好。",
    "谢谢？",
    "สวัสดี",
    "ขอบคุณ",
    "❤\ufe0f ☀\ufe0f ☂\ufe0f ☁\ufe0f ❄\ufe0f",
    "☀\ufe0f ❤\ufe0f ☁\ufe0f ☂\ufe0f ❄\ufe0f",
    "",
    "∑ " * 50,
    "√ " * 50,
  ),
]


def test_texts_of_few_words_or_none_are_what_they_show():
  """Kills: texts without a letter or digit that are all one empty text; marks alone that count as words; a symbol that
  is lost beside a word. Nor are they near-copies of one another."""
  found_NH = minhash.signatures(pa.array(ALL_DIFFERENT), 16)
  assert len(np.unique(found_NH, axis=0)) == len(ALL_DIFFERENT)
  assert found_NH.tolist() == [signature_by_hand(text, 16) for text in ALL_DIFFERENT]
  assert not minhash.near_copies(ALL_DIFFERENT).any()
  assert minhash.near_copies(["∑∫√", "x > 5", "∑ ∫\u200b√\n", "X  >5"]).tolist() == [False, False, True, True]


def test_symbols_do_not_count_beside_five_words():
  """Kills: a signature of an ordinary text that another version does not have."""
  plain, other = "one two three four five", "“One”, two – three; FOUR (five)! ❤∑"
  assert np.array_equal(*minhash.signatures(pa.array([plain, other]), 8))
  assert np.array_equal(*minhash.signatures(pa.array(["Hello, world!", "hello world"]), 8))
  found_NH = minhash.signatures(pa.array(["one two three four", "one two three + four", "one two three ∑ four"]), 8)
  assert len(np.unique(found_NH, axis=0)) == 3
