"""The job of a store: it claims the folder, clears it if it must, and fills it, after the stores that it reads."""

import collections
import dataclasses
from typing import Any, ClassVar

from curation.errors import WinnowError
from curation.selection import domains
from pipelines.corpus import blocks, stripes
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.runners import parts
from pipelines.scorers import registry
from pipelines.scoring import parted, scoring, stored_blocks
from pipelines.scoring.preparation import Preparation
from pipelines.selection import cascade, survivors, thresholds
from pipelines.store import clearing, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress

_GATHERED_SECOND = 200_000  # documents, by one core


@dataclasses.dataclass(frozen=True)
class ScoringJob:
  """The job of one store.

  `before`: the jobs of the stores that this one reads; they may have to be made first. `preparation`: what must be made
  of those stores as a whole before their blocks can be read.
  `overwrite`: delete results of another request when the job is claimed, and a complete result too, unless `spare`. A
  run with --overwrite that was killed goes on.
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
  def store(self) -> ScoreStore:
    return self.config.store

  @property
  def folder(self) -> str:
    return self.config.store.folder

  @property
  def number(self) -> int:
    """Returns the number of the stage in a recipe of several stages; else 1."""
    return self.config.number

  @property
  def steps(self) -> list["ScoringJob | SelectingJob"]:
    """Returns the jobs that have to be done, in order, this one last; none once this one is complete."""
    return _in_order(self, only_missing=True)

  @property
  def chain(self) -> list["ScoringJob | SelectingJob"]:
    """Returns the jobs of all stores behind this one, each once and after those that it reads, this one last."""
    return _in_order(self, only_missing=False)

  @property
  def identity(self) -> str:
    return f"{self.folder} {self.config.store.fingerprint}"

  def refuse_shared_folders(self) -> None:
    """Raises WinnowError if two jobs would fill one folder with different things."""
    scoring = [job for job in self.chain if isinstance(job, ScoringJob)]
    for folder, count in collections.Counter(job.folder for job in scoring).items():
      if count > 1:
        raise WinnowError(
          f"two stages of the recipe would fill {folder} with different things: give each stage a name of its own "
          "(name, embedding_name or clusters)"
        )

  @property
  def made_with(self) -> dict[str, str]:
    """Returns the names of the models or embeddings that the store is made with, by flags."""
    return self.where.get(score_store.MADE_WITH, {})

  @property
  def is_complete(self) -> bool:
    is_concluded = self.preparation is None or self.preparation.is_concluded
    return is_concluded and self.config.store.is_complete

  @property
  def starts_over(self) -> bool:
    """Tells whether the store is complete and is to be made again. Once it is claimed, it is no longer complete."""
    return self.overwrite and self.is_complete and not self.spare

  def engine_difference(self) -> tuple[str, str, str] | None:
    """Returns the first known difference between the engine that began the store and this one; no worker is needed."""
    current = self.config.scorer.engine()
    if self.config.survivors is not None:
      current = current | self.config.survivors.engine()
    if self._stored is None:  # otherwise the domains are those of the store that is read
      current = {"suffix_list": domains.suffix_list(), **current}
    recorded = fingerprints.read_json_or_none(self.config.store.engine_path)
    if not self.knows_engine or not isinstance(recorded, dict):
      return None
    return fingerprints.first_difference({key: recorded.get(key) for key in current}, current)

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
    """Returns the number of documents of the store: those that an earlier stage selected, or all of the input."""
    for job in self.before:
      if isinstance(job, SelectingJob):
        return job.count
    if self.config.store.is_complete:
      return progress.Count(self.config.store.summary()["read"], is_exact=True)
    if self._stored is not None and self._stored.is_complete:
      return progress.Count(self._stored.summary()["read"], is_exact=True)
    return self.corpus.count

  @property
  def counters(self) -> dict[str, int]:
    """Returns the counts of the complete store, under the names of Beam's metrics."""
    summary = self.config.store.summary()
    counts = {f"documents_{name}": summary[name] for name in ("read", "scored")}
    counts |= {f"documents_bad_{reason}": number for reason, number in summary["reasons"].items()}
    counts["blocks_scored"] = sum(len(shard["block_rows"]) for shard in summary["shards"])
    if summary["num_tokens"] is not None:
      counts["tokens"] = summary["num_tokens"]
    return {self.config.prefix + name: number for name, number in counts.items()}

  def tidy(self) -> None:
    """Removes what a complete store no longer needs, such as files of a run that was killed at its very end."""
    clearing.tidy(self.config.store, self.corpus.shards, self.config.work)
    self.sweep()

  def sweep(self) -> None:
    """Removes the temporary files of dead writers, also in the stores that are read, which may be complete for long."""
    for folder in {job.folder for job in self.chain}:
      storage.sweep_temporary_files(folder)

  @property
  def label(self) -> str:
    """Returns the label of the job's own step in a pipeline."""
    return self.config.stage.title().replace("_", "")

  def transform(self, after: Any, parallelism: int, address: progress.Address | None, again: str = "") -> Any:
    """Fills the store once the one element of `after` is there.

    `again`: a suffix for labels that another job has.
    """
    address = None if address is None else address.within(self.config.number)
    config = dataclasses.replace(self.config, progress_address=address)
    label = self.label + again
    number = ("" if config.number == 1 else str(config.number)) + again
    if self.preparation is not None:
      after = after | f"{self.preparation.label}{number}" >> self.preparation.transform(address)
    waiting, finished = (list(self.corpus.shards), []) if self.starts_over else self._waiting_and_finished()
    part = parts.current()
    if part is None:
      divided = (stripes.divide_among(shards, parallelism, per_worker=4) for shards in (waiting, finished))
      ledger = after | label >> scoring.Score(config, *divided)
    else:  # all shards are divided, which gives the same whenever a part starts
      every = stripes.divide_among(self.corpus.shards, parallelism, per_worker=4)
      ledger = after | label >> parted.ScorePart(config, every, finished, part)
    conclusion = None if self.preparation is None else self.preparation.conclusion()
    return ledger if conclusion is None else ledger | f"Diagnose{number}" >> conclusion

  def stages(self) -> list[progress.Stage]:
    """Returns the stages of the work, in order, as users see them."""
    scorer, count = self.config.scorer, self.count
    stored = count  # the documents that are not bad in the store that is read
    if self._stored is not None and self.config.survivors is None and self._stored.is_complete:
      stored = progress.Count(self._stored.summary()["scored"], is_exact=True)
    stages = [] if self.preparation is None else self.preparation.stages(stored)
    if loading := self.config.scorer.loading:
      stages += [progress.Stage(loading, progress.Count(0, is_exact=False))]
    stages += [progress.Stage(self.config.title, count, scorer.speed)]
    return [*stages, progress.Stage(scoring.GATHERING, count, _GATHERED_SECOND)]

  @property
  def _stored(self) -> ScoreStore | None:
    """Returns the store that is read instead of texts, if any."""
    source = self.config.source
    return source.store if isinstance(source, stored_blocks.StoredBlocks) else None

  def _waiting_and_finished(self) -> tuple[list[blocks.Shard], list[blocks.Shard]]:
    finished = self.config.store.finished(self.corpus.shards)
    done = set(finished)
    return [shard for shard in self.corpus.shards if shard not in done], finished


