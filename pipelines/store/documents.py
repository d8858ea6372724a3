"""The documents of a store, read again from its input: a store keeps no texts and no urls."""

import concurrent.futures
import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, storage
from pipelines.store import score_files, score_store
from pipelines.store.score_store import ScoreStore

_READERS = 2  # shards read at once, each with one block in memory


def similar(name: str, names: Iterable[str]) -> str:
  """Returns the end of a message about a shard that does not exist: which names of shards may be meant, if any."""
  names = sorted(names)
  near = [other for other in names if other.endswith(f"/{name}")] or difflib.get_close_matches(name, names)
  return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def find_input(store: ScoreStore, pattern: str | None, tfds_data_dir: str | None = None) -> list[blocks.Shard]:
  """Returns the files of a store's input where it was, or where `pattern` says that it is now; compares nothing.

  Raises WinnowError if no files are there, or if the store does not say where its input was.
  """
  path = storage.join(store.folder, score_store.INPUT_FILE)
  place = pattern or fingerprints.field(path, "input")
  data_dir = tfds_data_dir or fingerprints.field(path, "tfds_data_dir")
  if not isinstance(place, str):
    raise WinnowError(f"{path} is missing or damaged, so nothing says where the input was; say where it is: --input=")
  try:
    return inputs.find_shards(place, data_dir if isinstance(data_dir, str) else None)
  except inputs.NoFilesError as error:
    if pattern:
      raise
    raise WinnowError(
      f"the input of {store.folder} was {place}, and no file is there now; say where it is: --input="
    ) from error


def identify(store: ScoreStore, shards: Iterable[blocks.Shard]) -> list[blocks.Shard]:
  """Returns files of a store's input with their checksums.

  A file has the checksum under which it was scored if its file system makes another kind of checksum. The checksums of
  its blocks then show whether its texts are those that were scored.
  """
  scored = {shard.name: shard.checksum for shard in store.shards()}

  def as_scored(shard: blocks.Shard) -> blocks.Shard:
    known = scored.get(shard.name, shard.checksum)
    is_other_kind = known.partition(":")[0] != shard.checksum.partition(":")[0]
    return dataclasses.replace(shard, checksum=known) if is_other_kind else shard

  return [as_scored(shard) for shard in inputs.identify(list(shards))]


def refuse_other_input(store: ScoreStore, known: object, current: object) -> None:
  """Raises WinnowError that names the first difference between what was scored and what is there now, if any."""
  if difference := fingerprints.first_difference(known, current):
    field, scored, found = difference
    raise WinnowError(
      f"the input is not what {store.folder} scored: {field} was {scored} and is {found}; score it again"
    )


def read_rows(
  store: ScoreStore, matches: Iterable[blocks.Shard], rows: Mapping[str, np.ndarray]
) -> dict[str, pa.Table]:
  """Reads documents by shard and row. The tables, by shard, have the columns of `blocks.DOCUMENT_SCHEMA`.

  `matches` are files as `find_input` finds them. `rows` has the rows to read of each shard, int64 [N], sorted and each
  once, and a shard's table has the documents in this order. Only the shards of `rows` are read, first for their
  checksums and then once as blocks, up to the last one that is needed; nothing but the needed documents is kept.

  Raises WinnowError if a shard is missing or has changed since it was scored, and for a row that has no text.
  """
  shards = identify(store, (shard for shard in matches if shard.name in rows))
  scored = {shard.name: shard.identity() for shard in store.shards() if shard.name in rows}
  refuse_other_input(store, scored, {shard.name: shard.identity() for shard in shards})
  request = fingerprints.read_json(store.request_path)
  fields, block_rows = blocks.Fields(**request["fields"]), request["block_rows"]

  def read(shard: blocks.Shard) -> pa.Table:
    return pa.concat_tables(_read_shard(store, shard, fields, block_rows, rows[shard.name]))

  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    return dict(zip((shard.name for shard in shards), pool.map(read, shards), strict=True))


def _read_shard(
  store: ScoreStore, shard: blocks.Shard, fields: blocks.Fields, block_rows: int, rows_N: np.ndarray
) -> Iterator[pa.Table]:
  """Yields those documents of a shard that have these rows, a block at a time."""
  with score_files.ScoreFile(store, shard) as scores:
    total = scores.summary.num_rows
    for row in rows_N[(rows_N < 0) | (rows_N >= total)][:1]:
      raise WinnowError(f"{shard.name} has {total:,} rows, numbered from 0, and so no row {row:,}")
    wanted_N = np.searchsorted(np.cumsum(scores.summary.block_rows), rows_N, side="right")
    wanted = frozenset(wanted_N.tolist())
    for block in reading.read_blocks(shard, fields, block_rows=block_rows, want=wanted.__contains__):
      if isinstance(block, blocks.Block):
        scores.refuse_other_documents(shard, block)
        yield _documents(shard, block, rows_N[wanted_N == block.index])
        if block.index == wanted_N[-1]:
          return
  raise WinnowError(f"{shard.path} is shorter than what {store.folder} scored; restore it, or score it again")


def _documents(shard: blocks.Shard, block: blocks.Block, rows_N: np.ndarray) -> pa.Table:
  """Returns the documents of a block that have these rows; raises WinnowError if one of them has no text."""
  document_rows_N = block.documents["row"].to_numpy()
  for row in rows_N[~np.isin(rows_N, document_rows_N)][:1]:
    reason = block.bad["reason"][int(np.searchsorted(block.bad["row"].to_numpy(), row))].as_py()
    what = "a blank line" if reason == blocks.BLANK else f"a bad document ({reason})"
    raise WinnowError(f"{shard.name}#{row} is {what}, which has no text that could be read; leave it out")
  return block.documents.take(pa.array(np.searchsorted(document_rows_N, rows_N)))
