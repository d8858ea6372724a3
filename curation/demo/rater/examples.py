"""Training examples of the demo rater: excerpts, original and damaged, in batches of the scorer's own inputs."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.demo.rater import damage
from curation.demo.training import texts
from curation.models import batching
from curation.scorers import ask_llm

_SMOOTHING = 0.02  # distance of the targets from 0 and 1, so that scores spread and do not tie at log P = 0
_ROUND = 2_048  # examples that are tokenised and batched together


class TrainBatch(NamedTuple):
  """Rows of one bucket: ids int32 [B, L], lengths int32 [B], target P(yes) and weight (0 for dummies) float32 [B]."""

  ids_BL: np.ndarray
  lengths_B: np.ndarray
  wanted_B: np.ndarray
  weight_B: np.ndarray


def batches(
  pools: list[list[str]], scorer: ask_llm.AskLlmScorer, *, steps: int, batch_tokens: int, seed: int
) -> Iterator[TrainBatch]:
  """Yields `steps` batches of texts from the pools in equal parts, tokenised as the scorer does, in random order.

  Excerpts have up to 80 words in the first two thirds of the steps, which are then twice as fast, and up to 300
  afterwards.
  """
  generator = np.random.default_rng([seed, 1])
  drawn = texts.draw(pools, generator)
  # Fewer shapes than the scorer's, since each takes long to compile for training.
  shortest = scorer.engine.table.lengths[0]
  lengths = np.unique(np.geomspace(shortest, scorer.max_input_tokens, 6).astype(int))[1:]
  table = batching.BucketTable(tuple(int(n) for n in lengths), tuple(max(1, batch_tokens // int(n)) for n in lengths))
  step = 0
  while True:
    longest = 80 if 3 * step < 2 * steps else 300
    examples: list[tuple[str, float]] = []
    while len(examples) < _ROUND:
      examples += _examples(texts.excerpt(next(drawn), generator, longest=longest), generator)
    prepared = scorer.prepare(pa.array([text for text, _ in examples], pa.string()))
    wanted_N = np.array([wanted for _, wanted in examples], np.float32)
    inputs = {
      int(i): ids_BL[row]
      for batch, ids_BL in zip(prepared.batches.plan, prepared.batches.ids, strict=True)
      for row, i in enumerate(batch.indices)
    }
    plan = batching.plan(prepared.batches.lengths_N, table)
    for place in generator.permutation(len(plan)):
      batch = plan[place]
      out = TrainBatch(
        np.zeros((batch.rows, batch.length), np.int32),
        np.ones(batch.rows, np.int32),
        np.zeros(batch.rows, np.float32),
        np.zeros(batch.rows, np.float32),
      )
      for row, i in enumerate(batch.indices):
        length = out.lengths_B[row] = prepared.batches.lengths_N[i]
        out.ids_BL[row, :length] = inputs[int(i)][:length]
        out.wanted_B[row], out.weight_B[row] = wanted_N[i], 1
      yield out
      step += 1
      if step == steps:
        return


def _examples(real: str, generator: np.random.Generator) -> list[tuple[str, float]]:
  """Makes (text, target P(yes)) of an excerpt: as it is, damaged, and half of the time damaged in part as well."""
  kind = list(damage.KINDS.values())[int(generator.integers(len(damage.KINDS)))]
  examples = [(real, 1.0), (kind(real, generator), 0.0)]
  if generator.random() < 0.5 and len(real.split()) >= 2 * damage.MIN_WORDS:
    part, share = damage.spoil_part(real, generator)
    examples.append((part, 1 - share))
  return [(text, _SMOOTHING + (1 - 2 * _SMOOTHING) * wanted) for text, wanted in examples]
