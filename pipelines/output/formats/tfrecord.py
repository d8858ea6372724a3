"""TFRecords of tf.train.Example, which TFDS and seqio read."""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from pipelines.corpus.readers import tf_example, tfrecord
from pipelines.output import tfds_metadata, tfrecords
from pipelines.output.formats.format import SCHEMA, Format

_PIECE_BYTES = 4 << 20


class TFRecord(Format):
  """Examples with a bytes feature for each string of a document, and a float for its score (`tfrecords`)."""

  is_tfds = True

  def file_name(self, dataset: str, index: int, num_shards: int) -> str:
    return tfds_metadata.shard_file_name(dataset, index, num_shards)

  def encode(self, documents: pa.Table) -> pa.LargeBinaryArray:
    return tfrecords.encode_examples(documents)

  def read_tables(self, file: IO[bytes]) -> Iterator[pa.Table]:
    for frames in tfrecord.read_frames(iter(lambda: file.read(_PIECE_BYTES), b"")):
      yield pa.Table.from_pylist([_document(frame) for frame in frames], schema=SCHEMA)


def _document(frame: bytes) -> dict[str, str | float]:
  features = tf_example.parse_example(tfrecord.checked_data(frame))
  document: dict[str, str | float] = {}
  for name in SCHEMA.names:
    (value,) = tf_example.feature_values(features[name])
    document[name] = value.decode() if isinstance(value, bytes) else value
  return document


FORMAT = TFRecord("tfrecord")
