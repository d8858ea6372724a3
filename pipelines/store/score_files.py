"""The file of a compacted shard: its scores, with its ledger in the footer."""

import contextlib
import dataclasses
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import damage, sealed_parquet, storage
from pipelines.store import kinds
from pipelines.store.score_store import ScoreStore

_BATCH_ROWS = 1 << 18


@dataclasses.dataclass(frozen=True)
class ShardSummary:
  """The ledger of one shard: `read` = `scored` + `bad`. `num_tokens` is None if the scorer does not count tokens.

  `block_rows` counts all rows, including blank lines and rows that an earlier stage has left out, which are not read.
  """

  shard: str
  block_rows: list[int]
  block_checksums: list[int]
  """The checksum of each block's documents, as they were scored."""
  read: int
  scored: int
  bad: int
  num_tokens: int | None
  text_bytes: int
  reasons: dict[str, int]
  first_bad: list[str]
  fingerprint: str
  engine: str
  dead_letter: str
  """The checksum of the shard's dead letter."""
  blank: int = 0
  """The number of blank lines."""

  @property
  def num_rows(self) -> int:
    return sum(self.block_rows)

  @property
  def left_out(self) -> int:
    """The number of rows that an earlier stage has not selected."""
    return self.num_rows - self.read - self.blank


def read_summary(store: ScoreStore, shard: blocks.Shard) -> ShardSummary:
  """Reads the ledger of a compacted shard from the footer of its Parquet file; raises as `ScoreFile` does."""
  with ScoreFile(store, shard) as scores:
    return scores.summary


class ScoreFile:
  """The open file of a compacted shard, a context manager; pages are checked against their checksums.

  Raises WinnowError with the path if the file belongs to another request, and DamagedError if it is missing or damaged.
  """

  def __init__(self, store: ScoreStore, shard: blocks.Shard):
    self._path = store.scores_path(shard)
    with self._naming_file():
      self._file = storage.open_input(self._path)
    try:
      with self._naming_file():
        self._parquet = pq.ParquetFile(self._file, page_checksum_verification=True)
        schema = self._parquet.schema_arrow
        # Without the dictionary column, since Arrow chooses the type of its indices when it reads.
        if schema.names != store.shard_schema.names or schema.remove(0) != store.shard_schema.remove(0):
          raise ValueError("its columns are not a shard's")
        self._columns = schema.names[1:-1]
        self.summary = ShardSummary(**sealed_parquet.description(self._parquet))
      if self.summary.fingerprint != store.fingerprint_of(shard):
        raise WinnowError(
          f"{self._path} holds scores of another request: another run has written there; make sure that it has ended, "
          "and run winnow score again with --overwrite"
        )
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> "ScoreFile":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def block(self, index: int, *, domains: bool = False) -> pa.Table:
    """Reads the scored documents of a block: `row`, `score` (if the store has scores), `num_tokens`, maybe `domain`."""
    with self._naming_file():
      return self._parquet.read_row_group(index, columns=self._names(domains))

  def refuse_other_documents(self, shard: blocks.Shard, block: blocks.Block) -> None:
    """Raises WinnowError unless a block of the input holds the documents that were scored."""
    if self.summary.block_checksums[block.index : block.index + 1] != [block.checksum]:
      raise WinnowError(
        f"{shard.path}, block {block.index}: its documents are not those that were scored, so the file has changed; "
        f"restore it, or delete {self._path} and score it again"
      )

  def check_seal(self) -> None:
    """Reads the whole file; raises DamagedError unless every byte is as written."""
    with self._naming_file():
      sealed_parquet.check(self._file)

  def batches(self, rows: int, *, domains: bool = False) -> Iterator[pa.RecordBatch]:
    """Yields the columns of `block` for the whole shard, at most `rows` documents at a time."""
    batches = self._parquet.iter_batches(rows, columns=self._names(domains))
    seen = 0
    while True:
      with self._naming_file():
        batch = next(batches, None)
        # A flipped bit outside of the pages may make a column look shorter.
        if batch is None and seen != self.summary.scored:
          raise ValueError(f"it has {seen:,} of {self.summary.scored:,} rows")
      if batch is None:
        return
      seen += batch.num_rows
      yield batch

  def check(self) -> ShardSummary:
    """Reads the whole file; raises DamagedError unless every byte is as written and the rows fit the ledger."""
    scored, num_tokens = 0, 0
    self.check_seal()
    for batch in self.batches(_BATCH_ROWS):
      scored += batch.num_rows
      num_tokens += pc.sum(batch["num_tokens"].cast(pa.int64())).as_py() or 0
    with self._naming_file():
      if (scored, num_tokens) != (self.summary.scored, self.summary.num_tokens or 0):
        raise ValueError("its rows are not those of its ledger")
    return self.summary

  def _names(self, domains: bool) -> list[str]:
    return [*self._columns, *([kinds.DOMAIN.name] if domains else [])]

  def _naming_file(self) -> contextlib.AbstractContextManager[None]:
    return damage.naming_file(self._path)
