"""Beam's worker pool for Python, on the loopback alone; the one of `apache_beam.runners.worker` listens everywhere.

A runner whose environment is EXTERNAL asks it for a worker, which is a process of its own here.
"""

import concurrent.futures
import os
import signal
import sys
import threading

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker import worker_pool_main


def serve(port: int) -> None:
  """Starts workers until SIGTERM, which ends them too."""
  os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # they are started as `python`
  pool = worker_pool_main.BeamFnExternalWorkerPoolServicer(use_process=True)
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
  beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
  server.add_insecure_port(f"127.0.0.1:{port}")
  stopped = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: stopped.set())
  server.start()
  stopped.wait()
  server.stop(None)
  for worker in pool._worker_processes.values():
    worker_pool_main.kill_process_gracefully(worker)


if __name__ == "__main__":
  serve(int(sys.argv[1]))
