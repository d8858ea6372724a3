"""Steps of work, each planned once its input is on record: a step fans out over its plan, and ends when all is done.

Only what the plan names crosses a shuffle: numbers of groups, parts and shards.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipelines.runners import sharing
from pipelines.worker import adding, progress

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
  """PCollection of one element -> the same, after all steps, one after another. If `is_done`, no step does any work.

  `is_over`: whether the store that the steps are for is complete, so that their files may be gone. The element travels
  with each item, so it should be small.
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

  def expand(self, element: beam.PCollection) -> beam.PCollection:
    is_done = self._is_done
    begun = element | "Begin" >> beam.Map(lambda element: _Begun(element, is_done()))
    for step in self._steps:
      begun = self._do(step, begun)
    return begun | "WhenDone" >> beam.Map(lambda begun: begun.element)

  def _do(self, step: Step, begun: beam.PCollection) -> beam.PCollection:
    """Adds a step to the pipeline: PCollection[_Begun] (one) -> the same, once all items are done."""
    address = self._address

    def plan(begun: _Begun) -> Iterator[_Item]:
      return (_Item(begun, (item,)) for item in (() if begun.is_done else step.plan()))

    def work_on(item: _Item) -> tuple[_Begun, None]:
      with progress.working(address, step.stage) if item.items else contextlib.nullcontext():
        for each in item.items:
          step.work_on(each)
      return item.begun, None

    # A step without items ends, too, thanks to one that is no work. All that a step leaves is on storage.
    planned = sharing.spread(begun, f"Plan{step.label}", plan, own=lambda begun: [_Item(begun, ())])
    done = planned | step.label >> sharing.do(
      beam.Map(work_on),
      made=lambda many: step.made([each for item in many for each in item.items]),
      result=lambda item: (item.begun, None),
      is_over=self._is_over,
      address=address,
    )
    return (
      done | f"End{step.label}" >> adding.AddUp(adding.ended) | f"After{step.label}" >> beam.Map(lambda ended: ended[0])
    )


class _Begun(NamedTuple):
  """The element that steps are for, and whether they are done already."""

  element: Any
  is_done: bool


class _Item(NamedTuple):
  """One item of a plan, or none."""

  begun: _Begun
  items: tuple
