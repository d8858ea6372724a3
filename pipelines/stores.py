"""The score store: one durable file per finished block, compacted into one Parquet file per finished shard.

A store of embeddings is one too: its block files stay, since nothing is gained by moving what is large, and its shards'
files hold no scores.

SCORES/<name>/request.json                 what the store belongs to, written first
              engine.json                  how its scores are computed, written by the first worker
              blocks/<shard>-<fingerprint>/00000000.parquet  the resume log
              shards/<shard>.parquet       shard, row, score, num_tokens of every scored document
              dead_letter/<shard>.jsonl    shard, row, reason, text of every bad one
              summary.json                 the ledger, written last: the store is complete
              sketch/                      what `sketching` makes from embeddings, for density scores

Scores of a shard carry fingerprints of what was asked about it and of the engine that answered: in the name of the
folder of its blocks, in the footer of its Parquet file, in the ledger. So a run of another request that still writes
into the store is never taken for this one's, and where one input file changes, the scores of the others stay good.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import WinnowError
from pipelines import blocks, requests, storage

SCORE, EMBEDDING = "score", "embedding"
EMBED = "embed"  # the scorer of stores that keep embeddings
_NUM_TOKENS = pa.field("num_tokens", pa.int32())
_SHARD = pa.field("shard", pa.dictionary(pa.int32(), pa.string()))
_ROW = pa.field("row", pa.int64())


def block_schema(value: pa.Field) -> pa.Schema:
  """The columns of a block file whose documents have `value` each."""
  return pa.schema([_ROW, value, _NUM_TOKENS, ("reason", pa.string()), ("text", pa.string())])


BLOCK_SCHEMA = block_schema(pa.field(SCORE, pa.float32()))
INPUT_FILE = "input.json"
SKETCH_FOLDER = "sketch"
_METADATA_KEY = b"winnow"
_PARQUET = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}
# Numbers that look random: compressing them takes more time than it saves, and a dictionary is of no use.
_EMBEDDINGS_PARQUET = _PARQUET | {"compression": "none", "use_dictionary": False}
_NAMED_BAD = 3
_BLOCK_FILE = re.compile(r"(\d{8})\.parquet")


@dataclasses.dataclass(frozen=True)
class ShardSummary:
  """The ledger of one shard: `read` = `scored` + `bad`. `num_tokens` is None where the scorer counts none."""

  shard: str
  block_rows: list[int]
  read: int
  scored: int
  bad: int
  num_tokens: int | None
  text_bytes: int
  reasons: dict[str, int]
  first_bad: list[str]
  fingerprint: str
  engine: str


class Ledger(NamedTuple):
  """A complete store's figures that selection needs: scored documents, their tokens (None: not counted) and bytes."""

  documents: int
  num_tokens: int | None
  text_bytes: int


