"""A worker pool for runners whose `--environment_type` is EXTERNAL: it starts and stops Python workers for them.

    python -m pipelines.runners.worker_pool --service_port=50000

Several TaskManagers of Flink may share this pool. They all call their worker `1-1`, and the pool of Beam itself finds
workers by that name alone: the second start hides the first worker, and the first stop ends the second one.
"""

import argparse
import concurrent.futures
import dataclasses
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from pipelines.runners import commands

_END_SECONDS = 10.0
_CALLS = 16  # at once; a call lasts until its worker has ended
# A runner may ping its pool as often as it likes. A second pool on the same port would take half of the requests.
_OPTIONS = (
  ("grpc.http2.max_pings_without_data", 0),
  ("grpc.http2.max_ping_strikes", 0),
  ("grpc.so_reuseport", 0),
)
_WORKER = """
import sys
from apache_beam.runners.worker.sdk_worker import SdkHarness
SdkHarness(sys.argv[1], worker_id=sys.argv[2]).run()
"""


@dataclasses.dataclass(eq=False)
class _Worker:
  """A worker process, and the connection over which a runner has asked for it."""

  connection: str
  process: subprocess.Popen
  waiting: threading.Thread
  """Waits for the process, so that no zombie stays."""

  def end(self) -> None:
    """Ends the process with SIGTERM, or with SIGKILL if that takes too long."""
    self.process.terminate()
    self.waiting.join(_END_SECONDS)
    self.process.kill()  # does nothing once the process has been waited for
    self.waiting.join()


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
  """The service that starts and stops workers, each a process of its own.

  A request to stop holds nothing but the name of a worker, and names are not unique. The pool stops the worker that was
  asked for over the same connection. If that connection was replaced, it counts: it stops the workers of a name once
  there are as many such requests as workers. Until then a worker ends by itself, since its runner has left it.
  """

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._workers: dict[str, list[_Worker]] = {}
    """The workers of each name that nobody has asked to stop; those that have ended are among them."""
    self._unclaimed: dict[str, int] = {}
    """For each name, the number of requests to stop that came over another connection."""

  def StartWorker(
    self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
  ) -> beam_fn_api_pb2.StartWorkerResponse:
    """Starts a worker for the runner whose control endpoint the request names."""
    command = [sys.executable, "-c", _WORKER, request.control_endpoint.url, request.worker_id]
    try:
      process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError:
      return beam_fn_api_pb2.StartWorkerResponse(error=traceback.format_exc())
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    with self._lock:
      self._workers.setdefault(request.worker_id, []).append(_Worker(context.peer(), process, waiting))
    return beam_fn_api_pb2.StartWorkerResponse()

  def StopWorker(
    self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
  ) -> beam_fn_api_pb2.StopWorkerResponse:
    """Stops the worker of the runner that asks, and returns once it has ended."""
    with self._lock:
      stopped = self._claimed(request.worker_id, context.peer())
    for worker in stopped:
      worker.end()
    return beam_fn_api_pb2.StopWorkerResponse()

  def end(self) -> None:
    """Ends all workers."""
    with self._lock:
      workers = [worker for named in self._workers.values() for worker in named]
      self._workers.clear()
    with concurrent.futures.ThreadPoolExecutor(_CALLS) as threads:
      list(threads.map(_Worker.end, workers))

  def _claimed(self, name: str, connection: str) -> list[_Worker]:
    """Removes and returns the workers that a request to stop is for."""
    named = self._workers.get(name, [])
    for worker in named:
      if worker.connection == connection:
        named.remove(worker)
        return [worker]
    self._unclaimed[name] = self._unclaimed.get(name, 0) + 1
    if self._unclaimed[name] < len(named):
      return []
    del self._unclaimed[name]
    return self._workers.pop(name, [])


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(prog="python -m pipelines.runners.worker_pool", allow_abbrev=False)
  parser.add_argument("--service_port", type=int, required=True, help="the port of --environment_config")
  parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
  arguments = parser.parse_args(argv)
  pool, stopped = WorkerPool(), threading.Event()
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(_CALLS), options=_OPTIONS)
  beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
  address = f"{arguments.host}:{arguments.service_port}"
  try:
    server.add_insecure_port(address)
  except RuntimeError:
    print(f"winnow: the pool cannot listen at {address}: choose another --service_port", file=sys.stderr)
    return commands.REFUSED
  for each in (signal.SIGTERM, signal.SIGINT):
    signal.signal(each, lambda *_: stopped.set())
  server.start()
  print(f"winnow: a pool of workers listens at {address}", file=sys.stderr)
  stopped.wait()
  server.stop(None)
  pool.end()
  return commands.DONE


if __name__ == "__main__":
  sys.exit(main())
