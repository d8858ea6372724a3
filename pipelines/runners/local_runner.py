"""The local runner: Beam's FnApiRunner in this process, or with worker processes of which none outlives its run."""

import contextlib
import functools
import io
import os
import signal
import sys
import threading
import time
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
  """The FnApiRunner by name: in this process for one worker, with a process for each of several.

  Unlike with `--runner=FnApiRunner --direct_running_mode=multi_processing`, the processes get the pipeline's options.
  """
  if num_workers > 1:
    fork_server.start()  # it imports Beam while the pipeline is built
  environment = environments.SubprocessSDKEnvironment.from_command_string(_WORKER) if num_workers > 1 else None
  encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
  provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
  return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(provision))


class Tail(io.TextIOBase):
  """The end of what is written. In memory: a worker that cannot log, for want of space on a disk, answers nobody."""

  def __init__(self, characters: int):
    self._characters, self._text, self._lock = characters, "", threading.Lock()

  def write(self, text: str) -> int:
    with self._lock:
      self._text = (self._text + text)[-self._characters :]
    return len(text)

  def getvalue(self) -> str:
    return self._text


class WorkerProcesses:
  """The worker processes of one run: a context manager around it, for the main thread.

  Beam's runner waits for a dead worker's answer for ever, and for a live one's until its bundle is done, also when the
  run has failed already. Here a worker's death interrupts the main thread, and a run that ends by an error kills its
  workers; while it does, Ctrl-C and SIGTERM, which would only disturb the end, are not heard.

  What workers log, the tracebacks of what they report anyway among it, ends in `errors`.
  """

  def __init__(self):
    self.errors = Tail(_KEPT_CHARACTERS)
    self.died: str | None = None  # the return code of the first worker that ended before its run
    self.thread_errors: list[str] = []  # what the runner's threads would print as they end with an error
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
    """The runner closes its workers, its work done or failed: from here on they may end."""
    error = sys.exc_info()[1]
    if isinstance(error, Exception) and not self._ending.is_set():
      time.sleep(_NOTICE_SECONDS)  # a broken connection is noticed before the death that broke it
    self._ending.set()
    if error is not None:
      self._kill()

  def report_death(self, how: str) -> None:
    """Called by the thread that waits for a worker process."""
    while not self._ending.is_set():
      self.died = self.died or how
      # A true signal: _thread.interrupt_main would not wake a main thread that waits for a lock. Again, should some
      # destructor or callback have swallowed the exception that it raises.
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


def _handle_workers_by(constructor: Any) -> None:
  worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(constructor)


class _Worker(worker_handlers.GrpcWorkerHandler):
  """Takes the place of Beam's handler of worker processes, which lets nobody at its process."""

  def __init__(self, processes: WorkerProcesses, _: bytes, state: Any, provision_info: Any, grpc_server: Any):
    super().__init__(state, provision_info, grpc_server)
    self._processes = processes
    self._pid: int | None = None  # while the process is there
    self._lock = threading.Lock()
    # It starts the process as well: no interruption of the main thread can come between a process and its registration.
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
      # Connections of the dead close at once, or else (a full queue) are left alone.
      closing = threading.Thread(target=super().close, daemon=True)
      closing.start()
      closing.join(_CLOSE_SECONDS)
      self._thread.join(_CLOSE_SECONDS)

  def kill(self) -> None:
    with self._lock:
      if self._pid is not None:  # else `_run` sees that it is too late
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
    except Exception as error:  # where this thread only ended, the run would wait for its worker for ever
      status = str(error)
    self._processes.report_death(status)

  def _status(self, environment: dict[str, str]) -> int:
    """Runs a worker process to its end."""
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
      self._pid = None  # which another process may have once this one is waited for
    return server.wait(pid)
