"""Centroid files: a safetensors file of the centroids, with version, fingerprint, figures of training and checksum."""

import hashlib
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from curation.models import safetensors_files

FORMAT_VERSION = 1
_METADATA, _TENSOR = "winnow_centroids", "centroids"
# Enough for the figures of training, two numbers per iteration.
_MAX_HEADER_BYTES = 1 << 20
_SLACK = 1e-5


class CentroidFile(NamedTuple):
  """The content of a file: centroids, float32 [K, D] of length 1, their request's fingerprint, and JSON figures."""

  centroids_KD: np.ndarray
  fingerprint: str
  training: dict[str, Any]

  @property
  def checksum(self) -> str:
    """A checksum by which two files can tell whether they have the same centroids."""
    return hashlib.blake2b(np.ascontiguousarray(self.centroids_KD, "<f4").data, digest_size=16).hexdigest()


def save(centroids: CentroidFile, file: IO[bytes]) -> None:
  """Writes centroids into a binary file: 4 * K * D bytes and a header."""
  content = {
    "version": FORMAT_VERSION,
    "fingerprint": centroids.fingerprint,
    "training": centroids.training,
    "checksum": centroids.checksum,
  }
  safetensors_files.write_array(
    file, centroids.centroids_KD.astype(np.float32, copy=False), name=_TENSOR, key=_METADATA, content=content
  )


def load(file: BinaryIO, path: str) -> CentroidFile:
  """Reads what `save` wrote; raises a DamagedError that names `path` for anything else, before memory is allocated."""
  with safetensors_files.refusing(path, "holds no centroids, or is damaged"):
    header = safetensors_files.read_header(file, _MAX_HEADER_BYTES)
    content = header.content(_METADATA, FORMAT_VERSION)
    entry = header.entries[_TENSOR]
    if len(header.entries) > 1 or entry.dtype != "F32" or len(entry.shape) != 2 or 0 in entry.shape:
      raise ValueError("its header is not one of centroids")
    file.seek(header.start)
    centroids_KD = np.frombuffer(file.read(entry.end), "<f4").reshape(entry.shape).astype(np.float32)
    loaded = CentroidFile(centroids_KD, str(content["fingerprint"]), dict(content["training"]))
    if loaded.checksum != content["checksum"]:
      raise ValueError("it does not fit its checksum")
    if not (np.abs(np.linalg.norm(centroids_KD, axis=1) - 1) < _SLACK).all():
      raise ValueError("its centroids are not of length 1")
  return loaded
