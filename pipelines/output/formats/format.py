"""The base of the formats of output shards: documents to records, records to a file, and back.

Runs hold records, and merging moves them. A file of TFRecord or JSON Lines is a concatenation of its records.
"""

import abc
from collections.abc import Iterator
from typing import IO

import pyarrow as pa

from curation import errors
from curation.errors import WinnowError
from pipelines.corpus.blocks import BrokenShardError
from pipelines.files import storage
from pipelines.output import tfds_metadata, tfrecords
from pipelines.sorted_runs import merging, run_files

SCHEMA = pa.schema(
  [(name, pa.string()) for name in tfrecords.TEXT_FEATURES] + [(tfrecords.SCORE_FEATURE, pa.float32())]
)
"""The columns of documents: text, url, timestamp, source, score."""


class Format(abc.ABC):
  """A format of output shards. Its bytes must depend only on the documents and their order."""

  is_tfds: bool = False
  """Whether TFDS and seqio read it; if so, shards are named as TFDS names them, and its metadata lies beside them."""

  def __init__(self, name: str):
    self.name = name

  def file_name(self, dataset: str, index: int, num_shards: int) -> str:
    """Returns the file name of an output shard, counted from 0."""
    return f"{dataset}-{tfds_metadata.SPLIT}-{index:05d}-of-{num_shards:05d}.{self.name}"

  @abc.abstractmethod
  def encode(self, documents: pa.Table) -> pa.LargeBinaryArray:
    """Encodes each document of a table with the columns of SCHEMA as a record: large_binary [N]."""

  def write(self, batches: Iterator[merging.Batch], file: IO[bytes]) -> int:
    """Writes the records of one output shard in their order; returns their number."""
    return run_files.write_records(batches, file)

  def read(self, path: str) -> Iterator[pa.Table]:
    """Yields the documents of an output shard as tables with the columns of SCHEMA; raises WinnowError on damage."""
    with storage.open_input(path) as file:
      try:
        yield from self.read_tables(file)
      except (BrokenShardError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
        raise WinnowError(f"{path} cannot be read: {errors.first_line(error)}") from error

  @abc.abstractmethod
  def read_tables(self, file: IO[bytes]) -> Iterator[pa.Table]:
    """Yields the tables of an open file; raises BrokenShardError, or an error of Arrow or of values, on damage."""
