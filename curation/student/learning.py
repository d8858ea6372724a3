"""Learning a student from scored embeddings: a ridge regression and a network, chosen by rank correlation.

Neither sees the documents that choose between them, nor those that judge the choice (`splits`). Targets are the rater's
scores themselves, such as log P("yes"): soft labels.

Shape suffixes: N documents, D dimensions, F inputs, B documents of a batch, P penalties.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from curation import blas
from curation.errors import WinnowError
from curation.student import figures, network, ridge, splits
from curation.student.models import Student

LEAST_DOCUMENTS = 200
_ROWS = 8_192  # of a batch of the regression, in float64


@dataclasses.dataclass(frozen=True)
class Examples:
  """Documents to learn from, in an order that follows from their hashes: the learned student depends on the order.

  Embeddings float [N, D], which may be a mapped file; the tokens of whole texts int32 [N], or None if they are not on
  record; the rater's scores float32 [N], all finite; and the part of each document, uint8 [N], of `splits`.
  """

  points_ND: np.ndarray
  tokens_N: np.ndarray | None
  targets_N: np.ndarray
  parts_N: np.ndarray

  def numbers(self, part: int) -> np.ndarray:
    """Returns the numbers of the documents of a part, in order: int64."""
    return np.flatnonzero(self.parts_N == part)

  def inputs(self, numbers_B: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns the inputs of documents: [B, F], the embedding and, if it is known, log(1 + tokens)."""
    points_BD = self.points_ND[numbers_B].astype(dtype)
    if self.tokens_N is None:
      return points_BD
    return np.concatenate(
      [points_BD, np.log1p(self.tokens_N[numbers_B].astype(np.float64))[:, None]], axis=1, dtype=dtype
    )

  def predict(self, student: Student, numbers_N: np.ndarray) -> np.ndarray:
    """Returns a student's scores of documents: float32 [N]."""
    parts = [np.empty(0, np.float32)]
    for rows in ridge.batches_of(len(numbers_N), _ROWS):
      numbers_B = numbers_N[rows]
      tokens_B = None if self.tokens_N is None else self.tokens_N[numbers_B]
      parts.append(student.predict(self.points_ND[numbers_B], tokens_B))
    return np.concatenate(parts)


class Learned(NamedTuple):
  """A student, and how it was chosen, for JSON."""

  student: Student
  choice: dict[str, Any]


def check(examples: Examples) -> None:
  """Raises WinnowError if there is too little to learn from, or nothing: all scores of the rater are equal."""
  counts = np.bincount(examples.parts_N, minlength=len(splits.SHARES))
  if len(examples.parts_N) < LEAST_DOCUMENTS or counts.min() < 10:
    raise WinnowError(
      f"{len(examples.parts_N):,} documents have a score of the teacher and an embedding: {counts[0]:,} to learn from, "
      f"{counts[1]:,} to choose by and {counts[2]:,} to judge by, which are too few; score at least {LEAST_DOCUMENTS:,}"
    )
  for part in range(len(splits.SHARES)):
    targets_N = examples.targets_N[examples.numbers(part)]
    if targets_N.min() == targets_N.max():
      raise WinnowError(f"the teacher gives {len(targets_N):,} documents the same score: there is no order to learn")


def learn(examples: Examples, seed: int, report: Callable[[int], None] = lambda documents: None) -> Learned:
  """Learns both kinds of students and returns the one with the higher Spearman correlation on the choosing part.

  `report` is called with the documents that were learned from since its last call: `passes` times as many in all.
  Raises WinnowError as `check` does.
  """
  check(examples)
  learning_N, choosing_N = examples.numbers(splits.LEARNING), examples.numbers(splits.CHOOSING)
  wanted_N = examples.targets_N[choosing_N]
  with blas.one_thread():  # sums in one order, however many cores there are
    regressions = ridge.solve(_reported(_batches(examples, learning_N), report))
    by_penalty = _choose_penalty(examples, regressions, choosing_N, wanted_N)
  best = int(np.argmax(by_penalty))
  student = _regression(regressions, best, has_length=examples.tokens_N is not None)
  correlations = {"ridge": figures.spearman(wanted_N, examples.predict(student, choosing_N)), "network": -1.0}
  choice: dict[str, Any] = {"penalty": ridge.PENALTIES[best], "epochs": network.epochs(len(learning_N)), "epoch": 0}
  for epoch, candidate in enumerate(_networks(examples, learning_N, regressions.moments, seed), 1):
    report(len(learning_N))
    correlation = figures.spearman(wanted_N, examples.predict(candidate, choosing_N))
    if correlation > correlations["network"]:
      correlations["network"], choice["epoch"] = correlation, epoch
      if correlation > correlations["ridge"]:
        student = candidate
  return Learned(student, choice | {"kind": student.shape.kind, "spearman": correlations})


def passes(documents: int) -> int:
  """Returns how often learning goes through the documents of the learning part."""
  return 1 + network.epochs(max(1, documents))


def _batches(examples: Examples, numbers_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  for rows in ridge.batches_of(len(numbers_N), _ROWS):
    numbers_B = numbers_N[rows]
    yield examples.inputs(numbers_B, np.float64), examples.targets_N[numbers_B].astype(np.float64)


def _reported(
  batches: Iterator[tuple[np.ndarray, np.ndarray]], report: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  for inputs_BF, targets_B in batches:
    yield inputs_BF, targets_B
    report(len(targets_B))


def _choose_penalty(
  examples: Examples, regressions: ridge.Regressions, choosing_N: np.ndarray, wanted_N: np.ndarray
) -> list[float]:
  """Returns the Spearman correlation of each penalty's regression on the choosing part."""
  parts = [inputs_BF @ regressions.weights_FP for inputs_BF, _ in _batches(examples, choosing_N)]
  return [figures.spearman(wanted_N, scores_N) for scores_N in np.concatenate(parts).T]


def _regression(regressions: ridge.Regressions, penalty: int, *, has_length: bool) -> Student:
  weights_F = regressions.weights_FP[:, penalty]
  weights_D, of_length = (weights_F[:-1], float(weights_F[-1])) if has_length else (weights_F, 0.0)
  return Student.ridge(weights_D, of_length, float(regressions.constants_P[penalty]), has_length=has_length)


def _networks(examples: Examples, learning_N: np.ndarray, moments: ridge.Moments, seed: int) -> Iterator[Student]:
  """Yields the network after each epoch."""
  means_F, deviations_F = moments.means_F.astype(np.float32), moments.deviations_F.astype(np.float32)

  def read(places_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers_B = learning_N[places_B]
    targets_B = (examples.targets_N[numbers_B] - np.float32(moments.target_mean)) / np.float32(moments.target_deviation)
    return (examples.inputs(numbers_B, np.float32) - means_F) / deviations_F, targets_B

  for weights in network.train(read, len(learning_N), len(means_F), seed):
    yield _folded(weights, moments, has_length=examples.tokens_N is not None)


def _folded(weights: network.Weights, moments: ridge.Moments, *, has_length: bool) -> Student:
  """Returns a network of inputs as they are, from one of standardised inputs and targets."""
  first_FH = weights["first"].astype(np.float64) / moments.deviations_F[:, None]
  constants_H = weights["constants"] - moments.means_F @ first_FH
  second_H = weights["second"].astype(np.float64) * moments.target_deviation
  constant = float(weights["constant"]) * moments.target_deviation + moments.target_mean
  first_DH, of_length_H = (first_FH[:-1], first_FH[-1]) if has_length else (first_FH, np.zeros(first_FH.shape[1]))
  return Student.network(first_DH, of_length_H, constants_H, second_H, constant, has_length=has_length)
