"""The shards that `--input` names, and their identity for fingerprints."""

import concurrent.futures
import dataclasses
import os
from typing import NamedTuple

from curation.errors import WinnowError
from pipelines.corpus import blocks, shard_names
from pipelines.corpus.readers import reading, tfds, zstd_stream
from pipelines.files import storage


class NoFilesError(WinnowError):
  """An error for an input that matches no file."""


class File(NamedTuple):
  """A file that matches a glob, and its unique name among all matches (`shard_names`)."""

  name: str
  path: str
  size: int


def find_files(pattern: str) -> list[File]:
  """Returns the files that match a user's glob, sorted by name; raises WinnowError as `storage.find` does."""
  pattern = absolute(pattern)
  matches = storage.find(pattern)
  for path, _ in matches:
    storage.refuse_undecodable(path)
  names = shard_names.name_shards([storage.without_root(path) for path, _ in matches], storage.without_root(pattern))
  return sorted(File(name, path, size) for name, (path, size) in zip(names, matches, strict=True))


def find_shards(pattern: str, tfds_data_dir: str | None = None) -> list[blocks.Shard]:
  """Returns the shards of an input, sorted by name.

  Raises NoFilesError if there are none, WinnowError if a file has an unknown format, and as `find_files` does.
  """
  if pattern.startswith("tfds:"):
    shards = tfds.tfds_shards(pattern, data_dir=tfds_data_dir)
  else:
    shards = [blocks.Shard(name, path, *reading.format_of(path), size) for name, path, size in find_files(pattern)]
  if not shards:
    raise NoFilesError(f"--input={pattern} matches no file; quote the glob and check the path")
  return sorted(shards, key=lambda shard: shard.name)


def identify(shards: list[blocks.Shard]) -> list[blocks.Shard]:
  """Returns the shards with their checksums or versions. Reads every local file once, in threads."""
  with concurrent.futures.ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
    checksums = pool.map(_version, shards)
    return [dataclasses.replace(shard, checksum=value) for shard, value in zip(shards, checksums, strict=True)]


def _version(shard: blocks.Shard) -> str:
  try:
    return storage.version(shard.path)
  except PermissionError as error:
    raise storage.AccessError(
      f"cannot read {shard.path}: {error.strerror}; make it readable, or choose a pattern that leaves it out"
    ) from error


def limit_windows(shards: list[blocks.Shard], max_zstd_window: int) -> list[blocks.Shard]:
  """Returns the shards with a limit in MiB on the windows of their zstd streams; raises WinnowError for a bad limit."""
  longest = zstd_stream.LONGEST_WINDOW >> 20
  if not 1 <= max_zstd_window <= longest:
    raise WinnowError(f"--max_zstd_window={max_zstd_window} is not between 1 and {longest} MiB")
  return [dataclasses.replace(shard, max_window=max_zstd_window << 20) for shard in shards]


def absolute(pattern: str) -> str:
  """Returns a local pattern as an absolute path, any other unchanged; raises WinnowError if it is not UTF-8."""
  is_path = storage.is_local(pattern) and not pattern.startswith("tfds:")
  path = os.path.abspath(pattern) if is_path else pattern
  storage.refuse_undecodable(path)
  return path
