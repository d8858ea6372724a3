"""Centroid files: reading returns what was written, and refuses anything else."""

import io
import json

import numpy as np
import pytest
import safetensors.numpy

from curation.coverage import centroid_files
from curation.errors import DamagedError

TRAINING = {"inertia": [0.5, 0.25], "sample_points": 9, "silhouette": None}


def centroids() -> centroid_files.CentroidFile:
  vectors_KD = np.random.default_rng(0).standard_normal((7, 5))
  vectors_KD /= np.linalg.norm(vectors_KD, axis=1, keepdims=True)
  return centroid_files.CentroidFile(vectors_KD.astype(np.float32), "whose", TRAINING)


def written(what: centroid_files.CentroidFile) -> bytes:
  file = io.BytesIO()
  centroid_files.save(what, file)
  return file.getvalue()


def test_what_is_read_is_what_was_written():
  """The safetensors library reads the same. Kills: a header that other readers do not take."""
  data = written(centroids())
  loaded = centroid_files.load(io.BytesIO(data), "c")
  np.testing.assert_array_equal(loaded.centroids_KD, centroids().centroids_KD)
  assert (loaded.fingerprint, loaded.training, loaded.checksum) == ("whose", TRAINING, centroids().checksum)
  np.testing.assert_array_equal(safetensors.numpy.load(data)["centroids"], centroids().centroids_KD)
  assert data == written(centroids())


@pytest.mark.parametrize("place", range(0, 800, 3))
def test_a_turned_bit_is_told(place):
  """Kills the mutant without a checksum. A bit of the header that changes no meaning may stay."""
  data = bytearray(written(centroids()))
  place %= len(data)
  data[place] ^= 4
  try:
    loaded = centroid_files.load(io.BytesIO(bytes(data)), "folder/c")
  except DamagedError as error:
    assert str(error).startswith("folder/c holds no centroids, or is damaged (") and "\n" not in str(error)
  else:
    assert place < len(data) - 7 * 5 * 4
    np.testing.assert_array_equal(loaded.centroids_KD, centroids().centroids_KD)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_file_that_breaks_off_is_told(size):
  with pytest.raises(DamagedError, match="holds no centroids, or is damaged"):
    centroid_files.load(io.BytesIO(written(centroids())[:size]), "c")


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 20], [0, 5], [-7, -5], [7.0, 5], ["7", 5], [7], None])
def test_a_header_that_lies_is_told_before_anything_is_allocated(shape):
  """Kills: memory that is taken because a header asks for it."""
  data = written(centroids())
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  header["centroids"]["shape"] = shape
  head = json.dumps(header).encode()
  with pytest.raises(DamagedError, match="holds no centroids, or is damaged"):
    centroid_files.load(io.BytesIO(len(head).to_bytes(8, "little") + head + data[8 + length :]), "c")


def test_another_version_is_told(monkeypatch):
  monkeypatch.setattr(centroid_files, "FORMAT_VERSION", 2)
  data = written(centroids())
  monkeypatch.undo()
  with pytest.raises(DamagedError, match="it is of version 2, and this is version 1"):
    centroid_files.load(io.BytesIO(data), "c")
