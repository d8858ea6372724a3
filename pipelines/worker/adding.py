"""Sums of what all items of a step give, which are also how the next step waits for the end of this one."""

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam


class AddUp(beam.PTransform):
  """PCollection[(told, part)] -> PCollection[(told, sum)] (one), once all parts are there; nothing without parts.

  `told` is what all items were told, the same for each; the sum takes it along, so that the next step needs no side
  input. `add` returns the sum of a list of parts, in any order and grouping. Side inputs cost a runner such as Flink
  two steps of a job, and this costs one.
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
  """Adds up nothing, for steps whose results are on storage."""


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
