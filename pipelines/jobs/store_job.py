"""The job of a store: claimed, cleared where it must be, and filled by one pipeline, the stores that it reads first."""

import collections
import dataclasses
from typing import Any

import apache_beam as beam

from curation.errors import WinnowError
from curation.selection import domains
from pipelines.corpus import blocks, stripes
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.scorers import registry
from pipelines.scoring import scoring, stored_blocks
from pipelines.scoring.preparation import Preparation
from pipelines.selection import survivors, thresholds
from pipelines.store import clearing, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress

_GATHERED_SECOND = 200_000  # documents, by one core


@dataclasses.dataclass(frozen=True)
class ScoringJob:
  """One store and what is to be done in it.

  `before`: the jobs of the stores that this one reads; they may have to be made first. `preparation`: what must be made
  of all that these hold before it can be read.
  `overwrite`: delete results of another request when the job is claimed; and a complete result too, unless `spare`, so
  that a run with --overwrite that was killed goes on.
  """

  corpus: Corpus
  config: scoring.ScoringConfig
  request: dict[str, Any]
  where: dict[str, Any]
  overwrite: bool
  spare: bool
  knows_engine: bool  # workers have the launcher's libraries
  before: tuple["ScoringJob | SelectingJob", ...] = ()
  preparation: Preparation | None = None

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def number(self) -> int:
    """The number of the stage, where a recipe has several; else 1."""
    return self.config.number

  @property
  def steps(self) -> list["ScoringJob | SelectingJob"]:
    """The jobs that have to be done, in order, this one last; none once this one is complete."""
    return _in_order(self, only_missing=True)

  @property
  def chain(self) -> list["ScoringJob | SelectingJob"]:
    """The jobs of all that this one is made from, each once and after what it reads, this one last."""
    return _in_order(self, only_missing=False)

  @property
  def identity(self) -> str:
    return f"{self.folder} {self.config.store.fingerprint}"

  def refuse_shared_folders(self) -> None:
    """Raises WinnowError where two jobs would fill one folder with different things."""
    scoring = [job for job in self.chain if isinstance(job, ScoringJob)]
    for folder, count in collections.Counter(job.folder for job in scoring).items():
      if count > 1:
        raise WinnowError(
          f"two stages of the recipe would fill {folder} with different things: give each stage a name of its own "
          "(name, embedding_name or clusters)"
        )

  @property
  def made_with(self) -> dict[str, str]:
    """The names of the models or embeddings that it is made of, by flags."""
    return self.where.get(score_store.MADE_WITH, {})

  @property
  def is_complete(self) -> bool:
    is_concluded = self.preparation is None or self.preparation.is_concluded
    return is_concluded and self.config.store.is_complete

  @property
  def starts_over(self) -> bool:
    """The store is complete, and is to be made again; once it is claimed it is not complete."""
    return self.overwrite and self.is_complete and not self.spare

  def engine_difference(self) -> tuple[str, str, str] | None:
    """In what the engine that the store was begun with is known to differ from the one here, before a worker has it."""
    here = self.config.scorer.engine()
    if self.config.survivors is not None:
      here = here | self.config.survivors.engine()
    if self._stored is None:  # else domains are those of the store that is read
      here = {"suffix_list": domains.suffix_list(), **here}
    there = fingerprints.read_json_or_none(self.config.store.engine_path)
    if not self.knows_engine or not isinstance(there, dict):
      return None
    return fingerprints.first_difference({key: there.get(key) for key in here}, here)

  def claim(self) -> None:
    """Makes the store's folder belong to this job: the first thing that is written."""
    store = self.config.store
    starts_over = self.starts_over
    keep_engine = self.is_complete or self.engine_difference() is None
    if starts_over:
      clearing.clear(store, _made_in_stores())
    elif self.overwrite:
      clearing.clear_others(store, self.corpus.shards, _made_in_stores(), keep_engine=keep_engine)
    fingerprints.claim(store.request_path, self.request, owner=f"the score store {store.folder}")
    storage.create(storage.join(store.folder, score_store.INPUT_FILE), fingerprints.to_json(self.where))

  @property
  def count(self) -> progress.Count | None:
    """How many documents the store is made for: those that were selected before, or all of the input."""
    for job in self.before:
      if isinstance(job, SelectingJob):
        return job.count
    if self.config.store.is_complete:
      return progress.Count(self.config.store.summary()["read"], is_exact=True)
    if self._stored is not None and self._stored.is_complete:
      return progress.Count(self._stored.summary()["read"], is_exact=True)
    return self.corpus.count

  def tidy(self) -> None:
    """Removes what a complete store no longer needs and a run that was killed at its very end left."""
    clearing.tidy(self.config.store, self.corpus.shards, self.config.work)
    self.sweep()

  def sweep(self) -> None:
    """Removes what dead writers left, in the stores that are read too, which may have been complete for long."""
    for folder in {job.folder for job in self.chain}:
      storage.sweep_temporary_files(folder)

  def pipeline(self, root: beam.Pipeline, parallelism: int, address: progress.Address | None) -> Any:
    """PCollection[stores.Ledger]: the store is complete, and so is all that it is made from."""
    after: Any = None
    labels: collections.Counter[str] = collections.Counter()
    for job in self.steps:
      labels[job.label] += 1  # two stages may each have embeddings of their own
      again = "" if labels[job.label] == 1 else f"Again{labels[job.label]}"
      after = job.transform(root if after is None else after, parallelism, address, again)
    return root | "Complete" >> beam.Create([self.config.store.ledger()]) if after is None else after

  @property
  def label(self) -> str:
    """What the job's own step is called in a pipeline."""
    return self.config.stage.title().replace("_", "")

  def transform(self, after: Any, parallelism: int, address: progress.Address | None, again: str = "") -> Any:
    """Fills the store once the one element is there of `after`, or at once if it is the pipeline's root.

    `again`: what is added to labels that another job has.
    """
    address = None if address is None else address.within(self.config.number)
    config = dataclasses.replace(self.config, progress_address=address)
    label = self.label + again
    number = ("" if config.number == 1 else str(config.number)) + again
    if self._stored is not None and isinstance(after, beam.Pipeline):
      after = after | f"Stored{number}" >> beam.Create([None])
    if self.preparation is not None:
      after = after | f"{self.preparation.label}{number}" >> self.preparation.transform(address)
    waiting, finished = (list(self.corpus.shards), []) if self.starts_over else self._waiting_and_finished()
    divided = (stripes.divide_among(shards, parallelism, per_worker=4) for shards in (waiting, finished))
    ledger = after | label >> scoring.Score(config, *divided)
    conclusion = None if self.preparation is None else self.preparation.conclusion()
    return ledger if conclusion is None else ledger | f"Diagnose{number}" >> conclusion

  def stages(self) -> list[progress.Stage]:
    """What there is to do, in order, as users see it."""
    scorer, count = self.config.scorer, self.count
    stored = count  # those of them that are not bad in the store that is read
    if self._stored is not None and self.config.survivors is None and self._stored.is_complete:
      stored = progress.Count(self._stored.summary()["scored"], is_exact=True)
    found = [] if self.preparation is None else self.preparation.stages(stored)
    if loading := self.config.scorer.loading:
      found += [progress.Stage(loading, progress.Count(0, is_exact=False))]
    found += [progress.Stage(self.config.title, count, scorer.speed)]
    return [*found, progress.Stage(scoring.GATHERING, count, _GATHERED_SECOND)]

  @property
  def _stored(self) -> ScoreStore | None:
    """The store that is read in place of texts."""
    source = self.config.source
    return source.store if isinstance(source, stored_blocks.StoredBlocks) else None

  def _waiting_and_finished(self) -> tuple[list[blocks.Shard], list[blocks.Shard]]:
    finished = self.config.store.finished(self.corpus.shards)
    done = set(finished)
    return [shard for shard in self.corpus.shards if shard not in done], finished


