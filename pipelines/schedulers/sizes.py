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
_MOST_PARTS, _MOST_HOURS = 100_000, 10_000
_ESTIMATED = (SCORE, EMBED, CURATE)
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
  _refuse_impossible(namespace)
  _refuse_useless(namespace, steps)
  return [_sizes_of(namespace, step) for step in steps]


def _refuse_impossible(namespace: argparse.Namespace) -> None:
  for name, least in (("parts", 1), ("gpus_per_task", 0), ("cpus", 1), ("memory", 1)):
    if (value := getattr(namespace, name)) is not None and value < least:
      raise WinnowError(f"--{name}={value} is below {least}")
  if namespace.hours is not None and not 0 < namespace.hours <= _MOST_HOURS:
    raise WinnowError(f"--hours={namespace.hours:g} is no time limit: give hours above 0")
  if namespace.parts > _MOST_PARTS:
    raise WinnowError(f"--parts={namespace.parts} is above {_MOST_PARTS:,}, the most tasks that a job may have")
  if namespace.scheduler == SLURM and namespace.parts % max(namespace.gpus_per_task, 1):
    raise WinnowError(
      f"--parts={namespace.parts} is no multiple of --gpus_per_task={namespace.gpus_per_task}: each GPU runs a part"
    )


def _refuse_useless(namespace: argparse.Namespace, steps: Sequence[Step]) -> None:
  """Raises WinnowError for flags that no command has a use for, or that do not go together."""
  with_model = [step for step in steps if step.runs_model]
  if namespace.gpus_per_task and not with_model:
    raise WinnowError(f"--gpus_per_task={namespace.gpus_per_task}: none of the commands runs a model: leave it out")
  for step in with_model:
    if namespace.gpus_per_task and step.num_workers != 1:
      workers = f"--direct_num_workers={step.num_workers}"
      raise WinnowError(f"{step.command} {workers} would load the model several times onto one GPU: leave it out")
  if namespace.accelerator is not None and not namespace.estimate:
    raise WinnowError(f"--accelerator={namespace.accelerator} is for --estimate: add that, or leave it out")
  if namespace.estimate and not any(step.command in _ESTIMATED for step in steps):
    raise WinnowError(f"--estimate is for {', '.join(_ESTIMATED)}: leave it out")
  if namespace.estimate and (namespace.gpus_per_task > 0) != (namespace.accelerator is not None):
    raise WinnowError("--estimate takes --accelerator= with --gpus_per_task, and only with it: name the kind of GPU")


def _sizes_of(namespace: argparse.Namespace, step: Step) -> Sizes:
  """Returns the sizes of one command's tasks: what flags give, over an estimate, over defaults."""
  gpus = namespace.gpus_per_task if step.runs_model else 0
  memory, hours = (_WITH_MODEL_GB if step.runs_model else _WITHOUT_MODEL_GB), _HOURS
  of_memory = of_hours = "by default"
  if namespace.estimate and step.command in _ESTIMATED:
    needed = [estimate.needs(_with_accelerator(stage, namespace.accelerator)) for stage in step.stages]
    workers = namespace.parts * (1 if gpus else namespace.cpus)
    if total := sum(each.hours for each in needed):
      hours = float(math.ceil(_MARGIN * (total / workers) + _START_HOURS))
      of_hours = f"twice the estimate of {total / workers:.2g} h a part"
    if step.runs_model:
      memory, of_memory = max(each.memory_gb for each in needed), "by the model's size"
  sources = []
  if namespace.memory is None:
    sources.append(f"--memory={memory} {of_memory}")
  is_slurm = namespace.scheduler == SLURM
  if namespace.hours is None and is_slurm:
    sources.append(f"--hours={hours:g} {of_hours}")
  return Sizes(
    parts=namespace.parts,
    parts_per_task=max(gpus, 1) if is_slurm else 1,
    gpus=gpus,
    cpus=namespace.cpus,
    memory_gb=memory if namespace.memory is None else namespace.memory,
    hours=hours if namespace.hours is None else namespace.hours,
    sources=tuple(sources),
  )


def _with_accelerator(stage: argparse.Namespace, accelerator: str | None) -> argparse.Namespace:
  return argparse.Namespace(**vars(stage) | {"accelerator": accelerator})
