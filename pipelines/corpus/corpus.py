"""The corpus of a job: an input, and how it is cut into blocks."""

import contextlib
import dataclasses
import functools
from typing import Any

from pipelines.corpus import blocks, counting, inputs, sources
from pipelines.files import storage
from pipelines.worker import progress


@dataclasses.dataclass(frozen=True)
class Corpus:
  """An input and how it is cut into blocks, as it goes into fingerprints."""

  shards: tuple[blocks.Shard, ...]
  fields: blocks.Fields
  block_rows: int

  @property
  def texts(self) -> sources.Texts:
    return sources.Texts(self.fields, self.block_rows)

  def identified(self) -> "Corpus":
    """The same with the checksums of the shards."""
    return dataclasses.replace(self, shards=tuple(inputs.identify(list(self.shards))))

  @functools.cached_property
  def count(self) -> progress.Count | None:
    """About how many documents there are, by the heads of some shards; None where these do not tell."""
    if any(shard.format == "array_record" and not storage.is_local(shard.path) for shard in self.shards):
      return None  # whose heads cannot be read alone
    with contextlib.suppress(Exception):  # for the eye alone: what is wrong with a file the pipeline tells
      return progress.Count(round(counting.count_documents(self.shards, self.fields).value), is_exact=False)
    return None

  def request(self) -> dict[str, Any]:
    return {
      "inputs": [shard.identity() for shard in self.shards],
      "fields": dataclasses.asdict(self.fields),
      "block_rows": self.block_rows,
      "block_text_bytes": blocks.BLOCK_TEXT_BYTES,
    }
