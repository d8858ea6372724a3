"""An Indexed Job of Kubernetes: each pod is one part, and runs all commands, one after another.

Jobs cannot wait for each other. So the commands of a pod are its init containers, which Kubernetes runs in order, and
the last one its container. Each command ends once all parts are done with it, so no pod starts the next one too early.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from curation.errors import WinnowError
from pipelines.schedulers import steps as steps_module
from pipelines.schedulers.sizes import Sizes
from pipelines.schedulers.steps import Step

_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_PART = "PART"
_RETRIES = 6  # of each part, beside those after an eviction, which do not count
_NAME_LENGTH = 50  # a pod's host name has the index behind it, and 63 characters at most
_VOLUME = "shared"


@dataclasses.dataclass(frozen=True)
class Pods:
  """What the containers of all pods have in common."""

  image: str
  claim: str | None = None
  folder: str | None = None
  service_account: str | None = None

  @classmethod
  def of(cls, image: str, volume: str | None, service_account: str | None) -> "Pods":
    claim, folder = (None, None) if volume is None else steps_module.volume_of(volume)
    return cls(image, claim, folder, service_account)

  def container(self, name: str, command: Sequence[str], size: Sizes) -> dict[str, Any]:
    """Returns a container that runs a command, with the resources of one part."""
    resources: dict[str, Any] = {
      "requests": {"cpu": str(size.cpus), "memory": f"{size.memory_gb}Gi"},
      "limits": {"memory": f"{size.memory_gb}Gi"},
    }
    if size.gpus:
      resources["limits"]["nvidia.com/gpu"] = str(size.gpus)
    container: dict[str, Any] = {"name": name, "image": self.image, "command": list(command), "resources": resources}
    if self.folder is not None:
      container["volumeMounts"] = [{"name": _VOLUME, "mountPath": self.folder}]
    return container

  def volumes(self) -> dict[str, Any]:
    """Returns the field of a pod that names its volume; none if there is none."""
    if self.claim is None:
      return {}
    return {"volumes": [{"name": _VOLUME, "persistentVolumeClaim": {"claimName": self.claim}}]}


def job(steps: Sequence[Step], sizes: Sequence[Sizes], pods: Pods, *, hours: float | None, typed: Sequence[str]) -> str:
  """Returns the manifest of the Job that runs all commands. `typed`: the command line that asked for it."""
  for size in sizes:
    if size.gpus > 1:
      raise WinnowError(
        f"--gpus_per_task={size.gpus}: a pod is one part, with one GPU; Kubernetes puts several on a node: give 1"
      )
  name, parts = steps_module.job_name(steps, longest=_NAME_LENGTH), sizes[0].parts
  containers = [
    _in_parts(pods, f"{step.command}-{number}", step, size)
    for number, (step, size) in enumerate(zip(steps, sizes, strict=True), 1)
  ]
  pod: dict[str, Any] = {"restartPolicy": "Never"}
  if pods.service_account is not None:
    pod["serviceAccountName"] = pods.service_account
  if containers[:-1]:
    pod["initContainers"] = containers[:-1]
  pod["containers"] = containers[-1:]
  spec: dict[str, Any] = {"completionMode": "Indexed", "completions": parts, "parallelism": parts}
  # Before 1.29, Kubernetes knows only the limit for all parts together.
  spec |= {"backoffLimitPerIndex": _RETRIES, "backoffLimit": _RETRIES * parts}
  evicted = {"type": "DisruptionTarget", "status": "True"}
  spec["podFailurePolicy"] = {"rules": [{"action": "Ignore", "onPodConditions": [evicted]}]}
  if hours is not None:
    spec["activeDeadlineSeconds"] = max(round(3600 * hours), 1)
  spec["template"] = {"spec": pod | pods.volumes()}
  return written({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}, typed)


def _in_parts(pods: Pods, name: str, step: Step, size: Sizes) -> dict[str, Any]:
  # Kubernetes replaces $(NAME) in arguments, and takes $$ for a dollar.
  words = [word.replace("$", "$$") for word in step.in_parts()]
  container = pods.container(name, ["winnow", *words, f"--part=$({_PART})/{size.parts}"], size)
  return container | {"env": [{"name": _PART, "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}]}


def written(manifest: dict[str, Any], typed: Sequence[str]) -> str:
  """Returns a manifest in YAML, behind a comment with the command line that it was made by."""
  import yaml

  text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=1_000_000)
  return f"# Made by: {' '.join(shlex.join(typed).split())}\n{text}"
