"""Reads outputs of Winnow as training data: checks an output's shards against its manifest."""

import dataclasses

from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import storage
from pipelines.output import manifests, tfds_metadata
from pipelines.output.formats.registry import FORMATS


@dataclasses.dataclass(frozen=True)
class Sample:
  """A complete output of TFRecords."""

  output: str
  """The folder, as an absolute path if local."""
  name: str
  """The dataset's name: lower-case letters, digits and underscores."""
  pattern: str
  """The glob that matches its shards and no other file."""
  num_shards: int
  documents: int
  tokens: int | None
  """Tokens of the whole documents, as the scorer counted them; None if it counted none."""


def read(output: str) -> Sample:
  """Reads the manifest of an output and checks the names and sizes of its shards with one listing.

  Raises WinnowError if the output is incomplete, empty, not of TFRecords, or not as its manifest says.
  """
  output = inputs.absolute(output)
  manifest = manifests.read(output)
  with manifests.naming_manifest(output):
    name, file_format = manifest["dataset"], manifest["output_format"]
    if file_format not in FORMATS or not FORMATS[file_format].is_tfds:
      raise WinnowError(
        f"{output} holds {file_format} files, which seqio does not read; draw it with --output_format=tfrecord"
      )
    shards = {str(shard["file"]): int(shard["bytes"]) for shard in manifest["shards"]}
    documents, tokens = int(manifest["counts"]["selected"]), manifest["tokens"]["selected"]
    tokens = None if tokens is None else int(tokens)
  if not documents or tokens == 0:
    raise WinnowError(f"{output} holds no text to train on; draw a larger sample")
  # One glob takes one listing of an object store, whereas a thousand names would take a request each.
  files = tfds_metadata.shard_file_name(name, 0, len(shards)).replace("-00000-of-", "-*-of-")
  pattern = storage.join(storage.escape(output), files)
  listed = {storage.base_name(path): size for path, size in storage.match(pattern)}
  for file in sorted(shards.keys() | listed.keys()):
    if shards.get(file) != listed.get(file):
      actual, expected = (f"{sizes[file]:,} bytes" if file in sizes else "absent" for sizes in (listed, shards))
      raise WinnowError(
        f"{storage.join(output, file)} is {actual}, but {expected} in {manifests.MANIFEST_FILE}; restore it, or "
        "draw the sample again"
      )
  return Sample(output, name, pattern, len(shards), documents, tokens)
