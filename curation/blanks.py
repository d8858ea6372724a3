"""Finds texts of invisible characters alone, which are empty however long they are."""

import re

import pyarrow as pa
import pyarrow.compute as pc

# White space, controls, and Unicode's default ignorable characters (soft hyphen, joiners, direction marks, byte order
# mark, Hangul fillers, variation selectors, tags), with the empty Braille pattern and the annotation marks.
BLANK_RANGES = (
  *((0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x1680, 0x1680)),
  *((0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x2800, 0x2800)),
  *((0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB)),
  *((0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
_VISIBLE = re.compile("[^" + "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in BLANK_RANGES) + "]")
_VISIBLE_RE2 = "[^" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in BLANK_RANGES) + "]"


def is_blank(text: str) -> bool:
  """Tells whether a text shows nothing."""
  return _VISIBLE.search(text) is None


def are_blank(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
  """Applies `is_blank` to strings of any Arrow type: bool [N], null for a null."""
  return pc.invert(pc.match_substring_regex(texts, _VISIBLE_RE2))
