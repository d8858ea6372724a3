"""Texts that show nothing, in Python and in Arrow."""

import unicodedata

import pyarrow as pa
import pytest

from curation import blanks

EVERY = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
BLANK = [
  *("", " ", "\n\t\r\x0b", "\0\0", "\x1b\x7f", "\x85\xa0", "\u3000", "\u2028\u2029"),
  *("\u200b\u200b\u200b", "\ufeff", "\u200c\u200d", "\xad", "\u2800\u2800", "\u3164\uffa0", "\ufe0f", "\u202e\u202c"),
  *("\u180e", "\u2060", "\U000e0061\U000e007f", "\U000e0100", "\ufeff \n\u200b" * 1000),
]
VISIBLE = [
  *(".", "\ufeffa", "\u200b" * 5000 + "x", "☂\ufe0f", "\u0301", "\ufffd", "\ufffc", "\u3164a", "\ue000", "\u0600"),
  *("\u2800\u2801", "\0a"),
]


@pytest.mark.parametrize(("texts", "expected"), [(BLANK, True), (VISIBLE, False)])
def test_a_text_of_characters_that_show_nothing_is_blank(texts, expected):
  """Kills: `isspace`, which knows no zero-width space; a rule for the first character alone."""
  assert [blanks.is_blank(text) for text in texts] == [expected] * len(texts)
  for kind in (pa.string(), pa.large_string()):
    assert blanks.are_blank(pa.array([*texts, None], kind)).to_pylist() == [expected] * len(texts) + [None]


def test_the_characters_are_white_space_controls_and_those_that_unicode_lets_ignore():
  """Checks all characters. Kills: a range that is off by one, or another in Arrow than in Python."""
  blank = [blanks.is_blank(character) for character in EVERY]
  assert blanks.are_blank(pa.array(EVERY)).to_pylist() == blank
  spaces_and_controls = [c.isspace() or unicodedata.category(c) == "Cc" for c in EVERY]
  assert not [c for c, is_blank, is_so in zip(EVERY, blank, spaces_and_controls, strict=True) if is_so > is_blank]
  seen = [c for c, is_blank in zip(EVERY, blank, strict=True) if is_blank and unicodedata.category(c)[0] not in "CZ"]
  selectors = [chr(point) for point in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))]
  assert set(seen) - set(selectors) == set("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
