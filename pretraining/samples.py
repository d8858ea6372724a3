"""Outputs of Winnow as training data: what a manifest says of one, and whether its shards are there."""

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
  """The folder, absolute where it is local."""
  name: str
  """The dataset's: lower-case letters, digits and underscores."""
  pattern: str
  """The glob that names its shards and no other file."""
  num_shards: int
  documents: int
  tokens: int | None
  """Those of whole documents, as the scorer counted them; None where it counted none."""


def read(output: str) -> Sample:
  """Reads the manifest of an output and compares the names and sizes of its shards, in one listing.

  Raises WinnowError where the output is not complete, not of TFRecords, empty, or not as its manifest says.
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
    raise WinnowError(f"{output} holds no text: there is nothing to train on; draw a larger sample")
  # One glob, for one listing of an object store: a thousand names would be a request each.
  files = tfds_metadata.shard_file_name(name, 0, len(shards)).replace("-00000-of-", "-*-of-")
  pattern = storage.join(storage.escape(output), files)
  found = {storage.base_name(path): size for path, size in storage.match(pattern)}
  for file in sorted(shards.keys() | found.keys()):
    if shards.get(file) != found.get(file):
      here, wanted = (f"{sizes[file]:,} bytes" if file in sizes else "absent" for sizes in (found, shards))
      raise WinnowError(
        f"{storage.join(output, file)} is {here} and by {manifests.MANIFEST_FILE} {wanted}; restore it, or draw the "
        "sample again"
      )
  return Sample(output, name, pattern, len(shards), documents, tokens)
