"""The exact top k of keys with scores, in a pipeline of one's own, by the search that draws the commands' samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms import window
from apache_beam.typehints import with_input_types
from apache_beam.utils import windowed_value

from curation.errors import WinnowError
from curation.selection import search, selection
from pipelines.selection import keys, thresholds
from pipelines.worker import adding

_BATCH = 1 << 16  # ranks in one element: a megabyte
_ADVICE = "two elements have the same key and the same score, so give each element a key of its own"


@with_input_types(tuple[Any, float])
class TopK(beam.PTransform):
  """PCollection[tuple[K, float]] -> PCollection[tuple[K, float]]: the k elements with the highest scores.

  k is `num_examples`, or floor(rate × N + 1/2) of the N elements that have a score. If there are fewer, all of them are
  selected. An element whose score is NaN has none, and is never selected. Equal scores are ordered by a hash of the
  seed and the key, so the selection depends on nothing but keys, scores, amount and seed: it is the same on every
  runner, and a smaller one lies within a larger one. Keys are strings, bytes, integers from 0 on, or pairs (shard, row)
  of a string and an integer, with which the selection is that of `winnow sample`.

  Memory does not grow with the input: three passes find the last rank that is selected from samples and counts, and
  nothing is sorted or gathered. Raises WinnowError for an amount that selects nothing, and for unbounded or windowed
  input. The pipeline fails if two elements at the threshold have the same key and score, or for keys of other types.
  """

  def __init__(self, rate: float | str | None = None, *, num_examples: int | None = None, seed: int = 0):
    super().__init__()
    if (rate is None) == (num_examples is None):
      raise WinnowError("TopK needs one amount: give it rate or num_examples")
    typed = None if rate is None else str(rate)
    self._request = selection.SelectionRequest("score", rate=typed, num_examples=num_examples, seed=seed)

  def expand(self, pairs: beam.PCollection) -> beam.PCollection:
    if not pairs.is_bounded or not isinstance(pairs.windowing.windowfn, window.GlobalWindows):
      raise WinnowError("TopK selects from a whole PCollection, which must be bounded and in the global window")
    request, seed = self._request, self._request.seed
    ranked = pairs | "Rank" >> beam.ParDo(_RankFn(seed))
    lengths = ranked | "Lengths" >> beam.Map(lambda ranks_N2: (None, len(ranks_N2))) | "AddLengths" >> adding.AddUp(sum)
    items = ranked | "TellLength" >> beam.Map(
      lambda ranks_N2, length: (length[1], ranks_N2), beam.pvalue.AsSingleton(lengths)
    )
    found = thresholds.find(items, lambda length: _begin(length, request), _read, _ADVICE)
    selected = beam.ParDo(_SelectFn(seed), beam.pvalue.AsSingleton(found))
    return pairs | "Select" >> selected.with_output_types(pairs.element_type)


class _RankFn(beam.DoFn):
  """Gives the ranks of the elements that have a score, uint64 [N, 2], some thousands together."""

  def __init__(self, seed: int):
    self._seed = seed

  def start_bundle(self) -> None:
    self._pairs: list[tuple[Any, float]] = []

  def process(self, pair: tuple[Any, float]) -> Iterator[np.ndarray]:
    self._pairs.append(pair)
    if len(self._pairs) == _BATCH:
      yield self._flush()

  def finish_bundle(self) -> Iterator[windowed_value.WindowedValue]:
    if self._pairs:
      yield windowed_value.WindowedValue(self._flush(), window.MIN_TIMESTAMP, (window.GlobalWindow(),))

  def _flush(self) -> np.ndarray:
    pairs, self._pairs = self._pairs, []
    return ranks_of([pair for pair in pairs if not np.isnan(pair[1])], self._seed)


class _SelectFn(beam.DoFn):
  """Keeps the elements from the end of the search on, with their timestamps; looks at some thousands together."""

  def __init__(self, seed: int):
    self._seed = seed

  def start_bundle(self) -> None:
    self._elements: list[tuple[tuple[Any, float], Any]] = []

  def process(
    self, pair: tuple[Any, float], found: tuple[int, search.Selected], timestamp: Any = beam.DoFn.TimestampParam
  ) -> Iterator[windowed_value.WindowedValue]:
    self._floor = found[1].floor
    if not np.isnan(pair[1]):
      self._elements.append((pair, timestamp))
    if len(self._elements) == _BATCH:
      yield from self._flush()

  def finish_bundle(self) -> Iterator[windowed_value.WindowedValue]:
    if self._elements:
      yield from self._flush()

  def _flush(self) -> Iterator[windowed_value.WindowedValue]:
    elements, self._elements = self._elements, []
    ranks_N2 = ranks_of([pair for pair, _ in elements], self._seed)
    is_selected_N = selection.is_selected(self._floor, ranks_N2[:, 0], ranks_N2[:, 1])
    for (pair, timestamp), is_selected in zip(elements, is_selected_N.tolist(), strict=True):
      if is_selected:
        yield windowed_value.WindowedValue(pair, timestamp, (window.GlobalWindow(),))


def ranks_of(pairs: Sequence[tuple[Any, float]], seed: int) -> np.ndarray:
  """Returns the key and the tie hash of each pair of a key and a score, as `selection` has them: uint64 [N, 2].

  Raises WinnowError for a key of a type that has no order on all machines.
  """
  ties_N = keys.hash_keys("tie", seed, (key for key, _ in pairs), "TopK cannot order elements of equal score")
  scores_N = np.array([score for _, score in pairs], np.float64)
  return np.stack([selection.order_key(scores_N), ties_N], axis=1)


def _begin(length: int, request: selection.SelectionRequest) -> selection.Search:
  k = request.expected_documents(length)
  assert k is not None
  return selection.Search(k, length)


def _read(ranks_N2: np.ndarray, is_first: bool) -> Iterator[search.Ranked]:
  del is_first
  yield search.Ranked(ranks_N2[:, 0], ranks_N2[:, 1])
