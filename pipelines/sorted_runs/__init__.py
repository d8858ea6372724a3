"""An external sort on durable files, in place of a shuffle of large records."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.sorted_runs.merging import Batch as Batch
  from pipelines.sorted_runs.merging import merge_batches as merge_batches
  from pipelines.sorted_runs.run_files import RunReader as RunReader
  from pipelines.sorted_runs.run_writer import RunWriter as RunWriter
  from pipelines.sorted_runs.run_writer import merge_shard as merge_shard
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "merging.Batch",
      "merging.merge_batches",
      "run_files.RunReader",
      "run_writer.RunWriter",
      "run_writer.merge_shard",
    ),
  )
