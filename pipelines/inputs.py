"""What `--input` names: the shards, and what of them belongs into a fingerprint."""

import collections
import concurrent.futures
import dataclasses
import os

from curation.errors import WinnowError
from pipelines import blocks, readers, storage


def find_shards(pattern: str, tfds_data_dir: str | None = None) -> list[blocks.Shard]:
  """The shards of an input, sorted by name.

  Raises WinnowError for an empty glob, a file of no known format, an empty file name twice.
  """
  if pattern.startswith("tfds:"):
    shards = readers.tfds_shards(pattern, data_dir=tfds_data_dir)
  else:
    shards = [_shard(path, size) for path, size in storage.match(absolute(pattern))]
  if not shards:
    raise WinnowError(f"--input={pattern} matches no file; quote the glob and check the path")
  names = collections.Counter(shard.name for shard in shards)
  name, count = names.most_common(1)[0]
  if count > 1:
    where = ", ".join(shard.path for shard in shards if shard.name == name)
    raise WinnowError(
      f"{count} files of --input have one name, {name} ({where}): documents are told apart by it; rename"
    )
  return sorted(shards, key=lambda shard: shard.name)


def identify(shards: list[blocks.Shard]) -> list[blocks.Shard]:
  """The same shards with their checksums, or versions. Reads every local file once, in threads."""
  with concurrent.futures.ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
    checksums = pool.map(lambda shard: storage.version(shard.path), shards)
    return [dataclasses.replace(shard, checksum=value) for shard, value in zip(shards, checksums, strict=True)]


def absolute(pattern: str) -> str:
  """The same input, whatever folder a later command starts in."""
  return os.path.abspath(pattern) if storage.is_local(pattern) and not pattern.startswith("tfds:") else pattern


def _shard(path: str, size: int) -> blocks.Shard:
  file_format, compression = readers.format_of(path)
  return blocks.Shard(storage.base_name(path), path, file_format, compression, size)
