"""The sizes of tasks: from flags, from an estimate, or by default."""

import argparse
import dataclasses
import math
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.flags.launch_flags import SLURM
from pipelines.jobs import estimate
from pipelines.registry.command_names import CURATE, EMBED, SCORE
from pipelines.schedulers.steps import Step

_WITH_MODEL_GB, _WITHOUT_MODEL_GB, _HOURS = 48, 8, 24.0
_MOST_PARTS = 100_000
_MARGIN = 2.0  # of the limit over the estimate, which may be off, and starts late where a queue is long
_START_HOURS = 0.5  # of a task: the checksums of the input, the model, and the compilation of its shapes


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a command's tasks. `hours` is the limit of one; `sources` say where figures come from.

  `gpus` are those of a task.
  """

  parts: int
  parts_per_task: int
  gpus: int
  cpus: int
  """CPU cores of a part."""
  memory_gb: int
  """Memory of a part."""
  hours: float
  sources: tuple[str, ...] = ()

  @property
  def tasks(self) -> int:
    return self.parts // self.parts_per_task


def choose(namespace: argparse.Namespace, steps: Sequence[Step]) -> list[Sizes]:
  """Returns the sizes of each command's tasks by the flags of `winnow launch`, or raises WinnowError."""
  for name, least in (("parts", 1), ("gpus_per_task", 0), ("cpus", 1), ("memory", 1)):
    if (value := getattr(namespace, name)) is not None and value < least:
      raise WinnowError(f"--{name}={value} is below {least}")
  if namespace.hours is not None and not 0 < namespace.hours <= 10_000:
    raise WinnowError(f"--hours={namespace.hours:g} is no time limit: give hours above 0")
  if namespace.parts > _MOST_PARTS:
    raise WinnowError(f"--parts={namespace.parts} is above {_MOST_PARTS:,}, the most tasks that a job may have")
  if namespace.scheduler == SLURM and namespace.parts % max(namespace.gpus_per_task, 1):
    raise WinnowError(
      f"--parts={namespace.parts} is no multiple of --gpus_per_task={namespace.gpus_per_task}: each GPU runs a part"
    )
  if namespace.gpus_per_task and not any(step.runs_model for step in steps):
    raise WinnowError(f"--gpus_per_task={namespace.gpus_per_task}: none of the commands runs a model: leave it out")
  if namespace.accelerator is not None and not namespace.estimate:
    raise WinnowError(f"--accelerator={namespace.accelerator} is for --estimate: add that, or leave it out")
  if namespace.estimate and (namespace.gpus_per_task > 0) != (namespace.accelerator is not None):
    raise WinnowError("--estimate takes --accelerator= with --gpus_per_task, and only with it: name the kind of GPU")
  return [_sizes_of(namespace, step) for step in steps]


def _sizes_of(namespace: argparse.Namespace, step: Step) -> Sizes:
  gpus = namespace.gpus_per_task if step.runs_model else 0
  memory, hours = (_WITH_MODEL_GB if step.runs_model else _WITHOUT_MODEL_GB), _HOURS
  sources = {"memory": "by default", "hours": "by default"}
  if namespace.estimate and step.command in (SCORE, EMBED, CURATE):
    needed = [estimate.needs(_with_accelerator(stage, namespace.accelerator)) for stage in step.stages]
    workers = namespace.parts * (1 if gpus else namespace.cpus)
    if total := sum(each.hours for each in needed):
      hours = math.ceil(_MARGIN * (total / workers) + _START_HOURS)
      sources["hours"] = f"twice the estimate of {total / workers:.2g} h a part"
    if step.runs_model:
      memory = max(each.memory_gb for each in needed)
      sources["memory"] = "by the model's size"
  is_slurm = namespace.scheduler == SLURM
  for name, is_theirs in (
    ("memory", namespace.memory is not None),
    ("hours", namespace.hours is not None or not is_slurm),
  ):
    if is_theirs:
      del sources[name]
  return Sizes(
    namespace.parts,
    max(gpus, 1) if is_slurm else 1,
    gpus,
    namespace.cpus,
    memory if namespace.memory is None else namespace.memory,
    hours if namespace.hours is None else namespace.hours,
    tuple(f"--{name}={dict(memory=memory, hours=f'{hours:g}')[name]} {source}" for name, source in sources.items()),
  )


def _with_accelerator(stage: argparse.Namespace, accelerator: str | None) -> argparse.Namespace:
  return argparse.Namespace(**vars(stage) | {"accelerator": accelerator})