@dataclasses.dataclass(frozen=True)
class SelectingJob:
  """Between two stages of a recipe: what the first one selects of its store is written down there."""

  survivors: survivors.Survivors
  scoring: ScoringJob
  number: int
  """Of the stage that selects."""

  @property
  def before(self) -> tuple[ScoringJob]:
    return (self.scoring,)

  @property
  def folder(self) -> str:
    return self.survivors.store.folder

  @property
  def identity(self) -> str:
    return f"{self.folder} {self.survivors.fingerprint}"

  @property
  def is_complete(self) -> bool:
    return self.scoring.is_complete and self.survivors.are_settled

  @property
  def starts_over(self) -> bool:
    return self.scoring.starts_over

  def claim(self) -> None:
    """The store is claimed by its own job."""

  def tidy(self) -> None:
    """Removes what settled survivors no longer need."""
    self.survivors.tidy()

  @property
  def count(self) -> progress.Count | None:
    """How many documents it selects."""
    if self.is_complete and (documents := self.survivors.documents) is not None:
      return progress.Count(documents, is_exact=False)  # for what reads a store some of them may be bad
    before = self.scoring.count
    about = None if before is None else self.survivors.request.expected_documents(before.documents)
    return None if about is None else progress.Count(about, is_exact=False)

  def stages(self) -> list[progress.Stage]:
    """What there is to do, as users see it."""
    return [progress.Stage(thresholds.SELECTING, self.scoring.count, thresholds.SPEED)]

  @property
  def label(self) -> str:
    return f"Select{self.number}"

  def transform(self, after: Any, parallelism: int, address: progress.Address | None, again: str = "") -> Any:
    """PCollection[stores.Ledger]: survivors are written down."""
    del parallelism, again
    address = None if address is None else address.within(self.number)
    if isinstance(after, beam.Pipeline):
      after = after | f"Scored{self.number}" >> beam.Create([None])
    return after | self.label >> survivors.Settle(self.survivors, self.scoring.corpus.shards, address)


def _in_order(job: "ScoringJob | SelectingJob", *, only_missing: bool) -> "list[ScoringJob | SelectingJob]":
  found: dict[str, ScoringJob | SelectingJob] = {}

  def visit(job: ScoringJob | SelectingJob) -> None:
    if job.identity in found or (only_missing and job.is_complete and not job.starts_over):
      return
    for earlier in job.before:
      visit(earlier)
    found[job.identity] = job

  visit(job)
  return list(found.values())


def _made_in_stores() -> tuple[str, ...]:
  """Returns the names of what preparations and selections make in stores."""
  return (*registry.made_in_stores(), f"{survivors.FOLDER}/")
