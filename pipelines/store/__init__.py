"""The score store: one durable file for each finished block, compacted into one for each finished shard."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.store.block_files import BlockFile as BlockFile
  from pipelines.store.score_files import ScoreFile as ScoreFile
  from pipelines.store.score_files import ShardSummary as ShardSummary
  from pipelines.store.score_files import read_summary as read_summary
  from pipelines.store.score_store import Ledger as Ledger
  from pipelines.store.score_store import OtherFormatError as OtherFormatError
  from pipelines.store.score_store import ScoreStore as ScoreStore
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "block_files.BlockFile",
      "score_files.ScoreFile",
      "score_files.ShardSummary",
      "score_files.read_summary",
      "score_store.Ledger",
      "score_store.OtherFormatError",
      "score_store.ScoreStore",
    ),
  )
