"""The score store: one durable file per finished block, compacted into one Parquet file per finished shard.

A store of embeddings is one too: its block files stay, since nothing is gained by moving what is large, and its shards'
files hold no scores. So is a clustering, whose documents have `cluster` and `cosine` in place of a score, in both kinds
of files: other scorers read it block by block beside the embeddings; and so are the signatures of MinHash.

<shard> is `blocks.Shard.file_name`.

SCORES/<name>/request.json                 what the store belongs to, written first
              input.json                   where its input and its model were
              engine.json                  how its scores are computed, written by the first worker
              blocks/<shard>-<fingerprint>/00000000.parquet  the resume log
              shards/<shard>.parquet       shard, row, score, num_tokens, domain of every scored document
              dead_letter/<shard>.jsonl    shard, row, reason, text of every bad one
              summary.json                 the ledger, written last: the store is complete
              sketch/                      what `sketching` makes from embeddings, for density scores
              centroids/                   what `clustering` makes from embeddings, for a clustering
              joined/                      what `joining` makes from signatures, for MinHash scores
              selected/                    what `survivors` selects from scores, for the next stage of a recipe
              split.json                   of SemDeDup scores: which giant clusters `splitting` has split, if any
              compared/                    what `comparing` makes for them, until the store is complete

Scores of a shard carry fingerprints of what was asked about it and of the engine that answered: in the name of the
folder of its blocks, in the footer of its Parquet file, in the ledger. So a run of another request that still writes
into the store is never taken for this one's, and where one input file changes, the scores of the others stay good.
"""

import concurrent.futures
import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.errors import WinnowError
from pipelines.corpus import blocks, shard_names
from pipelines.files import damage, fingerprints, sealed_parquet, storage

SCORE, EMBEDDING, SIGNATURE = "score", "embedding", "signature"
EMBED, CLUSTER, SIGN = "embed", "cluster", "sign"  # the scorers of stores that keep blocks, and what these are of
KEEPING_BLOCKS = {EMBED: "embeddings", CLUSTER: "clusters", SIGN: "signatures"}
COUNT = "count"  # the scorer of stores whose documents are only counted
FORMAT = 6  # of stores; of another one nothing is read, lest what is only older be taken for damaged
ROW = pa.field("row", pa.int64())
SCORE_FIELD = pa.field(SCORE, pa.float32())
CLUSTER_FIELDS = (pa.field("cluster", pa.int32()), pa.field("cosine", pa.float32()))
NUM_TOKENS = pa.field("num_tokens", pa.int32())
DOMAIN = pa.field("domain", pa.string())
_SHARD = pa.field("shard", pa.dictionary(pa.int32(), pa.string()))
INPUT_FILE, SPLIT_FILE = "input.json", "split.json"
MADE_WITH = "made_with"  # a field of INPUT_FILE: the names of models and embeddings, of which the request has checksums
SKETCH_FOLDER, CENTROIDS_FOLDER, JOINED_FOLDER = "sketch", "centroids", "joined"
SELECTED_FOLDER, COMPARED_FOLDER = "selected", "compared"
WORK_FOLDER = "work"  # in some of these
_MADE_FOLDERS = (SKETCH_FOLDER, CENTROIDS_FOLDER, JOINED_FOLDER, SELECTED_FOLDER, COMPARED_FOLDER)
_BATCH_ROWS = 1 << 18
_COUNTS = {"read": int, "scored": int, "bad": int, "num_tokens": int | None, "text_bytes": int, "reasons": dict}
_LEDGER = _COUNTS | {"fingerprint": str, "engine": str, "shards": list}
_LEDGER_OF_SHARD = _COUNTS | {"shard": str, "block_rows": list}
_BLOCK_FILE = re.compile(r"(\d{8})\.parquet")


@dataclasses.dataclass(frozen=True)
class ShardSummary:
  """The ledger of one shard: `read` = `scored` + `bad`. `num_tokens` is None where the scorer counts none.

  `block_rows` counts all rows: also blank lines, and rows that a stage before has left out, which are not read.
  """

  shard: str
  block_rows: list[int]
  block_checksums: list[int]
  """Of their documents, as they were scored."""
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
  """The checksum of its dead letter."""
  blank: int = 0
  """Blank lines."""

  @property
  def num_rows(self) -> int:
    return sum(self.block_rows)

  @property
  def left_out(self) -> int:
    """Rows that a stage before has not selected."""
    return self.num_rows - self.read - self.blank


class OtherFormatError(WinnowError):
  """A store was made by another version of Winnow."""


