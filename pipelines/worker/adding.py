"""Sums over all items of a step. The next step waits for the sum, and so for the end of this step."""

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam


class AddUp(beam.PTransform):
  """PCollection[(context, part)] -> PCollection[(context, sum)] (one), once all parts are there; nothing without parts.

  The context is the same for all parts, and travels with the sum, so that the next step needs no side input. `add`
  returns the sum of a list of parts, in any order and grouping. A side input costs Flink two vertices of a job, and
  this costs one.
  """

  def __init__(self, add: Callable[[list], Any]):
    super().__init__()
    self._add = add

  def expand(self, parts: beam.PCollection) -> beam.PCollection:
    return (
      parts
      | "Key" >> beam.Map(lambda element: (0, element)).with_output_types(tuple[int, Any])
      | "Add" >> beam.CombinePerKey(_AddFn(self._add))
      | "Unkey" >> beam.Map(lambda keyed: keyed[1]).with_output_types(Any)
    )


def ended(_: list) -> None:
  """Adds up nothing. For steps whose results are files."""


class _AddFn(beam.CombineFn):
  def __init__(self, add: Callable[[list], Any]):
    self._add = add

  def create_accumulator(self) -> tuple | None:
    return None

  def add_input(self, accumulator: tuple | None, element: tuple) -> tuple | None:
    return self.merge_accumulators([accumulator, element])

  def merge_accumulators(self, accumulators: Iterable[tuple | None]) -> tuple | None:
    parts = [accumulator for accumulator in accumulators if accumulator is not None]
    if len(parts) < 2:
      return parts[0] if parts else None
    return parts[0][0], self._add([part for _, part in parts])

  def extract_output(self, accumulator: tuple | None) -> tuple | None:
    return accumulator
