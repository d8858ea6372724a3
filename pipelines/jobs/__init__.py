"""Jobs: planned from flags, and run as one pipeline."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.jobs.output_job import SamplingJob as SamplingJob
  from pipelines.jobs.planning import Stage as Stage
  from pipelines.jobs.planning import plan_scoring as plan_scoring
  from pipelines.jobs.run_jobs import run as run
  from pipelines.jobs.store_job import ScoringJob as ScoringJob
  from pipelines.jobs.store_job import SelectingJob as SelectingJob
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "output_job.SamplingJob",
      "planning.Stage",
      "planning.plan_scoring",
      "run_jobs.run",
      "store_job.ScoringJob",
      "store_job.SelectingJob",
    ),
  )
