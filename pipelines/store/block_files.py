"""Block files, a store's resume log: one for each finished block, compacted into one Parquet file per finished shard.

A block file holds the scores (or embeddings) and the bad rows of its block, so that one write settles both. What is
damaged is found when a run relies on it.
"""

import concurrent.futures
import contextlib
import dataclasses
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import DamagedError, WinnowError
from pipelines.corpus import blocks
from pipelines.files import damage, sealed_parquet, storage
from pipelines.store import kinds, score_files
from pipelines.store.score_store import ScoreStore


def block_schema(*values: pa.Field) -> pa.Schema:
  """The columns of a block file whose documents have `values` each."""
  return pa.schema([kinds.ROW, *values, kinds.NUM_TOKENS, kinds.DOMAIN, ("reason", pa.string()), ("text", pa.string())])


BLOCK_SCHEMA = block_schema(kinds.SCORE_FIELD)
# Numbers that look random: compressing them takes more time than it saves, and a dictionary is of no use.
_OF_KEPT_BLOCKS: dict[str, Any] = {"compression": "none", "use_dictionary": False}
_NAMED_BAD = 3
_CHECKING = 8  # files read at once, since each waits for a disk or a store


class BlockFile(NamedTuple):
  """What a block file holds; bytes and checksum are those of `blocks.Block`."""

  table: pa.Table
  text_bytes: int
  checksum: int


def write_block(store: ScoreStore, shard: blocks.Shard, index: int, block: BlockFile, *, engine: str) -> None:
  """Makes a finished block durable: as block_schema, every row of it in order; bad rows have a reason."""
  options = _OF_KEPT_BLOCKS if store.keeps_blocks else {}
  path = store.block_path(shard, index, engine)
  with sealed_parquet.create(path, block.table.schema, **options) as writer:
    writer.write_table(block.table)
    sealed_parquet.describe(writer, {"text_bytes": block.text_bytes, "checksum": block.checksum})


def compact_shard(
  store: ScoreStore, shard: blocks.Shard, *, num_blocks: int, num_rows: int
) -> score_files.ShardSummary:
  """Joins the block files of a finished shard into its Parquet file and its dead letter, one row group per block.

  Raises WinnowError unless the blocks are all there and hold each row of the shard once. The Parquet file is written
  last: a shard that has one is finished, and its block files go.
  """
  engine = store.engine()
  ledger = _Ledger(shard.name, store.block_folder(shard, engine))
  schema = store.shard_schema
  names = [name for name in schema.names if name != "shard"]
  dictionaries = ["shard", kinds.DOMAIN.name]
  with (
    tempfile.SpooledTemporaryFile(max_size=16 << 20) as dead_letter,
    sealed_parquet.create(store.scores_path(shard), schema, must_agree=True, use_dictionary=dictionaries) as writer,
  ):
    for index in range(num_blocks):
      block = read_block(store.block_path(shard, index, engine), [*names, "reason", "text"])
      good, bad = ledger.add(block)
      shards = pa.DictionaryArray.from_arrays(pa.array([0] * len(good), pa.int32()), pa.array([shard.name]))
      writer.write_table(good.select(names).add_column(0, schema.field("shard"), shards))
      dead_letter.writelines(
        orjson.dumps({"shard": shard.name, **row}, option=orjson.OPT_APPEND_NEWLINE)
        for row in bad.select(["row", "reason", "text"]).to_pylist()
      )
    dead_letter.seek(0)
    checksum = storage.checksum_of(dead_letter)
    summary = ledger.close(num_rows, store.fingerprint_of(shard), engine=engine, dead_letter=checksum)
    sealed_parquet.describe(writer, dataclasses.asdict(summary))
    if summary.bad:
      dead_letter.seek(0)
      with storage.create_file(store.dead_letter_path(shard), must_agree=True) as target:
        shutil.copyfileobj(dead_letter, target)
  if not store.keeps_blocks:
    storage.delete_folder(store.block_folder(shard, engine))
  return summary


def sound_blocks(store: ScoreStore, shard: blocks.Shard, engine: str, holds: Callable[[int], bool]) -> dict[int, int]:
  """A shard's blocks that are on record and whole, of those that `holds` picks, and the checksums of their documents.

  Damaged ones are removed.
  """

  def checksum(index: int) -> int | None:
    path = store.block_path(shard, index, engine)
    try:
      return read_block(path, []).checksum
    except DamagedError as error:
      if storage.exists(path):  # else the shard was compacted by another run meanwhile
        damage.remove(store.folder, path, error)
      return None

  indices = sorted(filter(holds, store.finished_blocks(shard, engine)))
  # A block of embeddings may take 64 MB.
  with concurrent.futures.ThreadPoolExecutor(1 if store.keeps_blocks else _CHECKING) as pool:
    found = zip(indices, pool.map(checksum, indices), strict=True)
    return {index: of_documents for index, of_documents in found if of_documents is not None}


