"""The division of shards among workers."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipelines.corpus import blocks
from pipelines.worker import reshuffle

_MOST_STRIPES = 16
_STRIPE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Stripe:
  """A unit of work for one worker: every `count`-th block of a shard, from block `index` on.

  A stripe does not depend on the number of blocks of its shard. Its reader starts at the beginning of the shard and
  skips the blocks of other stripes, which costs only decompression. No result depends on the division of a shard.
  """

  shard: blocks.Shard
  index: int
  count: int

  def holds(self, block: int) -> bool:
    """Tells whether the block with this index belongs to the stripe."""
    return block % self.count == self.index

  @property
  def file_name(self) -> str:
    """The name, or the beginning of the name, of files that belong to the stripe."""
    return f"{self.shard.file_name}-{self.index:02d}-of-{self.count:02d}"


def divide(shards: Iterable[blocks.Shard], parallelism: int) -> Iterator[Stripe]:
  """Divides shards into about `parallelism` stripes of equal size, at most 16 for a shard and none below 1 MiB."""
  shards = list(shards)
  share = max(sum(shard.size for shard in shards) / parallelism, _STRIPE_BYTES)
  for shard in shards:
    count = min(max(round(shard.size / share), 1), _MOST_STRIPES)
    for index in range(count):
      yield Stripe(shard, index, count)


def divide_among(shards: Sequence[blocks.Shard], workers: int, *, per_worker: int) -> list[Stripe]:
  """Returns about `per_worker` stripes for each worker, since stripes differ in length; one a shard for one worker."""
  return list(divide(shards, per_worker * workers if workers > 1 else 1))


class Spread(beam.PTransform):
  """A list -> a PCollection of its elements, spread over the workers.

  Applied to a PCollection of one element, it waits for that element. If that is their `context`, each element of the
  list comes in a pair with it.
  """

  def __init__(self, elements: Sequence[Any], *, context: bool = False):
    super().__init__()
    self._elements, self._is_context = elements, context

  def expand(self, after: Any) -> beam.PCollection:  # a pipeline, or a PCollection of one element
    elements, is_context = self._elements, self._is_context
    if isinstance(after, (beam.Pipeline, beam.pvalue.PBegin)):
      after = after | "Impulse" >> beam.Impulse()
    listed = beam.FlatMap(lambda element: ((element, item) for item in elements) if is_context else elements)
    return after | "List" >> listed | "Spread" >> reshuffle.Reshuffle()
