"""Framed records against TensorFlow's own TFRecordWriter and tf.train.Example."""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.output import tfrecords

ROWS = st.lists(
  st.tuples(st.text(), st.text(), st.text(), st.text(), st.floats(width=32)),
  max_size=8,
)


def make_table(rows: list[tuple]) -> pa.Table:
  text, url, timestamp, source, score = zip(*rows, strict=True) if rows else [()] * 5
  columns = {"text": text, "url": url, "timestamp": timestamp, "source": source}
  table = {name: pa.array(values, pa.string()) for name, values in columns.items()}
  return pa.table(table | {"score": pa.array(score, pa.float32())})


def write_by_tensorflow(table: pa.Table) -> bytes:
  import tensorflow as tf

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "expected.tfrecord")
    with tf.io.TFRecordWriter(str(path)) as writer:
      for row in table.to_pylist():
        feature = {
          name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
          if name == "score"
          else tf.train.Feature(bytes_list=tf.train.BytesList(value=[(value or "").encode()]))
          for name, value in row.items()
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString(deterministic=True))
    return path.read_bytes()


def written(table: pa.Table) -> bytes:
  return b"".join(tfrecords.encode_examples(table).to_pylist())


@settings(max_examples=60)
@given(ROWS)
def test_records_have_the_bytes_that_tensorflow_writes(rows):
  """Kills: features in another order, an unmasked CRC, a CRC of a length over big-endian bytes."""
  table = make_table(rows)
  assert written(table) == write_by_tensorflow(table)


@pytest.mark.parametrize("border", [1 << 7, 1 << 14, 1 << 21])
def test_lengths_at_a_varint_border(border):
  """Every nested length crosses the border somewhere in this range. Kills: `>` for `>=` in the size of a varint."""
  reach = 130 if border < 1 << 21 else 25
  for size in range(border - reach, border + 2):
    table = make_table([("x" * max(size, 0), "", "t", "s", 0.5)])
    assert written(table) == write_by_tensorflow(table), size


def test_lengths_of_all_widths_in_one_table():
  """Kills: the mask of a varint taken from the widest row."""
  table = make_table([("é" * n, "u" * (n // 3), "", "s#1", -n) for n in (0, 1, 100, 5_000, 70_000, 3_000_000, 7)])
  assert written(table) == write_by_tensorflow(table)


def test_slices_chunks_and_wide_strings_give_the_same_records():
  table = make_table([(f"text {i}" * i, f"url{i}", "", f"s#{i}", i / 7) for i in range(20)])
  expected = tfrecords.encode_examples(table).to_pylist()
  chunked = pa.concat_tables([table[:3], table[3:4], table[4:4], table[4:]])
  assert tfrecords.encode_examples(chunked).to_pylist() == expected
  assert tfrecords.encode_examples(table[5:11]).to_pylist() == expected[5:11]
  wide = table.set_column(0, "text", table["text"].cast(pa.large_string()))
  assert tfrecords.encode_examples(wide).to_pylist() == expected
  assert tfrecords.encode_examples(table[:0]).to_pylist() == []


def test_a_missing_value_is_an_empty_string():
  row = {"text": "a", "url": None, "timestamp": None, "source": "s#0", "score": 1.0}
  schema = pa.schema([(name, pa.float32() if name == "score" else pa.string()) for name in row])
  table = pa.Table.from_pylist([row, row | {"url": "u"}], schema=schema)
  assert written(table) == write_by_tensorflow(table)


def test_the_input_is_left_alone():
  """CRCs are written into a buffer in place, which must not be a buffer of the caller."""
  table = make_table([("text", "url", "time", "source#0", 1.0)])
  before = table.to_pylist()
  first = tfrecords.encode_examples(table)
  kept = first.to_pylist()
  assert tfrecords.encode_examples(table).to_pylist() == kept
  assert first.to_pylist() == kept
  assert table.to_pylist() == before


def test_the_vectorised_crc_is_crc32c():
  """Checks the vectors of RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending."""
  rows = np.stack([np.zeros(32, np.uint8), np.full(32, 255, np.uint8), np.arange(32, dtype=np.uint8)])
  assert tfrecords._crc32c_rows(rows).tolist() == [0x8A9136AA, 0x62A8AB43, 0x46DD794E]


def test_no_tensorflow():
  code = """
import sys, pyarrow as pa
from pipelines.output import tfrecords
names = ("text", "url", "timestamp", "source")
table = pa.table({name: ["a"] for name in names} | {"score": pa.array([1], pa.float32())})
assert len(tfrecords.encode_examples(table)) == 1
assert "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(tfrecords.__file__).parents[2])
