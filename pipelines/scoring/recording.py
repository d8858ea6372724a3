"""Records the results of a block, with the reasons of bad documents, and counts its documents."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import WinnowError
from curation.selection import domains
from pipelines.corpus import blocks
from pipelines.files import storage
from pipelines.scoring.description import Scores
from pipelines.store import block_files, kinds
from pipelines.store.score_store import ScoreStore
from pipelines.worker import logs


@dataclasses.dataclass(frozen=True)
class BlockCounts:
  """The counts of one block. `scored` is None if it was skipped: it is on record already, or belongs to another stripe.

  `not_read`: rows that are no documents, or that an earlier stage has not selected (`blocks.NOT_READ`).
  """

  index: int
  num_rows: int
  not_read: int = 0
  scored: int | None = None
  reasons: tuple[tuple[str, int], ...] = ()
  num_tokens: int = 0
  useful_tokens: int = 0
  computed_tokens: int = 0
  milliseconds: int = 0
  nonstandard: int = 0


def record(where: tuple[ScoreStore, blocks.Shard, str], block: blocks.Block, result: tuple[Scores, int]) -> BlockCounts:
  """Makes a block's results durable, and returns its counts.

  `where`: the store, the shard and the fingerprint of the engine. `result`: the scores, and the milliseconds that they
  took.
  """
  store, shard, engine = where
  scores, milliseconds = result
  tokens_N = scores.num_tokens
  if tokens_N is None and "num_tokens" in block.documents.schema.names:  # from the store that the block comes from
    column = block.documents["num_tokens"]
    tokens_N = None if column.null_count else column.to_numpy()
  table = block_table(store.kind, block, scores.scores, tokens_N)
  try:
    file = block_files.BlockFile(table, block.text_bytes, block.checksum)
    block_files.write_block(store, shard, block.index, file, engine=engine)
  except (OSError, WinnowError):
    if not storage.exists(store.scores_path(shard)):  # compacted by another run, which removed the folder
      raise
  counts = table["reason"].value_counts().to_pylist()
  by_reason = {count["values"]: count["counts"] for count in counts if count["values"] is not None}
  recorded = BlockCounts(
    index=block.index,
    num_rows=block.num_rows,
    not_read=sum(by_reason.pop(reason, 0) for reason in blocks.NOT_READ),
    scored=table["reason"].null_count,
    reasons=tuple(by_reason.items()),
    num_tokens=0 if tokens_N is None else int(tokens_N.sum(dtype=np.int64)),
    useful_tokens=scores.useful_tokens,
    computed_tokens=scores.computed_tokens,
    milliseconds=milliseconds,
    nonstandard=block.nonstandard,
  )
  _log_block(shard, table, recorded)
  return recorded


def _log_block(shard: blocks.Shard, table: pa.Table, counts: BlockCounts) -> None:
  where = {"shard": shard.name, "block": counts.index}
  logs.info(
    "block_done",
    **where,
    row=table["row"][0].as_py(),
    rows=counts.num_rows,
    scored=counts.scored,
    tokens=counts.useful_tokens,
    milliseconds=counts.milliseconds,
  )
  if counts.nonstandard:
    logs.info("nonstandard_documents", **where, documents=counts.nonstandard)
  if counts.reasons:
    first = table["row"].filter(pc.is_in(table["reason"], pa.array(dict(counts.reasons))))[0].as_py()
    logs.warn("bad_documents", **where, row=first, reasons=dict(counts.reasons))


def block_table(kind: kinds.Kind, block: blocks.Block, values: np.ndarray, num_tokens_N: np.ndarray | None) -> pa.Table:
  """Returns the rows of a block as they are recorded (block_files.block_schema), good and bad ones in order.

  `values`: the results of its documents, in the form of the store's kind.
  """
  documents, unreadable = block.documents, block.bad
  columns, reasons = kind.columns(values), kind.reasons(values)
  schema = block_files.block_schema(*columns)
  is_bad_N = np.logical_or.reduce([np.zeros(len(values), bool), *reasons.values()])
  tokens = pa.nulls(len(values), pa.int32()) if num_tokens_N is None else pa.array(num_tokens_N, pa.int32())
  nulls = pa.nulls(len(values), pa.string())
  has_domains = kinds.DOMAIN.name in documents.schema.names  # from the store that the block comes from
  domain_column = documents[kinds.DOMAIN.name] if has_domains else domains.registered_domains(documents["url"])
  all_rows = pa.table([documents["row"], *columns.values(), tokens, domain_column, nulls, nulls], schema=schema)
  good = all_rows.filter(pa.array(~is_bad_N))
  bad = [unreadable.select(["row", "reason", "text"])]
  for reason, has_reason_N in reasons.items():
    failed = documents.filter(pa.array(has_reason_N))
    # Blocks of a store of embeddings have no texts. Nothing is wrong with their embeddings: they were checked.
    texts = failed["text"] if "text" in failed.schema.names else pa.array([""] * len(failed), pa.string())
    reason_column = pa.array([reason] * len(failed), pa.string())
    beginnings = pc.utf8_slice_codeunits(texts, 0, blocks.DEAD_TEXT_CHARACTERS)
    bad.append(pa.table({"row": failed["row"], "reason": reason_column, "text": beginnings}))
  return pa.concat_tables([good, *bad], promote_options="default").select(schema.names).sort_by("row")
