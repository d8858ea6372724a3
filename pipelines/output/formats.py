"""What output shards are written as, `--output_format`: how documents become records, records a file, and back.

Records are what runs hold and what is merged. Those of TFRecord and JSON lines lie in the file one after the other.
A Parquet file is made of JSON lines, by fixed row groups, so that its bytes follow from the documents and their order.
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
  """The file name of one output shard, from 0: as TFDS has it, or with its format at the end, as others have it."""
  if file_format == TFRECORD:
    return tfds_metadata.shard_file_name(name, index, num_shards)
  return f"{name}-{tfds_metadata.SPLIT}-{index:05d}-of-{num_shards:05d}.{file_format}"


def encode(documents: pa.Table, file_format: str) -> pa.LargeBinaryArray:
  """A record for each document of a table with the columns of SCHEMA: large_binary [N]."""
  if file_format == TFRECORD:
    return tfrecords.encode_examples(documents)
  rows = documents.select(SCHEMA.names).to_pylist()
  return pa.array([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows], pa.large_binary())


def write(batches: Iterator[merging.Batch], file: IO[bytes], file_format: str) -> int:
  """Writes the records of one output shard in the order in which they come; returns how many."""
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
  """Runs of records that end at 4,096 or with the record that brings them to 32 MiB: however the batches were cut."""
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
  """The documents of one output shard as tables with the columns of SCHEMA; WinnowError where it is not as written."""
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
  found: dict[str, str | float] = {}
  for name in SCHEMA.names:
    (value,) = tf_example.feature_values(features[name])
    found[name] = value.decode() if isinstance(value, bytes) else value
  return found
