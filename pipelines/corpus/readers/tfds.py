"""Shards of a dataset that TensorFlow Datasets has prepared, found without TensorFlow."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from curation.errors import WinnowError
from pipelines.corpus import shard_names
from pipelines.corpus.blocks import Shard
from pipelines.corpus.readers import reading
from pipelines.files import storage

PREFIX = "tfds:"


def tfds_shards(spec: str, *, data_dir: str | None = None) -> list[Shard]:
  """Returns the files of a split of a prepared TFDS dataset, in the order of TFDS.

  `spec` is `tfds:NAME[/CONFIG][:VERSION][#SPLIT]`; the default split is train. Never downloads or prepares anything.
  Raises WinnowError if the dataset is missing, has no such split, or keeps it in files of another format.
  """
  # Only from the prepared files: `tfds.builder` would also run the code of a dataset, or download a `huggingface:`
  # name.
  from google.protobuf import json_format
  from tensorflow_datasets.core import constants, read_only_builder, registered

  name, _, split = spec.removeprefix(PREFIX).partition("#")
  split = split or "train"
  folder = os.fspath(data_dir or constants.DATA_DIR)
  with contextlib.ExitStack() as stack:
    copy = None if storage.is_local(folder) else stack.enter_context(_tfds_metadata(folder, name))
    try:
      splits = read_only_builder.builder_from_files(name, data_dir=copy or data_dir).info.splits
    except registered.DatasetNotFoundError as error:
      raise WinnowError(
        f"the dataset {spec} is not in {folder}: prepare it with `tfds build {name}`, or give --tfds_data_dir, the "
        "folder that holds it"
      ) from error
    except (ValueError, KeyError, OSError, ImportError, json_format.ParseError) as error:
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise WinnowError(
        f"cannot read the dataset {spec} in {folder} ({reason}): write tfds:NAME/CONFIG:VERSION#SPLIT"
      ) from error
  if split not in splits:
    known = ", ".join(sorted(splits)) or "none"
    raise WinnowError(f"the dataset {spec} has no split {split}, but {known}: name one of them, tfds:{name}#SPLIT")
  paths = [os.fspath(path) for path in splits[split].filepaths]
  if copy is None:
    sizes = {path: storage.size(path) for path in paths if storage.exists(path)}
  else:
    paths = [storage.join(folder, os.path.relpath(path, copy)) for path in paths]
    sizes = dict(storage.match(storage.join(storage.escape(os.path.dirname(paths[0])), "*")))  # one listing
  shards = []
  for path in paths:
    file_format, compression = reading.format_of(path)
    if file_format not in ("tfrecord", "array_record"):
      raise WinnowError(f"the dataset {spec} is kept as {file_format}: only TFRecord and ArrayRecord files can be read")
    if path not in sizes:
      raise WinnowError(f"{path}, a file of the dataset {spec}, is missing: prepare it again")
    shards.append(Shard(storage.base_name(path), path, file_format, compression, sizes[path]))
  return shards


@contextlib.contextmanager
def _tfds_metadata(folder: str, name: str) -> Iterator[str]:
  """Copies the metadata of a dataset from an object store to a local folder; TFDS itself would need TensorFlow."""
  place = name.partition(":")[0] if "*" in name else name.replace(":", "/")
  with tempfile.TemporaryDirectory(prefix="winnow-") as copy:
    for path, _ in storage.match(storage.join(storage.escape(folder), place, "**")):
      if path.endswith((".json", ".txt")):  # features, splits, and labels
        relative = path.removeprefix(f"{folder.rstrip('/')}/")
        if not shard_names.is_name(relative):
          raise WinnowError(
            f"{path} has a name that leads out of {folder}: remove it, since no dataset has such a file"
          )
        local = pathlib.Path(copy, relative)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(storage.read_bytes(path))
    yield copy
