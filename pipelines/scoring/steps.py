"""Steps of work, each planned once its input is on record: a step fans out over its plan, and ends when all is done.

Only what the plan names crosses a shuffle: numbers of groups, parts and shards.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipelines.runners import sharing
from pipelines.worker import progress

Plan = Callable[[], Iterable[Any]]
Work = Callable[[Any], Any]
Made = Callable[[Sequence[Any]], Sequence[str]]


class Step(NamedTuple):
  """A step: its label, the name under which users see its progress, its plan, and its work on each item of that.

  `made` gives the path of the file that the work makes last, for each of some items.
  """

  label: str
  stage: str
  plan: Plan
  work_on: Work
  made: Made


class Steps(beam.PTransform):
  """PCollection of one element -> the same, after all steps, one after another. If `is_done`, no step is begun.

  `is_over`: whether the store that the steps are for is complete, so that their files may be gone.
  """

  def __init__(
    self,
    is_done: Callable[[], bool],
    is_over: Callable[[], bool],
    address: progress.Address | None,
    steps: Sequence[Step],
  ):
    super().__init__()
    self._is_done, self._is_over, self._address, self._steps = is_done, is_over, address, steps

  def expand(self, element: beam.PCollection):
    is_done = self._is_done
    wanted = element | "Missing" >> beam.Filter(lambda _: not is_done())
    done: Any = None
    for step in self._steps:
      # Only the end of the step before matters: a side input is there when all of it is, and this one is never read.
      ended = [] if done is None else [beam.pvalue.AsIter(done)]
      planned = sharing.spread(wanted, f"Plan{step.label}", _ignoring(step.plan), *ended)
      done = planned | step.label >> sharing.do(
        beam.Map(self._report_progress(step.stage, step.work_on)),
        made=step.made,
        result=lambda item: None,  # all that a step leaves is on storage
        is_over=self._is_over,
        address=self._address,
      )
    return element | "WhenDone" >> beam.Map(lambda element, _: element, beam.pvalue.AsIter(done))

  def _report_progress(self, stage: str, work_on: Work) -> Work:
    address = self._address

    def work_in_stage(item: Any) -> Any:
      with progress.working(address, stage):
        return work_on(item)

    return work_in_stage


def _ignoring(plan: Plan) -> Callable[..., Iterable[Any]]:
  return lambda *_: plan()
