"""Conversion of embeddings from float16 to float32."""

import numpy as np
import pytest

from curation.coverage import halves


def test_every_number_is_what_numpy_makes_of_it():
  """All 65,536 of them: subnormal, infinite, no numbers. Kills: a bias of 127; subnormal numbers flushed to zero."""
  every_N = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
  with np.errstate(invalid="ignore"):
    expected_N = every_N.astype(np.float32)
  assert halves.to_float32(every_N).tobytes() == expected_N.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_result_is_a_contiguous_copy(dtype):
  """Kills: strides that are not heeded; the caller's own array given back; the last of several batches left out."""
  points_ND = np.random.default_rng(0).standard_normal((300, 700)).astype(dtype)
  for given_ND in (points_ND, points_ND.T, points_ND[::3, 1::2], points_ND[:0]):
    converted_ND = halves.to_float32(given_ND)
    assert (
      converted_ND.dtype == np.float32
      and converted_ND.flags.c_contiguous
      and not np.shares_memory(converted_ND, given_ND)
    )
    np.testing.assert_array_equal(converted_ND, given_ND.astype(np.float32))
