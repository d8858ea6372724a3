"""What is on record of a store that is not complete: finished shards, and blocks of the others."""

import concurrent.futures
import dataclasses

from curation.errors import DamagedError
from pipelines.corpus import blocks
from pipelines.files import fingerprints, storage
from pipelines.store import score_files
from pipelines.store.score_store import ScoreStore

PAUSE_SECONDS = 600.0
"""If nothing was finished for longer, a run has ended or is stuck."""
_READERS = 16


@dataclasses.dataclass(frozen=True)
class Progress:
  """The progress of a store. Figures that are only estimated are floats."""

  finished: list[score_files.ShardSummary]
  waiting: list[blocks.Shard]
  begun: int
  """The number of waiting shards that have blocks on record."""
  damaged: list[str]
  documents: float
  expected: float | None
  """The number of documents in all; None if no shard is finished, since nothing else tells."""
  rate: float | None
  """The documents a second since the last pause of ten minutes; None if too little is on record."""
  silent_seconds: float | None
  """The seconds since the last file was written; None if none was."""


class Record:
  """What is on record of one store, read from two listings, and once from the footer of each finished shard."""

  def __init__(self, store: ScoreStore):
    self._store = store
    self._shards: tuple[blocks.Shard, ...] = ()
    self._summaries: dict[str, score_files.ShardSummary] = {}

  def look(self, now: float) -> Progress:
    """Reads the progress of the store at a time, in seconds since 1970."""
    store = self._store
    shards = self._shards = self._shards or store.shards()
    # Blocks first: of a shard that is compacted meanwhile, the blocks are not counted, since it is listed as finished.
    listed = storage.list_times(storage.join(storage.escape(store.blocks_folder), "*", "*.parquet"))
    files = storage.list_times(storage.join(storage.escape(store.shards_folder), "*.parquet"))
    times = {storage.base_name(path).removesuffix(".parquet"): written for path, written in files.items()}
    finished, damaged = self._finished([shard for shard in shards if shard.file_name in times])
    done = {summary.shard for summary in finished}
    waiting = [shard for shard in shards if shard.name not in done]
    engine = store.engine()
    folders = {store.block_folder(shard, engine) for shard in waiting}
    blocks_by_folder: dict[str, list[float]] = {}
    for path, written in listed.items():
      if path.rsplit("/", 1)[0] in folders:
        blocks_by_folder.setdefault(path.rsplit("/", 1)[0], []).append(written)
    num_blocks, read = sum(len(s.block_rows) for s in finished), sum(s.read for s in finished)
    block_rows = read / num_blocks if num_blocks else float(fingerprints.field(store.request_path, "block_rows") or 0)
    by_name = {shard.name: shard for shard in shards}
    events = [(times[by_name[s.shard].file_name], float(s.read)) for s in finished]
    events += [(written, block_rows) for times_of_blocks in blocks_by_folder.values() for written in times_of_blocks]
    on_record = read + block_rows * sum(map(len, blocks_by_folder.values()))
    expected = None
    if read:
      finished_size = max(1, sum(by_name[s.shard].size for s in finished))
      expected = max(on_record, read / finished_size * sum(shard.size for shard in shards))
    rate, silent = _rate(sorted(events), now)
    return Progress(finished, waiting, len(blocks_by_folder), damaged, on_record, expected, rate, silent)

  def _finished(self, shards: list[blocks.Shard]) -> tuple[list[score_files.ShardSummary], list[str]]:
    """Returns the ledgers of shards that have a file, and why the others cannot be read."""

    def read(shard: blocks.Shard) -> score_files.ShardSummary | str:
      try:
        return score_files.read_summary(self._store, shard)
      except storage.AccessError:
        raise
      except DamagedError as error:
        return str(error)

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      results = list(pool.map(read, [shard for shard in shards if shard.name not in self._summaries]))
    self._summaries |= {s.shard: s for s in results if isinstance(s, score_files.ShardSummary)}
    finished = [self._summaries[shard.name] for shard in shards if shard.name in self._summaries]
    return finished, [s for s in results if isinstance(s, str)]


def _rate(events: list[tuple[float, float]], now: float) -> tuple[float | None, float | None]:
  """Returns the documents a second since the last pause, by the times of files, and the seconds since the last file."""
  if not events:
    return None, None
  first = len(events) - 1
  while first and events[first][0] - events[first - 1][0] < PAUSE_SECONDS:
    first -= 1
  seconds = events[-1][0] - events[first][0]
  documents = sum(count for _, count in events[first + 1 :])
  return (documents / seconds if documents and seconds > 1 else None), max(0.0, now - events[-1][0])
