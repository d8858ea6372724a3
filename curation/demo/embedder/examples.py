"""Training examples of the demo embedder: pairs of excerpts of one document, or of an excerpt and its light edit."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from curation.demo.embedder import edits
from curation.demo.training import texts
from curation.models.vocabulary import EOS_ID, Vocabulary

MIN_WORDS = 24  # of a text that two meaningful excerpts can be taken from
_LONGEST = 160  # words of the passage that both excerpts are from


class Group(NamedTuple):
  """R rows of one shape: ids int32 [R, L], lengths int32 [R]."""

  ids_RL: np.ndarray
  lengths_R: np.ndarray


class PairBatch(NamedTuple):
  """P pairs: after the rows of all groups are ordered by `places_B` (int32 [2 P]), pair p is rows p and P + p."""

  groups: tuple[Group, ...]
  places_B: np.ndarray


def batches(
  pools: list[list[str]],
  vocabulary: Vocabulary,
  *,
  steps: int,
  shapes: tuple[tuple[int, int], ...],
  edited: float,
  seed: int,
) -> Iterator[PairBatch]:
  """Yields `steps` batches of pairs of texts from the pools in equal parts, with no text twice in a batch.

  `edited` is the share of pairs with an edit. `shapes` are the rows and the length of each group, in ascending order.
  The shortest rows go to the first group, and so on; a row that is too long for its group is truncated.
  """
  generator = np.random.default_rng([seed, 1])
  drawn = texts.draw(pools, generator)
  number = sum(rows for rows, _ in shapes) // 2
  for _ in range(steps):
    chosen: set[str] = set()
    while len(chosen) < number:
      chosen.add(next(drawn))
    pairs = [_pair(text, edited, generator) for text in sorted(chosen)]
    tokens = vocabulary.encode([left for left, _ in pairs] + [right for _, right in pairs])
    yield pack([tokens[i] for i in range(2 * number)], shapes)


def pack(sequences: list[np.ndarray], shapes: tuple[tuple[int, int], ...]) -> PairBatch:
  """Packs token ids without end of sequence into rows with it."""
  order_B = np.argsort([len(ids) for ids in sequences], kind="stable")
  groups, start = [], 0
  for rows, length in shapes:
    group = Group(np.zeros((rows, length), np.int32), np.zeros(rows, np.int32))
    for row, i in enumerate(order_B[start : start + rows]):
      ids = np.append(sequences[i][: length - 1], EOS_ID)
      group.ids_RL[row, : len(ids)] = ids
      group.lengths_R[row] = len(ids)
    groups.append(group)
    start += rows
  return PairBatch(tuple(groups), np.argsort(order_B).astype(np.int32))


def halves(text: str) -> tuple[str, str]:
  """Returns the first and the second half of the words."""
  words = text.split()
  return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def _pair(text: str, edited: float, generator: np.random.Generator) -> tuple[str, str]:
  passage = texts.excerpt(text, generator, shortest=MIN_WORDS, longest=_LONGEST)
  if generator.random() < edited:
    return passage, edits.edit(passage, generator)
  left, right = halves(passage)
  return (left, right) if generator.random() < 0.5 else (right, left)
