"""JSON lines: rows, bad rows, and fields of other names and types."""

import gzip
import json
import math

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from reader_files import bad, documents, jsonl, put, read

from pipelines.corpus.blocks import BadRowError, Fields, Nonstandard, as_string
from pipelines.corpus.readers import jsonl as jsonl_reader


def test_bad_lines_fall_alone(tmp_path):
  """Kills the mutants: a row counter that counts only good rows, or only lines that are not blank; blank lines that are
  bad because they have no JSON, or no text."""
  good = json.dumps({"text": "good"}).encode()
  lines = {
    "invalid_json": [
      b'{"text": "cut',
      b'{"text": "a"} {"text": "b"}',
      b'{"text": "a", "b": NaN',
      b'{"text": "a", "b": NaNs}',
      b'{"text": "a", "b": \\"NaN"}',
      b'{"text": "\\ud800", "b": NaN}',
      b'{"text": NaN, "a": "b',
      b'{"text": "a", "b": -NaN}',
      b'{"text": "a", "b": ' + b"[" * 5000 + b"NaN" + b"]" * 5000 + b"}",
    ],
    "blank": [b"", b"  ", b"\r", b"\t \r", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r"],
    "not_an_object": [b'["text"]', b'"text"', b"null", b"3"],
    "missing_text": [b"{}", b'{"text": null}', b'{"Text": "x"}', b'{"text": NaN}'],
    "text_not_a_string": [b'{"text": 7}', b'{"text": ["a"]}', b'{"text": {}}', b'{"text": false}'],
    "empty_text": [b'{"text": ""}', b'{"text": " \\n\\t\\u00a0\\u3000"}'],
    "invalid_utf8": [b"\xef\xbb" + good, b'{"text": "caf\xe9"}', b'{"text": "\xed\xa0\x80"}', b"\xff\xfe{"],
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
  """JSON can escape characters that UTF-8 cannot hold."""
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
  [(b"", 0), (b"\n", 1), (b"x\n", 1), (b"x", 1), (b"x\n\n", 2), (b"x\ny", 2), (b"\xef\xbb\xbf", 1), (b"x\r\n", 1)],
)
def test_a_row_is_a_line(tmp_path, data, rows):
  assert sum(block.num_rows for block in read(put(tmp_path / "a.jsonl", data))) == rows


COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 20])
@pytest.mark.parametrize("suffix", COMPRESS)
def test_byte_order_marks_line_ends_and_long_lines(tmp_path, suffix, piece_bytes):
  """A file may be concatenated from three files, each with its mark, one with two; compressed apart, they are several
  members.

  Kills the mutants: a mark that is removed only at the start of the file, only in its first piece, or only once.
  """
  mark, text = b"\xef\xbb\xbf", "long " * 2000
  parts = [
    mark + b'{"text": "a"}\r\n' + json.dumps({"text": text}).encode() + b"\r\n\r\n",
    mark + b'{"text": "\xef\xbb\xbfb"}\n',
    mark + mark + b'{"text": "c", "url": "\xc3\xa9"}',
  ]
  shard = put(tmp_path / f"a.jsonl{suffix}", b"".join(map(COMPRESS[suffix], parts)))
  blocks = read(shard, piece_bytes=piece_bytes)
  assert [(row["row"], row["text"]) for row in documents(blocks)] == [(0, "a"), (1, text), (3, "\ufeffb"), (4, "c")]
  assert bad(blocks) == [(2, "blank", "")]
  assert sum(block.nonstandard for block in blocks) == 0


NOT_NUMBERS = (math.nan, math.inf, -math.inf)


