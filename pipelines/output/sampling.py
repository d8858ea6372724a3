"""Sampling: an exact selection by scores, whose documents are written once to well-mixed output shards.

Only selected text moves: from its input shard to the run file of a stripe, sorted by place, and then to its output
shard. Only shard names, stripes, counts and what finds the threshold cross a shuffle.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines.corpus import blocks, stripes
from pipelines.output import manifests, writing
from pipelines.runners import sharing
from pipelines.selection import thresholds
from pipelines.store.score_store import Ledger
from pipelines.worker import memory, progress


class WriteRuns(beam.DoFn):
  """Stripe -> RunCounts, by `writing.write_run`."""

  def __init__(self, config: writing.SamplingConfig):
    self._config = config
    self._documents_read = Metrics.counter(progress.METRICS, "documents_read_for_sample")
    self._documents_selected = Metrics.counter(progress.METRICS, config.selected_counter)

  def setup(self) -> None:
    memory.use_lean_arrow_pool()

  def process(self, stripe: stripes.Stripe, plan: writing.Plan) -> Iterator[writing.RunCounts]:
    address, stage = self._config.progress_address, self._config.stages[0]
    with progress.working(address, stage):
      for read, counts in writing.write_run(self._config, stripe, plan):
        self._documents_read.inc(read)
        progress.report(address, stage=stage, documents=read)
        if counts is not None:
          self._documents_selected.inc(counts.selected)
          yield counts


class WriteShards(beam.DoFn):
  """int (output shard) -> OutputShard, by `writing.write_shard`; it waits for all runs by way of a side input."""

  def __init__(self, config: writing.SamplingConfig, all_stripes: list[stripes.Stripe]):
    self._config, self._stripes = config, all_stripes

  def setup(self) -> None:
    memory.use_lean_arrow_pool()

  def process(
    self, index: int, plan: writing.Plan, written_runs: Iterable[writing.RunCounts]
  ) -> Iterator[writing.OutputShard]:
    with progress.working(self._config.progress_address, self._config.stages[1]):
      yield writing.write_shard(self._config, index, plan, self._stripes)


class Sample(beam.PTransform):
  """PCollection[Ledger] (one, once the store is complete) -> PCollection[dict] (one, the manifest)."""

  def __init__(self, config: writing.SamplingConfig, all_stripes: list[stripes.Stripe], context: manifests.Context):
    super().__init__()
    self._config, self._stripes, self._context = config, all_stripes, context

  def expand(self, ledger: beam.PCollection[Ledger]) -> beam.PCollection[dict[str, Any]]:
    config, known = self._config, ledger
    if config.limits is not None:
      ledger = ledger | "Limits" >> config.limits.settle(self._shards, lambda: manifests.is_complete(config))
    plan = (
      ledger
      | "FindThreshold"
      >> thresholds.FindThreshold(
        config.store, config.request, self._shards, config.within, address=config.progress_address
      )
      | "PlanOutput" >> beam.MapTuple(lambda ledger, selected: writing.plan_output(selected, ledger, config))
    )
    do = functools.partial(sharing.do, is_over=lambda: manifests.is_complete(config), address=config.progress_address)
    planned, all_stripes = beam.pvalue.AsSingleton(plan), self._stripes
    written_runs = sharing.spread(known, "Stripes", lambda _: all_stripes) | "WriteRuns" >> do(
      beam.ParDo(WriteRuns(config), plan=planned),
      planned,
      made=lambda some, plan: [config.run_path(stripe, plan.engine) for stripe in some],
      result=lambda stripe, plan: writing.run_counts(config, stripe, plan),
    )
    written_shards = sharing.spread(plan, "OutputShards", lambda plan: range(plan.num_shards)) | "WriteShards" >> do(
      beam.ParDo(WriteShards(config, self._stripes), plan=planned, written_runs=beam.pvalue.AsIter(written_runs)),
      planned,
      made=lambda some, plan: [config.shard_record_path(index, plan.engine) for index in some],
      result=lambda index, plan: writing.read_shard_record(config, index, plan),
    )
    return plan | "Publish" >> beam.Map(
      manifests.publish,
      config=config,
      context=self._context,
      written_runs=beam.pvalue.AsList(written_runs),
      written_shards=beam.pvalue.AsList(written_shards),
    )

  @property
  def _shards(self) -> list[blocks.Shard]:
    return list(dict.fromkeys(stripe.shard for stripe in self._stripes))