@dataclasses.dataclass(frozen=True)
class StoredJob:
  """A complete store that a command reads and does not make, such as a proxy's, with its corpus and its request."""

  corpus: Corpus
  store: ScoreStore
  request: dict[str, Any]
  before: tuple[()] = ()
  is_complete: ClassVar[bool] = True
  starts_over: ClassVar[bool] = False

  @property
  def folder(self) -> str:
    return self.store.folder

  @property
  def identity(self) -> str:
    return f"{self.folder} {self.store.fingerprint}"

  @property
  def count(self) -> progress.Count:
    return progress.Count(self.store.summary()["scored"], is_exact=True)

  def claim(self) -> None:
    """Does nothing: the store belongs to the command that made it."""

  def tidy(self) -> None:
    """Does nothing: the store belongs to the command that made it."""


@dataclasses.dataclass(frozen=True)
class SelectingJob:
  """The job between two stages of a recipe: it writes down in the store of the first what that stage selects."""

  survivors: survivors.Survivors
  scoring: "ScoringJob | StoredJob"
  number: int
  """The number of the stage that selects."""

  @property
  def before(self) -> "tuple[ScoringJob | StoredJob]":
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

  @property
  def counters(self) -> dict[str, int]:
    """Returns nothing: the documents that it selects are those that the next stage reads."""
    return {}

  def claim(self) -> None:
    """Does nothing: the store is claimed by its own job."""

  def tidy(self) -> None:
    """Removes files that settled survivors no longer need."""
    self.survivors.tidy()

  @property
  def count(self) -> progress.Count | None:
    """Returns the number of documents that the stage selects."""
    if self.is_complete and (documents := self.survivors.documents) is not None:
      return progress.Count(documents, is_exact=False)  # some of them may be bad for a scorer that reads a store
    before = self.scoring.count
    expected = None if before is None else self.survivors.request.expected_documents(before.documents)
    return None if expected is None else progress.Count(expected, is_exact=False)

  def stages(self) -> list[progress.Stage]:
    """Returns the stages of the work, as users see them."""
    return [progress.Stage(thresholds.SELECTING, self.scoring.count, thresholds.SPEED)]

  @property
  def label(self) -> str:
    return f"Select{self.number}"

  def transform(self, after: Any, parallelism: int, address: progress.Address | None, again: str = "") -> Any:
    """Writes survivors down: returns PCollection[stores.Ledger]."""
    del parallelism, again
    address = None if address is None else address.within(self.number)
    return after | self.label >> survivors.Settle(self.survivors, self.scoring.corpus.shards, address)


