"""The ranks of scored documents, shard by shard, in batches of bounded size."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.selection import selection
from pipelines.corpus import blocks
from pipelines.store import block_files, score_files
from pipelines.store.score_store import ScoreStore

BATCH_ROWS = 1 << 18
# Tells which documents of one shard are within the limits, bool [N], by their rows, keys and tie hashes, each [N].
# None: all of them.
Within = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None
Limits = Callable[[blocks.Shard], Within]


def unlimited(shard: blocks.Shard) -> Within:
  """Sets no limits."""
  del shard
  return None


class Ranks(NamedTuple):
  """Scored documents of one shard: int64, uint64, uint64, int32 (None if the store counts no tokens), each [N]."""

  rows: np.ndarray
  keys: np.ndarray
  ties: np.ndarray
  num_tokens: np.ndarray | None
  within: np.ndarray | None = None
  """Which documents are within the limits, bool [N]; None: all."""

  def are_wanted(self, floor: int, *, rejected: bool = False) -> np.ndarray:
    """Tells which documents a threshold and the limits select, or reject if `rejected`: bool [N]."""
    above_N = selection.is_selected(floor, self.keys, self.ties)
    return (above_N if self.within is None else above_N & self.within) ^ rejected

  def only_within(self) -> "Ranks":
    """Returns the documents that are within the limits."""
    if self.within is None:
      return self
    tokens = None if self.num_tokens is None else self.num_tokens[self.within]
    return Ranks(self.rows[self.within], self.keys[self.within], self.ties[self.within], tokens)


def rank_rows(
  request: selection.SelectionRequest, shard: str, table: pa.Table | pa.RecordBatch, within: Within = None
) -> Ranks:
  """Ranks the rows of a score file, or of a row group or batch of it."""
  rows, scores = table["row"].to_numpy(), table["score"].to_numpy()
  keys = selection.document_keys(request, shard, rows, scores)
  ties = selection.tie_hashes(request.seed, shard, rows)
  tokens = None if table["num_tokens"].null_count else table["num_tokens"].to_numpy()
  return Ranks(rows, keys, ties, tokens, None if within is None else within(rows, keys, ties))


def read(
  store: ScoreStore,
  shard: blocks.Shard,
  request: selection.SelectionRequest,
  limits: Limits = unlimited,
  *,
  check_seal: bool = False,
) -> Iterator[Ranks]:
  """Yields the ranks of a shard's documents. `check_seal`: verify the whole file first, not only the pages."""
  within = limits(shard)
  with block_files.removing_damaged(store, shard), score_files.ScoreFile(store, shard) as scores:
    if check_seal:
      scores.check_seal()
    for batch in scores.batches(BATCH_ROWS):
      yield rank_rows(request, shard.name, batch, within)
