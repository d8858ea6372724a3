"""Beam's Reshuffle and Create in fewer transforms, since each transform of a graph costs time before a job starts."""

import random
from typing import Any

import apache_beam as beam
from apache_beam import typehints
from apache_beam.portability import common_urns


class Reshuffle(beam.PTransform):
  """PCollection[T] -> the same, each element handed to whichever worker is free: this breaks the fusion of steps.

  Beam's own Reshuffle takes seven transforms and this one four, because it also keeps timestamps and windows, which no
  pipeline of Winnow uses. Flink, Spark, Prism and Dataflow know both by the same URN, and replace them with a step of
  their own.
  """

  def expand(self, elements: beam.PCollection):
    kind = elements.element_type
    return (
      elements
      | "Key" >> beam.Map(lambda element: (random.getrandbits(32), element)).with_output_types(typehints.KV[int, kind])
      | "Group" >> beam.GroupByKey()
      | "Unkey" >> beam.FlatMap(lambda keyed: keyed[1]).with_output_types(kind)
    )

  def to_runner_api_parameter(self, _: Any) -> tuple[str, None]:
    return common_urns.composites.RESHUFFLE.urn, None


class One(beam.PTransform):
  """PBegin -> PCollection of one element, which is known at launch."""

  def __init__(self, element: Any):
    super().__init__()
    self._element = element

  def expand(self, begin: beam.pvalue.PBegin):
    element = self._element
    return begin | "Impulse" >> beam.Impulse() | "Element" >> beam.Map(lambda _: element).with_output_types(Any)
