"""What users see of bad documents: the first of them, and the errors with which their scorer failed.

The dead letter has the documents. Tracebacks differ between runs, and the dead letter must not: they are in files of
the store's log.
"""

import contextlib
import hashlib
import json
import os
import platform
import time
import traceback
from collections.abc import Iterable
from typing import Any

from curation import errors
from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import fingerprints, storage
from pipelines.store.score_store import ScoreStore

SCORER_FAILED = "scorer_failed"
_PREFIX = f"{SCORER_FAILED}-"
_SHOWN = 3


def record_failure(store: ScoreStore, shard: blocks.Shard, row: int, error: Exception) -> None:
  """Keeps the traceback with which a document made the scorer fail, in a file of the store's log.

  Of the errors of one class that were raised at the same line, only the first is kept: thousands may be alike.
  """
  kind = type(error).__qualname__
  frames = traceback.extract_tb(error.__traceback__)
  where = f"{kind} {frames[-1].filename}:{frames[-1].lineno}" if frames else kind
  entry = {
    "shard": shard.name,
    "row": row,
    "reason": f"{kind}: {errors.first_line(error)}" if str(error) else kind,
    "error": "".join(traceback.format_exception(error)),
    "host": platform.node(),
    "process": os.getpid(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
  }
  path = storage.join(store.log_folder, f"{_PREFIX}{hashlib.sha256(where.encode()).hexdigest()[:8]}.json")
  with contextlib.suppress(OSError, WinnowError):  # the document is in the dead letter all the same
    storage.create(path, fingerprints.to_json(entry))


def forget_failures(store: ScoreStore) -> None:
  """Removes the errors on record, because the scores that they belong to are removed."""
  storage.delete(_failures(store))


def failures(store: ScoreStore) -> list[str]:
  """Returns a sentence for each of the first errors with which documents made the scorer fail."""
  sentences = []
  for path in _failures(store)[:_SHOWN]:
    try:
      entry = json.loads(storage.read_bytes(path))
      said = f"the scorer failed on {entry['shard']} row {entry['row']} with {entry['reason']}"
    except (OSError, WinnowError, ValueError, LookupError, TypeError):  # a file of the log is not worth a failure
      said = "the scorer failed"
    sentences.append(f"{said}; the traceback is in {path}")
  return sentences


def lines(store: ScoreStore, shards: Iterable[dict[str, Any]]) -> list[str]:
  """Returns lines for a terminal about the bad documents of finished shards, if there are any.

  `shards`: the fields of their ShardSummary, as summary.json has them.
  """
  bad = [shard for shard in shards if shard["bad"]]
  if not bad:
    return []
  named = [name for shard in bad for name in shard["first_bad"]][:_SHOWN]
  more = ", ..." if sum(shard["bad"] for shard in bad) > len(named) else ""
  failed = failures(store) if any(SCORER_FAILED in shard["reasons"] for shard in bad) else []
  return [f"the first bad ones: {', '.join(named)}{more}", *failed, f"all of them: {store.dead_letter_folder}"]


def _failures(store: ScoreStore) -> list[str]:
  names = sorted(storage.list_names(store.log_folder))
  return [storage.join(store.log_folder, name) for name in names if name.startswith(_PREFIX)]
