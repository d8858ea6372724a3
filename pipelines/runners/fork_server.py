"""The fork server: one process that imports Beam, and from which the worker processes of the local runner are forked.

A process takes seconds to import Beam and its connectors. The fork server imports them once for all workers of all
pipelines of a command, while the launcher builds the first pipeline.

Launcher and server exchange lines of JSON over a Unix socket. A request to fork carries the environment of the worker,
its module search path (that of the launcher, whatever lies in the working directory) and three file descriptors:
standard output, standard error and the working directory.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, NoReturn

from pipelines.worker import standard_files

_SERVE = (
  "import sys; sys.path[:] = sys.argv[2:]\n"
  "from pipelines.runners import fork_server; fork_server.main(int(sys.argv[1]))"
)
_IMPORTED = ("apache_beam.runners.worker.sdk_worker_main", "pipelines.scoring.scoring", "pipelines.output.writing")
_MAX_BYTES = 1 << 20  # of one message
_NUM_DESCRIPTORS = 3
_START_LOCK = threading.Lock()
_running: "ForkServer | None" = None


class ForkServer:
  """The launcher's side of the fork server. Several threads may call its methods.

  The server ends with this process, however this process ends.
  """

  def __init__(self):
    standard_files.open_missing()
    self._errors = os.memfd_create("errors")  # in memory: a disk may be full
    self._socket, theirs = socket.socketpair()
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(theirs.fileno()), *_module_path()],
        pass_fds=[theirs.fileno()],
        stderr=self._errors,
      )
    self._answers = self._socket.makefile("rb")
    self._lock = threading.Lock()
    atexit.register(self._process.kill)  # it may still be importing

  @property
  def is_alive(self) -> bool:
    """Whether the server process is running."""
    return self._process.poll() is None

  def fork(self, environment: dict[str, str], stderr: int) -> int:
    """Starts a worker process and returns its id; raises OSError if it cannot be started.

    `environment` replaces the server's variables, and the file descriptor `stderr` becomes the worker's standard error.
    """
    folder = os.open(".", os.O_PATH)
    try:
      return self._ask({"environment": environment, "path": _module_path()}, [1, stderr, folder])
    finally:
      os.close(folder)

  def wait(self, pid: int) -> int:
    """Waits for a worker to end; returns its exit status, or the negative number of the signal that ended it."""
    return self._ask({"wait": pid}, [])

  def _ask(self, request: dict[str, Any], descriptors: list[int]) -> int:
    line = json.dumps(request).encode() + b"\n"
    answer = b""
    with self._lock:
      with contextlib.suppress(ConnectionError):
        socket.send_fds(self._socket, [line], descriptors)
      with contextlib.suppress(ConnectionError):
        answer = self._answers.readline()
    if not answer.endswith(b"\n"):
      self._process.kill()
      raise ConnectionError(f"its parent process ended with {self._process.wait()}{self._last_error()}")
    result = json.loads(answer)
    if "error" in result:
      raise OSError(result["error"])
    return result["value"]

  def _last_error(self) -> str:
    lines = os.pread(self._errors, _MAX_BYTES, 0).decode(errors="replace").strip().splitlines()
    return f", {lines[-1]}" if lines else ""


def start() -> ForkServer:
  """Returns the fork server of this process; starts it at the first call, and again if it has died."""
  global _running
  with _START_LOCK:
    if _running is None or not _running.is_alive:
      _running = ForkServer()
    return _running


def main(descriptor: int) -> None:
  """Serves the requests of the parent process until it ends."""
  standard_files.open_missing()  # those of its workers come by the socket, and must not get these numbers
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # the launcher handles signals to the group, for the workers too
  with socket.socket(fileno=descriptor) as control:
    for name in _IMPORTED:
      importlib.import_module(name)
    with contextlib.suppress(ConnectionError):
      while request := _received(control):
        answer: dict[str, Any]
        try:
          answer = {"value": _answer(control, *request)}
        except OSError as error:
          answer = {"error": str(error)}
        control.sendall(json.dumps(answer).encode() + b"\n")


def _module_path() -> list[str]:
  return list(map(str, sys.path))


def _received(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
  data, descriptors = b"", []
  while not data.endswith(b"\n"):
    part, more, _, _ = socket.recv_fds(control, _MAX_BYTES, _NUM_DESCRIPTORS)
    if not part:
      return None
    data += part
    descriptors += more
  return json.loads(data), descriptors


def _answer(control: socket.socket, request: dict[str, Any], descriptors: list[int]) -> int:
  if "wait" in request:
    return os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
  try:
    if len(descriptors) != _NUM_DESCRIPTORS:
      raise OSError("too many open files: raise the limit that ulimit -n prints")
    pid = os.fork()
    if pid == 0:
      _work(control, request, descriptors)
    return pid
  finally:
    for descriptor in descriptors:
      os.close(descriptor)


def _work(control: socket.socket, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
  """Becomes a Beam worker, and ends with it."""
  status = 1
  try:
    stdout, stderr, folder = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.fchdir(folder)
    for descriptor in descriptors:
      os.close(descriptor)
    control.close()
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
    status = 0
  except BaseException:
    sys.excepthook(*sys.exc_info())
  finally:
    with contextlib.suppress(Exception):  # such as a closed pipe or a full disk
      sys.stdout.flush()
    with contextlib.suppress(Exception):
      sys.stderr.flush()
    os._exit(status)
