"""Texts without a visible character count as empty in every format."""

import pytest
from reader_files import FORMATS, bad, documents, read, write

BLANK = ["\u200b\u200b", "\ufeff", "\0\x07", "\u2800 \u2800", "\u2060\ufe0f", "\xad\n"]
VISIBLE = ["\u200bword", "\ufeff\0.", "☂️"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_text_of_invisible_characters_is_empty(tmp_path, suffix):
  """Kills: `isspace`, or a format with its own rule. Neighbours keep their row numbers, whatever the blocks."""
  texts = [text for blank in BLANK for text in (*VISIBLE, blank)]
  records = [{"text": text, "url": "https://x.org", "timestamp": ""} for text in texts]
  blocks = read(write(tmp_path, f"a.{suffix}", records), block_rows=5)
  assert bad(blocks) == [(row, "empty_text", text) for row, text in enumerate(texts) if text in BLANK]
  assert [(d["row"], d["text"]) for d in documents(blocks)] == [(r, t) for r, t in enumerate(texts) if t in VISIBLE]
