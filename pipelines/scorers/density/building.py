"""The Beam passes that make the sketch of a whole store, of the steps in `sketching`."""

import functools
from typing import Any

import apache_beam as beam

from pipelines.runners import sharing
from pipelines.scorers.density import sketching
from pipelines.worker import reshuffle


class Sketch(beam.PTransform):
  """PCollection of one element (the embeddings are complete) -> PCollection[dict] (the diagnostics)."""

  def __init__(self, config: sketching.SketchConfig):
    super().__init__()
    self._config = config

  def expand(self, ledger: beam.PCollection):
    config = self._config
    do = functools.partial(sharing.do, is_over=lambda: config.store.is_complete, address=config.progress_address)
    picked = (
      ledger
      | "Shards" >> beam.FlatMap(lambda _: range(len(config.shards)))
      | "SpreadShards" >> reshuffle.Reshuffle()
      | "SampleRows"
      >> beam.FlatMap(
        lambda shard: ((0, sampled) for sampled in sketching.sample_rows(config, shard))
      ).with_output_types(tuple[int, Any])
      | "SmallestHashes" >> beam.CombinePerKey(sketching.merge_sampled)
      | "ByShard" >> beam.FlatMapTuple(lambda _, sampled: sketching.by_shard(sampled))
      | "SpreadSample" >> reshuffle.Reshuffle()
    )
    written = sharing.placed(picked, lambda picked: picked[0], "PlaceSample") | "WritePoints" >> do(
      beam.MapTuple(lambda shard, sampled: sketching.write_points(config, shard, sampled)),
      made=lambda many: [sketching.points_path(config, shard) for shard, _ in many],
      result=lambda picked: sketching.points_path(config, picked[0]),
    )
    sample = beam.pvalue.AsList(written)
    chosen = beam.pvalue.AsSingleton(
      ledger | "Choose" >> beam.Map(lambda _, sample: sketching.choose(config, sample), sample=sample)
    )
    grouped = (
      sharing.spread(ledger, "Groups", lambda _: sketching.plan_groups(config))
      | "SketchGroups"
      >> do(
        beam.Map(lambda group, chosen: (sketching.sketch_group(config, group, chosen), chosen), chosen=chosen),
        chosen,
        made=lambda groups, chosen: [sketching.group_path(config, group, chosen) for group in groups],
        result=lambda group, chosen: (sketching.group_path(config, group, chosen), chosen),
      )
      | "Slices"
      >> beam.FlatMapTuple(
        lambda path, chosen: [(rows, sketching.RowsOf(path, *rows)) for rows in sketching.slices_of(chosen.config)]
      )
      # Grouped first, so that paths travel and accumulators do not: runners would lift one CombinePerKey.
      | "GroupSlices" >> beam.GroupByKey()
    )
    slices = sharing.placed(grouped, lambda grouped: _place(grouped[0]), "PlaceSlices") | "WriteSlices" >> do(
      _MergeSlices(config, chosen),
      chosen,
      made=lambda many, chosen: [sketching.slice_path(config, rows, chosen) for rows, _ in many],
      result=lambda grouped, chosen: (grouped[0], sketching.slice_path(config, grouped[0], chosen)),
    )

    def finish(_: Any, slices: Any, chosen: sketching.Chosen, sample: list[str]) -> dict[str, Any]:
      documents = config.embeddings.documents()
      sketching.assemble(config, slices, chosen, documents)
      return sketching.diagnose(config, chosen, documents, sample)

    return ledger | "Assemble" >> beam.Map(finish, slices=beam.pvalue.AsList(slices), chosen=chosen, sample=sample)


class _MergeSlices(beam.PTransform):
  """(range of rows, sketching.RowsOf of all groups) -> (the range, the path of the merged rows)."""

  def __init__(self, config: sketching.SketchConfig, chosen: Any):
    super().__init__()
    self._config, self._chosen = config, chosen

  def expand(self, grouped: beam.PCollection):
    config = self._config
    return (
      grouped
      | "MergeSlices" >> beam.CombineValues(sketching.MergeRowsFn())
      | "Write"
      >> beam.Map(
        lambda merged, chosen: sketching.write_slice(config, merged[0], merged[1], chosen), chosen=self._chosen
      )
    )


def _place(rows: tuple[int, int]) -> int:
  """Returns the number of a range among those of one size; the last may be smaller."""
  start, stop = rows
  return start // (stop - start)
