"""JSON lines: what a row is, which rows are bad, and fields of other names and types."""

import json

import pytest
from reader_files import bad, documents, jsonl, put, read

from pipelines import readers
from pipelines.blocks import Fields


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  """Files of a few kilobytes cross the borders of pieces as those of gigabytes do."""
  monkeypatch.setattr(readers, "_PIECE_BYTES", 1000)


def test_bad_lines_fall_alone(tmp_path):
  """Kills: a row counter that counts good rows, or lines that are not blank, only."""
  good = json.dumps({"text": "good"}).encode()
  lines = {
    "invalid_json": [
      b'{"text": "cut',
      b"",
      b"  ",
      b'{"text": "a"} {"text": "b"}',
      b'{"text": NaN}',
      b"\xef\xbb\xbf" + good,
    ],
    "not_an_object": [b'["text"]', b'"text"', b"null", b"3"],
    "missing_text": [b"{}", b'{"text": null}', b'{"Text": "x"}'],
    "text_not_a_string": [b'{"text": 7}', b'{"text": ["a"]}', b'{"text": {}}', b'{"text": false}'],
    "empty_text": [b'{"text": ""}', b'{"text": " \\n\\t\\u00a0\\u3000"}'],
    "invalid_utf8": [b'{"text": "caf\xe9"}', b'{"text": "\xed\xa0\x80"}', b"\xff\xfe{"],
  }
  data, expected, row = [], [], 0
  for reason, bad_lines in lines.items():
    for line in bad_lines:
      data += [good, line]
      expected.append((row + 1, reason))
      row += 2
  shard = put(tmp_path / "a.jsonl", b"\n".join([*data, good]))
  blocks = read(shard, block_rows=5)
  assert [row[:2] for row in bad(blocks)] == expected
  assert [row["row"] for row in documents(blocks)] == list(range(0, row + 1, 2))
  texts = {row: text for row, _, text in bad(blocks)}
  assert texts[1] == '{"text": "cut'
  assert texts[expected[-3][0]] == "caf\ufffd"
  assert texts[expected[-1][0]] == "\ufffd\ufffd{"


def test_unpaired_surrogates_are_a_bad_row(tmp_path):
  """JSON can name what no UTF-8 can hold."""
  shard = put(
    tmp_path / "a.jsonl", b'{"text": "\\ud800"}\n{"text": "\\udc00x", "url": 1}\n{"text": "\\ud83d\\ude00"}\n'
  )
  blocks = read(shard)
  assert bad(blocks) == [
    (0, "invalid_json", '{"text": "\\ud800"}'),
    (1, "invalid_json", '{"text": "\\udc00x", "url": 1}'),
  ]
  assert [row["text"] for row in documents(blocks)] == ["😀"]


@pytest.mark.parametrize(
  ("data", "rows"),
  [(b"", 0), (b"\n", 1), (b"x\n", 1), (b"x", 1), (b"x\n\n", 2), (b"x\ny", 2), (b"\xef\xbb\xbf", 0), (b"x\r\n", 1)],
)
def test_a_row_is_a_line(tmp_path, data, rows):
  assert sum(block.num_rows for block in read(put(tmp_path / "a.jsonl", data))) == rows


def test_byte_order_mark_line_ends_and_long_lines(tmp_path):
  text = "long " * 2000
  lines = [b'{"text": "a"}\r', json.dumps({"text": text}).encode(), b'{"text": "b"}']
  blocks = read(put(tmp_path / "a.json", b"\xef\xbb\xbf" + b"\n".join(lines)))
  assert [row["text"] for row in documents(blocks)] == ["a", text, "b"]


def test_mapped_fields_and_values_that_are_no_strings(tmp_path):
  records = [
    {"body": "a", "link": 3, "date": None},
    {"body": "b", "link": True},
    {"body": "c", "link": 1.5, "date": [1]},
  ]
  blocks = read(put(tmp_path / "a.jsonl", jsonl(records)), fields=Fields("body", "link", "date"))
  assert documents(blocks) == [
    {"row": 0, "text": "a", "url": "3", "timestamp": ""},
    {"row": 1, "text": "b", "url": "True", "timestamp": ""},
    {"row": 2, "text": "c", "url": "1.5", "timestamp": "[1]"},
  ]