@dataclasses.dataclass(frozen=True)
class ScoreStore:
  """Where the parts of one store lie, and whose they are: fingerprints of its request, with and without the inputs."""

  folder: str
  fingerprint: str
  method: str
  keeps_blocks: bool = False
  """Of embeddings: they stay in the files of their blocks."""

  @classmethod
  def of(cls, folder: str, request: dict[str, Any]) -> "ScoreStore":
    method = {key: value for key, value in request.items() if key != "inputs"}
    keeps_blocks = request.get("scorer") == EMBED
    return cls(folder, requests.fingerprint(request), requests.fingerprint(method), keeps_blocks)

  @property
  def request_path(self) -> str:
    return storage.join(self.folder, requests.REQUEST_FILE)

  @property
  def engine_path(self) -> str:
    return storage.join(self.folder, requests.ENGINE_FILE)

  @property
  def summary_path(self) -> str:
    return storage.join(self.folder, "summary.json")

  @property
  def blocks_folder(self) -> str:
    return storage.join(self.folder, "blocks")

  @property
  def shards_folder(self) -> str:
    return storage.join(self.folder, "shards")

  @property
  def sketch_folder(self) -> str:
    return storage.join(self.folder, SKETCH_FOLDER)

  def fingerprint_of(self, shard: blocks.Shard) -> str:
    """Identifies what is asked about one shard."""
    return requests.fingerprint([self.method, shard.identity()])

  def engine(self) -> str:
    """The fingerprint of how scores are computed; of nothing where no worker has said so yet, or not readably."""
    return requests.fingerprint(requests.readable(self.engine_path))

  def block_folder(self, shard: blocks.Shard, engine: str) -> str:
    name = requests.fingerprint([self.fingerprint_of(shard), engine])[:16]
    return storage.join(self.blocks_folder, f"{shard.name}-{name}")

  def block_path(self, shard: blocks.Shard, index: int, engine: str) -> str:
    return storage.join(self.block_folder(shard, engine), f"{index:08d}.parquet")

  def scores_path(self, shard: blocks.Shard) -> str:
    return storage.join(self.shards_folder, f"{shard.name}.parquet")

  def dead_letter_path(self, shard: blocks.Shard) -> str:
    return storage.join(self.folder, "dead_letter", f"{shard.name}.jsonl")

  def finished_blocks(self, shard: blocks.Shard, engine: str) -> frozenset[int]:
    """Indices of the blocks of a shard that are on record: one listing."""
    names = storage.list_folder(self.block_folder(shard, engine))
    return frozenset(int(found[1]) for found in map(_BLOCK_FILE.fullmatch, names) if found)

  def finished(self, shards: Iterable[blocks.Shard]) -> list[blocks.Shard]:
    """Those of the shards that are compacted: one listing."""
    names = storage.list_folder(self.shards_folder)
    return [shard for shard in shards if f"{shard.name}.parquet" in names]

  @property
  def is_complete(self) -> bool:
    summary = requests.readable(self.summary_path)
    return isinstance(summary, dict) and (summary.get("fingerprint"), summary.get("engine")) == (
      self.fingerprint,
      self.engine(),
    )

  @property
  def has_scores(self) -> bool:
    return storage.exists(self.summary_path) or bool(storage.list_folder(self.shards_folder))

  def clear(self) -> None:
    """Removes what the store holds, the summary first, the request last: what is left is of that request."""
    storage.delete([self.summary_path])
    for folder in ("blocks", "shards", "dead_letter", SKETCH_FOLDER):
      storage.delete_folder(storage.join(self.folder, folder))
    storage.delete([storage.join(self.folder, INPUT_FILE), self.engine_path, self.request_path])

  def clear_others(self, shards: Iterable[blocks.Shard], *, keep_engine: bool) -> None:
    """Removes all but the scores of shards that this request asks for as they are now, by the engine of the store.

    `keep_engine` False: the engine is another from now on, so that none stay. What is left at any moment is consistent:
    the summary goes first, if there is anything to remove, and the request last. Block files of others need not be
    looked for: their folders have other names, and go when the store is complete.
    """
    engine = self.engine()
    keep_engine &= requests.field(self.engine_path, "method") == self.method
    wanted = {f"{shard.name}.parquet": shard for shard in shards}

    def is_ours(name: str) -> bool:
      try:
        return keep_engine and name in wanted and read_summary(self, wanted[name]).engine == engine
      except storage.AccessError:
        raise
      except WinnowError:
        return False

    names = sorted(storage.list_folder(self.shards_folder))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      kept = {name for name, ours in zip(names, pool.map(is_ours, names), strict=True) if ours}
    if not self.is_complete or not wanted.keys() <= kept:
      storage.delete([self.summary_path])
    letters = storage.join(self.folder, "dead_letter")
    of_kept = {f"{name.removesuffix('.parquet')}.jsonl" for name in kept}
    storage.delete([storage.join(letters, name) for name in storage.list_folder(letters) if name not in of_kept])
    storage.delete([storage.join(self.shards_folder, name) for name in names if name not in kept])
    is_ours_still = requests.holds(self.request_path, self.fingerprint)
    # What is there of a run of our own that had no scores yet may go on: `sketching` looks whose it is.
    if not is_ours_still or (not keep_engine and storage.exists(self.engine_path)):
      storage.delete_folder(self.sketch_folder)
    if not keep_engine:
      storage.delete([self.engine_path])
    if not is_ours_still:
      storage.delete([storage.join(self.folder, INPUT_FILE), self.request_path])

  def tidy(self, shards: Iterable[blocks.Shard]) -> None:
    """Removes the block files that a complete store no longer needs: all, or other requests' where it keeps its own."""
    if not self.keeps_blocks:
      storage.delete_folder(self.blocks_folder)
      storage.delete_folder(storage.join(self.sketch_folder, "work"))
      return
    engine = self.engine()
    wanted = {self.block_folder(shard, engine) for shard in shards}
    found = storage.match(storage.join(storage.escape(self.blocks_folder), "*", "*.parquet"))
    for folder in sorted({path.rsplit("/", 1)[0] for path, _ in found} - wanted):
      storage.delete_folder(folder)

  def ledger(self) -> Ledger:
    """Reads the summary of a complete store; WinnowError if it is not complete, or another request's."""
    summary = requests.read_json(self.summary_path)
    if summary["fingerprint"] != self.fingerprint:
      raise WinnowError(f"{self.summary_path} is of another request; run winnow score again with --overwrite")
    return Ledger(summary["scored"], summary["num_tokens"], summary["text_bytes"])

  def fingerprint_with_engine(self) -> str:
    """Identifies the scores: what was asked for, and how it was computed."""
    return requests.fingerprint([self.fingerprint, requests.read_json(self.engine_path)])


