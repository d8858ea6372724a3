import itertools
import threading

import pytest

from pipelines.worker import prefetch


def test_items_come_whole_and_in_order():
  assert list(prefetch.prefetch(iter(range(100)), ahead=3)) == list(range(100))


def test_it_runs_ahead_but_not_further_than_told():
  """Kills the mutant without a bound, which would hold the whole corpus if the consumer is slow."""
  begun, may_go_on = [], threading.Semaphore(0)

  def items():
    for number in range(20):
      begun.append(number)
      may_go_on.release()
      yield number

  stream = prefetch.prefetch(items(), ahead=2)
  assert next(stream) == 0
  for _ in range(4):  # one taken, two ready, one waiting for room
    may_go_on.acquire(timeout=10)
  assert begun == [0, 1, 2, 3]
  stream.close()


def test_an_error_comes_in_its_place():
  def items():
    yield 1
    raise ValueError("broken")

  stream = prefetch.prefetch(items(), ahead=5)
  assert next(stream) == 1
  with pytest.raises(ValueError, match="broken"):
    next(stream)


def test_closing_it_stops_the_thread():
  before = threading.active_count()
  stream = prefetch.prefetch(itertools.count(), ahead=2)
  next(stream)
  assert threading.active_count() == before + 1
  stream.close()
  assert threading.active_count() == before
