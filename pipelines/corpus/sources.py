"""Where a scorer's blocks come from: the texts of a corpus, maybe with their keys, embeddings that were made elsewhere,
or a store of them.

A source reads one shard as blocks (`blocks.Block`) whose `documents` have the columns that scorers ask for. Borders of
blocks and bad rows are those of the corpus in each of them. Embeddings are a column of fixed-size binary values, which
Parquet reads six times as fast as lists of numbers. Legend: N documents, D dimensions.
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
  """A shard was replaced while it was read: nobody can tell which of its blocks are of which file."""


@dataclasses.dataclass(frozen=True)
class Texts:
  """The documents of a corpus: row, text, url, timestamp."""

  may_change: ClassVar[bool] = True
  fields: blocks.Fields
  block_rows: int

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.Block]:
    """Raises ChangedError at the end if the file is not what it was at launch, WinnowError where it cannot be read."""
    try:
      yield from reading.read_blocks(shard, self.fields, block_rows=self.block_rows, want=want)
    except WinnowError:
      self.refuse_changed(shard)
      raise
    self.refuse_changed(shard)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is what it was at launch."""
    _refuse_changed(shard.path, shard.checksum)


@dataclasses.dataclass(frozen=True)
class KeyedTexts:
  """The same documents with a column `KEYED_TEXT` of structs, the `text` and its `key`: a hash of seed and identity."""

  may_change: ClassVar[bool] = True
  texts: Texts
  purpose: str
  seed: int

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.Block]:
    for block in self.texts.read(shard, want):
      if block.documents is None:
        yield block
        continue
      rows_N = block.documents["row"].to_numpy()
      keys_N = hashing.hash_documents(self.purpose, self.seed, shard.name, rows_N)
      texts = block.documents["text"].combine_chunks()
      keyed = pa.StructArray.from_arrays([texts, pa.array(keys_N)], ["text", "key"])  # holds the texts, no copy
      yield dataclasses.replace(block, documents=block.documents.append_column(KEYED_TEXT, keyed))

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is what it was at launch."""
    self.texts.refuse_changed(shard)


@dataclasses.dataclass(frozen=True)
class TextsWithEmbeddings:
  """The same documents with an `embedding` each (float32), from a file for each shard that has the shard's rows."""

  may_change: ClassVar[bool] = True
  texts: Texts
  files: dict[str, embedding_files.EmbeddingFile]
  """By the shard's name."""

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.Block]:
    """As `Texts.read`, for both files; WinnowError where they have not the same rows."""
    about = self.files[shard.name]
    try:
      yield from self._read(shard, want, about)
    except WinnowError:
      _refuse_changed(about.path, about.checksum)
      raise
    _refuse_changed(about.path, about.checksum)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless shard and embeddings are what they were at launch."""
    self.texts.refuse_changed(shard)
    _refuse_changed(self.files[shard.name].path, self.files[shard.name].checksum)

  def _read(
    self, shard: blocks.Shard, want: Callable[[int], bool], about: embedding_files.EmbeddingFile
  ) -> Iterator[blocks.Block]:
    with embedding_files.opened(about) as rows:
      total = 0
      for block in self.texts.read(shard, want):
        total += block.num_rows
        if total > about.rows:
          break
        if block.documents is None:
          yield block
          continue
        embeddings_ND = rows(block.first_row, block.first_row + block.num_rows)
        good_N = block.documents["row"].to_numpy() - block.first_row
        documents = block.documents.append_column("embedding", fixed_width.column(embeddings_ND[good_N]))
        yield dataclasses.replace(block, documents=documents)
    if total != about.rows:
      more = "at least " if total > about.rows else ""
      raise WinnowError(
        f"{about.path} has {about.rows:,} rows, but {shard.path} has {more}{total:,}: give a file with a row for each "
        "of its records, bad ones and blank lines too"
      )


def _refuse_changed(path: str, at_launch: str) -> None:
  # A look at metadata on GCS; a local file is read again, at a few GB/s and mostly from memory.
  with contextlib.suppress(FileNotFoundError):
    if not at_launch or storage.version(path) == at_launch:
      return
  raise ChangedError(
    f"{path} changed while it was read; restore it and run the same command again, or start over with --overwrite"
  )
