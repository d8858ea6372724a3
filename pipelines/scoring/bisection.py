"""Documents that a scorer cannot bear: found by halving their block, so that each falls alone.

A score does not depend on a document's neighbours, so what is scored by halves has the bits that it would have had.
"""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.scoring.description import OnBatch, Scorer, Scores
from pipelines.worker import logs

REASON = "scorer_failed"
# A text that is nothing special: where not even this can be scored, no document is to blame.
_PROBE = "The quick brown fox jumps over the lazy dog."
_MOST_CULPRITS = 16


@dataclasses.dataclass(frozen=True)
class _Failed:
  """What `prepare` raised for a block, until it is the block's turn."""

  error: Exception


def prepare(scorer: Scorer, block: blocks.Block, reads: str) -> Any:
  """The host's work for a block's column `reads`, for `run`."""
  assert block.documents is not None
  try:
    return scorer.prepare(block.documents[reads])
  except Exception as error:
    return _Failed(error)


def run(
  scorer: Scorer, block: blocks.Block, prepared: Any, reads: str, *, on_batch: OnBatch | None = None
) -> tuple[blocks.Block, Scores]:
  """A block and its scores. Documents of a text that make the scorer fail are among its bad ones then."""
  assert block.documents is not None
  try:
    if isinstance(prepared, _Failed):
      raise prepared.error
    return block, scorer.run(prepared, on_batch)
  except Exception as error:
    if "text" not in block.documents.schema.names or _is_nobodys(error):
      raise
    return _without_culprits(scorer, block, error, reads)


def _is_nobodys(error: Exception) -> bool:
  """A WinnowError is the scorer's own refusal, memory everybody's, and what the device says is about the device."""
  return isinstance(error, WinnowError | MemoryError) or type(error).__module__.startswith("jax")


def _without_culprits(scorer: Scorer, block: blocks.Block, error: Exception, reads: str) -> tuple[blocks.Block, Scores]:
  """The block with the documents that make the scorer fail among its bad ones, and the scores of the others.

  `error`, which scoring the whole block ended with, is raised again where the documents are not to blame: a worker in
  which something is broken cannot score any text, and where more than a few documents fail it is the scorer that should
  be looked at.
  """
  documents, bad = block.documents, block.bad
  assert documents is not None and bad is not None
  parts: list[Scores] = []
  good: list[pa.Table] = []
  culprits: list[dict[str, Any]] = []

  def score(table: pa.Table) -> None:
    try:
      parts.append(scorer.run(scorer.prepare(table[reads])))
      good.append(table)
      return
    except Exception as failure:
      if _is_nobodys(failure):
        raise
      if len(table) <= 1:
        if not len(table) or len(culprits) == _MOST_CULPRITS or not _can_score(scorer):
          raise error from None
        text = table["text"][0].as_py()[: blocks.DEAD_TEXT_CHARACTERS]
        culprits.append({"row": table["row"][0].as_py(), "reason": REASON, "text": text})
        told = (str(failure).splitlines() or [""])[0]
        logs.warn("scorer_failed", row=culprits[-1]["row"], error=f"{type(failure).__name__}: {told}")
        return
    halve(table)

  def halve(table: pa.Table) -> None:
    half = len(table) // 2
    score(table.slice(0, half))
    score(table.slice(half))

  score(documents.slice(0, 0))  # of no documents there are scores, too: all of them may be culprits
  halve(documents)
  fallen = pa.concat_tables([bad, pa.Table.from_pylist(culprits, schema=blocks.BAD_SCHEMA)]).sort_by("row")
  kept = pa.concat_tables(good)
  return dataclasses.replace(block, documents=kept, bad=fallen, text_bytes=blocks.text_bytes(kept)), _joined(parts)


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
