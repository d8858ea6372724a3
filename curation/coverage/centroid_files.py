"""Centroids in a file: safetensors, of a version, with whose they are, how they were trained and their checksum."""

import hashlib
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from curation.models import safetensors_files

FORMAT_VERSION = 1
_METADATA, _TENSOR = "winnow_centroids", "centroids"
# Of training: two numbers an iteration.
_MAX_HEADER_BYTES = 1 << 20
_SLACK = 1e-5


class CentroidFile(NamedTuple):
  """What such a file holds: float32 [K, D] of length 1, the fingerprint of their request, and JSON about training."""

  centroids_KD: np.ndarray
  fingerprint: str
  training: dict[str, Any]

  @property
  def checksum(self) -> str:
    """Tells whether two files have the same centroids."""
    return hashlib.blake2b(np.ascontiguousarray(self.centroids_KD, "<f4").data, digest_size=16).hexdigest()


def save(centroids: CentroidFile, file: IO[bytes]) -> None:
  """Writes centroids into a binary file: 4 * K * D bytes and a header."""
  about = {
    "version": FORMAT_VERSION,
    "fingerprint": centroids.fingerprint,
    "training": centroids.training,
    "checksum": centroids.checksum,
  }
  safetensors_files.write_array(
    file, centroids.centroids_KD.astype(np.float32, copy=False), name=_TENSOR, key=_METADATA, about=about
  )


def load(file: BinaryIO, path: str) -> CentroidFile:
  """Reads what `save` wrote; a DamagedError that names `path` where it is not that, before anything is allocated."""
  with safetensors_files.refusing(path, "holds no centroids, or is damaged"):
    header = safetensors_files.read_header(file, _MAX_HEADER_BYTES)
    about = header.about(_METADATA, FORMAT_VERSION)
    entry = header.entries[_TENSOR]
    if len(header.entries) > 1 or entry.dtype != "F32" or len(entry.shape) != 2 or 0 in entry.shape:
      raise ValueError("its header is not one of centroids")
    file.seek(header.start)
    centroids_KD = np.frombuffer(file.read(entry.end), "<f4").reshape(entry.shape).astype(np.float32)
    found = CentroidFile(centroids_KD, str(about["fingerprint"]), dict(about["training"]))
    if found.checksum != about["checksum"]:
      raise ValueError("it does not fit its checksum")
    if not (np.abs(np.linalg.norm(centroids_KD, axis=1) - 1) < _SLACK).all():
      raise ValueError("its centroids are not of length 1")
  return found
