"""The formats of output shards (`--output_format`): documents to records, records to a file, and back.

Runs hold records, and merging moves them. A file of TFRecord or JSON lines is a concatenation of its records. A Parquet
file is made from JSON lines in fixed row groups, so that its bytes depend only on the documents and their order.
"""

from collections.abc import Iterable, Iterator
from typing import IO

import orjson
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from curation import errors
from curation.errors import WinnowError
from pipelines.corpus.blocks import BrokenShardError
from pipelines.corpus.readers import jsonl, tf_example, tfrecord
from pipelines.files import storage
from pipelines.output import tfds_metadata, tfrecords
from pipelines.sorted_runs import merging, run_files

TFRECORD, JSONL, PARQUET = "tfrecord", "jsonl", "parquet"
NAMES = (TFRECORD, JSONL, PARQUET)
SCHEMA = pa.schema(
  [(name, pa.string()) for name in tfrecords.TEXT_FEATURES] + [(tfrecords.SCORE_FEATURE, pa.float32())]
)
_GROUP_ROWS, _GROUP_BYTES = 4_096, 32 << 20
_PIECE_BYTES = 4 << 20


def file_name(name: str, file_format: str, index: int, num_shards: int) -> str:
  """Returns the file name of an output shard, counted from 0: as in TFDS, or with the format as its suffix."""
  if file_format == TFRECORD:
    return tfds_metadata.shard_file_name(name, index, num_shards)
  return f"{name}-{tfds_metadata.SPLIT}-{index:05d}-of-{num_shards:05d}.{file_format}"


def encode(documents: pa.Table, file_format: str) -> pa.LargeBinaryArray:
  """Encodes each document of a table with the columns of SCHEMA as a record: large_binary [N]."""
  if file_format == TFRECORD:
    return tfrecords.encode_examples(documents)
  rows = documents.select(SCHEMA.names).to_pylist()
  return pa.array([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows], pa.large_binary())


def write(batches: Iterator[merging.Batch], file: IO[bytes], file_format: str) -> int:
  """Writes the records of one output shard in their order; returns their number."""
  if file_format != PARQUET:
    return run_files.write_records(batches, file)
  count = 0
  with pq.ParquetWriter(file, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
    for group in _row_groups(record_N for _, record_N in batches):
      lines = b"".join(group)
      options = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1), pj.ParseOptions(explicit_schema=SCHEMA)
      writer.write_table(pj.read_json(pa.BufferReader(lines), *options).select(SCHEMA.names), row_group_size=len(group))
      count += len(group)
  return count


def _row_groups(batches: Iterable[pa.LargeBinaryArray]) -> Iterator[list[bytes]]:
  """Yields groups that end at 4,096 records, or with the record that reaches 32 MiB, whatever the batches were."""
  group: list[bytes] = []
  size = 0
  for record_N in batches:
    for record in record_N.to_pylist():
      group.append(record)
      size += len(record)
      if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
        yield group
        group, size = [], 0
  if group:
    yield group


def read(path: str, file_format: str) -> Iterator[pa.Table]:
  """Yields the documents of an output shard as tables with the columns of SCHEMA; raises WinnowError on damage."""
  with storage.open_input(path) as file:
    try:
      if file_format == PARQUET:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
          for batch in parquet.iter_batches(_GROUP_ROWS):
            yield pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)
        return
      pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
      if file_format == JSONL:
        for lines in jsonl.read_lines(pieces):
          yield pa.Table.from_pylist([orjson.loads(line) for line in lines], schema=SCHEMA)
      else:
        for frames in tfrecord.read_frames(pieces):
          yield pa.Table.from_pylist([_document(frame) for frame in frames], schema=SCHEMA)
    except (BrokenShardError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
      raise WinnowError(f"{path} cannot be read: {errors.first_line(error)}") from error


def _document(frame: bytes) -> dict[str, str | float]:
  features = tf_example.parse_example(tfrecord.checked_data(frame))
  document: dict[str, str | float] = {}
  for name in SCHEMA.names:
    (value,) = tf_example.feature_values(features[name])
    document[name] = value.decode() if isinstance(value, bytes) else value
  return document
