"""Checks of the first rows of an input before anything is written, so that a wrong flag fails at once."""

import collections
import itertools
from collections.abc import Sequence

import numpy as np

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.corpus.readers import reading
from pipelines.files import storage

SHARDS, ROWS = 16, 256
_BLOCKS = 16
_NAMED, _NAME_CHARACTERS = 20, 60
_POINTER, _POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024  # every pointer is shorter
_NO_TEXT = ("missing_text", "text_not_a_string")


def spread(shards: Sequence[blocks.Shard]) -> list[blocks.Shard]:
  """Returns up to 16 of the shards, evenly spaced, including the first."""
  places = np.unique(np.linspace(0, len(shards) - 1, min(SHARDS, len(shards))).round().astype(int))
  return [shards[place] for place in places]


def refuse_pointers(shards: Sequence[blocks.Shard]) -> None:
  """Raises WinnowError for a shard that Git LFS has not fetched: a pointer of a few lines in place of the file."""
  for shard in shards:
    if shard.size < _POINTER_BYTES and storage.read_bytes(shard.path).startswith(_POINTER):
      raise WinnowError(
        f"{shard.path} is a Git LFS pointer in place of the file: run git lfs pull, choose a pattern that leaves it "
        "out, or continue without its documents: --max_bad_fraction=1"
      )


def refuse_without_documents(shards: Sequence[blocks.Shard], fields: blocks.Fields) -> None:
  """Raises WinnowError if the first 4,096 rows of up to 16 shards hold bad rows and no document.

  Usually reads only the first 256 rows of one shard. A shard that cannot be read is ignored, since the run itself will
  report it, unless no other shard holds a document.
  """
  reasons: collections.Counter[str] = collections.Counter()
  without_text: blocks.Shard | None = None
  first_bad, first_error = "", None
  sampled = spread(shards)
  for shard in sampled:
    try:
      for block in itertools.islice(reading.read_blocks(shard, fields, block_rows=ROWS), _BLOCKS):
        assert isinstance(block, blocks.Block)  # none is skipped
        if len(block.documents):
          return
        for row, reason, _ in zip(*block.bad.to_pydict().values(), strict=True):
          if reason in blocks.NOT_READ:
            continue
          first_bad = first_bad or f"{shard.path} row {row} ({reason})"
          without_text = without_text or (shard if reason in _NO_TEXT else None)
          reasons[reason] += 1
    except WinnowError as error:
      first_error = first_error or error
  if without_text is not None:
    names = [name[:_NAME_CHARACTERS] for name in reading.field_names(without_text)]
    more = "" if len(names) <= _NAMED else f" and {len(names) - _NAMED:,} more"
    raise WinnowError(
      f"none of the first {reasons.total():,} documents of {len(sampled):,} shards has a text in the field "
      f"{fields.text!r}: {without_text.path} has the fields {', '.join(names[:_NAMED])}{more}; name the one "
      "that holds the text: --text_field="
    )
  if first_error is not None:
    raise first_error
  if reasons:
    raise WinnowError(
      f"all of the first {reasons.total():,} documents of {len(sampled):,} shards are bad, such as {first_bad}; check "
      "that the files of --input hold what their names say, or run with --max_bad_fraction=1"
    )
