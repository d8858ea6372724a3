"""Parquet, made from JSON lines in fixed row groups, so that its bytes depend only on the documents and their order."""

from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from pipelines.output.formats.format import SCHEMA
from pipelines.output.formats.jsonl import JSONLines
from pipelines.sorted_runs import merging

_GROUP_ROWS, _GROUP_BYTES = 4_096, 32 << 20


class Parquet(JSONLines):
  """Row groups of 4,096 documents or 32 MiB, compressed with zstd, with page checksums."""

  def write(self, batches: Iterator[merging.Batch], file: IO[bytes]) -> int:
    count = 0
    with pq.ParquetWriter(file, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
      for group in _row_groups(record_N for _, record_N in batches):
        lines = b"".join(group)
        options = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1), pj.ParseOptions(explicit_schema=SCHEMA)
        table = pj.read_json(pa.BufferReader(lines), *options).select(SCHEMA.names)
        writer.write_table(table, row_group_size=len(group))
        count += len(group)
    return count

  def read_tables(self, file: IO[bytes]) -> Iterator[pa.Table]:
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
      for batch in parquet.iter_batches(_GROUP_ROWS):
        yield pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)


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


FORMAT = Parquet("parquet")
