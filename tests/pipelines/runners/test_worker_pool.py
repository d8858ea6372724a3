"""The worker pool, asked by runners that speak Beam's protocol, each with a control server that workers connect to."""

import concurrent.futures
import contextlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import processes
import psutil
import pytest
from apache_beam.portability.api import (
  beam_fn_api_pb2,
  beam_fn_api_pb2_grpc,
  endpoints_pb2,
)
from flink_cluster import free_ports

from pipelines.runners import worker_pool

NAME = "1-1"  # every TaskManager calls its worker so
_SECONDS = 120


class Control(beam_fn_api_pb2_grpc.BeamFnControlServicer):
  """A runner's control service, which gives its workers nothing to do."""

  def __init__(self) -> None:
    self.connected: queue.Queue[str] = queue.Queue()
    self.left = threading.Event()

  def Control(self, responses, context):
    self.connected.put(dict(context.invocation_metadata())["worker_id"])
    self.left.wait()
    yield from ()


class Runner:
  """One runner, such as a TaskManager: its control server, and its own connection to the pool."""

  def __init__(self, pool: subprocess.Popen, address: str):
    self._pool, self._address, self._control = pool, address, Control()
    self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self._control, self._server)
    self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
    self._server.start()
    self._channel = self._connect()

  def _connect(self) -> grpc.Channel:
    # Otherwise the channels of one process share their connections.
    return grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)])

  def reconnect(self) -> None:
    """Takes another connection to the pool, as after a long silence."""
    self._channel.close()
    self._channel = self._connect()

  def start(self) -> psutil.Process:
    """Asks for a worker, and returns its process once it has connected."""
    request = beam_fn_api_pb2.StartWorkerRequest(
      worker_id=NAME, control_endpoint=endpoints_pb2.ApiServiceDescriptor(url=self.url)
    )
    pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(self._channel)
    assert not pool.StartWorker(request, wait_for_ready=True, timeout=_SECONDS).error
    assert self._control.connected.get(timeout=_SECONDS) == NAME
    (process,) = [each for each in processes.children(self._pool.pid) if self.url in processes.command_line(each)]
    return process

  def stop(self) -> None:
    pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(self._channel)
    assert not pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=NAME), timeout=_SECONDS).error

  def leave(self) -> None:
    """Closes the stream on which the worker gets its work, so that it ends."""
    self._control.left.set()

  def close(self) -> None:
    self.leave()
    self._channel.close()
    self._server.stop(None)


@contextlib.contextmanager
def _pool(count: int) -> Iterator[tuple[subprocess.Popen, list[Runner]]]:
  """Yields the process of a pool, and runners that use it."""
  (port,) = free_ports(1)
  process = subprocess.Popen([sys.executable, "-m", "pipelines.runners.worker_pool", f"--service_port={port}"])
  runners = [Runner(process, f"127.0.0.1:{port}") for _ in range(count)]
  try:
    yield process, runners
  finally:
    for runner in runners:
      runner.close()
    process.terminate()
    assert process.wait(_SECONDS) == 0


def _zombies(process: subprocess.Popen) -> list[psutil.Process]:
  return [child for child in psutil.Process(process.pid).children() if not processes.is_alive(child)]


def test_each_of_two_runners_ends_its_own_worker_though_they_have_one_name():
  """Kills the mutants: workers found by their name, as in Beam's own pool, where the first to stop ends the other's
  worker; a pool that does not wait for what it has ended; one that leaves workers behind."""
  with _pool(2) as (pool, (first, second)):
    ours, theirs = first.start(), second.start()
    first.stop()
    assert not ours.is_running() and processes.is_alive(theirs)
    again = first.start()
    second.stop()
    assert not theirs.is_running() and processes.is_alive(again)
    assert _zombies(pool) == []
    pool.send_signal(signal.SIGTERM)
    assert pool.wait(_SECONDS) == 0
    assert not again.is_running()


@pytest.mark.long
def test_runners_whose_connection_was_replaced_are_counted():
  """Kills the mutants: the first such request ends all workers of the name; the last one ends none; one that ended
  with its runner is no longer counted, and the next request takes another's for it; one that ended stays a zombie."""
  with _pool(2) as (pool, (first, second)):
    ours, theirs = first.start(), second.start()
    first.leave()
    psutil.wait_procs([ours], timeout=_SECONDS)
    assert not ours.is_running() and _zombies(pool) == []
    first.reconnect()
    first.stop()
    assert processes.is_alive(theirs)
    second.reconnect()
    second.stop()
    assert not theirs.is_running()


def test_a_second_pool_at_one_address_is_refused(capsys):
  """Kills the mutant that shares the port: each pool would get half of the requests."""
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
  port = server.add_insecure_port("127.0.0.1:0")
  assert worker_pool.main([f"--service_port={port}"]) == 2
  assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    worker_pool.main([])
  server.stop(None)
