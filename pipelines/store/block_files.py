"""Block files, the resume log of a store: one for each finished block, compacted into one file for each finished shard.

A block file holds the scores (or embeddings) and the bad rows of its block, so that a single write records both.
Damaged files are detected when a run relies on them.
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
  """Returns the columns of a block file whose documents have these `values`."""
  return pa.schema([kinds.ROW, *values, kinds.NUM_TOKENS, kinds.DOMAIN, ("reason", pa.string()), ("text", pa.string())])


BLOCK_SCHEMA = block_schema(kinds.SCORE_FIELD)
# Blocks that a store keeps hold numbers that look random: compression costs more time than it saves, and a dictionary
# is useless.
_KEPT_BLOCK_OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False}
_NAMED_BAD = 3
_CHECKING = 8  # files read concurrently, since each read waits for a disk or a store


class BlockFile(NamedTuple):
  """The content of a block file; bytes and checksum are those of `blocks.Block`."""

  table: pa.Table
  text_bytes: int
  checksum: int


def write_block(store: ScoreStore, shard: blocks.Shard, index: int, block: BlockFile, *, engine: str) -> None:
  """Makes a finished block durable: a table as in `block_schema`, with every row in order; bad rows have a reason."""
  options = _KEPT_BLOCK_OPTIONS if store.keeps_blocks else {}
  path = store.block_path(shard, index, engine)
  with sealed_parquet.create(path, block.table.schema, **options) as writer:
    writer.write_table(block.table)
    sealed_parquet.describe(writer, {"text_bytes": block.text_bytes, "checksum": block.checksum})


def compact_shard(
  store: ScoreStore, shard: blocks.Shard, *, num_blocks: int, num_rows: int
) -> score_files.ShardSummary:
  """Joins the block files of a finished shard into its Parquet file and its dead letter, one row group per block.

  Raises WinnowError unless all blocks exist and hold each row of the shard exactly once. The Parquet file is written
  last, so a shard that has one is finished, and its block files are deleted.
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


def intact_blocks(store: ScoreStore, shard: blocks.Shard, engine: str, holds: Callable[[int], bool]) -> dict[int, int]:
  """Returns the checksums of documents of a shard's intact block files, by index, for the blocks that `holds` picks.

  Removes damaged block files.
  """

  def checksum(index: int) -> int | None:
    path = store.block_path(shard, index, engine)
    try:
      return read_block(path, []).checksum
    except DamagedError as error:
      if storage.exists(path):  # otherwise another run has compacted the shard meanwhile
        damage.remove(store.folder, path, error)
      return None

  indices = sorted(filter(holds, store.finished_blocks(shard, engine)))
  # A block of embeddings may take 64 MB.
  with concurrent.futures.ThreadPoolExecutor(1 if store.keeps_blocks else _CHECKING) as pool:
    checksums = zip(indices, pool.map(checksum, indices), strict=True)
    return {index: crc for index, crc in checksums if crc is not None}


def intact_shard(store: ScoreStore, shard: blocks.Shard) -> score_files.ShardSummary | None:
  """Returns the ledger of a compacted shard if its files are as written; otherwise removes them and returns None.

  Scores and dead letter are read completely. Embeddings, which stay in block files, are checked when they are used.
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
    # Without its dead letter the shard is incomplete. All of it is made again from the input.
    storage.delete([store.scores_path(shard), store.dead_letter_path(shard)])
    return None
  return summary


@contextlib.contextmanager
def removing_damaged(store: ScoreStore, shard: blocks.Shard, index: int | None = None) -> Iterator[None]:
  """Removes files that prove to be damaged, on a second check too, so that the command of the store remakes them.

  `index` is that of the block that is read, in a store that keeps its blocks; None if scores of the shard are read.
  """
  try:
    yield
  except DamagedError as error:
    if not store.removes_damaged:
      raise
    if index is None:
      is_whole = intact_shard(store, shard) is not None
    else:
      is_whole = bool(intact_blocks(store, shard, store.engine(), lambda other: other == index))
      if not is_whole:
        storage.delete([store.scores_path(shard)])
    if is_whole:
      raise
    raise DamagedError(
      f"{error}; the damaged file was removed: run the command that made {store.folder} again to remake it"
    ) from error


def read_block(path: str, columns: list[str] | None = None) -> BlockFile:
  """Reads a block file, with some of its columns (None: all).

  Raises DamagedError if it is missing, or unless every byte is as written.
  """
  with damage.naming_file(path):
    data = storage.read_bytes(path)
    sealed_parquet.check(io.BytesIO(data))
    with pq.ParquetFile(pa.BufferReader(data)) as parquet:
      description: dict[str, int] = sealed_parquet.description(parquet)
      schema = parquet.schema_arrow
      values = tuple(schema.field(place) for place in range(1, schema.get_field_index(kinds.NUM_TOKENS.name)))
      if not kinds.are_known(values) or not schema.equals(block_schema(*values)):
        raise ValueError("its columns are not a block's")
      return BlockFile(parquet.read(columns), description["text_bytes"], description["checksum"])


class _Ledger:
  """The running totals of one shard, whose blocks are added in order."""

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
    """Adds a block; returns its scored rows and its bad rows, without rows that are not read."""
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
    """Returns the totals; raises WinnowError if the blocks do not hold `num_rows` rows."""
    if self._next_row != num_rows:
      raise WinnowError(f"{self._shard} has {num_rows} rows, but its blocks have {self._next_row}; {self._advice}")
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
