"""A combiner that counts hash codes into one slice of a RACE sketch's rows.

What a bundle adds to a slice are codes while these are smaller than the slice's counts, and counts from then on. So a
few vectors ship a few kilobytes, and a million no more than a sketch. Shape suffixes: N vectors, R rows of the slice, B
counters of a row.
"""

import dataclasses
from collections.abc import Iterable

import apache_beam as beam
import numpy as np

from curation.coverage import race
from curation.errors import WinnowError


@dataclasses.dataclass
class Counted:
  """Vectors of a slice: their codes, arrays [R, N], or else counts int32 [R, B]; None if there are only codes."""

  num_points: int
  codes: list[np.ndarray]
  counts_RB: np.ndarray | None


class CountFn(beam.CombineFn):
  """Counts codes, uint16 or uint32 [R, N], of one slice; gives `Counted`, which `add_counts` adds to a sketch.

  Raises WinnowError beyond 2^31 - 1 vectors.
  """

  def __init__(self, counters: int):
    self._counters = counters
    self._most_codes = 4 * counters // np.dtype(race.code_type(counters)).itemsize

  def create_accumulator(self) -> Counted:
    return Counted(0, [], None)

  def add_input(self, total: Counted, codes_RN: np.ndarray) -> Counted:
    return self._add(total, Counted(codes_RN.shape[1], [codes_RN], None))

  def merge_accumulators(self, many: Iterable[Counted]) -> Counted:
    total = self.create_accumulator()
    for counted in many:
      total = self._add(total, counted)
    return total

  def compact(self, total: Counted) -> Counted:
    """Joins the codes, since each array has a header."""
    codes = [np.concatenate(total.codes, axis=1)] if total.codes else []
    return Counted(total.num_points, codes, total.counts_RB)

  def extract_output(self, total: Counted) -> Counted:
    return self.compact(total)

  def _add(self, total: Counted, other: Counted) -> Counted:
    """Adds `other` to `total`, which may change, and turns its codes into counts once they are larger."""
    total.num_points += other.num_points
    if total.num_points > race.MAX_POINTS:
      raise WinnowError(f"a sketch holds at most {race.MAX_POINTS:,} vectors")
    total.codes += other.codes
    if total.counts_RB is None:
      total.counts_RB = None if other.counts_RB is None else other.counts_RB.copy()
    elif other.counts_RB is not None:
      total.counts_RB += other.counts_RB
    if total.counts_RB is None and total.num_points >= self._most_codes:
      total.counts_RB = np.zeros((len(total.codes[0]), self._counters), np.int32)
    if total.counts_RB is not None:
      codes, total.codes = total.codes, []
      for codes_RN in codes:
        race.count_codes(codes_RN, total.counts_RB)
    return total


def add_counts(counted: Counted, counts_RB: np.ndarray) -> None:
  """Adds what is counted to the counts of a sketch's rows, int32 [R, B], in place."""
  if counted.counts_RB is not None:
    counts_RB += counted.counts_RB
  for codes_RN in counted.codes:
    race.count_codes(codes_RN, counts_RB)
