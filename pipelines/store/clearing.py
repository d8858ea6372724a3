"""Removes from a store what another request left, or what a complete store no longer needs."""

import concurrent.futures
from collections.abc import Iterable

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import fingerprints, storage
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore

WORK_FOLDER = "work"  # in some of these
_MADE_FOLDERS = (
  score_store.SKETCH_FOLDER,
  score_store.CENTROIDS_FOLDER,
  score_store.JOINED_FOLDER,
  score_store.SELECTED_FOLDER,
  score_store.COMPARED_FOLDER,
)


def clear(store: ScoreStore) -> None:
  """Removes what the store holds, the summary first, the request last: what is left is of that request."""
  storage.delete([store.summary_path, storage.join(store.folder, score_store.SPLIT_FILE)])
  for folder in ("blocks", "shards", "dead_letter", *_MADE_FOLDERS):
    storage.delete_folder(storage.join(store.folder, folder))
  storage.delete([storage.join(store.folder, score_store.INPUT_FILE), store.engine_path, store.request_path])


def clear_others(store: ScoreStore, shards: Iterable[blocks.Shard], *, keep_engine: bool) -> None:
  """Removes all but the scores of shards that this request asks for as they are now, by the engine of the store.

  `keep_engine` False: the engine is another from now on, so that none stay. What is left at any moment is consistent:
  the summary goes first, if there is anything to remove, and the request last. Block files of others need not be
  looked for: their folders have other names, and go when the store is complete.
  """
  engine = store.engine()
  keep_engine &= fingerprints.field(store.engine_path, "method") == store.method
  wanted = {f"{shard.file_name}.parquet": shard for shard in shards}

  def is_ours(name: str) -> bool:
    try:
      return keep_engine and name in wanted and score_files.read_summary(store, wanted[name]).engine == engine
    except storage.AccessError:
      raise
    except WinnowError:
      return False

  names = sorted(storage.list_names(store.shards_folder))
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    kept = {name for name, ours in zip(names, pool.map(is_ours, names), strict=True) if ours}
  if not store.is_complete or not wanted.keys() <= kept:
    storage.delete([store.summary_path])
  letters = storage.join(store.folder, "dead_letter")
  of_kept = {f"{name.removesuffix('.parquet')}.jsonl" for name in kept}
  storage.delete([storage.join(letters, name) for name in storage.list_names(letters) if name not in of_kept])
  storage.delete([storage.join(store.shards_folder, name) for name in names if name not in kept])
  is_ours_still = fingerprints.holds(store.request_path, store.fingerprint)
  # What is there of a run of our own that had no scores yet may go on: `sketching` looks whose it is.
  if not is_ours_still or (not keep_engine and storage.exists(store.engine_path)):
    for folder in _MADE_FOLDERS:
      storage.delete_folder(storage.join(store.folder, folder))
    storage.delete([storage.join(store.folder, score_store.SPLIT_FILE)])
  if not keep_engine:
    storage.delete([store.engine_path])
  if not is_ours_still:
    storage.delete([storage.join(store.folder, score_store.INPUT_FILE), store.request_path])


def tidy(store: ScoreStore, shards: Iterable[blocks.Shard]) -> None:
  """Removes the block files that a complete store no longer needs: all, or other requests' where it keeps its own."""
  for folder in (store.sketch_folder, store.centroids_folder, store.joined_folder):
    storage.delete_folder(storage.join(folder, WORK_FOLDER))
  storage.delete_folder(storage.join(store.folder, score_store.COMPARED_FOLDER))
  if not store.keeps_blocks:
    storage.delete_folder(store.blocks_folder)
    return
  engine = store.engine()
  wanted = {store.block_folder(shard, engine) for shard in shards}
  found = storage.match(storage.join(storage.escape(store.blocks_folder), "*", "*.parquet"))
  for folder in sorted({path.rsplit("/", 1)[0] for path, _ in found} - wanted):
    storage.delete_folder(folder)
