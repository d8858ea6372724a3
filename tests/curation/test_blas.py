"""BLAS has one setting of threads for a process, which several threads may want to be one."""

import concurrent.futures
import threading

import numpy as np
import threadpoolctl

from curation import blas


def num_threads() -> int:
  """Returns the setting of NumPy's BLAS: SciPy has another one."""
  (library,) = [library for library in threadpoolctl.threadpool_info() if "numpy.libs" in library["filepath"]]
  return library["num_threads"]


def test_blas_has_one_thread_until_the_last_block_ends():
  """Kills the mutants: the setting is restored when the first of two blocks ends, while the other one still computes; a
  thread that does not control BLAS changes nothing, as with threadpoolctl alone.
  """
  np.ones((2, 2)) @ np.ones((2, 2))
  with threadpoolctl.threadpool_limits(3, "blas"):
    both, first_ended = threading.Barrier(2), threading.Event()

    def first():
      with blas.one_thread():
        both.wait(60)

    def second():
      with blas.one_thread():
        both.wait(60)
        assert first_ended.wait(60)
        return num_threads()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      ending, staying = pool.submit(first), pool.submit(second)
      ending.result(60)
      first_ended.set()
      assert staying.result(60) == 1
    assert num_threads() == 3
