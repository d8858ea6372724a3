"""Outputs as training data: manifests that are read, and outputs that are refused."""

import json
import pathlib
import shutil

import pytest

from curation.errors import WinnowError
from pretraining import samples


def test_a_sample_is_as_its_manifest_says(output, monkeypatch):
  monkeypatch.chdir(output.parent)
  sample = samples.read(output.name)
  manifest = json.loads((output / "manifest.json").read_text())
  assert (sample.output, sample.name, sample.num_shards) == (str(output), "half_50", 6)
  assert (sample.documents, sample.tokens) == (manifest["counts"]["selected"], manifest["tokens"]["selected"])
  assert sample.tokens > 10_000


def test_a_scorer_that_counts_no_tokens_leaves_them_open(place):
  assert samples.read(str(place / "uncounted")).tokens is None


def change(folder: pathlib.Path, how: str) -> None:
  shard, manifest = folder / "half_50-train.tfrecord-00002-of-00006", folder / "manifest.json"
  if how == "missing":
    shard.unlink()
  elif how == "cut":
    shard.write_bytes(shard.read_bytes()[:-1])
  elif how == "stray":
    shutil.copy(shard, folder / "half_50-train.tfrecord-00006-of-00006")
  elif how == "incomplete":
    manifest.unlink()
  else:
    content = json.loads(manifest.read_text())
    if how == "empty":
      content["counts"]["selected"] = 0
    else:
      del content["shards"]
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ("how", "words"),
  [
    ("missing", "tfrecord-00002-of-00006 is absent, but "),
    ("cut", "tfrecord-00002-of-00006 is "),
    ("stray", " bytes, but absent in manifest.json; restore it"),
    ("incomplete", "is an incomplete output, since it has no manifest.json"),
    ("empty", "holds no text to train on"),
    ("damaged", "is damaged (KeyError: 'shards')"),
  ],
)
def test_what_is_not_whole_is_refused(output, tmp_path, how, words):
  """Kills: the glob alone, with which seqio trains on whatever shards there are."""
  shutil.copytree(output, tmp_path / "copy")
  change(tmp_path / "copy", how)
  with pytest.raises(WinnowError) as caught:
    samples.read(str(tmp_path / "copy"))
  assert words in str(caught.value)


def test_files_that_seqio_cannot_read_are_refused(place):
  with pytest.raises(WinnowError, match="holds parquet files, which seqio does not read; draw it with"):
    samples.read(str(place / "columns"))
