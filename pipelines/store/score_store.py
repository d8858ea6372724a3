"""The score store: one durable file per finished block, compacted into one Parquet file per finished shard.

Embeddings, clusters and MinHash signatures have stores of this kind too. A store of embeddings keeps its block files,
since moving large data gains nothing, and the files of its shards hold no scores. The documents of a clustering have
`cluster` and `cosine` in place of a score, in both kinds of files, and other scorers read it block by block beside the
embeddings.

<shard> is `blocks.Shard.file_name`.

SCORES/<name>/request.json                 what the store belongs to, written first
              input.json                   the paths of its input and its model
              engine.json                  how its scores are computed, written by the first worker
              blocks/<shard>-<fingerprint>/00000000.parquet  the resume log
              shards/<shard>.parquet       shard, row, score, num_tokens, domain of every scored document
              dead_letter/<shard>.jsonl    shard, row, reason, text of every bad row
              summary.json                 the ledger, written last; it makes the store complete
              sketch/                      the result of `sketching` on embeddings, for density scores
              centroids/                   the result of `clustering` on embeddings, for a clustering
              joined/                      the result of `joining` on signatures, for MinHash scores
              selected/                    the selection by `survivors`, for the next stage of a recipe
              split.json                   for SemDeDup: the giant clusters that `splitting` has split, if any
              compared/                    for SemDeDup: the work of `comparing`, until the store is complete

The scores of a shard carry two fingerprints, of the request for this shard and of the engine that computed them: in the
name of the folder of its blocks, in the footer of its Parquet file, and in the ledger. So files of another request's
run that still writes into the store are never used by mistake. And if one input file changes, scores of the others stay
valid.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks, shard_names
from pipelines.files import fingerprints, storage
from pipelines.store import kinds

FORMAT = 6  # of stores; stores of any other format are refused, since an old store would look damaged
INPUT_FILE = "input.json"
MADE_WITH = "made_with"  # a field of INPUT_FILE: the names of models and embeddings, whose checksums are in the request
_COUNTS = {"read": int, "scored": int, "bad": int, "num_tokens": int | None, "text_bytes": int, "reasons": dict}
_LEDGER = _COUNTS | {"fingerprint": str, "engine": str, "shards": list}
_SHARD_LEDGER = _COUNTS | {"shard": str, "block_rows": list}
_BLOCK_FILE = re.compile(r"(\d{8})\.parquet")


class OtherFormatError(WinnowError):
  """An error for a store that another version of Winnow has made."""


class Ledger(NamedTuple):
  """The figures of a complete store that selection needs. `num_tokens` is None if tokens are not counted."""

  documents: int
  num_tokens: int | None
  text_bytes: int
  within: int | None = None
  """The number of documents within the limits; None if there are no limits, or if they are not settled yet."""


@dataclasses.dataclass(frozen=True)
class ScoreStore:
  """The paths of one store, and its request's fingerprints, with the inputs (`fingerprint`) and without (`method`)."""

  folder: str
  fingerprint: str
  method: str
  scorer: str
  removes_damaged: bool = True
  """Whether damaged files are removed, to be made again; False if a store is only inspected."""

  @classmethod
  def at(cls, folder: str) -> "ScoreStore | None":
    """Returns the store in a folder; None if the folder is not a store. Raises OtherFormatError."""
    path = storage.join(folder, fingerprints.REQUEST_FILE)
    request = fingerprints.read_json_or_none(path)
    if not isinstance(request, dict):
      return None
    if request.get("format") != FORMAT:
      raise OtherFormatError(
        f"{path} has format {request.get('format')!r}, and this version of Winnow reads {FORMAT}: use the version that "
        "made the store, or make it again under another name"
      )
    return cls.for_request(folder, request)

  @property
  def kind(self) -> kinds.Kind:
    return kinds.kind_of(self.scorer)

  @property
  def keeps_blocks(self) -> bool:
    """Whether the store keeps its block files: stores of embeddings, clusters and signatures do."""
    return self.kind.keeps_blocks

  @classmethod
  def for_request(cls, folder: str, request: dict[str, Any]) -> "ScoreStore":
    """Returns the store in `folder` of a request, which need not exist yet."""
    method = {key: value for key, value in request.items() if key != "inputs"}
    return cls(folder, fingerprints.fingerprint(request), fingerprints.fingerprint(method), str(request.get("scorer")))

  def path(self, name: str) -> str:
    """Returns the place of a file or folder that a preparation or a selection makes in the store."""
    return storage.join(self.folder, name)

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
  def dead_letter_folder(self) -> str:
    return storage.join(self.folder, "dead_letter")

  @property
  def log_folder(self) -> str:
    return storage.join(self.folder, "log")

  @property
  def shard_schema(self) -> pa.Schema:
    """The columns of a shard's Parquet file."""
    return pa.schema([kinds.SHARD, kinds.ROW, *self.kind.shard_fields, kinds.NUM_TOKENS, kinds.DOMAIN])

  def shards(self) -> tuple[blocks.Shard, ...]:
    """Returns the shards of the store by its request alone; their files may have moved or vanished."""
    request = fingerprints.read_json(self.request_path)
    entries = request.get("inputs") if isinstance(request, dict) else None
    fields = {"name": str, "bytes": int, "checksum": str}
    if not isinstance(entries, list) or not all(_has(entry, fields) for entry in entries):
      raise WinnowError(
        f"{self.request_path} is damaged: it names no inputs; restore it, or start over with --overwrite"
      )
    shards = tuple(blocks.Shard(entry["name"], "", "", "", entry["bytes"], entry["checksum"]) for entry in entries)
    for shard in shards:
      if not shard_names.is_name(shard.name):
        raise WinnowError(
          f"{self.request_path} names the shard {shard.name!r}, which is not a valid file name; restore it"
        )
    return shards

  def fingerprint_of(self, shard: blocks.Shard) -> str:
    """Returns the fingerprint of the request for one shard."""
    return fingerprints.fingerprint([self.method, shard.identity()])

  def engine(self) -> str:
    """Returns the fingerprint of the engine that computes the scores; that of None before a worker has recorded it."""
    return fingerprints.fingerprint(fingerprints.read_json_or_none(self.engine_path))

  def block_folder(self, shard: blocks.Shard, engine: str) -> str:
    """Returns the folder of a shard's block files by an engine."""
    name = fingerprints.fingerprint([self.fingerprint_of(shard), engine])[:16]
    return storage.join(self.blocks_folder, f"{shard.file_name}-{name}")

  def block_path(self, shard: blocks.Shard, index: int, engine: str) -> str:
    """Returns the path of a block file."""
    return storage.join(self.block_folder(shard, engine), f"{index:08d}.parquet")

  def scores_path(self, shard: blocks.Shard) -> str:
    """Returns the path of a compacted shard."""
    return storage.join(self.shards_folder, f"{shard.file_name}.parquet")

  def dead_letter_path(self, shard: blocks.Shard) -> str:
    """Returns the path of a shard's bad rows."""
    return storage.join(self.dead_letter_folder, f"{shard.file_name}.jsonl")

  def finished_blocks(self, shard: blocks.Shard, engine: str) -> frozenset[int]:
    """Returns the indices of the blocks of a shard that are on record, by one listing."""
    names = storage.list_names(self.block_folder(shard, engine))
    return frozenset(int(match[1]) for match in map(_BLOCK_FILE.fullmatch, names) if match)

  def finished(self, shards: Iterable[blocks.Shard]) -> list[blocks.Shard]:
    """Returns the shards that are compacted, by one listing."""
    names = storage.list_names(self.shards_folder)
    return [shard for shard in shards if f"{shard.file_name}.parquet" in names]

  def readable_summary(self) -> dict[str, Any] | None:
    """Returns the ledger of a complete store, as `sealing.seal` wrote it; None if it is missing or damaged."""
    summary = fingerprints.read_sealed(self.summary_path)
    if summary is None or not _has(summary, _LEDGER):
      return None
    if not all(_has(shard, _SHARD_LEDGER) for shard in summary["shards"]):
      return None
    return summary

  def summary(self) -> dict[str, Any]:
    """Returns the ledger of a complete store; raises WinnowError if it is missing or damaged."""
    summary = self.readable_summary()
    if summary is None:
      raise WinnowError(
        f"{self.summary_path} is missing or damaged: the store is incomplete; run its command again to finish it"
      )
    return summary

  @property
  def is_complete(self) -> bool:
    """Whether the ledger belongs to this request and all shards have files. So only removed shards are made again."""
    summary = self.readable_summary()
    if summary is None:
      return False
    names = {f"{shard_names.file_name(shard['shard'])}.parquet" for shard in summary["shards"]}
    is_ours = (summary["fingerprint"], summary["engine"]) == (self.fingerprint, self.engine())
    return is_ours and names <= storage.list_names(self.shards_folder)

  @property
  def has_scores(self) -> bool:
    """Whether any shard is finished."""
    return storage.exists(self.summary_path) or bool(storage.list_names(self.shards_folder))

  def ledger(self) -> Ledger:
    """Reads the figures of a complete store; raises WinnowError if it is incomplete or belongs to another request."""
    summary = self.summary()
    if summary["fingerprint"] != self.fingerprint:
      raise WinnowError(f"{self.summary_path} belongs to another request; run winnow score again with --overwrite")
    return Ledger(summary["scored"], summary["num_tokens"], summary["text_bytes"])

  def fingerprint_with_engine(self) -> str:
    """Returns the fingerprint of the scores: of the request and of the engine."""
    return fingerprints.fingerprint([self.fingerprint, fingerprints.read_json(self.engine_path)])


def _has(value: Any, fields: Mapping[str, Any]) -> bool:
  """Tells whether a JSON value is an object with these fields of these types; a bool does not count as a number."""
  return isinstance(value, dict) and all(
    isinstance(value.get(name), kind) and not isinstance(value.get(name), bool) for name, kind in fields.items()
  )
