"""The local runner: Beam's FnApiRunner in this process, or with worker processes that end with their run."""

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from apache_beam.options import pipeline_options
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.transforms import environments
from google.protobuf import json_format, text_format

from pipelines.runners import fork_server

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORKER = "apache_beam.runners.worker.sdk_worker_main"
_NOTICE_SECONDS = 0.2
_CLOSE_SECONDS = 1.0
_KEPT_CHARACTERS = 20_000


def fn_api_runner(options: pipeline_options.PipelineOptions, num_workers: int) -> fn_runner.FnApiRunner:
  """Returns a FnApiRunner, in this process for one worker, and with one process for each of several workers.

  Unlike with `--runner=FnApiRunner --direct_running_mode=multi_processing`, the processes get the pipeline's options.
  """
  if num_workers > 1:
    fork_server.start()  # it imports Beam while the pipeline is built
  environment = environments.SubprocessSDKEnvironment.from_command_string(_WORKER) if num_workers > 1 else None
  encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
  provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
  return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(provision))


class Tail(io.TextIOBase):
  """A stream that keeps its end in memory; a worker that cannot log, because a disk is full, would hang."""

  def __init__(self, characters: int):
    self._characters, self._text, self._lock = characters, "", threading.Lock()

  def write(self, text: str) -> int:
    with self._lock:
      self._text = (self._text + text)[-self._characters :]
    return len(text)

  def getvalue(self) -> str:
    return self._text


class WorkerProcesses:
  """The worker processes of one run: a context manager around the run, for the main thread.

  Beam's runner waits forever for the answer of a dead worker. It waits for a live one until its bundle is done, even if
  the run has already failed. Here the death of a worker interrupts the main thread, and a run that ends with an error
  kills its workers. Ctrl-C and SIGTERM are ignored meanwhile, since they would only disturb the cleanup.

  `errors` holds the end of the workers' logs, including tracebacks of the errors that they report.
  """

  def __init__(self):
    self.errors = Tail(_KEPT_CHARACTERS)
    self.died: str | None = None  # the exit status of the first worker that ended before its run
    self.thread_errors: list[str] = []  # what threads of the runner would print when they end with an error
    self.workers: list[_Worker] = []
    self.killing = False
    self._ending = threading.Event()

  def __enter__(self) -> "WorkerProcesses":
    _handle_workers_by(functools.partial(_Worker, self))
    self._excepthook, threading.excepthook = threading.excepthook, self._keep_error
    self._handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}
    for number in _SIGNALS:
      signal.signal(number, self._interrupt)
    return self

  def __exit__(self, *_) -> None:
    self._kill()
    for worker in self.workers:
      worker.close()
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    threading.excepthook = self._excepthook
    _handle_workers_by(worker_handlers.SubprocessSdkWorkerHandler)

  def end(self) -> None:
    """Marks the time when the runner closes its workers, after success or failure: from now on they may end."""
    error = sys.exc_info()[1]
    if isinstance(error, Exception) and not self._ending.is_set():
      time.sleep(_NOTICE_SECONDS)  # a broken connection is noticed before the death that broke it
    self._ending.set()
    if error is not None:
      self._kill()

  def report_death(self, how: str) -> None:
    """Interrupts the main thread because of a worker's death; called by the thread that waits for the worker."""
    while not self._ending.is_set():
      self.died = self.died or how
      # A real signal, since _thread.interrupt_main would not wake a main thread that waits for a lock. It is repeated
      # in case a destructor or callback swallows the exception that it raises.
      signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
      self._ending.wait(_CLOSE_SECONDS)

  def _kill(self) -> None:
    self.killing = True
    self._ending.set()
    for worker in self.workers:
      worker.kill()

  def _interrupt(self, number: int, frame: FrameType | None) -> None:
    handler = self._handlers[signal.Signals(number)]
    if self.killing or (handler == signal.SIG_IGN and self.died is None):
      return
    if callable(handler):
      handler(number, frame)
    raise KeyboardInterrupt

  def _keep_error(self, args: threading.ExceptHookArgs) -> None:
    self.thread_errors.append(f"{args.exc_type.__name__}: {args.exc_value}")


def _handle_workers_by(constructor: Callable[..., worker_handlers.GrpcWorkerHandler]) -> None:
  worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(constructor)


class _Worker(worker_handlers.GrpcWorkerHandler):
  """A replacement for Beam's handler of worker processes, which does not expose its process."""

  def __init__(self, processes: WorkerProcesses, _: bytes, state: Any, provision_info: Any, grpc_server: Any):
    super().__init__(state, provision_info, grpc_server)
    self._processes = processes
    self._pid: int | None = None  # while the process exists
    self._lock = threading.Lock()
    # The thread also starts the process, so that no interrupt can come between the start and the registration.
    self._thread = threading.Thread(target=self._run, name="worker process", daemon=True)
    processes.workers.append(self)

  def start_worker(self) -> None:
    self._thread.start()

  def stop_worker(self) -> None:
    self._thread.join()

  def close(self) -> None:
    self._processes.end()
    if not self._processes.killing:
      super().close()
    elif self._thread.is_alive():
      # Connections of dead workers close at once; one that does not (a full queue) is abandoned.
      closing = threading.Thread(target=super().close, daemon=True)
      closing.start()
      closing.join(_CLOSE_SECONDS)
      self._thread.join(_CLOSE_SECONDS)

  def kill(self) -> None:
    with self._lock:
      if self._pid is not None:  # otherwise `_run` notices `killing`
        with contextlib.suppress(ProcessLookupError):
          os.kill(self._pid, signal.SIGKILL)

  def _run(self) -> None:
    info = self.provision_info.provision_info
    environment = {
      "WORKER_ID": self.worker_id,
      "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
      "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(self.control_api_service_descriptor()),
    }
    if self._processes.killing:
      return
    try:
      status = str(self._status(os.environ | environment))
    except Exception as error:  # if this thread just ended, the run would wait for its worker forever
      status = str(error)
    self._processes.report_death(status)

  def _status(self, environment: dict[str, str]) -> int:
    """Runs a worker process to its end; returns its exit status."""
    reading, writing = os.pipe()
    with open(reading, errors="replace") as errors:
      with open(writing, "wb"):
        server = fork_server.start()
        pid = server.fork(environment, writing)
      with self._lock:
        self._pid = pid
      if self._processes.killing:
        self.kill()
      for line in errors:
        self._processes.errors.write(line)
    with self._lock:
      self._pid = None  # another process may get the id once this one has been waited for
    return server.wait(pid)
