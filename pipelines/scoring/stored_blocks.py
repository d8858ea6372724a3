"""Blocks of a store instead of a corpus: the input of scorers over embeddings, clusters or signatures.

The borders of blocks and the bad rows are those of the corpus that the store was made from.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, ClassVar

import pyarrow.compute as pc

from curation.errors import WinnowError
from pipelines.corpus import blocks, sources
from pipelines.files import fingerprints, row_bits, storage
from pipelines.selection.survivors import Survivors, keep_survivors
from pipelines.store import block_files, score_files
from pipelines.store.groups import Group
from pipelines.store.score_store import ScoreStore

# Fields of a request for embeddings that say nothing of what made them. One is the dtype in which they are kept.
_NOT_OF_EMBEDDER = ("format", "inputs", "fields", "block_rows", "block_text_bytes", "within", "embedding_dtype")
_COUNTING = 16  # files read at once, since each waits for a store
_BATCH_ROWS = 1 << 18


@dataclasses.dataclass(frozen=True)
class Surviving:
  """The documents of a corpus that an earlier stage has selected."""

  may_change: ClassVar[bool] = True
  source: sources.Texts | sources.KeyedTexts | sources.TextsWithEmbeddings
  survivors: Survivors

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    kept = self.survivors.kept(shard)
    for block in self.source.read(shard, want):
      yield keep_survivors(block, kept) if isinstance(block, blocks.Block) else block

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Raises ChangedError unless the shard is what it was at launch."""
    self.source.refuse_changed(shard)


@dataclasses.dataclass(frozen=True)
class StoredBlocks:
  """The blocks of a complete store that keeps them.

  Documents have row, num_tokens, domain, and `embedding`, `signature`, or `cluster` and `cosine`. Bad rows have their
  reasons. With `survivors`, the blocks hold those documents alone.
  """

  may_change: ClassVar[bool] = False  # other embeddings make another store, whose fingerprint differs
  store: ScoreStore
  survivors: Survivors | None = dataclasses.field(default=None, kw_only=True)

  def documents(self) -> int:
    """Counts the documents."""
    if self.survivors is None:
      return self.store.summary()["scored"]
    with concurrent.futures.ThreadPoolExecutor(_COUNTING) as pool:
      return sum(pool.map(self._count, self.store.shards()))

  def about_documents(self) -> int:
    """Estimates the number of documents without reading the store: survivors that are bad in it count too."""
    return self.store.summary()["scored"] if self.survivors is None else self.survivors.documents or 0

  def _count(self, shard: blocks.Shard) -> int:
    """Counts the survivors of a shard that are not bad in this store."""
    assert self.survivors is not None
    kept = self.survivors.kept(shard)
    with score_files.ScoreFile(self.store, shard) as file:
      batches = file.batches(_BATCH_ROWS)
      return sum(int(row_bits.look_up(kept, batch["row"].to_numpy()).sum()) for batch in batches)

  def fingerprint_with_engine(self) -> str:
    """Identifies what is read: the store as it was computed, and the documents that the stage before has selected."""
    store_fingerprint = self.store.fingerprint_with_engine()
    if self.survivors is None:
      return store_fingerprint
    return fingerprints.fingerprint([store_fingerprint, storage.base_name(self.survivors.folder)])

  def read(self, shard: blocks.Shard, want: Callable[[int], bool]) -> Iterator[blocks.AnyBlock]:
    summary = score_files.read_summary(self.store, shard)
    kept = None if self.survivors is None else self.survivors.kept(shard)
    for index, num_rows in enumerate(summary.block_rows):
      if want(index):
        block = self._stored(shard, summary, index)
        yield block if kept is None else keep_survivors(block, kept)
      else:
        yield blocks.SkippedBlock(index, sum(summary.block_rows[:index]), num_rows)

  def refuse_changed(self, shard: blocks.Shard) -> None:
    """Does nothing: a complete store does not change."""

  def block(self, shard: blocks.Shard, summary: score_files.ShardSummary, index: int) -> blocks.Block:
    """Returns one block. Raises DamagedError, which says what to do, if its file is damaged."""
    block = self._stored(shard, summary, index)
    return block if self.survivors is None else keep_survivors(block, self.survivors.kept(shard))

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
  """The embeddings of a complete store, in the `dtype` that they were written in."""

  dtype: str
  embedder: str = ""
  """A digest of what makes the embeddings, whatever the corpus is; empty where nobody asks for it."""

  def refuse_none(self, points: Sized) -> None:
    """Raises WinnowError if there are no points, so no embeddings to choose them from."""
    if not len(points):
      raise WinnowError(f"there are no embeddings at all: {self.store.dead_letter_folder} says why")


Source = sources.Texts | sources.KeyedTexts | sources.TextsWithEmbeddings | Surviving | StoredBlocks


def embedder_digest(request: Mapping[str, Any]) -> str:
  """Returns the digest of what makes embeddings, by their store's request or by their scorer's part of it."""
  return fingerprints.fingerprint({name: value for name, value in request.items() if name not in _NOT_OF_EMBEDDER})


def documents_of(stored: StoredBlocks, group: Group) -> int:
  """Estimates how many documents of a complete store a group has, by its share of the rows. Reads no block."""
  rows = {shard["shard"]: shard["block_rows"] for shard in stored.store.summary()["shards"]}
  shards = stored.store.shards()
  group_rows = sum(sum(rows[shards[shard].name][first:stop]) for shard, first, stop in group.parts)
  return round(stored.about_documents() * group_rows / max(1, sum(map(sum, rows.values()))))
