"""Students' scores: the right numbers, and the same bits wherever a document stands."""

import numpy as np
import pytest

from curation.student.models import TILE_ROWS, Shape, Student

DIMENSIONS = 96
GENERATOR = np.random.default_rng(3)
ROWS = 2 * TILE_ROWS + 77
POINTS_ND = GENERATOR.standard_normal((ROWS, DIMENSIONS)).astype(np.float16)
TOKENS_N = GENERATOR.integers(0, 5_000, ROWS).astype(np.int32)


def student(hidden: int, *, has_length: bool = True) -> Student:
  shape = Shape(DIMENSIONS, hidden, has_length)
  return Student(shape, np.random.default_rng(hidden).standard_normal(shape.num_weights).astype(np.float32))


@pytest.mark.parametrize("hidden", [0, 1, 48, 128])
def test_a_score_depends_on_its_document_alone(hidden):
  """Alone, in a block, in its last row, among others: the same bits.

  Kills the mutants: a product of as many rows as the block has (seen with 48 hidden units: BLAS computes one row by
  another routine); rows of a tile that keep what the tile before had.
  """
  whole_N = student(hidden).predict(POINTS_ND, TOKENS_N)
  for number in (0, 1, 5, TILE_ROWS - 1, TILE_ROWS, ROWS - 1):
    assert student(hidden).predict(POINTS_ND[number : number + 1], TOKENS_N[number : number + 1])[0] == whole_N[number]
  for cut in (1, 3, TILE_ROWS - 1, TILE_ROWS + 1):
    np.testing.assert_array_equal(student(hidden).predict(POINTS_ND[cut:], TOKENS_N[cut:]), whole_N[cut:])
    np.testing.assert_array_equal(student(hidden).predict(POINTS_ND[:cut], TOKENS_N[:cut]), whole_N[:cut])
  order_N = GENERATOR.permutation(ROWS)
  np.testing.assert_array_equal(student(hidden).predict(POINTS_ND[order_N], TOKENS_N[order_N]), whole_N[order_N])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scores_are_those_of_the_formula(dtype):
  """Kills: weights that are cut up at the wrong places; a unit below 0 that counts; a length as it is."""
  points_ND, lengths_N = POINTS_ND.astype(dtype), np.log1p(TOKENS_N)
  ridge = student(0)
  of_points, of_length, constant = np.split(ridge.weights.astype(float), [DIMENSIONS, DIMENSIONS + 1])
  expected_N = points_ND.astype(float) @ of_points + lengths_N * of_length + constant
  np.testing.assert_allclose(ridge.predict(points_ND, TOKENS_N), expected_N, rtol=1e-5, atol=1e-4)
  network = student(7)
  first, rest = np.split(network.weights.astype(float), [7 * DIMENSIONS])
  units_NH = points_ND.astype(float) @ first.reshape(DIMENSIONS, 7) + np.outer(lengths_N, rest[:7]) + rest[7:14]
  expected_N = np.maximum(units_NH, 0) @ rest[14:21] + rest[21]
  np.testing.assert_allclose(network.predict(points_ND, TOKENS_N), expected_N, rtol=1e-4, atol=1e-3)


def test_inputs_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="needs the number of tokens"):
    student(0).predict(POINTS_ND)
  with pytest.raises(ValueError, match=r"embeddings must be \[N, 96\]"):
    student(0).predict(POINTS_ND[:, 1:], TOKENS_N)
  assert len(student(4).predict(POINTS_ND[:0], TOKENS_N[:0])) == 0