class Ledger(NamedTuple):
  """A complete store's figures that selection needs: scored documents, their tokens (None: not counted) and bytes."""

  documents: int
  num_tokens: int | None
  text_bytes: int
  within: int | None = None
  """Documents within their groups' quotas; None: there are none, or they are not settled."""


@dataclasses.dataclass(frozen=True)
class ScoreStore:
  """Where the parts of one store lie, and whose they are: fingerprints of its request, with and without the inputs."""

  folder: str
  fingerprint: str
  method: str
  scorer: str
  is_mended: bool = True
  """What proves damaged is removed, to be made again; False where a store is only looked at."""

  @classmethod
  def at(cls, folder: str) -> "ScoreStore | None":
    """The store whose folder this is; None where it is none's. Raises OtherFormatError."""
    path = storage.join(folder, fingerprints.REQUEST_FILE)
    request = fingerprints.readable(path)
    if not isinstance(request, dict):
      return None
    if request.get("format") != FORMAT:
      raise OtherFormatError(
        f"{path} is of format {request.get('format')!r}, and this version of Winnow reads {FORMAT}: use the version "
        "that made the store, or make it again under another name"
      )
    return cls.of(folder, request)

  @property
  def keeps_blocks(self) -> bool:
    """Embeddings, clusters and signatures stay in the files of their blocks."""
    return self.scorer in KEEPING_BLOCKS

  @classmethod
  def of(cls, folder: str, request: dict[str, Any]) -> "ScoreStore":
    method = {key: value for key, value in request.items() if key != "inputs"}
    return cls(folder, fingerprints.fingerprint(request), fingerprints.fingerprint(method), str(request.get("scorer")))

  @property
  def holds(self) -> str:
    """What it is a store of, in the plural."""
    return KEEPING_BLOCKS.get(self.scorer, "scores")

  @property
  def request_path(self) -> str:
    return storage.join(self.folder, fingerprints.REQUEST_FILE)

  @property
  def engine_path(self) -> str:
    return storage.join(self.folder, fingerprints.ENGINE_FILE)

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

  @property
  def centroids_folder(self) -> str:
    return storage.join(self.folder, CENTROIDS_FOLDER)

  @property
  def joined_folder(self) -> str:
    return storage.join(self.folder, JOINED_FOLDER)

  @property
  def selected_folder(self) -> str:
    return storage.join(self.folder, SELECTED_FOLDER)

  @property
  def shard_schema(self) -> pa.Schema:
    """The columns of a shard's Parquet file."""
    values = {EMBED: (), SIGN: (), CLUSTER: CLUSTER_FIELDS}.get(self.scorer, (SCORE_FIELD,))
    return pa.schema([_SHARD, ROW, *values, NUM_TOKENS, DOMAIN])

  def shards(self) -> tuple[blocks.Shard, ...]:
    """The shards that the store is of, by its request alone: their files need not be there, nor where they were."""
    request = fingerprints.read_json(self.request_path)
    entries = request.get("inputs") if isinstance(request, dict) else None
    fields = {"name": str, "bytes": int, "checksum": str}
    if not isinstance(entries, list) or not all(_has(entry, fields) for entry in entries):
      raise WinnowError(f"{self.request_path} is damaged: it names no inputs; restore it, or start over: --overwrite")
    shards = tuple(blocks.Shard(entry["name"], "", "", "", entry["bytes"], entry["checksum"]) for entry in entries)
    for shard in shards:
      if not shard_names.is_name(shard.name):
        raise WinnowError(f"{self.request_path} names the shard {shard.name!r}, which is no file's name; restore it")
    return shards

  def fingerprint_of(self, shard: blocks.Shard) -> str:
    """Identifies what is asked about one shard."""
    return fingerprints.fingerprint([self.method, shard.identity()])

  def engine(self) -> str:
    """The fingerprint of how scores are computed; of nothing where no worker has said so yet, or not readably."""
    return fingerprints.fingerprint(fingerprints.readable(self.engine_path))

  def block_folder(self, shard: blocks.Shard, engine: str) -> str:
    name = fingerprints.fingerprint([self.fingerprint_of(shard), engine])[:16]
    return storage.join(self.blocks_folder, f"{shard.file_name}-{name}")

  def block_path(self, shard: blocks.Shard, index: int, engine: str) -> str:
    return storage.join(self.block_folder(shard, engine), f"{index:08d}.parquet")

  def scores_path(self, shard: blocks.Shard) -> str:
    return storage.join(self.shards_folder, f"{shard.file_name}.parquet")

  def dead_letter_path(self, shard: blocks.Shard) -> str:
    return storage.join(self.folder, "dead_letter", f"{shard.file_name}.jsonl")

  def finished_blocks(self, shard: blocks.Shard, engine: str) -> frozenset[int]:
    """Indices of the blocks of a shard that are on record: one listing."""
    names = storage.list_names(self.block_folder(shard, engine))
    return frozenset(int(found[1]) for found in map(_BLOCK_FILE.fullmatch, names) if found)

  def finished(self, shards: Iterable[blocks.Shard]) -> list[blocks.Shard]:
    """Those of the shards that are compacted: one listing."""
    names = storage.list_names(self.shards_folder)
    return [shard for shard in shards if f"{shard.file_name}.parquet" in names]

  def readable_summary(self) -> dict[str, Any] | None:
    """The ledger of a complete store, as `sealing.seal` wrote it; None where it is missing or damaged."""
    summary = fingerprints.read_sealed(self.summary_path)
    if summary is None or not _has(summary, _LEDGER):
      return None
    if not all(_has(shard, _LEDGER_OF_SHARD) for shard in summary["shards"]):
      return None
    return summary

  def summary(self) -> dict[str, Any]:
    """The same, or WinnowError."""
    summary = self.readable_summary()
    if summary is None:
      raise WinnowError(
        f"{self.summary_path} is missing or damaged: the store is incomplete; run its command again to finish it"
      )
    return summary

  @property
  def is_complete(self) -> bool:
    """Every shard is there, and the ledger is this request's. A shard that is removed is thus made again, alone."""
    summary = self.readable_summary()
    if summary is None:
      return False
    names = {f"{shard_names.file_name(shard['shard'])}.parquet" for shard in summary["shards"]}
    is_ours = (summary["fingerprint"], summary["engine"]) == (self.fingerprint, self.engine())
    return is_ours and names <= storage.list_names(self.shards_folder)

  @property
  def has_scores(self) -> bool:
    return storage.exists(self.summary_path) or bool(storage.list_names(self.shards_folder))

  def ledger(self) -> Ledger:
    """Reads the figures of a complete store; WinnowError if it is not complete, or another request's."""
    summary = self.summary()
    if summary["fingerprint"] != self.fingerprint:
      raise WinnowError(f"{self.summary_path} is of another request; run winnow score again with --overwrite")
    return Ledger(summary["scored"], summary["num_tokens"], summary["text_bytes"])

  def fingerprint_with_engine(self) -> str:
    """Identifies the scores: what was asked for, and how it was computed."""
    return fingerprints.fingerprint([self.fingerprint, fingerprints.read_json(self.engine_path)])