@dataclasses.dataclass(frozen=True)
class CertifyingJob(SelectingJob):
  """The job between the audit of a cascade, whose scores `scoring` makes, and the documents that the cascade asks."""

  asked: cascade.Asked

  @property
  def count(self) -> progress.Count | None:
    """Returns the number of documents that are asked; None until that is known."""
    documents = self.survivors.documents if self.is_complete else None
    return None if documents is None else progress.Count(documents, is_exact=False)

  def stages(self) -> list[progress.Stage]:
    """Returns the stages of the work, as users see them."""
    documents = progress.Count(self.asked.store.summary()["scored"], is_exact=True)
    return [
      progress.Stage(cascade.CERTIFYING, documents, thresholds.SPEED),
      progress.Stage(thresholds.SELECTING, documents, thresholds.SPEED),
    ]

  @property
  def label(self) -> str:
    return "Cascade"

  def transform(self, after: Any, parallelism: int, address: progress.Address | None, again: str = "") -> Any:
    """Certifies the threshold, and writes down what is asked: returns PCollection[stores.Ledger]."""
    del parallelism, again
    address = None if address is None else address.within(self.number)
    return after | self.label >> cascade.Settle(self.asked, self.scoring.corpus.shards, address)


def _in_order(job: "ScoringJob | SelectingJob", *, only_missing: bool) -> "list[Any]":
  ordered: dict[str, ScoringJob | SelectingJob | StoredJob] = {}

  def visit(job: "ScoringJob | SelectingJob | StoredJob") -> None:
    if job.identity in ordered or (only_missing and job.is_complete and not job.starts_over):
      return
    for earlier in job.before:
      visit(earlier)
    ordered[job.identity] = job

  visit(job)
  return list(ordered.values())


def _made_in_stores() -> tuple[str, ...]:
  """Returns the names of what preparations and selections make in stores."""
  return (*registry.made_in_stores(), f"{survivors.FOLDER}/")
