"""The launcher of pipelines: on the local runner, Prism, Dataflow, Flink, or another runner of Beam."""

import collections
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options import pipeline_options, pipeline_options_validator
from apache_beam.runners import runner as beam_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner

from curation.errors import WinnowError
from pipelines.runners import commands, dataflow, local_runner, parts, prism
from pipelines.runners.workers import Workers
from pipelines.worker import logs, progress

# What these log is of no use to users, and each would print a failure again, with the traceback of every layer.
_NOISY_LOGGERS = ("apache_beam", "grpc", "PrismJobServer", "PrismRunner", logs.NAME)
_View = TypeVar("_View", bound=pipeline_options.PipelineOptions)
_RETURNED = "{}; -9 means killed, often for lack of memory"
_PRISM_ENDED = "Prism ended while it ran the job: run the same command again to continue"


class Options(pipeline_options.PipelineOptions):
  """Beam's options, each view of them made once: Beam asks for some at every transform, and a view has a parser."""

  def view_as(self, cls: type[_View]) -> _View:
    views = self.__dict__.setdefault("_views", {})  # not an attribute, which would be an option
    if cls not in views:
      views[cls] = super().view_as(cls)
    return views[cls]

  def __getstate__(self) -> dict[str, Any]:
    return {name: value for name, value in super().__getstate__().items() if name != "_views"}


