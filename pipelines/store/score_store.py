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

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks, shard_names
from pipelines.files import fingerprints, storage
from pipelines.store import kinds

FORMAT = 6  # of stores; of another one nothing is read, lest what is only older be taken for damaged
INPUT_FILE, SPLIT_FILE = "input.json", "split.json"
MADE_WITH = "made_with"  # a field of INPUT_FILE: the names of models and embeddings, of which the request has checksums
SKETCH_FOLDER, CENTROIDS_FOLDER, JOINED_FOLDER = "sketch", "centroids", "joined"
SELECTED_FOLDER, COMPARED_FOLDER = "selected", "compared"
_COUNTS = {"read": int, "scored": int, "bad": int, "num_tokens": int | None, "text_bytes": int, "reasons": dict}
_LEDGER = _COUNTS | {"fingerprint": str, "engine": str, "shards": list}
_LEDGER_OF_SHARD = _COUNTS | {"shard": str, "block_rows": list}
_BLOCK_FILE = re.compile(r"(\d{8})\.parquet")


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
    request = fingerprints.read_json_or_none(path)
    if not isinstance(request, dict):
      return None
    if request.get("format") != FORMAT:
      raise OtherFormatError(
        f"{path} is of format {request.get('format')!r}, and this version of Winnow reads {FORMAT}: use the version "
        "that made the store, or make it again under another name"
      )
    return cls.for_request(folder, request)

  @property
  def kind(self) -> kinds.Kind:
    return kinds.kind_of(self.scorer)

  @property
  def keeps_blocks(self) -> bool:
    """Embeddings, clusters and signatures stay in the files of their blocks."""
    return self.kind.keeps_blocks

  @classmethod
  def for_request(cls, folder: str, request: dict[str, Any]) -> "ScoreStore":
    method = {key: value for key, value in request.items() if key != "inputs"}
    return cls(folder, fingerprints.fingerprint(request), fingerprints.fingerprint(method), str(request.get("scorer")))

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
    return pa.schema([kinds.SHARD, kinds.ROW, *self.kind.shard_fields, kinds.NUM_TOKENS, kinds.DOMAIN])

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
    return fingerprints.fingerprint(fingerprints.read_json_or_none(self.engine_path))

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
