"""Steps of a pipeline that all parts of a command do together (`parts`); without parts, they are plain transforms.

A step has a plan, items that are the same in all parts, and makes a file for each. A part makes the files of its own
items, and waits for those of the others. Then it knows the results of all items, as if it had done them itself.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.runners import part_records, parts
from pipelines.worker import progress, reshuffle

OVER = "the other parts have completed it"
_FILE = "file"  # as users see it, with a number


def spread(
  element: beam.PCollection,
  label: str,
  plan: Callable[..., Iterable[Any]],
  *sides: Any,
  own: Callable[..., Iterable[Any]] = lambda *_: (),
) -> beam.PCollection:
  """Returns the items of the plan that `plan` makes of at most one element, and of `sides`, for `do`.

  `own` adds items that each part does for itself, and that have no files.
  """
  part = parts.current()

  def items(*arguments: Any) -> Iterator[Any]:
    if part is None:
      yield from itertools.chain(plan(*arguments), own(*arguments))
    else:
      yield from enumerate(plan(*arguments))
      yield from ((part.index, item) for item in own(*arguments))

  return element | label >> beam.FlatMap(items, *sides) | f"Spread{label}" >> reshuffle.Reshuffle()


def placed(items: beam.PCollection, place: Callable[[Any], int], label: str) -> beam.PCollection:
  """Tells `do` the places of items that another transform has planned, the same in all parts."""
  return items if parts.current() is None else items | label >> beam.Map(lambda item: (place(item), item))


def do(
  work: beam.PTransform,
  *sides: Any,
  made: Callable[..., Sequence[str]],
  result: Callable[..., Any],
  is_over: Callable[[], bool],
  address: progress.Address | None,
) -> beam.PTransform:
  """Returns a transform from the items of a plan to their results, by whichever part makes them; without parts, `work`.

  `work` makes an item's file and gives its result. `made` gives the paths of the files of some items, and `result` the
  result of one whose file another part has made. Both also take `sides`. `is_over` tells whether all that the step is
  for is complete, so that its files may be gone.
  """
  part = parts.current()
  return work if part is None else _Do(part, work, sides, made, result, is_over, address)


class _Do(beam.PTransform):
  """Items with their places -> their results: see `do`."""

  def __init__(
    self,
    part: parts.Part,
    work: beam.PTransform,
    sides: Sequence[Any],
    made: Callable[..., Sequence[str]],
    result: Callable[..., Any],
    is_over: Callable[[], bool],
    address: progress.Address | None,
  ):
    super().__init__()
    self._part, self._work, self._sides, self._made, self._result = part, work, sides, made, result
    self._is_over, self._address = is_over, address

  def expand(self, items: beam.PCollection):
    part = self._part
    own = (
      items
      | "Own" >> beam.Filter(lambda placed: part.owns(placed[0]))
      | "OwnItems" >> beam.Map(lambda placed: placed[1])
      | "Do" >> self._work
    )
    others = beam.pvalue.AsList(items | "Others" >> beam.Filter(lambda placed: not part.owns(placed[0])))
    made, result, is_over, address = self._made, self._result, self._is_over, self._address

    def waiting(others: list[tuple[int, Any]], sides: Sequence[Any]) -> _Waiting:
      return _Waiting(part, others, made([item for _, item in others], *sides) if others else [], is_over)

    def left(_: bytes, others: list[tuple[int, Any]], own: Iterable[Any], *sides: Any) -> Iterator[tuple[Any, str]]:
      """Yields the items, with their files, of parts that are not at work: they may come late, or never."""
      del own
      at_work = part_records.at_work(part)
      absent = [] if is_over() else waiting(others, sides).absent()
      yield from ((item, path) for (place, item), path in absent if part.owner(place) not in at_work)

    def wait(
      _: bytes, others: list[tuple[int, Any]], own: Iterable[Any], helped: Iterable[Any], *sides: Any
    ) -> Iterator[Any]:
      """Waits for the files of others; yields the items that this part takes over from them."""
      del own, helped
      for_others = waiting(others, sides)
      if not part.wait(for_others.look, _FILE, address):
        yield from (item for (_, item), _ in for_others.absent())

    def results(_: bytes, others: list[tuple[int, Any]], taken: Iterable[Any], *sides: Any) -> Iterator[Any]:
      del taken
      for _place, item in others:
        yield result(item, *sides)

    begin = items.pipeline | "Begin" >> beam.Impulse()
    done = beam.pvalue.AsIter(own)
    helped = done
    if part.steals:
      # Each part meets them in another order, and looks for each file just before it would make it.
      helped = beam.pvalue.AsIter(
        begin
        | "Left" >> beam.FlatMap(left, others, done, *self._sides)
        | "SpreadLeft" >> reshuffle.Reshuffle()
        | "NotMade" >> beam.FlatMapTuple(lambda item, path: [] if storage.exists(path) else [item])
        | "Help" >> self._work
      )
    taken = begin | "Wait" >> beam.FlatMap(wait, others, done, helped, *self._sides)
    if part.steals:
      taken = taken | "SpreadTaken" >> reshuffle.Reshuffle() | "TakeOver" >> self._work
    known = begin | "Results" >> beam.FlatMap(results, others, beam.pvalue.AsIter(taken), *self._sides)
    return (own, known) | "All" >> beam.Flatten()


class _Waiting:
  """The items of other parts, by their places, and the paths of their files."""

  def __init__(
    self, part: parts.Part, others: list[tuple[int, Any]], paths: Sequence[str], is_over: Callable[[], bool]
  ):
    self._part, self._is_over = part, is_over
    self._others = list(zip(others, paths, strict=True))

  def absent(self) -> list[tuple[tuple[int, Any], str]]:
    """Returns the items whose files are not there, with their places and files."""
    folders = {path.rpartition("/")[0] for _, path in self._others}
    names = {folder: storage.list_names(folder) for folder in folders}
    return [other for other in self._others if other[1].rpartition("/")[2] not in names[other[1].rpartition("/")[0]]]

  def look(self) -> parts.Missing:
    """Looks for files that are not there. Raises WinnowError if they never will be, since all is complete."""
    absent = self.absent()
    if absent and self._is_over():
      raise WinnowError(f"part {self._part} is late, and {OVER}: start it again")
    return parts.Missing(collections.Counter(self._part.owner(place) for (place, _), _ in absent))
