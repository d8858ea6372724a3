"""Where a scorer's blocks come from: the texts of a corpus, maybe with their keys, embeddings that were made elsewhere,
or a store of them.

A source reads one shard as blocks (`blocks.Block`) whose `documents` have the columns that scorers ask for. Borders of
blocks and bad rows are those of the corpus in each of them. Embeddings are a column of fixed-size binary values, which
Parquet reads six times as fast as lists of numbers. Legend: N documents, D dimensions.
"""

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from curation import hashing
from curation.errors import WinnowError
from pipelines.corpus import blocks, embedding_files, fixed_width
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, row_bits, storage
from pipelines.selection.survivors import Survivors, only
from pipelines.store import block_files, score_files
from pipelines.store.score_store import ScoreStore

KEYED_TEXT = "keyed_text"
_COUNTING = 16  # files read at once, since each waits for a store
_BATCH_ROWS = 1 << 18


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


@dataclasses.dataclass(frozen=True)
class Surviving:
  """The documents of a corpus that a stage before has selected."""

  may_change: ClassVar[bool] = True
  source: Texts | KeyedTexts
  survivors: Survivors

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.Block]:
    kept = self.survivors.kept(shard)
    for block in self.source.read(shard, want):
      yield only(block, kept)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is what it was at launch."""
    self.source.refuse_changed(shard)


@dataclasses.dataclass(frozen=True)
class StoredBlocks:
  """What a complete store that keeps its blocks holds: row, num_tokens, domain, and `embedding`, `signature`, or
  `cluster` and `cosine`; bad rows with their reasons. Of survivors alone where there are some.
  """

  may_change: ClassVar[bool] = False  # other embeddings make another store, whose fingerprint differs
  store: ScoreStore
  survivors: Survivors | None = dataclasses.field(default=None, kw_only=True)

  def documents(self) -> int:
    """How many there are."""
    if self.survivors is None:
      return self.store.summary()["scored"]
    with concurrent.futures.ThreadPoolExecutor(_COUNTING) as pool:
      return sum(pool.map(self._count, self.store.shards()))

  def about_documents(self) -> int:
    """The same without reading the store: those that survive and are bad in it count too."""
    return self.store.summary()["scored"] if self.survivors is None else self.survivors.documents or 0

  def _count(self, shard: blocks.Shard) -> int:
    """Those that survive may be bad in this store."""
    assert self.survivors is not None
    kept = self.survivors.kept(shard)
    with score_files.ScoreFile(self.store, shard) as file:
      batches = file.batches(_BATCH_ROWS)
      return sum(int(row_bits.look_up(kept, batch["row"].to_numpy()).sum()) for batch in batches)

  def fingerprint_with_engine(self) -> str:
    """Identifies what is read: the store as it was computed, and what the stage before has selected by its scores."""
    of_store = self.store.fingerprint_with_engine()
    if self.survivors is None:
      return of_store
    return fingerprints.fingerprint([of_store, storage.base_name(self.survivors.folder)])

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.Block]:
    summary = score_files.read_summary(self.store, shard)
    kept = None if self.survivors is None else self.survivors.kept(shard)
    for index, num_rows in enumerate(summary.block_rows):
      if want(index):
        block = self._stored(shard, summary, index)
        yield block if kept is None else only(block, kept)
      else:
        yield blocks.Block(index, sum(summary.block_rows[:index]), num_rows, None, None, 0, 0)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Needs nothing."""

  def block(self, shard: blocks.Shard, summary: score_files.ShardSummary, index: int) -> blocks.Block:
    """One block. Raises DamagedError that says what to do where its file is damaged."""
    block = self._stored(shard, summary, index)
    return block if self.survivors is None else only(block, self.survivors.kept(shard))

  def _stored(self, shard: blocks.Shard, summary: score_files.ShardSummary, index: int) -> blocks.Block:
    store = self.store
    with block_files.removing_damaged(store, shard, index):
      table, text_bytes, checksum = block_files.read_block(store.block_path(shard, index, summary.engine))
    is_bad = pc.is_valid(table["reason"])
    good, bad = table.filter(pc.invert(is_bad)), table.filter(is_bad)
    first_row = sum(summary.block_rows[:index])
    bad = bad.select(["row", "reason", "text"])
    return blocks.Block(index, first_row, len(table), good, bad, text_bytes, checksum)


@dataclasses.dataclass(frozen=True)
class StoredEmbeddings(StoredBlocks):
  """The embeddings of a complete store of them, in the `dtype` that they were written in."""

  dtype: str


def _refuse_changed(path: str, at_launch: str) -> None:
  # A look at metadata on GCS; a local file is read again, at a few GB/s and mostly from memory.
  with contextlib.suppress(FileNotFoundError):
    if not at_launch or storage.version(path) == at_launch:
      return
  raise ChangedError(
    f"{path} changed while it was read; restore it and run the same command again, or start over with --overwrite"
  )


Source = Texts | KeyedTexts | TextsWithEmbeddings | Surviving | StoredBlocks