@given(
  texts=st.lists(st.text(max_size=12), min_size=1, max_size=4),
  values=st.recursive(
    st.sampled_from([*NOT_NUMBERS, 1, None, True]) | st.text('NaInfity-"\\ \U0001f600\n', max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('NaN"\\', max_size=5), inner, max_size=4),
    max_leaves=12,
  ),
  ascii_only=st.booleans(),
)
def test_what_python_writes_is_read(texts, values, ascii_only):
  """`json.dumps` of any value is read back, as the url of a document, with NaN and Infinity as null.

  Kills the mutants: NaN that is replaced within strings, or behind an escaped quote; -Infinity that leaves its sign.
  """

  def has_not_numbers(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(has_not_numbers, inner)) or (type(value) is float and not math.isfinite(value))

  def expected(value):
    if isinstance(value, dict):
      return {name: expected(of) for name, of in value.items()}
    if isinstance(value, list):
      return [expected(of) for of in value]
    return None if has_not_numbers(value) else value

  text = "".join(texts)
  line = json.dumps({"text": text, "url": values, "other": "NaN"}, ensure_ascii=ascii_only).encode()
  found = jsonl_reader.parse_line(line, Fields())
  assert tuple(found) == (text, as_string(expected(values)), "")
  assert (type(found) is Nonstandard) == has_not_numbers(values)


def test_documents_with_nan_are_counted(tmp_path):
  """Kills the mutants: NaN that becomes a url; a count of all lines instead of those that are not JSON."""
  lines = [b'{"text": "a", "url": NaN, "n": [-Infinity, Infinity]}', b'{"text": "b", "url": "NaN"}', b'{"text": NaN}']
  lines += [
    b'\xef\xbb\xbf{"text": "Infinity"}',
    b'{"timestamp": NaN, "text": "c \\" NaN"}',
    b'{"text": "\xff", "n": NaN}',
  ]
  blocks = read(put(tmp_path / "a.jsonl", b"\n".join(lines * 10)), block_rows=len(lines))
  assert [block.nonstandard for block in blocks] == [2] * 10
  texts = [(row["text"], row["url"], row["timestamp"]) for row in documents(blocks[:1])]
  assert texts == [("a", "", ""), ("b", "NaN", ""), ("Infinity", "", ""), ('c " NaN', "", "")]
  assert [reason for _, reason, _ in bad(blocks[:1])] == ["missing_text", "invalid_utf8"]


def test_a_line_of_quotes_takes_linear_time():
  """Kills the mutant whose pattern searches the end of a string again at every quote: half an hour for this line."""
  line = b'{"a": NaN, "b": "' + b'\\"' * (1 << 20)
  with pytest.raises(BadRowError, match="invalid_json"):
    jsonl_reader.parse_line(line, Fields())


def test_nested_fields(tmp_path):
  """Kills the mutants: a path that takes precedence over a field whose name has a dot; a path that ends at a string."""
  records = [
    {"content": {"text": "a", "more": {"url": "u"}}, "at": {"time": 3}},
    {"content.text": "b", "content": {"text": "not b"}, "content.more.url": None, "at.time": "t"},
    {"content": {"text": "c", "more.url": "v"}, "at": None},
    {"content": "d"},
    {"content": {"text": {"text": "e"}}},
    {"content": [{"text": "f"}], "text": "f"},
    {"content.text": None, "content": {"text": "g"}},
  ]
  fields = Fields("content.text", "content.more.url", "at.time")
  blocks = read(put(tmp_path / "a.jsonl", jsonl(records)), fields=fields)
  assert [tuple(row.values()) for row in documents(blocks)] == [
    (0, "a", "u", "3"),
    (1, "b", "", "t"),
    (2, "c", "v", ""),
  ]
  assert [row[:2] for row in bad(blocks)] == [
    (3, "missing_text"),
    (4, "text_not_a_string"),
    (5, "missing_text"),
    (6, "missing_text"),
  ]
  lone = put(tmp_path / "b.jsonl", b'{"content": {"text": "caf\xe9"}}\n["caf\xe9"]')
  assert [text for _, _, text in bad(read(lone, fields=fields))] == ["caf\ufffd", '["caf\ufffd"]']


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