def write_block(
  store: ScoreStore, shard: blocks.Shard, index: int, *, engine: str, table: pa.Table, text_bytes: int
) -> None:
  """Makes a finished block durable. `table`: block_schema, every row of the block in order; bad ones have a reason."""
  with (
    storage.create_file(store.block_path(shard, index, engine)) as file,
    pq.ParquetWriter(file, table.schema, **(_EMBEDDINGS_PARQUET if store.keeps_blocks else _PARQUET)) as writer,
  ):
    writer.write_table(table)
    writer.add_key_value_metadata({_METADATA_KEY: orjson.dumps({"text_bytes": text_bytes})})


def compact_shard(store: ScoreStore, shard: blocks.Shard, *, num_blocks: int, num_rows: int) -> ShardSummary:
  """Joins the block files of a finished shard into its Parquet file and its dead letter, one row group per block.

  Raises WinnowError unless the blocks are all there and hold each row of the shard once. The Parquet file is written
  last: a shard that has one is finished, and its block files go.
  """
  engine = store.engine()
  ledger = _Ledger(shard.name, store.block_folder(shard, engine))
  values = [] if store.keeps_blocks else [pa.field(SCORE, pa.float32())]
  columns = [_ROW, *values, _NUM_TOKENS]
  names = [column.name for column in columns]
  with (
    tempfile.SpooledTemporaryFile(max_size=16 << 20) as dead_letter,
    storage.create_file(store.scores_path(shard), must_agree=True) as file,
    pq.ParquetWriter(file, pa.schema([_SHARD, *columns]), use_dictionary=["shard"], **_PARQUET) as writer,
  ):
    for index in range(num_blocks):
      table, text_bytes = read_block(store.block_path(shard, index, engine), [*names, "reason", "text"])
      good, bad = ledger.add(table, text_bytes)
      shards = pa.DictionaryArray.from_arrays(pa.array([0] * len(good), pa.int32()), pa.array([shard.name]))
      writer.write_table(good.select(names).add_column(0, _SHARD, shards))
      dead_letter.writelines(
        orjson.dumps({"shard": shard.name, **row}, option=orjson.OPT_APPEND_NEWLINE)
        for row in bad.select(["row", "reason", "text"]).to_pylist()
      )
    summary = ledger.close(num_rows, store.fingerprint_of(shard), engine)
    writer.add_key_value_metadata({_METADATA_KEY: orjson.dumps(dataclasses.asdict(summary))})
    if summary.bad:
      dead_letter.seek(0)
      with storage.create_file(store.dead_letter_path(shard), must_agree=True) as target:
        shutil.copyfileobj(dead_letter, target)
  if not store.keeps_blocks:
    storage.delete_folder(store.block_folder(shard, engine))
  return summary


def read_summary(store: ScoreStore, shard: blocks.Shard) -> ShardSummary:
  """The ledger of a compacted shard, from the footer of its Parquet file."""
  with ScoreFile(store, shard) as scores:
    return scores.summary


