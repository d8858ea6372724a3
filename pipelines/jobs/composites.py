"""`winnow score` and `winnow sample` as Beam transforms, for pipelines of one's own."""

import argparse
from typing import Any

import apache_beam as beam

from curation.errors import WinnowError
from pipelines.flags import parsing
from pipelines.jobs import find_stores, plan_output, plan_store, planning, run_jobs
from pipelines.jobs.filling import FillOutputs, FillStores
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob
from pipelines.registry import command_names
from pipelines.runners.workers import Workers
from pipelines.scorers.registry import RANDOM
from pipelines.store.score_store import Ledger
from pipelines.worker import reshuffle


class Score(beam.PTransform):
  """PBegin, or PCollection[Ledger] of another `Score` -> PCollection[Ledger]: scores every document of an input once.

  `settings` are called as the flags of `winnow score`: `input` and `scores` are required, and a scorer with a model
  needs `model`. The score store has the bytes that the command would give it, and every command reads it. What an
  earlier run of the same pipeline or command has scored is not scored again. The only element, the counts of the store,
  is there once the store is complete. After another `Score`, this one waits for it: so two models are never loaded at
  once, and what both need, such as embeddings, is made once.

  Raises WinnowError for settings that the command would refuse. Those that contradict the input, the model or the
  runner are refused when the transform is applied, which is also when the folder of the store is claimed.
  """

  def __init__(self, scorer: str, **settings: Any):
    super().__init__()
    self._namespace = parsing.from_settings(command_names.SCORE, {"scorer": scorer, **settings})
    self.job: ScoringJob | None = None
    """The job of the store, once the transform is applied."""

  @property
  def settings(self) -> dict[str, Any]:
    """Returns all settings, called as flags, with those that were not given at their defaults."""
    return vars(self._namespace)

  def expand(self, begin: Any) -> beam.PCollection[Ledger]:
    workers = _workers(begin, self.settings["accelerator"])
    planning.refuse_unreachable(self._namespace, workers)
    self.job = plan_store.plan_named_scoring(self._namespace, workers)
    run_jobs.claim(self.job)
    workers.set_defaults()
    return begin | "Stores" >> FillStores(self.job, workers.parallelism)


class Sample(beam.PTransform):
  """PCollection[Ledger] of `Score`, or PBegin -> PCollection[dict]: draws an exact sample and writes it.

  `settings` are called as the flags of `winnow sample`: `output` is required, and an amount such as `rate`. After
  `Score`, the sample is drawn from its store, and by its scores unless `sampler` names random sampling. At the
  beginning of a pipeline, `sampler` is required, and `scores` names a folder of complete stores, as for the command.

  The output has the bytes that the commands would give it. What an earlier run has written is not written again. The
  elements are the contents of manifest.json, of `output` and, if it is given, of `rejected`, once they are complete.

  Raises WinnowError for settings that the command would refuse, as `Score` does.
  """

  def __init__(self, sampler: str | None = None, **settings: Any):
    super().__init__()
    self._is_named = sampler is not None
    self._namespace = parsing.from_settings(command_names.SAMPLE, {"sampler": sampler or RANDOM, **settings})

  def expand(self, begin: Any) -> beam.PCollection[dict[str, Any]]:
    workers = _workers(begin, None)
    planning.refuse_unreachable(self._namespace, workers)
    if isinstance(begin, beam.pvalue.PBegin):
      ledger, jobs = self._from_folder(begin, workers)
    else:
      ledger, jobs = begin, self._after(_score_behind(begin))
    for job in jobs:
      run_jobs.claim(job)
    workers.set_defaults()
    return ledger | "Outputs" >> FillOutputs(jobs, workers.parallelism)

  def _from_folder(
    self, begin: beam.pvalue.PBegin, workers: Workers
  ) -> tuple[beam.PCollection[Ledger], list[SamplingJob]]:
    if not self._is_named:
      raise WinnowError("--sampler= must be given where Sample does not follow Score")
    scoring_job, sampling_jobs = plan_output.plan_drawing(self._namespace, workers)
    if scoring_job is None:
      return begin | "Complete" >> reshuffle.One(sampling_jobs[0].config.store.ledger()), sampling_jobs
    run_jobs.claim(scoring_job)
    return begin | "Stores" >> FillStores(scoring_job, workers.parallelism), sampling_jobs

  def _after(self, score: Score) -> list[SamplingJob]:
    """Plans the outputs from the store of a transform that comes before."""
    assert score.job is not None
    if unused := sorted(self._namespace.given & {*score.settings, "scores"} - {"overwrite"}):
      raise WinnowError(f"--{unused[0]} is a setting of Score, which comes before Sample; leave it out")
    if not self._is_named:
      self._namespace.sampler = score.settings["scorer"]
    find_stores.refuse_other_sampler(self._namespace.sampler, score.settings["scorer"])
    own = {name: value for name, value in vars(self._namespace).items() if name not in score.settings}
    stage = argparse.Namespace(**score.settings | score.job.made_with | own)
    stage.overwrite = self._namespace.overwrite
    return plan_output.plan_samples(
      stage,
      parsing.own_arguments(command_names.CURATE, [stage]),
      store=score.job.config.store,
      store_request=score.job.request,
      corpus=score.job.corpus,
    )


def _workers(begin: beam.pvalue.PValue, accelerator: str | None) -> Workers:
  """Returns the workers of the pipeline to which a transform is applied."""
  pipeline = begin.pipeline
  return Workers(pipeline.runner, pipeline.options, accelerator)


def _score_behind(ledger: beam.PCollection[Ledger]) -> Score:
  """Returns the transform that made a ledger. Raises WinnowError if it was another."""
  applied = ledger.producer
  while applied is not None:
    if isinstance(applied.transform, Score):
      return applied.transform
    applied = applied.parent
  raise WinnowError("Sample follows Score, or is applied to a pipeline; this PCollection was made by neither")
