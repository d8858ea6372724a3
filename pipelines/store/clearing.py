"""Removal of files from a store: those of another request, and those that a complete store no longer needs."""

import concurrent.futures
from collections.abc import Iterable, Sequence

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import fingerprints, storage
from pipelines.store import dead_letters, score_files, score_store
from pipelines.store.score_store import ScoreStore


def clear(store: ScoreStore, made: Sequence[str]) -> None:
  """Removes the content of a store, the summary first and the request last, so that the rest still has its request.

  `made`: the names of files and folders that preparations and selections make in stores; folders end with a slash.
  """
  storage.delete([store.summary_path])
  _remove(store, ("blocks/", "shards/", "dead_letter/", *made))
  dead_letters.forget_failures(store)
  storage.delete([storage.join(store.folder, score_store.INPUT_FILE), store.engine_path, store.request_path])


def clear_others(store: ScoreStore, shards: Iterable[blocks.Shard], made: Sequence[str], *, keep_engine: bool) -> None:
  """Removes everything except scores that this request needs, of unchanged shards and by the engine of the store.

  If `keep_engine` is False, the engine is about to change, so no scores stay. The store is consistent at any moment:
  the summary is removed first, if anything has to go, and the request last. Block files of other requests can stay for
  now: their folders have other names, and `tidy` removes them when the store is complete.
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
  letters = store.dead_letter_folder
  kept_letters = {f"{name.removesuffix('.parquet')}.jsonl" for name in kept}
  storage.delete([storage.join(letters, name) for name in storage.list_names(letters) if name not in kept_letters])
  storage.delete([storage.join(store.shards_folder, name) for name in names if name not in kept])
  is_ours_still = fingerprints.holds(store.request_path, store.fingerprint)
  # The work of an earlier run of ours that had no scores yet may be continued: a preparation checks whose work it is.
  if not is_ours_still or (not keep_engine and storage.exists(store.engine_path)):
    _remove(store, made)
  if not keep_engine:
    dead_letters.forget_failures(store)
    storage.delete([store.engine_path])
  if not is_ours_still:
    storage.delete([storage.join(store.folder, score_store.INPUT_FILE), store.request_path])


def tidy(store: ScoreStore, shards: Iterable[blocks.Shard], work: Iterable[str]) -> None:
  """Removes block files that a complete store no longer needs: all, or those of other requests if it keeps its own.

  `work`: the names of folders that its preparation no longer needs either.
  """
  for name in work:
    storage.delete_folder(store.path(name))
  if not store.keeps_blocks:
    storage.delete_folder(store.blocks_folder)
    return
  engine = store.engine()
  wanted = {store.block_folder(shard, engine) for shard in shards}
  block_files = storage.match(storage.join(storage.escape(store.blocks_folder), "*", "*.parquet"))
  for folder in sorted({path.rsplit("/", 1)[0] for path, _ in block_files} - wanted):
    storage.delete_folder(folder)


def _remove(store: ScoreStore, names: Iterable[str]) -> None:
  """Removes files by their names in the store, and folders, whose names end with a slash."""
  for name in names:
    if name.endswith("/"):
      storage.delete_folder(store.path(name.rstrip("/")))
    else:
      storage.delete([store.path(name)])
