"""Dataflow's own settings: the options of its workers, and messages about its jobs."""

import dataclasses
import os
from typing import Any

from apache_beam.options import pipeline_options

from curation.errors import WinnowError
from pipelines.runners import accelerators

RUNNERS = ("DataflowRunner", "TestDataflowRunner")
# Dataflow runs twelve threads in a process, each with blocks of 32 MiB and a run to write. That is more memory than
# cheap machines have. One thread reads ahead, one writes, and the model takes one block at a time anyway.
_HARNESS_THREADS = 4


def prepare_workers(options: pipeline_options.PipelineOptions, accelerator: accelerators.Accelerator | None) -> None:
  """Sets options that the user has not set.

  Raises WinnowError if workers would lack Winnow, or would have an image for another kind of accelerator.
  """
  worker = options.view_as(pipeline_options.WorkerOptions)
  setup = options.view_as(pipeline_options.SetupOptions)
  # The launcher of a Flex Template runs in the image that its workers need.
  own_image = os.environ.get("WINNOW_IMAGE")
  worker.sdk_container_image = worker.sdk_container_image or own_image
  if not (worker.sdk_container_image or setup.setup_file or setup.extra_packages or setup.requirements_file):
    raise WinnowError(
      "Dataflow's workers need Winnow: name its image with --sdk_container_image= (docs/dataflow.md builds it), or let "
      "each worker install it as it starts, with --setup_file=./setup.py"
    )
  kind = os.environ.get("WINNOW_ACCELERATOR")
  if accelerator is not None and worker.sdk_container_image == own_image and kind not in (None, accelerator.kind):
    raise WinnowError(
      f"--accelerator={accelerator.name} needs an image for {accelerator.kind}, but {own_image} is for {kind}: build "
      f"one with dataflow_templates/build … {accelerator.kind}"
    )
  debug = options.view_as(pipeline_options.DebugOptions)
  debug.number_of_worker_harness_threads = debug.number_of_worker_harness_threads or _HARNESS_THREADS


def fit_workers(
  options: pipeline_options.PipelineOptions, accelerator: accelerators.Accelerator | None, model_bytes: int
) -> dict[str, str]:
  """Sets worker options that a model needs and the user has not set; returns hints for the stage with the model.

  A GPU is requested only by the hint of that stage (right fitting). The service refuses this together with
  `worker_accelerator`, with FlexRS, and with TPUs, whose pools have one type. Raises WinnowError for such options.
  """
  worker = options.view_as(pipeline_options.WorkerOptions)
  google = options.view_as(pipeline_options.GoogleCloudOptions)
  experiments = options.view_as(pipeline_options.DebugOptions).experiments or []
  service = list(google.dataflow_service_options or [])
  is_prime = "enable_prime" in ",".join([*service, *experiments])
  machine = accelerators.smallest_machine(accelerator, model_bytes)
  hints = {"min_ram": f"{accelerators.memory_gb(model_bytes)}GiB"} if is_prime else {}
  if accelerator is None:
    _set_machine(worker, machine, is_prime)
    return hints
  unfit = "flexrs_goal" if google.flexrs_goal else "enable_prime" if is_prime and accelerator.is_tpu else None
  if unfit is not None:
    raise WinnowError(f"Dataflow has no {unfit} with --accelerator={accelerator.name}; leave one of them out")
  whole_pool = accelerator.is_tpu or "worker_accelerator" in ",".join(service)
  own = worker.machine_type
  _refuse_other_family(accelerator, own, whole_pool)
  if whole_pool:
    if "worker_accelerator" not in ",".join(service):
      google.dataflow_service_options = [*service, f"worker_accelerator={accelerator.resource()}"]
    _set_machine(worker, machine, is_prime)
    return {}
  if is_prime:
    _set_machine(worker, machine, is_prime)
    return hints | {"accelerator": accelerator.resource()}
  # Only the stage with the model gets a machine with the accelerator; other stages get a plain one.
  if own is not None and own.partition("-")[0] == machine.family:
    worker.machine_type, machine = None, dataclasses.replace(machine, name=own)
  _set_machine(worker, accelerators.smallest_machine(None), is_prime)
  worker.disk_size_gb = max(worker.disk_size_gb or 0, machine.disk_gb)
  return {"accelerator": accelerator.resource(machine.name)}


def set_defaults(options: pipeline_options.PipelineOptions) -> None:
  """Gives workers without a model a machine with memory for blocks; Dataflow's own default has 4 GB."""
  fit_workers(options, None, 0)


def _set_machine(worker: pipeline_options.WorkerOptions, machine: accelerators.Machine, is_prime: bool) -> None:
  if not is_prime:
    worker.machine_type = worker.machine_type or machine.name
  worker.disk_size_gb = worker.disk_size_gb or machine.disk_gb


def _refuse_other_family(accelerator: accelerators.Accelerator, own: str | None, whole_pool: bool) -> None:
  """Raises WinnowError for a machine that lacks the accelerator but needs it, or that carries another one."""
  if own is None:
    return
  family, wanted = own.partition("-")[0], accelerator.machines[0].family
  others = {known.machines[0].family for known in map(accelerators.find, accelerators.names())} - {wanted, "n1"}
  types = [machine.name for machine in accelerator.machines]
  if (whole_pool and family != wanted) or family in others or (accelerator.is_tpu and own not in types):
    raise WinnowError(
      f"--accelerator={accelerator.name} is carried by {' or '.join(types)}, not by --worker_machine_type={own}"
    )


def refuse_second(options: pipeline_options.PipelineOptions, name: str) -> None:
  """Raises WinnowError if a job of this name is active; the service would refuse a second one only later."""
  from apache_beam.runners.dataflow.internal import apiclient
  from google.cloud import dataflow_v1beta3

  google = options.view_as(pipeline_options.GoogleCloudOptions)
  client = apiclient.DataflowApplicationClient(options)
  active = dataflow_v1beta3.ListJobsRequest.Filter.ACTIVE
  request = dataflow_v1beta3.ListJobsRequest(project_id=google.project, location=google.region, filter=active)
  for job in client._jobs_client.list_jobs(request):
    if job.name == name:
      raise WinnowError(
        f"the job {name} is already running as {job.id}: wait for it, or cancel it with gcloud dataflow jobs cancel "
        f"{job.id} --region={google.region} --project={google.project}"
      )


def place(options: pipeline_options.PipelineOptions, result: Any) -> str:
  """Returns a note on a submitted job: where to look at it, and how to cancel it."""
  google = options.view_as(pipeline_options.GoogleCloudOptions)
  job, region, project = result.job_id(), google.region, google.project
  return (
    f" (https://console.cloud.google.com/dataflow/jobs/{region}/{job}?project={project}; cancel it with gcloud "
    f"dataflow jobs cancel {job} --region={region} --project={project})"
  )


def describe(job: Any) -> str:
  """Describes a job that was built but not submitted, in one sentence."""
  steps = sum(not transform.subtransforms for transform in job.proto_pipeline.components.transforms.values())
  size = job.proto_pipeline.ByteSize() / 1e6
  return f"the job {job.proto.name} has {steps} steps in {size:.1f} MB; nothing was submitted, and nothing written"
