"""Centroids in memory: one copy for all threads of a worker process."""

import functools
import threading
from typing import NamedTuple

from curation.coverage import centroid_files, kmeans
from pipelines.files import storage

_TURN = threading.Lock()  # a process reads them once


class Held(NamedTuple):
  """Centroids that a process holds."""

  file: centroid_files.CentroidFile
  centroids: kmeans.Centroids


def load_centroids(path: str) -> Held:
  """Returns the centroids in a file, which a process reads once for all its threads. Raises DamagedError."""
  with _TURN:
    return _held(path, storage.version(path))


@functools.lru_cache(maxsize=1)
def _held(path: str, version: str) -> Held:
  file = read(path)
  return Held(file, kmeans.Centroids(file.centroids_KD))


def read(path: str) -> centroid_files.CentroidFile:
  """Reads the centroids in a file, without keeping them."""
  with storage.open_input(path) as file:
    return centroid_files.load(file, path)
