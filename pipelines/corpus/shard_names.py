"""What the shards of an input are called, and the files that belong to one of them.

A shard is known by its file's name, so that a corpus may move to another folder. If two files of one input have the
same name, every shard of that input is known by its path below the folders that the pattern fixes.
"""

import hashlib
import re
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.files import globs

_MOST_BYTES = 210  # of 255: the longest ending of ours has 13, and a temporary name has 31 more
_SHORTENED = re.compile(r".*~[0-9a-f]{32}", re.DOTALL)


def name_shards(paths: Sequence[str], pattern: str) -> list[str]:
  """The names of the shards at these paths, which a pattern matched, in their order; no two are the same.

  Paths and pattern begin behind the root of their disk, bucket or repository.
  """
  split = [path.split("/") for path in paths]
  names = [parts[-1] for parts in split]
  if len(set(names)) == len(names):
    return names
  names = globs.below_fixed(split, globs.components(pattern))
  for path, name in zip(paths, names, strict=True):
    if not is_name(name):
      raise WinnowError(f"{path} has an empty part, so that no shard can be named by it: rename it")
  return names


def file_name(shard: str) -> str:
  """The name of a file, or its beginning, that belongs to a shard: 210 bytes at most, and another for each shard.

  It is the shard's own name wherever that can be a file's; else its end and a hash of it.
  """
  encoded = shard.encode()
  if "/" not in shard and len(encoded) <= _MOST_BYTES and not _SHORTENED.fullmatch(shard):
    return shard
  digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
  end = encoded.replace(b"/", b"_")[-(_MOST_BYTES - len(digest) - 1) :].decode(errors="ignore")
  return f"{end}~{digest}"


def is_name(shard: str) -> bool:
  """Tells whether a name can be a shard's: a path that stays below its folder."""
  return "\0" not in shard and not {"", ".", ".."} & set(shard.split("/"))
