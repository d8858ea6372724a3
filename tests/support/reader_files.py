"""Input files of every format for the readers' tests, and plain views of what was read."""

import gzip
import json
import pathlib
import struct

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter

from pipelines.corpus.blocks import AnyBlock, Block, Fields, Shard
from pipelines.corpus.readers import reading
from pipelines.corpus.readers.tf_example import example_class

# 999 documents of 1 to 180 bytes and more, with everything that JSON escapes.
RECORDS = [
  {
    "text": f'№ {row} "q" \\ \n\t\u0001 é語😀' * (row % 7 + 1),
    "url": f"https://x.org/{row}?é",
    "timestamp": f"2019-{row}",
  }
  for row in range(999)
]
FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "tfrecord", "tfrecord.gz", "array_record"]


def jsonl(records, *, ascii_only: bool = False) -> bytes:
  return b"".join(json.dumps(record, ensure_ascii=ascii_only).encode() + b"\n" for record in records)


def example(**features) -> bytes:
  """Returns a serialized Example; a feature is a list of bytes, or of numbers."""
  message = example_class()()
  for name, values in features.items():
    feature = message.features.feature[name]
    kind = feature.bytes_list if values and isinstance(values[0], bytes) else feature.int64_list
    kind.value.extend(values)
  return message.SerializeToString()


def masked_crc(data: bytes) -> int:
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def frame(data: bytes) -> bytes:
  head = struct.pack("<Q", len(data))
  return head + struct.pack("<I", masked_crc(head)) + data + struct.pack("<I", masked_crc(data))


def examples(records) -> list[bytes]:
  return [example(**{name: [value.encode()] for name, value in record.items()}) for record in records]


def write(folder: pathlib.Path, name: str, records=RECORDS) -> Shard:
  """Writes the records into a file in the format that its name says; returns its shard."""
  path = folder / name
  if ".json" in name:
    data = jsonl(records, ascii_only=name.endswith(".zst"))
  elif ".tfrecord" in name:
    data = b"".join(map(frame, examples(records)))
  elif name.endswith(".parquet"):
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=130)
    return shard_of(path)
  else:
    writer = ArrayRecordWriter(str(path), "group_size:7")
    for data in examples(records):
      writer.write(data)
    writer.close()
    return shard_of(path)
  if name.endswith(".gz"):
    data = gzip.compress(data)
  elif name.endswith(".zst"):
    data = zstandard.compress(data)
  return put(path, data)


def put(path: pathlib.Path, data: bytes) -> Shard:
  path.write_bytes(data)
  return shard_of(path)


def shard_of(path: pathlib.Path) -> Shard:
  return Shard(path.name, str(path), *reading.format_of(str(path)), path.stat().st_size)


def read(shard: Shard, *, fields: Fields | None = None, piece_bytes: int = 1000, **options) -> list[AnyBlock]:
  """Reads a shard in small pieces, so that files of a few kilobytes cross their borders as those of gigabytes do."""
  return list(reading.read_blocks(shard, fields or Fields(), piece_bytes=piece_bytes, **options))


def documents(blocks: list[AnyBlock]) -> list[dict]:
  return [row for block in blocks if isinstance(block, Block) for row in block.documents.to_pylist()]


def bad(blocks: list[AnyBlock]) -> list[tuple]:
  return [tuple(row.values()) for block in blocks if isinstance(block, Block) for row in block.bad.to_pylist()]


def places(blocks: list[AnyBlock]) -> list[tuple]:
  return [(block.index, block.first_row, block.num_rows) for block in blocks]


def numbered(records) -> list[dict]:
  return [{"row": row, **record} for row, record in enumerate(records)]
