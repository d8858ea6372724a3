"""Centroids in a file: safetensors, of a version, with whose they are, how they were trained and their checksum."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from curation.errors import DamagedError

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
  centroids_KD = np.ascontiguousarray(centroids.centroids_KD, "<f4")
  about = {
    "version": FORMAT_VERSION,
    "fingerprint": centroids.fingerprint,
    "training": centroids.training,
    "checksum": centroids.checksum,
  }
  entry = {"dtype": "F32", "shape": list(centroids_KD.shape), "data_offsets": [0, centroids_KD.nbytes]}
  header = json.dumps({"__metadata__": {_METADATA: json.dumps(about, sort_keys=True)}, _TENSOR: entry}).encode()
  header += b" " * (-len(header) % 8)
  file.write(len(header).to_bytes(8, "little") + header)
  file.write(centroids_KD.data)


def load(file: BinaryIO, path: str) -> CentroidFile:
  """Reads what `save` wrote; a DamagedError that names `path` where it is not that, before anything is allocated."""
  with _told(path):
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
      raise ValueError("its header does not fit")
    header = json.loads(file.read(length))
    about = json.loads(header["__metadata__"][_METADATA])
    if about["version"] != FORMAT_VERSION:
      raise ValueError(f"it is of version {about['version']}, and this is version {FORMAT_VERSION}")
    clusters, dimensions = shape = header[_TENSOR]["shape"]
    if not all(type(size) is int and size > 0 for size in shape):
      raise ValueError("its header is not one of centroids")
    size = 4 * clusters * dimensions
    if header.keys() != {"__metadata__", _TENSOR} or header[_TENSOR] != {
      "dtype": "F32",
      "shape": shape,
      "data_offsets": [0, size],
    }:
      raise ValueError("its header is not one of centroids")
    if file.seek(0, io.SEEK_END) != 8 + length + size:
      raise ValueError("its size is not what its header says")
    file.seek(8 + length)
    centroids_KD = np.frombuffer(file.read(size), "<f4").reshape(shape).astype(np.float32)
    found = CentroidFile(centroids_KD, str(about["fingerprint"]), dict(about["training"]))
    if found.checksum != about["checksum"]:
      raise ValueError("it does not fit its checksum")
    if not (np.abs(np.linalg.norm(centroids_KD, axis=1) - 1) < _SLACK).all():
      raise ValueError("its centroids are not of length 1")
  return found


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
  try:
    yield
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise DamagedError(f"{path} holds no centroids, or is damaged ({cause}): delete it and make it anew") from error
