"""Transforms that fill the folders of jobs, in the pipelines of commands and in those of users."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from pipelines.corpus import stripes
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob
from pipelines.output import sampling
from pipelines.store.score_store import Ledger
from pipelines.worker import progress, reshuffle


class FillStores(beam.PTransform):
  """PBegin, or PCollection of one element -> PCollection[Ledger] of one: fills the stores that a job needs, in order.

  It begins once the element is there.
  """

  def __init__(self, job: ScoringJob, parallelism: int, address: progress.Address | None = None):
    super().__init__()
    self._job, self._parallelism, self._address = job, parallelism, address

  def expand(self, begin: Any) -> beam.PCollection[Ledger]:
    steps, is_first = self._job.steps, isinstance(begin, beam.pvalue.PBegin)
    if not steps:
      ledger = self._job.config.store.ledger()
      return begin | "Complete" >> (reshuffle.One(ledger) if is_first else beam.Map(lambda _: ledger))
    after: Any = begin | "Begin" >> beam.Impulse() if is_first else begin
    labels: collections.Counter[str] = collections.Counter()
    for job in steps:
      labels[job.label] += 1  # two stages may each have embeddings of their own
      again = "" if labels[job.label] == 1 else f"Again{labels[job.label]}"
      after = job.transform(after, self._parallelism, self._address, again)
    return after


class FillOutputs(beam.PTransform):
  """PCollection[Ledger] (one) -> PCollection[dict], the manifests of the outputs of jobs, once these are complete."""

  def __init__(self, jobs: Sequence[SamplingJob], parallelism: int, address: progress.Address | None = None):
    super().__init__()
    self._jobs, self._parallelism, self._address = jobs, parallelism, address

  def expand(self, ledger: beam.PCollection[Ledger]) -> beam.PCollection[dict[str, Any]]:
    manifests = []
    for job in self._jobs:
      config = dataclasses.replace(job.config, progress_address=self._address)
      divided = stripes.divide_among(job.corpus.shards, self._parallelism, per_worker=2)
      label = "Reject" if config.rejected else "Sample"
      manifests.append(ledger | label >> sampling.Sample(config, divided, job.context))
    return manifests[0] if len(manifests) == 1 else manifests | "Manifests" >> beam.Flatten()
