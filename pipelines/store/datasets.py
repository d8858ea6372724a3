"""A score store for programs that analyse scores: its scores as an Arrow dataset, and the documents behind them."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.files import storage
from pipelines.store import documents, kinds, score_files
from pipelines.store.score_store import ScoreStore

_SCHEMA = pa.schema([pa.field("shard", pa.string()), kinds.ROW, kinds.SCORE_FIELD, kinds.NUM_TOKENS, kinds.DOMAIN])
_ADDED = ("url", "text", "timestamp")
_NAMES_DOCUMENTS = "give pairs (shard, row), or a table with the columns shard and row"


def read_scores(folder: str | os.PathLike[str]) -> pyarrow.dataset.Dataset:
  """Returns the scores of a complete store as a dataset; nothing but the files' footers is read yet.

  Its columns are `shard` (string) and `row` (int64), which name a document; `score` (float32); `num_tokens` (int32),
  the tokens of the whole text, null if the scorer does not count them; and `domain` (string), the registered domain of
  its url, null where there is none. Rows are in the order of shards and rows; bad documents have none.

  `folder` is the folder of one store on this machine, SCORES/NAME. Raises WinnowError if it holds no store, if the
  store is incomplete or damaged, or if it holds embeddings, clusters or signatures.
  """
  store = _complete_store(folder)
  if store.kind.shard_fields != (kinds.SCORE_FIELD,):
    raise WinnowError(f"{store.folder} holds {store.kind.contents} and no scores")
  shards = store.shards()
  for shard in shards:
    score_files.read_summary(store, shard)
  return pyarrow.dataset.dataset([store.scores_path(shard) for shard in shards], schema=_SCHEMA, format="parquet")


def read_documents(folder: str | os.PathLike[str], rows: Any, *, input: str | None = None) -> pa.Table:
  """Reads the documents behind rows of a store: returns `rows` in their order, with `url`, `text` and `timestamp`.

  `rows` are an Arrow table, a frame of pandas or polars or anything else that has the columns `shard` and `row`, or
  pairs (shard, row). A document may be named more than once. `url` and `timestamp` (string) are null where the input
  has none; `text` is a large_string.

  The documents come from the input that the store was made from. If that has moved, `input` is the glob of the place
  where it is now, like `--input` of the commands. Only the files of the named shards are looked at. Each of them is
  read for its checksum, and then once as far as its last named row; memory holds the named documents, and a block for
  each of two files.

  `folder` is the folder of one store of any kind on this machine, SCORES/NAME. Raises WinnowError if it holds no
  complete store, if the input is not there or has changed since it was scored, and for a row that is not in its shard
  or has no text: a document that could not be read, or a blank line.
  """
  store, table = _complete_store(folder), _as_table(rows)
  places = _places(_column(table, "shard", pa.string()))
  row_N = _column(table, "row", pa.int64()).to_numpy()
  _refuse_unknown(store, places)
  distinct = {name: np.unique(row_N[places_M], return_inverse=True) for name, places_M in places.items()}
  matches = documents.find_input(store, input) if places else []
  found = documents.read_rows(store, matches, {name: rows_M for name, (rows_M, _) in distinct.items()})
  document_N = np.empty(len(table), np.int64)  # the place among all found documents, shard after shard
  before = 0
  for name, places_M in places.items():
    document_N[places_M] = before + distinct[name][1]
    before += len(found[name])
  every = pa.concat_tables([blocks.DOCUMENT_SCHEMA.empty_table(), *(found[name] for name in places)])
  # An array of the type `string` holds at most 2 GiB, which the chosen texts of a corpus may well exceed.
  texts = every["text"].cast(pa.large_string())
  for name, column in {"url": _known(every["url"]), "text": texts, "timestamp": _known(every["timestamp"])}.items():
    table = table.append_column(name, column.take(pa.array(document_N)))
  return table


def _complete_store(folder: str | os.PathLike[str]) -> ScoreStore:
  """Returns the store in a folder of this machine; raises WinnowError if there is none, or if it is incomplete."""
  path = os.path.abspath(os.fspath(folder)) if storage.is_local(os.fspath(folder)) else os.fspath(folder)
  if not storage.is_local(path):
    raise WinnowError(f"{path} is not on this machine; copy the store here first")
  store = ScoreStore.at(path)
  if store is None:
    raise WinnowError(f"{path} holds no score store; name the folder that winnow score made: SCORES/NAME")
  if not store.is_complete:
    raise WinnowError(f"the score store {path} is incomplete; run its command again to finish it")
  return store


def _as_table(rows: Any) -> pa.Table:
  """Returns rows as a table with the columns `shard` and `row`, and none that `read_documents` adds."""
  if isinstance(rows, pa.dataset.Dataset):
    raise WinnowError("rows are a whole dataset; choose the rows to read, or read them all: rows.to_table()")
  try:
    table = pa.table(rows) if hasattr(rows, "__arrow_c_stream__") else _from_pairs(rows)
  except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
    raise WinnowError(f"rows name no documents; {_NAMES_DOCUMENTS}") from error
  names = table.schema.names
  if names.count("shard") != 1 or names.count("row") != 1:
    raise WinnowError(f"rows have the columns {', '.join(names)}; {_NAMES_DOCUMENTS}")
  if taken := [name for name in _ADDED if name in names]:
    raise WinnowError(f"rows have a column {taken[0]} already; leave it out or rename it")
  return table


def _from_pairs(pairs: Iterable[tuple[str, int]]) -> pa.Table:
  shards, rows = [], []
  for shard, row in pairs:
    shards.append(shard)
    rows.append(row)
  return pa.table({"shard": pa.array(shards, pa.string()), "row": pa.array(rows, None if rows else pa.int64())})


def _column(table: pa.Table, name: str, wanted: pa.DataType) -> pa.ChunkedArray:
  """Returns a column as another type; raises WinnowError if it has a value that is none of that type."""
  column = table[name]
  if column.null_count:
    raise WinnowError(f"rows have no {name} at {pc.index(column.is_null(), True)}; leave such rows out")
  try:
    if pa.types.is_dictionary(column.type):  # polars has dictionaries of a type that Arrow cannot decode
      column = column.cast(pa.dictionary(pa.int32(), wanted))
    return column.cast(wanted)
  except pa.ArrowException as error:
    raise WinnowError(
      f"rows have a column {name} of the type {column.type}, not {wanted}; {_NAMES_DOCUMENTS}"
    ) from error


def _places(shards: pa.ChunkedArray) -> dict[str, np.ndarray]:
  """Returns the places of each name in a column of names, in their order."""
  encoded = shards.combine_chunks().dictionary_encode()
  codes_N = encoded.indices.to_numpy()
  order_N = np.argsort(codes_N, kind="stable")
  ends = np.cumsum(np.bincount(codes_N, minlength=len(encoded.dictionary)))
  return dict(zip(encoded.dictionary.to_pylist(), np.split(order_N, ends[:-1]), strict=True)) if len(shards) else {}


def _refuse_unknown(store: ScoreStore, names: Iterable[str]) -> None:
  """Raises WinnowError for a name that no shard of a store has."""
  known = {shard.name for shard in store.shards()}
  for name in names:
    if name not in known:
      hint = documents.similar(name, known)
      raise WinnowError(f"{store.folder} has no shard called {name}{hint}")


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """Returns a column of strings, with null in place of the empty ones, which stand for what the input does not have."""
  return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
