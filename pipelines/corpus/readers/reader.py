"""The base of readers, which turn an open shard of one format into chunks of records."""

import abc
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, ClassVar, cast

from isal import igzip, igzip_lib

from curation.errors import WinnowError
from pipelines.corpus.blocks import BrokenShardError, Chunk, Fields, Shard
from pipelines.corpus.readers import zstd_stream
from pipelines.files import storage

PIECE_BYTES = 1 << 20


class OpenShard(contextlib.ExitStack):
  """A shard whose file is open, a context manager. Raises WinnowError if it cannot be opened."""

  def __init__(self, shard: Shard, *, buffer_bytes: int = 16 << 20, piece_bytes: int = PIECE_BYTES):
    super().__init__()
    self.shard, self._piece_bytes = shard, piece_bytes
    try:
      self.file: BinaryIO = self.enter_context(storage.open_input(shard.path, buffer_bytes=buffer_bytes))
    except OSError as error:
      raise WinnowError(f"cannot open {shard.path}: {error.strerror or error}") from error

  def pieces(self) -> Iterator[bytes]:
    """Yields the decompressed bytes, about `piece_bytes` at a time, across gzip members and zstd frames.

    isal decompresses C4 at 770 MB/s on one core, zlib at 295. It detects truncation, wrong checksums and garbage behind
    the last member, as `zstd_stream` does.
    """
    shard = self.shard
    if shard.compression and shard.size == 0:
      raise BrokenShardError(f"it is empty, which is not a valid {shard.compression} file")
    read = self.file.read
    if shard.compression == "gzip":
      read = self.enter_context(igzip.IGzipFile(fileobj=self.file, mode="rb")).read1  # `read` loses data on errors
    pieces = iter(lambda: read(self._piece_bytes), b"")
    if shard.compression == "zstd":
      pieces = zstd_stream.decompress(pieces, piece_bytes=self._piece_bytes, max_window=shard.max_window)
    try:
      yield from pieces
    except (EOFError, igzip.BadGzipFile, cast(type[Exception], igzip_lib.IsalError)) as error:
      if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the content
        raise
      raise BrokenShardError(f"its gzip stream is truncated or damaged ({error})") from error

  def local_path(self) -> str:
    """Returns the path of the file, or of a local copy, which is removed when the shard is closed."""
    if storage.is_local(self.shard.path):
      return self.shard.path
    path = f"{self.enter_context(tempfile.TemporaryDirectory(prefix='winnow-'))}/shard.{self.shard.format}"
    with open(path, "wb") as copy:
      shutil.copyfileobj(self.file, copy, storage.COPY_BYTES)
    return path


class Reader(abc.ABC):
  """A reader of the shards of one format. Borders of blocks and bad rows must depend only on the file."""

  suffixes: ClassVar[tuple[str, ...]]
  """The suffixes of such files, without the dot; `-00000-of-00001` may follow."""
  is_stream: ClassVar[bool] = False
  """Whether it reads decompressed bytes from beginning to end, so that `.gz` or `.zst` may follow too."""
  needs_local_file: ClassVar[bool] = False
  """Whether its library opens only local files, so that the beginning of a remote file cannot be read alone."""

  @abc.abstractmethod
  def chunks(self, shard: OpenShard, fields: Fields) -> Iterator[Chunk]:
    """Yields chunks of the records in order (see `blocks.records_chunk`); raises BrokenShardError."""

  @abc.abstractmethod
  def field_names(self, shard: OpenShard) -> list[str]:
    """Returns the fields of the first records, in the notation of `Fields`, for a message about a missing field."""

  def num_rows(self, shard: OpenShard) -> int | None:
    """Returns the number of records if the file tells it without being read, and otherwise None."""
    del shard
    return None

  def count(self, head: bytes, is_whole: bool) -> int | None:
    """Returns the number of records in the decompressed beginning of a file; None if the format cannot tell."""
    del head, is_whole
    return None
