"""Embeddings as columns and arrays: the same numbers, however the column is cut."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pipelines.corpus import fixed_width

POINTS = np.random.default_rng(0).standard_normal((50, 7))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cuts", [[0, 50], [0, 10, 10, 50], [20, 50], [7, 9, 31], [5, 5]])
def test_a_column_gives_its_embeddings_back(dtype, cuts):
  """Kills: an offset within a buffer that is counted in values, and the first of several chunks taken for all."""
  points_ND = POINTS.astype(dtype)
  array = fixed_width.column(points_ND)
  chunks = [array.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
  found_ND = fixed_width.array(pa.chunked_array(chunks, array.type), dtype)
  np.testing.assert_array_equal(found_ND, points_ND[cuts[0] : cuts[-1]])


def test_a_filtered_and_an_empty_column_do_too():
  array = pa.chunked_array([fixed_width.column(POINTS.astype(np.float32))])
  kept_N = np.arange(50) % 3 == 1
  found_ND = fixed_width.array(array.filter(pa.array(kept_N)), "float32")
  np.testing.assert_array_equal(found_ND, POINTS.astype(np.float32)[kept_N])
  assert fixed_width.array(pa.chunked_array([], array.type), "float32").shape == (0, 7)
