"""A score store as an Arrow dataset, for programs that analyse scores: pandas, polars, DuckDB."""

import os

import pyarrow as pa
import pyarrow.dataset

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.store import kinds, score_files
from pipelines.store.score_store import ScoreStore

_SCHEMA = pa.schema([pa.field("shard", pa.string()), kinds.ROW, kinds.SCORE_FIELD, kinds.NUM_TOKENS, kinds.DOMAIN])


def read_scores(folder: str | os.PathLike[str]) -> pyarrow.dataset.Dataset:
  """Returns the scores of a complete store as a dataset; nothing but the files' footers is read yet.

  Its columns are `shard` (string) and `row` (int64), which name a document; `score` (float32); `num_tokens` (int32),
  the tokens of the whole text, null if the scorer does not count them; and `domain` (string), the registered domain of
  its url, null where there is none. Rows are in the order of shards and rows; bad documents have none.

  `folder` is the folder of one store on this machine, SCORES/NAME. Raises WinnowError if it holds no store, if the
  store is incomplete or damaged, or if it holds embeddings, clusters or signatures.
  """
  path = os.path.abspath(os.fspath(folder)) if storage.is_local(os.fspath(folder)) else os.fspath(folder)
  if not storage.is_local(path):
    raise WinnowError(f"{path} is not on this machine; copy the store here first")
  store = ScoreStore.at(path)
  if store is None:
    raise WinnowError(f"{path} holds no score store; name the folder that winnow score made: SCORES/NAME")
  if store.kind.shard_fields != (kinds.SCORE_FIELD,):
    raise WinnowError(f"{path} holds {store.kind.contents} and no scores")
  if not store.is_complete:
    raise WinnowError(f"the score store {path} is incomplete; run its command again to finish it")
  shards = store.shards()
  for shard in shards:
    score_files.read_summary(store, shard)
  return pyarrow.dataset.dataset([store.scores_path(shard) for shard in shards], schema=_SCHEMA, format="parquet")
