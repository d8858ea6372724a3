"""Reads an input file of any format as blocks, and finds the format by the file's name."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator

from curation.errors import WinnowError
from pipelines.corpus.blocks import (
  BLOCK_ROWS,
  BLOCK_TEXT_BYTES,
  AnyBlock,
  BrokenShardError,
  Chunk,
  Fields,
  Shard,
  cut_blocks,
  every,
)
from pipelines.corpus.readers.reader import PIECE_BYTES, OpenShard
from pipelines.corpus.readers.registry import OWN, READERS
from pipelines.files import storage

_COMPRESSIONS = {"": "", ".gz": "gzip", ".zst": "zstd"}


def read_blocks(
  shard: Shard,
  fields: Fields,
  *,
  block_rows: int = BLOCK_ROWS,
  want: Callable[[int], bool] = every,
  block_text_bytes: int = BLOCK_TEXT_BYTES,
  piece_bytes: int = PIECE_BYTES,
) -> Iterator[AnyBlock]:
  """Yields the blocks of one shard in order. Blocks that `want(index)` refuses are skipped cheaply and have no rows.

  Borders depend only on the file, `fields.text`, `block_rows` and `block_text_bytes` (`blocks.cut_blocks`). If the file
  is truncated or damaged, yields the blocks before that row, then raises WinnowError with file and row. C4 as .jsonl.gz
  gives about 200 MB of text per second of one core, 480 if blocks are skipped.
  """
  with OpenShard(shard, piece_bytes=piece_bytes) as opened:
    chunks = _located(READERS[shard.format].chunks(opened, fields), shard)
    yield from cut_blocks(chunks, block_rows=block_rows, block_text_bytes=block_text_bytes, want=want)


def field_names(shard: Shard) -> list[str]:
  """Returns the names of the fields of a shard's first records, in the notation of `Fields`, including nested ones."""
  with OpenShard(shard) as opened:
    return READERS[shard.format].field_names(opened)


def format_of(path: str) -> tuple[str, str]:
  """Returns (format, compression) of a file by its name, as in `Shard`; raises WinnowError for any other name."""
  match = _names().search(storage.base_name(path).lower())
  if match:
    file_format, compression = _formats()[match[1]], _COMPRESSIONS[match[2] or ""]
    if not compression or READERS[file_format].is_stream:
      return file_format, compression
  added = "".join(f", or .{suffix}" for suffix in _formats() if _formats()[suffix] not in OWN)
  raise WinnowError(
    f"cannot tell the format of {path} by its name: "
    f"it must end in .jsonl or .json (.gz and .zst may follow), .parquet or .tfrecord*{added}"
  )


@functools.cache
def _formats() -> dict[str, str]:
  return {suffix: name for name, reader in READERS.items() for suffix in reader.suffixes}


@functools.cache
def _names() -> re.Pattern[str]:
  return re.compile(rf"\.({'|'.join(map(re.escape, _formats()))})(?:-\d+-of-\d+)?(\.gz|\.zst)?$")


def _located(chunks: Iterable[Chunk], shard: Shard) -> Iterator[Chunk]:
  """Yields the chunks; adds the file and the row to errors of reading."""
  row = 0
  try:
    for chunk in chunks:
      yield chunk
      row += len(chunk.bounds_N)
  except BrokenShardError as error:
    reason = " ".join(str(error).split())  # messages of Arrow may have several lines
    raise WinnowError(f"{shard.path} cannot be read beyond row {row}: {reason}; {error.advice}") from error
  except OSError as error:
    raise storage.AccessError(
      f"{shard.path} cannot be read beyond row {row} just now ({error.strerror or error}); run the same command again"
    ) from error
