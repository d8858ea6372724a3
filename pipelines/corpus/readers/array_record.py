"""ArrayRecord files of tf.train.Example, as TFDS may keep them."""

import contextlib
from collections.abc import Iterator

from pipelines.corpus.blocks import BrokenShardError, Chunk, Fields, records_chunk
from pipelines.corpus.readers import tfrecord
from pipelines.corpus.readers.reader import OpenShard, Reader

_CHUNK_BYTES = 1 << 20
# No read-ahead: its threads cost more processor time than they save (77 instead of 310 MB/s of C4), and each of them
# has a buffer of 16 MB.
_ARRAY_RECORD_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def array_record_chunks(path: str, fields: Fields) -> Iterator[Chunk]:
  """Yields chunks of the records of a local ArrayRecord file, whose reader verifies checksums."""
  for records in read_array_records(path):
    yield records_chunk(records, lambda record: tfrecord.parse_record(record, fields))


def read_array_records(path: str) -> Iterator[list[bytes]]:
  """Yields the records of a local ArrayRecord file, about a megabyte at a time."""
  from array_record.python.array_record_module import ArrayRecordReader

  reader = ArrayRecordReader(path, _ARRAY_RECORD_OPTIONS)
  records: list[bytes] = []
  size = 0
  try:
    for _ in range(reader.num_records()):
      # One by one, since each read of a range decodes its whole group again; a sequential read does not.
      records.append(reader.read())
      size += len(records[-1])
      if size >= _CHUNK_BYTES:
        yield records
        records, size = [], 0
    reader.close()  # raises the error of opening the file, which seemed empty until now
  except RuntimeError as error:
    raise BrokenShardError(f"it is not a complete ArrayRecord file ({error})") from error
  finally:
    with contextlib.suppress(RuntimeError):
      reader.close()
  if records:
    yield records


class ArrayRecord(Reader):
  """Records that the library reads from a local file, or from a local copy."""

  suffixes = ("array_record",)
  needs_local_file = True

  def chunks(self, shard: OpenShard, fields: Fields) -> Iterator[Chunk]:
    return array_record_chunks(shard.local_path(), fields)

  def field_names(self, shard: OpenShard) -> list[str]:
    return tfrecord.field_names(next(read_array_records(shard.local_path()), []))


READER = ArrayRecord()
