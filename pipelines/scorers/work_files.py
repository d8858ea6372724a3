"""Checks which files of a preparation's work are on record and whole; removes damaged ones, to be made again."""

from pipelines.files import damage, sealed_arrays
from pipelines.sorted_runs import run_writer
from pipelines.store.score_store import ScoreStore


def has_arrays(store: ScoreStore, path: str, count: int = 1) -> bool:
  """Tells whether a file of so many arrays is on record."""
  return damage.is_whole(store.folder, path, lambda path: sealed_arrays.read(path, count))


def is_whole_run(store: ScoreStore, path: str) -> bool:
  """Tells whether a sorted run is on record."""
  return damage.is_whole(store.folder, path, run_writer.check)
