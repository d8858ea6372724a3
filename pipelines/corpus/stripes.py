"""How the reading of shards is divided among workers, and run ahead of the work on their blocks."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from pipelines.corpus import blocks

_MOST_STRIPES = 16
_STRIPE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Stripe:
  """Every `count`-th block of a shard, from block `index` on: what one worker takes at a time.

  A stripe needs no knowledge of how many blocks its shard has. Its reader starts at the shard's beginning and skips the
  blocks of the others, which costs decompression only. No result depends on how a shard is divided.
  """

  shard: blocks.Shard
  index: int
  count: int

  def holds(self, block: int) -> bool:
    return block % self.count == self.index

  @property
  def file_name(self) -> str:
    """What files are called that belong to the stripe, or how their names begin."""
    return f"{self.shard.file_name}-{self.index:02d}-of-{self.count:02d}"


def divide(shards: Iterable[blocks.Shard], parallelism: int) -> Iterator[Stripe]:
  """Divides shards into about `parallelism` stripes of equal size, a shard into 16 at most and none below 1 MiB."""
  shards = list(shards)
  share = max(sum(shard.size for shard in shards) / parallelism, _STRIPE_BYTES)
  for shard in shards:
    count = min(max(round(shard.size / share), 1), _MOST_STRIPES)
    for index in range(count):
      yield Stripe(shard, index, count)


def divide_among(shards: Sequence[blocks.Shard], workers: int, *, per_worker: int) -> list[Stripe]:
  """Several stripes for each of several workers, since they are not equally long; a single one reads each file once."""
  return list(divide(shards, per_worker * workers if workers > 1 else 1))


class Spread(beam.PTransform):
  """A list at launch -> a PCollection, each element with a worker of its own as far as there are workers.

  Applied to a PCollection of one element, it waits for that.
  """

  def __init__(self, elements: Sequence[Any]):
    super().__init__()
    self._elements = elements

  def expand(self, after: Any):
    elements = self._elements
    if isinstance(after, (beam.Pipeline, beam.pvalue.PBegin)):
      created = after | "Create" >> beam.Create(elements)
    else:
      created = after | "Then" >> beam.FlatMap(lambda _: elements)
    return created | "Spread" >> beam.Reshuffle()
