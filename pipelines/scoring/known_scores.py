"""Scores that another store of the same scorer and engine has already, so that no document is asked about twice."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.corpus import blocks
from pipelines.files import fingerprints
from pipelines.scoring.description import Scores
from pipelines.store import block_files, score_files
from pipelines.store.score_store import ScoreStore


class Known(NamedTuple):
  """The documents of a block whose scores are known: their rows of the block, and of the store."""

  text_bytes: int
  """Those of the whole block."""
  documents: pa.Table
  scored: pa.Table


def are_usable(store: ScoreStore, engine_path: str) -> bool:
  """Tells whether the scores of a store have the bits that the engine on record at a path would give."""

  def engine(path: str) -> dict:
    return {**(fingerprints.read_json_or_none(path) or {}), "method": None, "within": None}

  return store.is_complete and engine(store.engine_path) == engine(engine_path)


def split(store: ScoreStore, shard: blocks.Shard, block: blocks.Block) -> tuple[blocks.Block, Known | None]:
  """Returns a block without the documents that a store has scored, and these."""
  with block_files.removing_damaged(store, shard), score_files.ScoreFile(store, shard) as scores:
    scores.refuse_other_documents(shard, block)
    scored = scores.block(block.index)
  is_known_N = np.isin(block.documents["row"].to_numpy(), scored["row"].to_numpy())
  if not is_known_N.any():
    return block, None
  known = block.documents.filter(pa.array(is_known_N))
  scored = scored.filter(pa.array(np.isin(scored["row"].to_numpy(), known["row"].to_numpy())))
  return dataclasses.replace(block, documents=block.documents.filter(pa.array(~is_known_N))), Known(
    block.text_bytes, known, scored
  )


def join(known: Known, block: blocks.Block, scores: Scores) -> tuple[blocks.Block, Scores]:
  """Returns a block, and the scores of all its documents, with those that are known, in the order of rows."""
  documents = pa.concat_tables([block.documents, known.documents])
  order = pa.array(np.argsort(documents["row"].to_numpy(), kind="stable"))
  all_scores = np.concatenate([scores.scores, known.scored["score"].to_numpy()])[order.to_numpy()]
  tokens = scores.num_tokens
  if tokens is not None:
    tokens = np.concatenate([tokens, known.scored["num_tokens"].to_numpy()])[order.to_numpy()]
  joined = dataclasses.replace(block, documents=documents.take(order))
  if block.text_bytes != known.text_bytes:  # some could not be scored
    joined = dataclasses.replace(joined, text_bytes=blocks.text_bytes(joined.documents))
  return joined, Scores(all_scores, tokens, scores.useful_tokens, scores.computed_tokens)
