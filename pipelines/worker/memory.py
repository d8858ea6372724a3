"""Allocators that give memory back: a worker's peak is what its machine must have, not what it used once."""

import ctypes
import functools
import sys

import pyarrow as pa

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
_THRESHOLD_BYTES = 1 << 20


def use_lean_arrow_pool() -> None:
  """Arrow's default allocator kept 50 MB more than was in use."""
  pa.set_memory_pool(pa.system_memory_pool())


@functools.cache
def return_large_arrays() -> None:
  """Makes glibc give every array of a megabyte or more back when it is freed, which it does at first and then unlearns.

  Blocks of embeddings and their projections kept 80 MB more than was in use. Other systems' allocators are left alone.
  """
  if sys.platform == "linux":
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
      mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
