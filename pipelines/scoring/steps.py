"""Steps of work, each planned once its input is on record: a step fans out over its plan, and ends when all is done.

Only what the plan names crosses a shuffle: numbers of groups, parts and shards.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam

from pipelines.worker import progress, reshuffle

Plan = Callable[[], Iterable[Any]]
Work = Callable[[Any], Any]


class Step(beam.PTransform):
  """PCollection of at most one element -> the results of the work on each item of the plan.

  The plan is made once all of `before` is there, the results of the step before; None: at once.
  """

  def __init__(self, plan: Plan, work_on: Work, before: Any | None):
    super().__init__()
    self._plan, self._work_on, self._before = plan, work_on, before

  def expand(self, wanted: beam.PCollection):
    plan, work_on = self._plan, self._work_on
    # Only the end of the step before matters: a side input is there when all of it is, and this one is never read.
    before = [] if self._before is None else [beam.pvalue.AsIter(self._before)]
    return (
      wanted
      | "Plan" >> beam.FlatMap(lambda _, *before: plan(), *before)
      | "Spread" >> reshuffle.Reshuffle()
      | "Do" >> beam.Map(work_on)
    )


class Steps(beam.PTransform):
  """PCollection of one element -> the same, after all steps, one after another. If `is_done`, no step is begun.

  A step is a label, the name under which users see its progress, its plan and its work.
  """

  def __init__(
    self,
    is_done: Callable[[], bool],
    address: progress.Address | None,
    steps: Sequence[tuple[str, str, Plan, Work]],
  ):
    super().__init__()
    self._is_done, self._address, self._steps = is_done, address, steps

  def expand(self, element: beam.PCollection):
    is_done = self._is_done
    wanted = element | "Missing" >> beam.Filter(lambda _: not is_done())
    done: Any = None
    for label, stage, plan, work_on in self._steps:
      done = wanted | label >> Step(plan, self._report_progress(stage, work_on), done)
    return element | "WhenDone" >> beam.Map(lambda element, _: element, beam.pvalue.AsIter(done))

  def _report_progress(self, stage: str, work_on: Work) -> Work:
    address = self._address

    def work_in_stage(item: Any) -> Any:
      with progress.working(address, stage):
        return work_on(item)

    return work_in_stage
