"""Facilities of a worker process: logs, memory, progress, reading ahead, home folders, and how elements reach it."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.worker import logs as logs
  from pipelines.worker import memory as memory
  from pipelines.worker import prefetch as prefetch
  from pipelines.worker import progress as progress
  from pipelines.worker import reshuffle as reshuffle
  from pipelines.worker.progress import Address as Address
  from pipelines.worker.progress import Count as Count
  from pipelines.worker.progress import Stage as Stage
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=("progress.Address", "progress.Count", "progress.Stage"),
    modules=("logs", "memory", "prefetch", "progress", "reshuffle"),
  )
