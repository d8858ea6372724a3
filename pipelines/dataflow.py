"""What is Dataflow's own: what its workers should be like, and how its jobs are told of."""

import os
from typing import Any

from apache_beam.options import pipeline_options

from curation.errors import WinnowError
from pipelines import accelerators

RUNNERS = ("DataflowRunner", "TestDataflowRunner")
# Dataflow has twelve in a process, each with blocks of 32 MiB and a run to write: more memory than the cheap machines
# have, where one reads ahead, one writes and the model takes one block at a time anyway.
_HARNESS_THREADS = 4


def prepare_workers(options: pipeline_options.PipelineOptions, accelerator: str | None) -> None:
  """Sets what the user has not; raises WinnowError where workers would lack Winnow, or a TPU its machine."""
  worker = options.view_as(pipeline_options.WorkerOptions)
  setup = options.view_as(pipeline_options.SetupOptions)
  # A Flex Template's launcher runs in the image that its workers want.
  worker.sdk_container_image = worker.sdk_container_image or os.environ.get("WINNOW_IMAGE")
  if not (worker.sdk_container_image or setup.setup_file or setup.extra_packages or setup.requirements_file):
    raise WinnowError(
      "Dataflow's workers need Winnow: name its image with --sdk_container_image= (docs/dataflow.md builds it), or let "
      "each worker install it as it starts, with --setup_file=./setup.py"
    )
  debug = options.view_as(pipeline_options.DebugOptions)
  debug.number_of_worker_harness_threads = debug.number_of_worker_harness_threads or _HARNESS_THREADS
  if accelerator is not None:
    _give_pool(options, accelerators.find(accelerator))


def _give_pool(options: pipeline_options.PipelineOptions, accelerator: accelerators.Accelerator) -> None:
  """Gives every worker the accelerator, unless Dataflow Prime fits workers to the hints of each stage."""
  google = options.view_as(pipeline_options.GoogleCloudOptions)
  worker = options.view_as(pipeline_options.WorkerOptions)
  machine = accelerator.machine.name
  if accelerator.is_tpu and worker.machine_type != machine:
    raise WinnowError(f"--accelerator={accelerator.name} wants --worker_machine_type={machine}")
  service = list(google.dataflow_service_options or [])
  given = ",".join(service)
  if "worker_accelerator" not in given and (accelerator.is_tpu or "enable_prime" not in given):
    google.dataflow_service_options = [*service, accelerator.pool_option]
  worker.machine_type = worker.machine_type or (None if "enable_prime" in given else machine)


def place(options: pipeline_options.PipelineOptions, result: Any) -> str:
  """Where a job that was submitted is looked at, and how it is cancelled."""
  google = options.view_as(pipeline_options.GoogleCloudOptions)
  job, region, project = result.job_id(), google.region, google.project
  return (
    f" (https://console.cloud.google.com/dataflow/jobs/{region}/{job}?project={project}; it is cancelled with gcloud "
    f"dataflow jobs cancel {job} --region={region} --project={project})"
  )


def describe(job: Any) -> str:
  """A job that was built and not submitted, in a sentence."""
  steps = sum(not transform.subtransforms for transform in job.proto_pipeline.components.transforms.values())
  size = job.proto_pipeline.ByteSize() / 1e6
  return f"the job {job.proto.name} has {steps} steps in {size:.1f} MB; nothing was submitted, and nothing written"
