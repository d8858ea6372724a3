"""How a command is run: the runner, errors told in one sentence, exit statuses, and the log."""

import _thread
import contextlib
import logging
import os
import platform
import re
import shlex
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner

from curation.errors import WinnowError
from pipelines import requests, storage

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
_REMOTE_PARALLELISM = 64
_KEPT_BYTES = 20_000
_WORKER_ENDED = "Worker subprocess exited"
_SENTENCE = re.compile(r"WinnowError: (.+?)(?: \[while running '.*'\])?$", re.MULTILINE)


class JobError(Exception):
  """The pipeline ran and failed; the message is for the user."""


class Launcher:
  """Where the pipelines of one command run: the local runner unless `--runner` names another."""

  def __init__(self, beam_arguments: Sequence[str]):
    self.options = pipeline_options.PipelineOptions(list(beam_arguments))
    filesystems.FileSystems.set_options(self.options)  # credentials, endpoints: the launcher reads and writes as well
    standard = self.options.view_as(pipeline_options.StandardOptions)
    direct = self.options.view_as(pipeline_options.DirectOptions)
    self._runner = standard.runner
    self.is_local = standard.runner in (None, "FnApiRunner", "DirectRunner")
    self._num_local_workers = direct.direct_num_workers or os.cpu_count() or 1
    self.parallelism = self._num_local_workers if self.is_local else _remote_workers(self.options)

  def run(self, define: Callable[[beam.Pipeline], None]) -> dict[str, int]:
    """Runs a pipeline to its end; returns its counters. Raises JobError if it failed."""
    if self.is_local:
      # The failure is told by its sentence; Beam would print the traceback of each of its layers.
      logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with tempfile.NamedTemporaryFile(prefix="winnow-") as worker_errors:
      runner = self._runner
      if runner in (None, "FnApiRunner"):
        runner = _local_runner(self.options, self._num_local_workers, worker_errors.name)
      pipeline = beam.Pipeline(runner=runner, options=self.options)
      define(pipeline)
      with _watched_threads() as thread_errors:
        try:
          result = pipeline.run()
          state = result.wait_until_finish()
        except KeyboardInterrupt as error:
          ended = [told for told in thread_errors if _WORKER_ENDED in told]
          if not ended:
            raise
          raise JobError(
            f"a worker process died ({ended[0].rpartition(' ')[2]}; -9 means killed, often for want of memory): "
            "run the same command again, it goes on where it was, with fewer --direct_num_workers or --batch_tokens "
            "if need be"
          ) from error
        except Exception as error:
          if _is_interrupt(error):
            raise KeyboardInterrupt from error
          failure = JobError(sentence_of(error))
          for note in (worker_errors.read()[-_KEPT_BYTES:].decode(errors="replace"), *thread_errors):
            failure.add_note(note)
          raise failure from error
    if state is not None and state != beam_runner.PipelineState.DONE:
      raise JobError(f"the job ended as {state}; its own log says why, and the same command goes on where it was")
    counters = result.metrics().query()["counters"]
    return {counter.key.metric.name: counter.result or 0 for counter in counters}


@contextlib.contextmanager
def _watched_threads() -> Iterator[list[str]]:
  """Collects what threads of the runner would print as they end with an error.

  The thread that waits for a worker process ends so when the process dies, for want of memory perhaps; Beam's runner
  would wait for the dead one's answer for ever, so the main thread is interrupted.
  """
  told: list[str] = []

  def hook(args: threading.ExceptHookArgs) -> None:
    told.append(f"{args.exc_type.__name__}: {args.exc_value}")
    if _WORKER_ENDED in told[-1]:
      _thread.interrupt_main()

  before, threading.excepthook = threading.excepthook, hook
  try:
    yield told
  finally:
    threading.excepthook = before


def _is_interrupt(error: BaseException | None) -> bool:
  """Ctrl-C during the work of an in-process worker comes back as that worker's failure."""
  while error is not None:
    if isinstance(error, KeyboardInterrupt):
      return True
    error = error.__cause__ or error.__context__
  return False


def sentence_of(error: BaseException) -> str:
  """The sentence within a failure, however many layers of a runner, processes and tracebacks it came through."""
  found = _SENTENCE.findall("".join(traceback.format_exception(error)))
  if found:
    return found[-1].replace("\\n", " ")
  last = str(error).strip().splitlines()[-1:] or [""]
  return f"{type(error).__name__}: {last[0]} (the whole story is in the log)"


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None) -> int:
  """Runs a command to its exit status; a WinnowError means that nothing was written, a JobError that something was."""
  try:
    command(sys.argv[1:] if argv is None else argv)
    return DONE
  except WinnowError as error:
    print(f"winnow: {error}", file=sys.stderr)
    return REFUSED
  except JobError as error:
    print(f"winnow: {error}", file=sys.stderr)
    return FAILED
  except KeyboardInterrupt:
    print("winnow: interrupted; the same command goes on where it was", file=sys.stderr)
    return INTERRUPTED


class Log:
  """What may differ between two runs of one request: times, hosts, the whole command line. One file per run.

  A context manager: the file is written when the run ends, however it ends.
  """

  def __init__(self, folder: str, arguments: Sequence[str]):
    self._path = storage.join(
      folder, "log", f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}.json"
    )
    self.entry: dict[str, Any] = {"command": list(arguments), "host": platform.node(), "process": os.getpid()}
    self._started = time.time()

  def __enter__(self) -> "Log":
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
    self.entry["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started))
    self.entry["seconds"] = round(time.time() - self._started, 3)
    if error is not None:
      self.entry["error"] = "".join(traceback.format_exception(kind, error, trace))
    storage.create(self._path, requests.to_json(self.entry))


def _local_runner(
  options: pipeline_options.PipelineOptions, num_workers: int, worker_errors: str
) -> beam_runner.PipelineRunner:
  """The FnApiRunner by name: in this process for one worker, with a process for each of several.

  Unlike those of `--runner=FnApiRunner --direct_running_mode=multi_processing`, the worker processes get the pipeline's
  options, end with their runner (`exec`), and print the tracebacks of what they report anyway into a file.
  """
  from apache_beam.portability.api import beam_provision_api_pb2
  from apache_beam.runners.portability import portable_runner
  from apache_beam.runners.portability.fn_api_runner import fn_runner
  from apache_beam.transforms import environments

  environment = None
  if num_workers > 1:
    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    environment = environments.SubprocessSDKEnvironment.from_command_string(
      f"{command} 2>>{shlex.quote(worker_errors)}"
    )
  encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
  provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
  return fn_runner.FnApiRunner(environment, provision_info=fn_runner.ExtendedProvisionInfo(provision))


def _remote_workers(options: pipeline_options.PipelineOptions) -> int:
  workers = options.view_as(pipeline_options.WorkerOptions)
  return workers.max_num_workers or workers.num_workers or _REMOTE_PARALLELISM