def _has(value: Any, fields: Mapping[str, Any]) -> bool:
  """Tells whether a JSON value is an object with these fields, of these types; a bool is no number."""
  return isinstance(value, dict) and all(
    isinstance(value.get(name), kind) and not isinstance(value.get(name), bool) for name, kind in fields.items()
  )


def read_summary(store: ScoreStore, shard: blocks.Shard) -> ShardSummary:
  """The ledger of a compacted shard, from the footer of its Parquet file."""
  with ScoreFile(store, shard) as scores:
    return scores.summary


class ScoreFile:
  """The scores of a compacted shard, a context manager; pages are checked against their checksums.

  Raises WinnowError that names the file where it is of another request, DamagedError where it is missing or damaged.
  """

  def __init__(self, store: ScoreStore, shard: blocks.Shard):
    self._path = store.scores_path(shard)
    with self._told():
      self._file = storage.open_input(self._path)
    try:
      with self._told():
        self._parquet = pq.ParquetFile(self._file, page_checksum_verification=True)
        found = self._parquet.schema_arrow
        # How a dictionary is indexed is for Arrow to choose as it reads.
        if found.names != store.shard_schema.names or found.remove(0) != store.shard_schema.remove(0):
          raise ValueError("its columns are not a shard's")
        self._columns = found.names[1:-1]
        self.summary = ShardSummary(**sealed_parquet.description(self._parquet))
      if self.summary.fingerprint != store.fingerprint_of(shard):
        raise WinnowError(
          f"{self._path} holds scores of another request: another run has written there; see that it has ended, and "
          "run winnow score again with --overwrite"
        )
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> "ScoreFile":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def block(self, index: int, *, domains: bool = False) -> pa.Table:
    """`row`, `score` (if the store has scores), `num_tokens` of a block's scored documents; `domain` if need be."""
    with self._told():
      return self._parquet.read_row_group(index, columns=self._names(domains))

  def check_seal(self) -> None:
    """Reads the whole file; DamagedError unless every byte is as written."""
    with self._told():
      sealed_parquet.check(self._file)

  def batches(self, rows: int, *, domains: bool = False) -> Iterator[pa.RecordBatch]:
    """The same columns of the whole shard, and `domain` if need be, at most `rows` documents at a time."""
    batches = self._parquet.iter_batches(rows, columns=self._names(domains))
    seen = 0
    while True:
      with self._told():
        batch = next(batches, None)
        # A bit that is turned outside of the pages may make a column seem shorter.
        if batch is None and seen != self.summary.scored:
          raise ValueError(f"it has {seen:,} of {self.summary.scored:,} rows")
      if batch is None:
        return
      seen += batch.num_rows
      yield batch

  def check(self) -> ShardSummary:
    """Reads the whole file; DamagedError unless every byte is as written and it holds what its ledger says."""
    scored, num_tokens = 0, 0
    self.check_seal()
    for batch in self.batches(_BATCH_ROWS):
      scored += batch.num_rows
      num_tokens += pc.sum(batch["num_tokens"].cast(pa.int64())).as_py() or 0
    with self._told():
      if (scored, num_tokens) != (self.summary.scored, self.summary.num_tokens or 0):
        raise ValueError("its rows are not those of its ledger")
    return self.summary

  def _names(self, domains: bool) -> list[str]:
    return [*self._columns, *([DOMAIN.name] if domains else [])]

  def _told(self) -> contextlib.AbstractContextManager[None]:
    return damage.told(self._path)


