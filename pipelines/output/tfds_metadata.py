"""The metadata that make a folder of TFRecord shards a TFDS dataset."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from pipelines.output import tfrecords

SPLIT = "train"
METADATA_FILES = ("features.json", "dataset_info.json")
_FILE_FORMAT = "tfrecord"
_VERSION = "1.0.0"


def dataset_name(folder_name: str) -> str:
  """Turns the name of an output folder into a name for TFDS: snake case, ASCII, beginning with a letter."""
  name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", folder_name)  # TFDS's own rule for camel case
  name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
  name = re.sub(r"[^a-z0-9]+", "_", name).strip("_")
  if not name:
    return "dataset"
  return name if name[0].isalpha() else f"dataset_{name}"


def shard_file_name(name: str, index: int, num_shards: int) -> str:
  """Returns the file name of an output shard, counted from 0, as in TFDS."""
  return f"{name}-{SPLIT}.{_FILE_FORMAT}-{index:05d}-of-{num_shards:05d}"


def write_dataset_metadata(
  folder: str, *, name: str, shard_lengths: Sequence[int], num_bytes: int, description: str
) -> None:
  """Writes `features.json` and `dataset_info.json` into a local folder with TFDS's own code, without TensorFlow.

  `shard_lengths` are the numbers of records of the shards, and `num_bytes` is the size of all shards. The shards need
  not be in the folder, so it may be temporary, with files that go on to an object store. Equal arguments give equal
  bytes.
  """
  import tensorflow_datasets as tfds

  features = {feature: tfds.features.Text() for feature in tfrecords.TEXT_FEATURES}
  identity = tfds.core.DatasetIdentity(name=name, version=tfds.core.Version(_VERSION), data_dir=folder, module_name="")
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=tfds.features.FeaturesDict(features | {tfrecords.SCORE_FEATURE: tfds.features.Scalar(np.float32)}),
    description=description,
  )
  info.set_file_format(_FILE_FORMAT)
  template = tfds.core.ShardedFileTemplate(
    data_dir=pathlib.Path(folder), dataset_name=name, split=SPLIT, filetype_suffix=_FILE_FORMAT
  )
  split = tfds.core.SplitInfo(
    name=SPLIT, shard_lengths=list(shard_lengths), num_bytes=num_bytes, filename_template=template
  )
  info.set_splits(tfds.core.SplitDict([split]))
  info.write_to_directory(folder)
