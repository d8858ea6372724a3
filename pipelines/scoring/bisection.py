"""The search for documents that make a scorer fail: their block is halved until each of them stands alone.

A score does not depend on a document's neighbours, so the scores of halves have the same bits as those of a whole
block.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.scoring.description import OnBatch, Scorer, Scores
from pipelines.store.dead_letters import SCORER_FAILED
from pipelines.worker import logs

# An ordinary text: if even this cannot be scored, no document is to blame.
_PROBE = "The quick brown fox jumps over the lazy dog."
_MOST_CULPRITS = 16

OnFailure = Callable[[int, Exception], None]


@dataclasses.dataclass(frozen=True)
class _Failed:
  """The exception that `prepare` raised for a block, kept until it is the block's turn."""

  error: Exception


def prepare(scorer: Scorer, block: blocks.Block, reads: str) -> Any:
  """Does the host's work for a block's column `reads`, and returns what `run` takes."""
  try:
    return scorer.prepare(block.documents[reads])
  except Exception as error:
    return _Failed(error)


def run(
  scorer: Scorer,
  block: blocks.Block,
  prepared: Any,
  reads: str,
  *,
  on_batch: OnBatch | None = None,
  on_failure: OnFailure | None = None,
) -> tuple[blocks.Block, Scores]:
  """Returns a block and its scores. Documents that make the scorer fail join the bad ones, if the block has texts.

  `on_failure` is called with the row of each such document, and the error.
  """
  try:
    if isinstance(prepared, _Failed):
      raise prepared.error
    return block, scorer.run(prepared, on_batch)
  except Exception as error:
    if "text" not in block.documents.schema.names or _blames_no_document(error):
      raise
    return _score_without_culprits(scorer, block, error, reads, on_failure)


def _blames_no_document(error: Exception) -> bool:
  """Tells whether no document is to blame for an error.

  A WinnowError is the scorer's own refusal, a MemoryError concerns all documents, and an error of JAX is the device's.
  """
  return isinstance(error, WinnowError | MemoryError) or type(error).__module__.startswith("jax")


def _score_without_culprits(
  scorer: Scorer, block: blocks.Block, error: Exception, reads: str, on_failure: OnFailure | None
) -> tuple[blocks.Block, Scores]:
  """Returns the block with the documents that make the scorer fail among its bad ones, and the scores of the others.

  Raises `error`, with which scoring the whole block ended, again where the documents are not to blame. A broken worker
  cannot score any text. If more than a few documents fail, the scorer is what should be examined.
  """
  documents, bad = block.documents, block.bad
  parts: list[Scores] = []
  good: list[pa.Table] = []
  culprits: list[dict[str, Any]] = []

  def score(table: pa.Table) -> None:
    try:
      parts.append(scorer.run(scorer.prepare(table[reads])))
      good.append(table)
      return
    except Exception as failure:
      if _blames_no_document(failure):
        raise
      if len(table) <= 1:
        if not len(table) or len(culprits) == _MOST_CULPRITS or not _can_score(scorer):
          raise error from None
        text = table["text"][0].as_py()[: blocks.DEAD_TEXT_CHARACTERS]
        culprits.append({"row": table["row"][0].as_py(), "reason": SCORER_FAILED, "text": text})
        first_line = (str(failure).splitlines() or [""])[0]
        logs.warn(SCORER_FAILED, row=culprits[-1]["row"], error=f"{type(failure).__name__}: {first_line}")
        if on_failure is not None:
          on_failure(culprits[-1]["row"], failure)
        return
    halve(table)

  def halve(table: pa.Table) -> None:
    half = len(table) // 2
    score(table.slice(0, half))
    score(table.slice(half))

  score(documents.slice(0, 0))  # an empty table has scores too: all documents may be culprits
  halve(documents)
  all_bad = pa.concat_tables([bad, pa.Table.from_pylist(culprits, schema=blocks.BAD_SCHEMA)]).sort_by("row")
  kept = pa.concat_tables(good)
  return dataclasses.replace(block, documents=kept, bad=all_bad, text_bytes=blocks.text_bytes(kept)), _joined(parts)


def _can_score(scorer: Scorer) -> bool:
  try:
    scorer.run(scorer.prepare(pa.chunked_array([pa.array([_PROBE])])))
  except Exception:
    return False
  return True


def _joined(parts: list[Scores]) -> Scores:
  tokens = [part.num_tokens for part in parts if part.num_tokens is not None]
  return Scores(
    np.concatenate([part.scores for part in parts]),
    np.concatenate(tokens) if len(tokens) == len(parts) else None,
    sum(part.useful_tokens for part in parts),
    sum(part.computed_tokens for part in parts),
  )
