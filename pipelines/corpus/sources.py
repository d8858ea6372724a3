"""Sources of blocks for scorers: the texts of a corpus, alone, with keys, or with external embeddings.

A source reads one shard as blocks (`blocks.Block`) whose `documents` have the columns that scorers need. All sources of
a corpus have the same borders of blocks and the same bad rows. Embeddings are a column of fixed-size binary values,
which Parquet reads six times as fast as lists of numbers. Legend: N documents, D dimensions.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import pyarrow as pa

from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import blocks, embedding_files, fixed_width
from pipelines.corpus.readers import reading
from pipelines.files import storage

KEYED_TEXT = "keyed_text"


class ChangedError(WinnowError):
  """An error for a shard that was replaced while it was read, so that its blocks may come from two different files."""


@dataclasses.dataclass(frozen=True)
class Texts:
  """A source of the documents of a corpus: row, text, url, timestamp."""

  may_change: ClassVar[bool] = True
  fields: blocks.Fields
  block_rows: int

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    """Yields the blocks of a shard.

    Raises ChangedError at the end if the file is not as it was at launch, and WinnowError if it cannot be read.
    """
    try:
      yield from reading.read_blocks(shard, self.fields, block_rows=self.block_rows, want=want)
    except WinnowError:
      self.refuse_changed(shard)
      raise
    self.refuse_changed(shard)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is as it was at launch."""
    _refuse_changed(shard.path, shard.checksum)


@dataclasses.dataclass(frozen=True)
class KeyedTexts:
  """A source of documents with a column `KEYED_TEXT` of structs: `text`, and `key`, a hash of seed and identity."""

  may_change: ClassVar[bool] = True
  texts: Texts
  purpose: str
  seed: int

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    """Yields the blocks of a shard; raises as `Texts.read` does."""
    for block in self.texts.read(shard, want):
      if isinstance(block, blocks.SkippedBlock):
        yield block
        continue
      rows_N = block.documents["row"].to_numpy()
      keys_N = hashing.hash_documents(self.purpose, self.seed, shard.name, rows_N)
      texts = block.documents["text"].combine_chunks()
      keyed = pa.StructArray.from_arrays([texts, pa.array(keys_N)], ["text", "key"])  # refers to the texts, no copy
      yield dataclasses.replace(block, documents=block.documents.append_column(KEYED_TEXT, keyed))

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is as it was at launch."""
    self.texts.refuse_changed(shard)


@dataclasses.dataclass(frozen=True)
class TextsWithEmbeddings:
  """A source of documents with an `embedding` each (float32), from one file for each shard, with the same rows."""

  may_change: ClassVar[bool] = True
  texts: Texts
  files: dict[str, embedding_files.EmbeddingFile]
  """The file of each shard, by the shard's name."""

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    """Yields the blocks of a shard.

    Raises as `Texts.read` does, for both files, and WinnowError if they do not have the same rows.
    """
    embeddings = self.files[shard.name]
    try:
      yield from self._read(shard, want, embeddings)
    except WinnowError:
      _refuse_changed(embeddings.path, embeddings.checksum)
      raise
    _refuse_changed(embeddings.path, embeddings.checksum)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless shard and embeddings are as they were at launch."""
    self.texts.refuse_changed(shard)
    _refuse_changed(self.files[shard.name].path, self.files[shard.name].checksum)

  def _read(
    self, shard: blocks.Shard, want: Callable[[int], bool], embeddings: embedding_files.EmbeddingFile
  ) -> Iterator[blocks.AnyBlock]:
    with embedding_files.opened(embeddings) as rows:
      total = 0
      for block in self.texts.read(shard, want):
        total += block.num_rows
        if total > embeddings.rows:
          break
        if isinstance(block, blocks.SkippedBlock):
          yield block
          continue
        embeddings_ND = rows(block.first_row, block.first_row + block.num_rows)
        good_N = block.documents["row"].to_numpy() - block.first_row
        documents = block.documents.append_column("embedding", fixed_width.column(embeddings_ND[good_N]))
        yield dataclasses.replace(block, documents=documents)
    if total != embeddings.rows:
      more = "at least " if total > embeddings.rows else ""
      raise WinnowError(
        f"{embeddings.path} has {embeddings.rows:,} rows, but {shard.path} has {more}{total:,}: give a file "
        "with a row for each of its records, bad ones and blank lines too"
      )


def _refuse_changed(path: str, at_launch: str) -> None:
  # Costs a metadata request on GCS; a local file is read again, at a few GB/s and mostly from the page cache.
  with contextlib.suppress(FileNotFoundError):
    if not at_launch or storage.version(path) == at_launch:
      return
  raise ChangedError(
    f"{path} changed while it was read; restore it and run the same command again, or start over with --overwrite"
  )
