"""The workers of a pipeline: where they run, how many there are, and what they can reach and hold."""

import os
from collections.abc import Mapping

from apache_beam.io import filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner
from apache_beam.runners.portability import flink_runner

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.runners import accelerators, dataflow, devices, parts

_LOCAL_RUNNERS = ("FnApiRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner")
_ONE_PROCESS = "no_use_multiple_sdk_containers"
_REMOTE_PARALLELISM = 64
_WORKERS_OF_PART = 8  # with --direct_num_workers=0, which is as many as there are cores


class Workers:
  """The workers that a runner will have, as its options say, before it runs anything.

  On Dataflow, sets options of workers that the user has not set. Raises WinnowError if those workers would lack Winnow.
  """

  def __init__(
    self,
    runner: beam_runner.PipelineRunner,
    options: pipeline_options.PipelineOptions,
    accelerator: str | None = None,
    part: parts.Part | None = None,
  ):
    self.options, self._runner, self.part = options, runner, part
    filesystems.FileSystems.set_options(options)  # credentials and endpoints: this process reads and writes too
    self.is_local = type(runner).__name__ in _LOCAL_RUNNERS
    self.is_dataflow = type(runner).__name__ in dataflow.RUNNERS
    self._accelerator = None if accelerator is None else accelerators.find(accelerator)
    if self.is_dataflow:
      dataflow.prepare_workers(options, self._accelerator)
    self.workers_are_here = self.is_local or _is_here(runner, options)
    direct = options.view_as(pipeline_options.DirectOptions)
    self._num_local_workers = direct.direct_num_workers or os.cpu_count() or 1
    self.parallelism = self._num_local_workers if self.is_local else _remote_workers(options)
    if part is not None:
      if not self.is_local:
        raise WinnowError(
          f"--part={part} divides the work without a runner, and --runner={type(runner).__name__} divides it already: "
          "leave out one of them"
        )
      # The same in all parts, even if one has a machine with more cores.
      self.parallelism = part.count * (direct.direct_num_workers or _WORKERS_OF_PART)

  def refuse_local(self, paths: Mapping[str, str | None]) -> None:
    """Raises WinnowError for the first of the named paths that is on this machine if the workers are not."""
    for name, path in paths.items():
      if self.is_dataflow and path is not None and storage.is_local(path):
        raise WinnowError(f"{name}={path} is on this machine, which Dataflow's workers cannot read: use a gs:// path")

  def fit_workers(self, model_bytes: int) -> dict[str, str]:
    """Requests workers with room for a model, on Dataflow; returns hints for the stage with the model."""
    # On other runners a hint would put the stage into separate processes.
    return dataflow.fit_workers(self.options, self._accelerator, model_bytes) if self.is_dataflow else {}

  def set_defaults(self) -> None:
    """Gives Dataflow's workers a machine with memory for blocks, unless a model or the user has chosen one."""
    if self.is_dataflow:
      dataflow.set_defaults(self.options)

  def hold_one_model(self, devices_per_model: int = 1, root: str = "/") -> None:
    """Makes sure that JAX can compute, and that no two processes load a model onto the same accelerators.

    Raises WinnowError if several local processes would share accelerators, if JAX finds no device in a process on this
    machine that needs the model, or if its devices do not divide into groups of `devices_per_model`. Requests one
    process a machine from Dataflow unless the user has set that.
    """
    debug = self.options.view_as(pipeline_options.DebugOptions)
    if self.is_dataflow and _ONE_PROCESS.removeprefix("no_") not in ",".join(debug.experiments or []):
      debug.add_experiment(_ONE_PROCESS)
    if self.is_local and self._num_local_workers > 1 and (count := devices.visible_accelerators(root)):
      raise WinnowError(
        f"--direct_num_workers={self._num_local_workers} would load the model {self._num_local_workers} times onto "
        f"{count} accelerator{'s' * (count > 1)}: use --direct_num_workers=1, whose one process uses every device "
        "(or set JAX_PLATFORMS=cpu)"
      )
    in_worker = 1 if self._accelerator is None else self._accelerator.count
    if self.is_dataflow and devices_per_model > in_worker:
      raise WinnowError(
        f"--devices_per_model={devices_per_model} is more than the {in_worker} of a worker; see accelerators.toml"
      )
    if not self._workers_are_like_this_process:
      return
    if (count := len(devices.platforms())) % devices_per_model != 0:
      raise WinnowError(
        f"--devices_per_model={devices_per_model} must divide the devices of this machine, which has {count}"
      )
    devices.warn_of_unused(root)

  @property
  def _workers_are_like_this_process(self) -> bool:
    """Whether workers are threads of this process, or processes that the local runner starts with its environment."""
    environment = self.options.view_as(pipeline_options.PortableOptions).environment_type
    return self.is_local or (self.workers_are_here and environment in (None, "LOOPBACK"))


def _is_here(runner: beam_runner.PipelineRunner, options: pipeline_options.PipelineOptions) -> bool:
  """Tells whether the workers of a portable runner are on this machine, as threads of this process or as processes."""
  portable = options.view_as(pipeline_options.PortableOptions)
  flink = options.view_as(pipeline_options.FlinkRunnerOptions)
  if type(runner).__name__ == "FlinkRunner" and flink.flink_master in flink_runner.MAGIC_HOST_NAMES:
    # An embedded Flink, whose workers are threads of this process unless another environment is named.
    return portable.environment_type in (None, "LOOPBACK")
  is_prism = type(runner).__name__ == "PrismRunner" and not portable.job_endpoint
  return (is_prism and portable.environment_type != "DOCKER") or portable.environment_type == "LOOPBACK"


def _remote_workers(options: pipeline_options.PipelineOptions) -> int:
  workers = options.view_as(pipeline_options.WorkerOptions)
  slots = max(options.view_as(pipeline_options.FlinkRunnerOptions).parallelism, 0)  # -1 is Flink's default
  return workers.max_num_workers or workers.num_workers or slots or _REMOTE_PARALLELISM
