"""The job of a store: claimed, cleared where it must be, and filled by one pipeline, the stores that it reads first."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from curation import domains
from curation.errors import WinnowError
from pipelines import (
  blocks,
  clustering,
  comparing,
  comparison,
  inputs,
  progress,
  requests,
  scoring,
  sketching,
  sources,
  storage,
  stores,
  stripes,
)

# Compressed to plain bytes of English JSON lines, roughly: they only place the end of a progress bar.
_PLAIN_PER_BYTE = {"": 1.0, "gzip": 2.5, "zstd": 2.7}


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

  def request(self) -> dict[str, Any]:
    return {
      "inputs": [shard.identity() for shard in self.shards],
      "fields": dataclasses.asdict(self.fields),
      "block_rows": self.block_rows,
      "block_text_bytes": blocks.BLOCK_TEXT_BYTES,
    }


@dataclasses.dataclass(frozen=True)
class ScoringJob:
  """One store and what is to be done in it.

  `before`: the job of the store that this one reads, if it may have to be made first; `sketch`, `centroids`,
  `compared`: what is made of all its embeddings for density scores, for clusters, or for SemDeDup scores.
  `overwrite`: what is there of another request goes when the job is claimed; and all of it if it is complete, so that a
  run with --overwrite that was killed goes on too, unless `spare`.
  """

  corpus: Corpus
  config: scoring.ScoringConfig
  request: dict[str, Any]
  where: dict[str, Any]
  overwrite: bool
  spare: bool
  knows_engine: bool  # workers have the launcher's libraries
  before: "ScoringJob | None" = None
  sketch: sketching.SketchConfig | None = None
  centroids: clustering.ClusteringConfig | None = None
  compared: comparison.ComparingConfig | None = None

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def steps(self) -> list["ScoringJob"]:
    """The jobs that have to be done, in order, this one last; none once this one is complete."""
    if self.is_complete and not self.starts_over:
      return []
    return [*([] if self.before is None else self.before.steps), self]

  @property
  def chain(self) -> list["ScoringJob"]:
    """The jobs of the stores that this one is made from, one from another, this one last."""
    return [*([] if self.before is None else self.before.chain), self]

  @property
  def is_complete(self) -> bool:
    is_diagnosed = self.centroids is None or storage.exists(self.centroids.path(clustering.DIAGNOSTICS_FILE))
    return is_diagnosed and self.config.store.is_complete

  @property
  def starts_over(self) -> bool:
    """The store is complete, and is to be made again; once it is claimed it is not complete."""
    return self.overwrite and self.is_complete and not self.spare

  def engine_difference(self) -> tuple[str, str, str] | None:
    """In what the engine that the store was begun with is known to differ from the one here, before a worker has it."""
    here = self.config.scorer.engine()
    if self._stored is None:  # else domains are those of the store that is read
      here = {"suffix_list": domains.suffix_list(), **here}
    there = requests.readable(self.config.store.engine_path)
    if not self.knows_engine or not isinstance(there, dict):
      return None
    return requests.first_difference({key: there.get(key) for key in here}, here)

  def claim(self) -> None:
    """Makes the store's folder belong to this job: the first thing that is written."""
    store = self.config.store
    starts_over = self.starts_over
    keep_engine = self.is_complete or self.engine_difference() is None
    if self.before is not None and (starts_over or not self.is_complete):
      self.before.claim()
    if starts_over:
      store.clear()
    elif self.overwrite:
      store.clear_others(self.corpus.shards, keep_engine=keep_engine)
    requests.claim(store.request_path, self.request, owner=f"the score store {store.folder}")
    storage.create(storage.join(store.folder, stores.INPUT_FILE), requests.to_json(self.where))

  def expected_documents(self) -> int:
    """About how many documents are still to be scored: by the size of the shards and the head of one of each kind."""
    waiting, _ = self._waiting_and_finished()
    if self._stored is not None and (summary := self._stored.readable_summary()):
      names = {shard.name for shard in waiting}
      return sum(shard["read"] for shard in summary["shards"] if shard["shard"] in names)
    kinds: dict[tuple[str, str], list[blocks.Shard]] = {}
    for shard in waiting:
      kinds.setdefault((shard.format, shard.compression), []).append(shard)
    per_byte = {kind: _documents_per_byte(shards[0], self.corpus.fields) for kind, shards in kinds.items()}
    return round(sum(per_byte[shard.format, shard.compression] * shard.size for shard in waiting))

  def tidy(self) -> None:
    """Removes what a complete store no longer needs and a run that was killed at its very end left."""
    self.config.store.tidy(self.corpus.shards)
    self.sweep()

  def sweep(self) -> None:
    """Removes what dead writers left, in the stores that are read too, which may have been complete for long."""
    for job in self.chain:
      storage.sweep_temporary_files(job.folder)

  def pipeline(self, root: beam.Pipeline, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[stores.Ledger]: the store is complete."""
    config = dataclasses.replace(self.config, progress_address=address)
    label = config.stage.capitalize()
    if self.is_complete and not self.starts_over:
      return root | f"{label}Complete" >> beam.Create([config.store.ledger()])
    after = root
    if self.before is not None:
      after = self.before.pipeline(root, parallelism, address)
    elif self._stored is not None:
      after = root | "Stored" >> beam.Create([self._stored.ledger()])
    if self.sketch is not None:
      after = after | "Sketch" >> sketching.Sketch(dataclasses.replace(self.sketch, progress_address=address))
    if self.centroids is not None:
      centroids = dataclasses.replace(self.centroids, progress_address=address)
      after = after | "Train" >> clustering.Train(centroids)
    if self.compared is not None:
      after = after | "Compare" >> comparing.Compare(dataclasses.replace(self.compared, progress_address=address))
    waiting, finished = (list(self.corpus.shards), []) if self.starts_over else self._waiting_and_finished()
    divided = (divide(shards, parallelism, per_worker=4) for shards in (waiting, finished))
    ledger = after | label >> scoring.Score(config, *divided)
    return ledger if self.centroids is None else ledger | "Diagnose" >> clustering.Diagnose(self.centroids)

  def stages(self) -> dict[str, int | None]:
    """What there is to do, in order, and about how many documents each stage has; None where nobody knows yet."""
    stored = None if self._stored is None else requests.field(self._stored.summary_path, "scored")
    found: dict[str, int | None] = {} if self.sketch is None else {"sketch": stored}
    if self.centroids is not None:
      found |= clustering.stages(self.centroids, stored)
    if self.compared is not None:
      found |= {"move": stored, "compare": stored}
    return found | {self.config.stage: self.expected_documents()}

  @property
  def _stored(self) -> stores.ScoreStore | None:
    """The store that is read in place of texts."""
    source = self.config.source
    return source.store if isinstance(source, sources.StoredBlocks) else None

  def _waiting_and_finished(self) -> tuple[list[blocks.Shard], list[blocks.Shard]]:
    finished = self.config.store.finished(self.corpus.shards)
    done = set(finished)
    return [shard for shard in self.corpus.shards if shard not in done], finished


def divide(shards: Sequence[blocks.Shard], parallelism: int, *, per_worker: int) -> list[stripes.Stripe]:
  """Several stripes for each of several workers, since they are not equally long; a single one reads each file once."""
  return list(stripes.divide(shards, per_worker * parallelism if parallelism > 1 else 1))


def _documents_per_byte(shard: blocks.Shard, fields: blocks.Fields, rows: int = 256) -> float:
  """About how many documents a byte of such a file holds, from its first rows."""
  with contextlib.suppress(WinnowError):  # what is wrong with the shard, the pipeline will tell
    for block in sources.Texts(fields, rows).read(shard, blocks.every):
      plain_bytes = 1.1 * block.text_bytes / block.num_rows + 100
      return _PLAIN_PER_BYTE[shard.compression] / plain_bytes
  return 0.0
