"""Documents that a scorer cannot bear: found by halving their block, so that each falls alone.

A score does not depend on a document's neighbours, so what is scored by halves has the bits that it would have had.
"""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines import blocks, logs, scorers

REASON = "scorer_failed"
# A text that is nothing special: where not even this can be scored, no document is to blame.
_PROBE = "The quick brown fox jumps over the lazy dog."
_MOST_CULPRITS = 16


def without_culprits(
  scorer: scorers.Scorer, block: blocks.Block, error: Exception
) -> tuple[blocks.Block, scorers.Scores]:
  """The block with the documents that make the scorer fail among its bad ones, and the scores of the others.

  `error` is what scoring the whole block ended with. It is raised again where the documents are not to blame: a
  WinnowError is the scorer's own refusal of its work, memory is everybody's, what the device says is about the device,
  and a worker in which something is broken cannot score any text. So is it where more than a few documents fail: then
  it is the scorer that should be looked at.
  """
  documents, bad = block.documents, block.bad
  assert documents is not None and bad is not None
  parts: list[scorers.Scores] = []
  good: list[pa.Table] = []
  culprits: list[dict[str, Any]] = []

  def score(table: pa.Table) -> None:
    try:
      parts.append(scorer.run(scorer.prepare(table["text"])))
      good.append(table)
      return
    except Exception as failure:
      if isinstance(failure, WinnowError | MemoryError) or type(failure).__module__.startswith("jax"):
        raise
      if len(table) <= 1:
        if not len(table) or len(culprits) == _MOST_CULPRITS or not _can_score(scorer):
          raise error from None
        text = table["text"][0].as_py()[: blocks.DEAD_TEXT_CHARACTERS]
        culprits.append({"row": table["row"][0].as_py(), "reason": REASON, "text": text})
        told = (str(failure).splitlines() or [""])[0]
        logs.warn("scorer_failed", row=culprits[-1]["row"], error=f"{type(failure).__name__}: {told}")
        return
    half = len(table) // 2
    score(table.slice(0, half))
    score(table.slice(half))

  score(documents.slice(0, 0))
  score(documents)
  fallen = pa.concat_tables([bad, pa.Table.from_pylist(culprits, schema=blocks.BAD_SCHEMA)]).sort_by("row")
  kept = pa.concat_tables(good)
  return dataclasses.replace(block, documents=kept, bad=fallen, text_bytes=blocks.text_bytes(kept)), _joined(parts)


def _can_score(scorer: scorers.Scorer) -> bool:
  try:
    scorer.run(scorer.prepare(pa.chunked_array([pa.array([_PROBE])])))
  except Exception:
    return False
  return True


def _joined(parts: list[scorers.Scores]) -> scorers.Scores:
  tokens = [part.num_tokens for part in parts if part.num_tokens is not None]
  return scorers.Scores(
    np.concatenate([part.scores for part in parts]),
    np.concatenate(tokens) if len(tokens) == len(parts) else None,
    sum(part.useful_tokens for part in parts),
    sum(part.computed_tokens for part in parts),
  )
