"""Allocator settings that return memory to the system, since a worker's machine must have room for its peak."""

import ctypes
import functools
import sys

import pyarrow as pa

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
_THRESHOLD_BYTES = 1 << 20


def use_lean_arrow_pool() -> None:
  """Makes Arrow use the system's allocator; its default one kept 50 MB more than was in use."""
  pa.set_memory_pool(pa.system_memory_pool())


@functools.cache
def return_large_arrays() -> None:
  """Makes glibc return every array of a megabyte or more to the system as soon as it is freed.

  By default glibc raises this threshold as it runs. Blocks of embeddings and their projections then kept 80 MB more
  than was in use. Allocators of other systems are left alone.
  """
  if sys.platform == "linux":
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
      mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
