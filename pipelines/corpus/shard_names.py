"""Names of shards, and of the files that belong to a shard.

A shard has the name of its file, so that a corpus may move to another folder. If two files of one input have the same
name, every shard of that input is named by its path below the folders that the pattern fixes.
"""

import hashlib
import re
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.files import globs

_MOST_BYTES = 210  # of 255: our longest suffix has 13, and a temporary name has 31 more
_SHORTENED = re.compile(r".*~[0-9a-f]{32}", re.DOTALL)


def name_shards(paths: Sequence[str], pattern: str) -> list[str]:
  """Returns a unique name for each of these paths, which match a pattern, in their order.

  Paths and pattern are relative to the root of their disk, bucket or repository. Raises WinnowError for a path with an
  empty part, if that part would be in a name.
  """
  split = [path.split("/") for path in paths]
  names = [parts[-1] for parts in split]
  if len(set(names)) == len(names):
    return names
  names = globs.below_fixed(split, globs.components(pattern))
  for path, name in zip(paths, names, strict=True):
    if not is_name(name):
      raise WinnowError(f"{path} has an empty part, so no shard can be named after it: rename it")
  return names


def file_name(shard: str) -> str:
  """Returns a file name, or its beginning, for files that belong to a shard: at most 210 bytes, unique to the shard.

  It is the name of the shard if that can be a file name, and otherwise its end and a hash of it.
  """
  encoded = shard.encode()
  if "/" not in shard and len(encoded) <= _MOST_BYTES and not _SHORTENED.fullmatch(shard):
    return shard
  digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
  end = encoded.replace(b"/", b"_")[-(_MOST_BYTES - len(digest) - 1) :].decode(errors="ignore")
  return f"{end}~{digest}"


def is_name(shard: str) -> bool:
  """Tells whether a name is valid for a shard: a path that stays below its folder."""
  return "\0" not in shard and not {"", ".", ".."} & set(shard.split("/"))
