"""The compiled loop of `metrics`, in its own module since the compiler takes half a second and 50 MB to load."""

import numpy as np

from curation.machine_code import compiled


@compiled
def count_inversions(values_N):
  """Counts the inversions, pairs i < j with values[i] > values[j]. Overwrites `values_N`.

  Runs a bottom-up merge sort. A value taken from the right run passes everything that remains of the left run.
  """
  size = len(values_N)
  source_N, target_N = values_N, np.empty_like(values_N)
  inversions = np.int64(0)
  width = 1
  while width < size:
    for start in range(0, size, 2 * width):
      middle, stop = min(start + width, size), min(start + 2 * width, size)
      left, right = start, middle
      for place in range(start, stop):
        if left < middle and (right == stop or source_N[left] <= source_N[right]):
          target_N[place] = source_N[left]
          left += 1
        else:
          target_N[place] = source_N[right]
          inversions += middle - left
          right += 1
    source_N, target_N = target_N, source_N
    width *= 2
  return inversions
