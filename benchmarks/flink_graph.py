"""What Flink makes of a pipeline: the stages that Beam's runner fuses, and the vertices of the job graph.

It follows Beam's `GreedyPipelineFuser` and its translation to Flink's DataStream API: a ParDo joins the stage of its
producer unless it reads side inputs, a stage right after a shuffle is chained to it, and each side input is a vertex,
too. It counts a vertex after each `Flatten`, of which Flink chains some. Of three jobs that had 13, 107 and 518
vertices on a cluster of Flink 2.0.1 it gives 14, 119 and 525.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner

_IMPULSE = common_urns.primitives.IMPULSE.urn
_GROUP = common_urns.primitives.GROUP_BY_KEY.urn
_FLATTEN = common_urns.primitives.FLATTEN.urn
_PARDO = common_urns.primitives.PAR_DO.urn
_RESHUFFLE = common_urns.composites.RESHUFFLE.urn
_OF_RUNNERS = (_IMPULSE, _GROUP, _FLATTEN, _RESHUFFLE)


@dataclasses.dataclass(frozen=True)
class Graph:
  """The size of a pipeline. `transforms` counts composite ones, too; `size` is in bytes, as a protocol buffer."""

  transforms: int
  stages: int
  shuffles: int
  side_inputs: int
  vertices: int
  size: int


def measure(pipeline: beam_runner_api_pb2.Pipeline) -> Graph:
  """Counts what a portable runner such as Flink's makes of a pipeline."""
  optimized = PortableRunner._optimize_pipeline(pipeline, PipelineOptions())
  transforms = optimized.components.transforms
  leaves = _leaves(transforms, optimized.root_transform_ids)
  producer = {output: name for name in leaves for output in transforms[name].outputs.values()}
  views = {name: _side_inputs(transforms[name]) for name in leaves}
  stage_of: dict[str, str] = {}  # of each ParDo: the name of what begins its stage

  def stage(name: str) -> str:
    if name not in stage_of:
      ((_, source),) = ((tag, c) for tag, c in transforms[name].inputs.items() if tag not in views[name])
      before = producer[source]
      if views[name]:
        stage_of[name] = name
      elif transforms[before].spec.urn in _OF_RUNNERS:
        stage_of[name] = f"after {source}"  # all that read one PCollection are one stage
      else:
        stage_of[name] = stage(before)
    return stage_of[name]

  urns = {name: transforms[name].spec.urn for name in leaves}
  stages = {stage(name) for name in leaves if urns[name] not in _OF_RUNNERS}
  chained = {f"after {c}" for name in leaves if urns[name] == _GROUP for c in transforms[name].outputs.values()}
  side_inputs = sum(len(tags) for tags in views.values())
  impulses, groups, reshuffles = (sum(urn == kind for urn in urns.values()) for kind in (_IMPULSE, _GROUP, _RESHUFFLE))
  return Graph(
    transforms=len(pipeline.components.transforms),
    stages=len(stages),
    shuffles=groups + reshuffles,
    side_inputs=side_inputs,
    vertices=impulses + groups + len(stages - chained) + side_inputs,
    size=pipeline.ByteSize(),
  )


def _leaves(transforms: Mapping[str, beam_runner_api_pb2.PTransform], names: Iterable[str]) -> list[str]:
  """Returns the transforms that do something: those of runners, and the innermost of the others."""
  leaves = []
  for name in names:
    transform = transforms[name]
    if transform.spec.urn not in _OF_RUNNERS and transform.subtransforms:
      leaves += _leaves(transforms, transform.subtransforms)
    elif transform.outputs and dict(transform.outputs) != dict(transform.inputs):
      leaves.append(name)
  return leaves


def _side_inputs(transform: beam_runner_api_pb2.PTransform) -> set[str]:
  if transform.spec.urn != _PARDO:
    return set()
  return set(beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload).side_inputs)
