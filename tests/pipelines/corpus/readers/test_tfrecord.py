"""TFRecords of tf.train.Example: bad records and features of other types."""

from reader_files import bad, documents, example, frame, put, read

from pipelines.corpus.blocks import Fields


def test_bad_records_of_a_tfrecord_fall_alone(tmp_path):
  """Kills: a data checksum that is ignored, or that ends the file."""
  good = frame(example(text=[b"good"]))
  corrupt = bytearray(frame(example(text=[b"corrupt"])))
  corrupt[-6] ^= 1
  cases = [
    ("corrupt_record", bytes(corrupt)),
    ("invalid_example", frame(b"no example")),
    ("missing_text", frame(b"")),
    ("missing_text", frame(example(text=[]))),
    ("text_not_a_string", frame(example(text=[7]))),
    ("text_not_a_string", frame(example(text=[b"a", b"b"]))),
    ("empty_text", frame(example(text=[b" "]))),
    ("invalid_utf8", frame(example(text=[b"caf\xe9"]))),
  ]
  data = b"".join(good + record for _, record in cases)
  blocks = read(put(tmp_path / "a.tfrecord-00000-of-00001", data + good), block_rows=3)
  assert [row[:2] for row in bad(blocks)] == [(2 * at + 1, reason) for at, (reason, _) in enumerate(cases)]
  assert [row["row"] for row in documents(blocks)] == list(range(0, 2 * len(cases) + 1, 2))
  assert bad(blocks)[-1][2] == "caf\ufffd"


def test_example_features_that_are_no_strings(tmp_path):
  data = frame(example(text=[b"a"], url=[7], timestamp=[b"1", b"2"], more=[1])) + frame(
    example(text=[b"b"], url=[b"\xff"])
  )
  assert documents(read(put(tmp_path / "a.tfrecord", data))) == [
    {"row": 0, "text": "a", "url": "7", "timestamp": "['1', '2']"},
    {"row": 1, "text": "b", "url": "\ufffd", "timestamp": ""},
  ]


def test_a_feature_within_another_as_tfds_writes_it(tmp_path):
  """Kills the mutants: a path in another notation than TFDS's; a path that takes precedence over a feature of that
  name."""
  examples = [{"content/text": [b"a"], "meta/url": [b"u"]}, {"content.text": [b"b"], "content/text": [b"not b"]}]
  data = b"".join(frame(example(**features)) for features in examples)
  for name in ("content.text", "content/text"):
    found = documents(read(put(tmp_path / "a.tfrecord", data), fields=Fields(name, "meta.url")))
    assert [row["text"] for row in found] == ["a", "b" if name == "content.text" else "not b"]
    assert found[0]["url"] == "u"