def clear(store: ScoreStore) -> None:
  """Removes what the store holds, the summary first, the request last: what is left is of that request."""
  storage.delete([store.summary_path, storage.join(store.folder, SPLIT_FILE)])
  for folder in ("blocks", "shards", "dead_letter", *_MADE_FOLDERS):
    storage.delete_folder(storage.join(store.folder, folder))
  storage.delete([storage.join(store.folder, INPUT_FILE), store.engine_path, store.request_path])


def clear_others(store: ScoreStore, shards: Iterable[blocks.Shard], *, keep_engine: bool) -> None:
  """Removes all but the scores of shards that this request asks for as they are now, by the engine of the store.

  `keep_engine` False: the engine is another from now on, so that none stay. What is left at any moment is consistent:
  the summary goes first, if there is anything to remove, and the request last. Block files of others need not be
  looked for: their folders have other names, and go when the store is complete.
  """
  engine = store.engine()
  keep_engine &= fingerprints.field(store.engine_path, "method") == store.method
  wanted = {f"{shard.file_name}.parquet": shard for shard in shards}

  def is_ours(name: str) -> bool:
    try:
      return keep_engine and name in wanted and read_summary(store, wanted[name]).engine == engine
    except storage.AccessError:
      raise
    except WinnowError:
      return False

  names = sorted(storage.list_names(store.shards_folder))
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    kept = {name for name, ours in zip(names, pool.map(is_ours, names), strict=True) if ours}
  if not store.is_complete or not wanted.keys() <= kept:
    storage.delete([store.summary_path])
  letters = storage.join(store.folder, "dead_letter")
  of_kept = {f"{name.removesuffix('.parquet')}.jsonl" for name in kept}
  storage.delete([storage.join(letters, name) for name in storage.list_names(letters) if name not in of_kept])
  storage.delete([storage.join(store.shards_folder, name) for name in names if name not in kept])
  is_ours_still = fingerprints.holds(store.request_path, store.fingerprint)
  # What is there of a run of our own that had no scores yet may go on: `sketching` looks whose it is.
  if not is_ours_still or (not keep_engine and storage.exists(store.engine_path)):
    for folder in _MADE_FOLDERS:
      storage.delete_folder(storage.join(store.folder, folder))
    storage.delete([storage.join(store.folder, SPLIT_FILE)])
  if not keep_engine:
    storage.delete([store.engine_path])
  if not is_ours_still:
    storage.delete([storage.join(store.folder, INPUT_FILE), store.request_path])


def tidy(store: ScoreStore, shards: Iterable[blocks.Shard]) -> None:
  """Removes the block files that a complete store no longer needs: all, or other requests' where it keeps its own."""
  for folder in (store.sketch_folder, store.centroids_folder, store.joined_folder):
    storage.delete_folder(storage.join(folder, WORK_FOLDER))
  storage.delete_folder(storage.join(store.folder, COMPARED_FOLDER))
  if not store.keeps_blocks:
    storage.delete_folder(store.blocks_folder)
    return
  engine = store.engine()
  wanted = {store.block_folder(shard, engine) for shard in shards}
  found = storage.match(storage.join(storage.escape(store.blocks_folder), "*", "*.parquet"))
  for folder in sorted({path.rsplit("/", 1)[0] for path, _ in found} - wanted):
    storage.delete_folder(folder)