class Launcher(Workers):
  """The runner of one command's pipelines: the local runner unless `--runner` names another.

  `part`: the part of the work that is done here; None: all of it. Raises WinnowError if there is no such runner, if
  Beam refuses its options, or if the runner does not take parts.
  """

  def __init__(self, beam_arguments: Sequence[str], accelerator: str | None = None, part: parts.Part | None = None):
    options = Options(list(beam_arguments))
    self._log_level = _log_level(options)
    super().__init__(_create_runner(options), options, accelerator, part)
    self.is_dry_run = self.options.view_as(pipeline_options.TestOptions).dry_run
    if self.is_dry_run and not self.is_dataflow:
      raise WinnowError("--dry_run is for --runner=DataflowRunner, and other runners would run the job: leave it out")

  @property
  def writes_template(self) -> bool:
    """Whether the job is only written as a template, which somebody else starts."""
    return self.is_dataflow and bool(self.options.view_as(pipeline_options.GoogleCloudOptions).template_location)

  def refuse_second(self, name: str) -> None:
    """Raises WinnowError if a job of this name is active."""
    # A template's launcher is part of the job that it makes.
    if self.is_dataflow and not self.writes_template:
      dataflow.refuse_second(self.options, name)

  def run(self, define: Callable[[beam.Pipeline], None], name: str = "winnow") -> dict[str, int] | None:
    """Runs a pipeline to its end and returns its counters; None if the job was only built, or written as a template.

    They are Winnow's own, summed over all steps. If a runner has restarted the job, it knows those of the last attempt
    alone. `name` consists of letters, digits and hyphens. Raises JobError if the pipeline failed.
    """
    google = self.options.view_as(pipeline_options.GoogleCloudOptions)
    if self.is_dataflow:
      google.job_name = google.job_name or name
    self.set_defaults()
    self._quiet_loggers()
    prism.forget_ended()
    with local_runner.WorkerProcesses() as processes:
      result: Any = None
      try:
        runner = self._runner
        if type(runner) is fn_runner.FnApiRunner:
          runner = local_runner.fn_api_runner(self.options, self._num_local_workers)
        pipeline = beam.Pipeline(runner=runner, options=self.options)
        with parts.dividing(self.part):
          define(pipeline)
        # A Beam worker prints the traceback of each error. As a thread of this process it prints to our standard error.
        is_thread = self.workers_are_here and not self.is_local
        with contextlib.redirect_stderr(processes.errors if is_thread else sys.stderr):
          result = pipeline.run()
          if self.is_dry_run:
            print(dataflow.describe(result.job))
            return None
          if self.writes_template:
            print(f"{google.template_location} holds the job; whoever launched the template starts it")
            return None
          if self.is_dataflow:
            print(f"winnow: the job is running{dataflow.place(self.options, result)}", file=sys.stderr)
          state = result.wait_until_finish()
        if state in (None, beam_runner.PipelineState.DONE):
          return _own_counters(result)
        error_of_state = commands.JobError(
          f"the job ended as {state}: the log of {type(runner).__name__} has the reason; run the same command again to "
          "continue"
        )
      except (Exception, KeyboardInterrupt) as error:
        if processes.died is None and (interrupt := _interrupt_within(error)):
          if result is not None and not self.workers_are_here:
            place = dataflow.place(self.options, result) if self.is_dataflow else ""
            print(f"winnow: the job continues on its runner{place}", file=sys.stderr)
          raise interrupt from None
        died = processes.died
        failure = commands.job_error(error)
        if died:
          failure = commands.JobError(commands.DIED.format(_RETURNED.format(died)))
        elif result is not None and prism.has_ended():
          failure = commands.JobError(_prism_ended(self.options))
        if self.is_dataflow and result is not None:
          failure.args = (f"{failure}{dataflow.place(self.options, result)}",)
        for note in (processes.errors.getvalue(), *processes.thread_errors):
          failure.add_note(note)
        raise failure from error
    raise error_of_state

  def _quiet_loggers(self) -> None:
    """Keeps from users what Beam logs about its own work, but for errors of workers that are elsewhere.

    Shows all of it if the user has set a level for the workers' logs. What Dataflow logs comes from its service, and
    stays: it may say why a job has no workers.
    """
    if self._log_level is not None and not self.is_local:
      logging.basicConfig()
      logging.getLogger().setLevel(self._log_level)
    elif self.workers_are_here:
      for logger in _NOISY_LOGGERS if self.is_local else (*_NOISY_LOGGERS, "root"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    elif not self.is_dataflow:
      for logger in (*_NOISY_LOGGERS, "root"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _create_runner(options: pipeline_options.PipelineOptions) -> beam_runner.PipelineRunner:
  name = options.view_as(pipeline_options.StandardOptions).runner or "FnApiRunner"
  if name.rpartition(".")[2] == "DaskRunner":  # before Beam looks for it, so that nobody installs Dask first
    raise WinnowError(f"--runner={name} {commands.NO_DASK}")
  try:
    runner = beam_runner.create_runner(name)
    errors = pipeline_options_validator.PipelineOptionsValidator(options, runner).validate()
  except Exception as error:  # of an import or a look-up of defaults
    raise WinnowError(f"--runner={name} cannot be used: {commands.last_line(error)}") from error
  if not isinstance(runner, beam_runner.PipelineRunner):
    raise WinnowError(f"--runner={name} cannot be used: it is not a runner of Beam")
  if errors:
    raise WinnowError(f"--runner={name} refuses the options: {' '.join(' '.join(errors).split())}")
  return runner


def _log_level(options: pipeline_options.PipelineOptions) -> int | None:
  """Returns the level that `--default_sdk_harness_log_level` names; None if it was not given. Raises WinnowError."""
  name = options.view_as(pipeline_options.WorkerOptions).default_sdk_harness_log_level
  if name is None:
    return None
  level = int(name) if name.isdecimal() else logging.getLevelNamesMapping().get(name)
  if level is None:
    raise WinnowError(f"--default_sdk_harness_log_level={name} is not a level: take DEBUG, INFO, WARNING or ERROR")
  return level


def _own_counters(result: beam_runner.PipelineResult) -> dict[str, int]:
  """Returns the sum of each of Winnow's counters over all steps; runners add counters of Beam to a job's metrics."""
  counts: collections.Counter[str] = collections.Counter()
  for counter in result.metrics().query()["counters"]:
    if counter.key.metric.namespace == progress.METRICS:
      counts[counter.key.metric.name] += counter.result or 0
  return dict(counts)


def _prism_ended(options: pipeline_options.PipelineOptions) -> str:
  portable = options.view_as(pipeline_options.PortableOptions)
  if portable.environment_type != "EXTERNAL":
    return _PRISM_ENDED
  # Prism ends if it finds no worker pool there.
  return f"{_PRISM_ENDED}, once the worker pool at --environment_config={portable.environment_config} answers"


def _interrupt_within(error: BaseException | None) -> KeyboardInterrupt | None:
  """Returns the KeyboardInterrupt behind an error; Ctrl-C in an in-process worker is reported as a failure of it."""
  while error is not None and not isinstance(error, KeyboardInterrupt):
    error = error.__cause__ or error.__context__
  return error