class ScoreFile:
  """The scores of a compacted shard, a context manager; pages are checked against their checksums.

  Raises WinnowError that names the file where it is missing, damaged, or of another request.
  """

  def __init__(self, store: ScoreStore, shard: blocks.Shard):
    self._path, self._advice = store.scores_path(shard), f"delete it and {store.summary_path}"
    with self._told():
      self._file = storage.open_input(self._path)
    try:
      with self._told():
        self._parquet = pq.ParquetFile(self._file, page_checksum_verification=True)
        self._columns = [name for name in self._parquet.schema_arrow.names if name != "shard"]
        self.summary = ShardSummary(**orjson.loads(self._parquet.metadata.metadata[_METADATA_KEY]))
      if self.summary.fingerprint != store.fingerprint_of(shard):
        raise WinnowError(
          f"{self._path} holds scores of another request: another run has written there; see that it has ended, and "
          "run winnow score again with --overwrite"
        )
    except WinnowError:
      self._file.close()
      raise

  def __enter__(self) -> "ScoreFile":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def block(self, index: int) -> pa.Table:
    """`row`, `score` (if the store has scores), `num_tokens` of the scored documents of one block."""
    with self._told():
      return self._parquet.read_row_group(index, columns=self._columns)

  def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
    """The same columns of the whole shard, at most `rows` documents at a time."""
    batches = self._parquet.iter_batches(rows, columns=self._columns)
    while True:
      with self._told():
        batch = next(batches, None)
      if batch is None:
        return
      yield batch

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    try:
      yield
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
      if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):  # Arrow's own have no number
        raise storage.AccessError(f"cannot read {self._path}: {error.strerror}") from error
      cause = str(error).splitlines()[0] if str(error) else type(error).__name__
      raise WinnowError(
        f"{self._path} is missing or damaged ({cause}); {self._advice}, and run winnow score again: the scores of "
        "other shards stay"
      ) from error


class _Ledger:
  """Adds up the blocks of one shard, in order."""

  def __init__(self, shard: str, folder: str):
    self._advice = f"delete {folder} and run the same command again"
    self._shard, self._next_row, self._scored = shard, 0, 0
    self._block_rows: list[int] = []
    self._num_tokens: int | None = 0
    self._text_bytes = 0
    self._reasons: dict[str, int] = {}
    self._first_bad: list[str] = []

  def add(self, table: pa.Table, text_bytes: int) -> tuple[pa.Table, pa.Table]:
    """Splits a block into its scored and its bad rows."""
    rows = table["row"].to_numpy()
    expected = range(self._next_row, self._next_row + len(rows))
    if len(rows) and not (rows[0] == expected.start and (rows[1:] - rows[:-1] == 1).all()):
      raise WinnowError(f"the blocks of {self._shard} do not continue at row {self._next_row}; {self._advice}")
    self._next_row = expected.stop
    self._block_rows.append(len(rows))
    is_bad = pc.is_valid(table["reason"])
    good, bad = table.filter(pc.invert(is_bad)), table.filter(is_bad)
    self._scored += len(good)
    self._text_bytes += text_bytes
    if good["num_tokens"].null_count:
      self._num_tokens = None
    elif self._num_tokens is not None:
      self._num_tokens += pc.sum(good["num_tokens"].cast(pa.int64())).as_py() or 0
    for count in pc.value_counts(bad["reason"]).to_pylist():
      self._reasons[count["values"]] = self._reasons.get(count["values"], 0) + count["counts"]
    for row in bad.slice(0, _NAMED_BAD - len(self._first_bad)).to_pylist():
      self._first_bad.append(f"{self._shard} row {row['row']} ({row['reason']})")
    return good, bad

  def close(self, num_rows: int, fingerprint: str, engine: str) -> ShardSummary:
    if self._next_row != num_rows:
      raise WinnowError(f"{self._shard} has {num_rows} rows, its blocks {self._next_row}; {self._advice}")
    return ShardSummary(
      shard=self._shard,
      block_rows=self._block_rows,
      read=num_rows,
      scored=self._scored,
      bad=num_rows - self._scored,
      num_tokens=self._num_tokens,
      text_bytes=self._text_bytes,
      reasons=dict(sorted(self._reasons.items())),
      first_bad=self._first_bad,
      fingerprint=fingerprint,
      engine=engine,
    )


def read_block(path: str, columns: list[str] | None = None, *, also: str = "") -> tuple[pa.Table, int]:
  """The columns of a block file (all: None), and the bytes of its texts.

  Raises WinnowError if it is missing or damaged; `also` names what has to be deleted with it.
  """
  try:
    with storage.open_input(path) as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
      metadata: dict[str, Any] = orjson.loads(parquet.metadata.metadata[_METADATA_KEY])
      return parquet.read(columns), metadata["text_bytes"]
  except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
    raise WinnowError(
      f"{path} is missing or damaged ({error}); delete it{also} and run the same command again"
    ) from error
