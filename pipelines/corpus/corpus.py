"""The corpus of a job: an input, and its division into blocks."""

import contextlib
import dataclasses
import functools
from typing import Any

from pipelines.corpus import blocks, counting, inputs, sources
from pipelines.corpus.readers.registry import READERS
from pipelines.files import storage
from pipelines.worker import progress


@dataclasses.dataclass(frozen=True)
class Corpus:
  """An input and its division into blocks, as in fingerprints."""

  shards: tuple[blocks.Shard, ...]
  fields: blocks.Fields
  block_rows: int

  @property
  def texts(self) -> sources.Texts:
    """The source of the documents."""
    return sources.Texts(self.fields, self.block_rows)

  def identified(self) -> "Corpus":
    """Returns the corpus with the checksums of its shards."""
    return dataclasses.replace(self, shards=tuple(inputs.identify(list(self.shards))))

  @functools.cached_property
  def count(self) -> progress.Count | None:
    """The estimated number of documents, from the heads of some shards; None if they do not allow an estimate."""
    if any(READERS[shard.format].needs_local_file and not storage.is_local(shard.path) for shard in self.shards):
      return None
    with contextlib.suppress(Exception):  # only for display: the pipeline reports what is wrong with a file
      return progress.Count(round(counting.count_documents(self.shards, self.fields).value), is_exact=False)
    return None

  def request(self) -> dict[str, Any]:
    """Returns the part of a request that describes the corpus, a JSON object."""
    return {
      "inputs": [shard.identity() for shard in self.shards],
      "fields": dataclasses.asdict(self.fields),
      "block_rows": self.block_rows,
      "block_text_bytes": blocks.BLOCK_TEXT_BYTES,
    }