def sound_shard(store: ScoreStore, shard: blocks.Shard) -> score_files.ShardSummary | None:
  """The ledger of a compacted shard whose files are as they were written; None where they had to be removed.

  Its scores and dead letter are read whole. Embeddings, which stay in block files, are checked as they are used.
  """
  damaged = store.scores_path(shard)
  try:
    with score_files.ScoreFile(store, shard) as scores:
      summary = scores.check()
    if summary.bad:
      damaged = store.dead_letter_path(shard)
      try:
        if storage.checksum(damaged) != summary.dead_letter:
          raise DamagedError(f"{damaged} does not fit the checksum in {store.scores_path(shard)}")
      except FileNotFoundError as error:
        raise DamagedError(f"{damaged} is missing") from error
  except DamagedError as error:
    damage.remove(store.folder, damaged, error)
    # With the dead letter gone the shard is not whole; what is made again comes from its input.
    storage.delete([store.scores_path(shard), store.dead_letter_path(shard)])
    return None
  return summary


@contextlib.contextmanager
def removing_damaged(store: ScoreStore, shard: blocks.Shard, index: int | None = None) -> Iterator[None]:
  """What proves damaged, at a second look too, is removed, so that the command that made the store makes it again.

  `index`: of the block that is read, of a store that keeps its blocks; None: the shard's scores are read.
  """
  try:
    yield
  except DamagedError as error:
    if not store.is_mended:
      raise
    if index is None:
      is_whole = sound_shard(store, shard) is not None
    else:
      is_whole = bool(sound_blocks(store, shard, store.engine(), lambda other: other == index))
      if not is_whole:
        storage.delete([store.scores_path(shard)])
    if is_whole:
      raise
    raise DamagedError(
      f"{error}; what was damaged is removed: run the command that made {store.folder} again, which makes it again"
    ) from error


def read_block(path: str, columns: list[str] | None = None) -> BlockFile:
  """A block file, every byte of which is as written, with some of its columns (all: None).

  Raises DamagedError if it is missing or damaged.
  """
  with damage.naming_file(path):
    data = storage.read_bytes(path)
    sealed_parquet.check(io.BytesIO(data))
    with pq.ParquetFile(pa.BufferReader(data)) as parquet:
      about: dict[str, Any] = sealed_parquet.description(parquet)
      schema = parquet.schema_arrow
      values = tuple(schema.field(place) for place in range(1, schema.get_field_index(kinds.NUM_TOKENS.name)))
      if not kinds.are_known(values) or not schema.equals(block_schema(*values)):
        raise ValueError("its columns are not a block's")
      return BlockFile(parquet.read(columns), about["text_bytes"], about["checksum"])


class _Ledger:
  """Adds up the blocks of one shard, in order."""

  def __init__(self, shard: str, folder: str):
    self._advice = f"delete {folder} and run the same command again"
    self._shard, self._next_row, self._scored, self._bad, self._blank = shard, 0, 0, 0, 0
    self._block_rows: list[int] = []
    self._block_checksums: list[int] = []
    self._num_tokens: int | None = 0
    self._text_bytes = 0
    self._reasons: dict[str, int] = {}
    self._first_bad: list[str] = []

  def add(self, block: BlockFile) -> tuple[pa.Table, pa.Table]:
    """Splits a block into its scored and its bad rows, without those that are not read."""
    table = block.table
    rows = table["row"].to_numpy()
    expected = range(self._next_row, self._next_row + len(rows))
    if len(rows) and not (rows[0] == expected.start and (rows[1:] - rows[:-1] == 1).all()):
      raise WinnowError(f"the blocks of {self._shard} do not continue at row {self._next_row}; {self._advice}")
    self._next_row = expected.stop
    self._block_rows.append(len(rows))
    is_bad = pc.is_valid(table["reason"])
    good, others = table.filter(pc.invert(is_bad)), table.filter(is_bad)
    bad = others.filter(pc.invert(pc.is_in(others["reason"], pa.array(blocks.NOT_READ))))
    self._blank += pc.sum(pc.equal(others["reason"], blocks.BLANK)).as_py() or 0
    self._bad += len(bad)
    self._scored += len(good)
    self._block_checksums.append(block.checksum)
    self._text_bytes += block.text_bytes
    if good["num_tokens"].null_count:
      self._num_tokens = None
    elif self._num_tokens is not None:
      self._num_tokens += pc.sum(good["num_tokens"].cast(pa.int64())).as_py() or 0
    for count in pc.value_counts(bad["reason"]).to_pylist():
      self._reasons[count["values"]] = self._reasons.get(count["values"], 0) + count["counts"]
    for row in bad.slice(0, _NAMED_BAD - len(self._first_bad)).to_pylist():
      self._first_bad.append(f"{self._shard} row {row['row']} ({row['reason']})")
    return good, bad

  def close(self, num_rows: int, fingerprint: str, *, engine: str, dead_letter: str) -> score_files.ShardSummary:
    if self._next_row != num_rows:
      raise WinnowError(f"{self._shard} has {num_rows} rows, its blocks {self._next_row}; {self._advice}")
    return score_files.ShardSummary(
      shard=self._shard,
      block_rows=self._block_rows,
      block_checksums=self._block_checksums,
      read=self._scored + self._bad,
      scored=self._scored,
      bad=self._bad,
      num_tokens=self._num_tokens,
      text_bytes=self._text_bytes,
      reasons=dict(sorted(self._reasons.items())),
      first_bad=self._first_bad,
      fingerprint=fingerprint,
      engine=engine,
      dead_letter=dead_letter,
      blank=self._blank,
    )
