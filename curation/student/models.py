"""Students: a ridge regression, or a network of two layers, from an embedding and the text's length to a score.

Both are computed from standardised inputs, and the standardisation is folded into the weights. The length, if a student
knows it, is log(1 + tokens of the whole text).

A score depends on its document alone, to the last bit. The product of a network is always that of a whole tile of rows,
filled up with zeros, on one thread; everything else is a loop over the numbers of one row in their order.

Shape suffixes: N documents, T rows of a tile, D dimensions of an embedding, H hidden units.
"""

import dataclasses
from typing import Literal

import numpy as np

from curation import blas

Kind = Literal["ridge", "network"]
TILE_ROWS = 256
MOST_DIMENSIONS, MOST_HIDDEN = 16_384, 4_096


@dataclasses.dataclass(frozen=True)
class Shape:
  """The sizes that decide how many weights a student has. Raises ValueError for values out of range.

  `hidden` is H, and 0 for a ridge regression. `has_length`: the length of the text is an input, beside the embedding.
  """

  dimensions: int
  hidden: int
  has_length: bool

  def __post_init__(self):
    for name, low, high in (("dimensions", 1, MOST_DIMENSIONS), ("hidden", 0, MOST_HIDDEN)):
      value = getattr(self, name)
      if type(value) is not int or not low <= value <= high:
        raise ValueError(f"a student's {name} must be a whole number from {low} to {high:,}, not {value!r}")
    if type(self.has_length) is not bool:
      raise ValueError(f"a student's has_length must be true or false, not {self.has_length!r}")

  @property
  def kind(self) -> Kind:
    return "network" if self.hidden else "ridge"

  @property
  def num_weights(self) -> int:
    """The number of weights: without a length, its weights are there and 0."""
    return self.dimensions + 2 if not self.hidden else self.hidden * (self.dimensions + 3) + 1


@dataclasses.dataclass(frozen=True)
class Student:
  """A student: its shape, and all its weights in one float32 array.

  Of a ridge regression: of the dimensions [D], of the length, and the constant. Of a network: of the first layer
  [D, H], of the length [H], the constants [H], of the second layer [H], and its constant.
  """

  shape: Shape
  weights: np.ndarray

  def __post_init__(self):
    if self.weights.shape != (self.shape.num_weights,) or self.weights.dtype != np.float32:
      raise ValueError(f"a student of {self.shape} has {self.shape.num_weights:,} weights in float32")
    if not np.isfinite(self.weights).all():
      raise ValueError("a weight of the student is not finite")

  @classmethod
  def ridge(cls, weights_D: np.ndarray, of_length: float, constant: float, *, has_length: bool) -> "Student":
    """Returns the regression with these weights, of inputs as they are."""
    weights = np.concatenate([weights_D, [of_length, constant]]).astype(np.float32)
    return cls(Shape(len(weights_D), 0, has_length), weights)

  @classmethod
  def network(
    cls,
    first_DH: np.ndarray,
    of_length_H: np.ndarray,
    constants_H: np.ndarray,
    second_H: np.ndarray,
    constant: float,
    *,
    has_length: bool,
  ) -> "Student":
    """Returns the network with these weights, of inputs as they are."""
    weights = np.concatenate([first_DH.ravel(), of_length_H, constants_H, second_H, np.array([constant])])
    dimensions, hidden = first_DH.shape
    return cls(Shape(dimensions, hidden, has_length), weights.astype(np.float32))

  @property
  def operations(self) -> int:
    """The floating-point operations for one document."""
    return 2 * self.shape.num_weights

  def predict(self, points_ND: np.ndarray, tokens_N: np.ndarray | None = None) -> np.ndarray:
    """Returns the scores of embeddings, float [N, D], and of their texts' numbers of tokens, int32 [N]: float32 [N].

    Raises ValueError for embeddings of other dimensions, and where the student knows lengths and none are given.
    """
    shape = self.shape
    if points_ND.ndim != 2 or points_ND.shape[1] != shape.dimensions:
      raise ValueError(f"embeddings must be [N, {shape.dimensions}], not {list(points_ND.shape)}")
    if tokens_N is None:
      if shape.has_length:
        raise ValueError("the student needs the number of tokens of each text")
      tokens_N = np.zeros(len(points_ND), np.int32)
    scores_N = np.empty(len(points_ND), np.float32)
    with blas.one_thread():
      self._predict(points_ND, np.ascontiguousarray(tokens_N, np.int32), scores_N)
    return scores_N

  def _predict(self, points_ND: np.ndarray, tokens_N: np.ndarray, scores_N: np.ndarray) -> None:
    from curation.coverage import halves  # these load the compiler
    from curation.student import model_loops

    dimensions, hidden = self.shape.dimensions, self.shape.hidden
    first_DH = self.weights[: dimensions * hidden].reshape(dimensions, hidden)
    rest = self.weights[dimensions * hidden :]
    tile_TD, sums_TH = np.zeros((TILE_ROWS, dimensions), np.float32), np.empty((TILE_ROWS, hidden), np.float32)
    for start in range(0, len(points_ND), TILE_ROWS):
      part_TD, tokens_T = halves.to_float32(points_ND[start : start + TILE_ROWS]), tokens_N[start : start + TILE_ROWS]
      out_T = scores_N[start : start + TILE_ROWS]
      if not hidden:
        model_loops.regress(part_TD, tokens_T, rest, out_T)
        continue
      tile_TD[: len(part_TD)] = part_TD
      tile_TD[len(part_TD) :] = 0
      np.matmul(tile_TD, first_DH, out=sums_TH)
      model_loops.finish_network(sums_TH, tokens_T, rest.reshape(-1)[:-1].reshape(3, hidden), rest[-1], out_T)
