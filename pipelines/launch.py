"""`winnow launch`: writes the jobs that run commands in parts on a cluster, and submits them if asked."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.flags import launch_flags, parsing
from pipelines.jobs import planning
from pipelines.registry import command_names
from pipelines.registry.flag import require
from pipelines.runners import commands
from pipelines.schedulers import flink, kubernetes, sizes, slurm, steps

_READ_FIRST = ("model", "vocabulary", "prompt_file")  # no command makes them
# Those of one scheduler alone.
_MEANT_FOR = {
  "sbatch_options": (launch_flags.SLURM,),
  "image": (launch_flags.KUBERNETES, launch_flags.FLINK),
  "volume": (launch_flags.KUBERNETES, launch_flags.FLINK),
  "service_account": (launch_flags.KUBERNETES, launch_flags.FLINK),
  "hours": (launch_flags.SLURM, launch_flags.KUBERNETES),
}


def launch(argv: Sequence[str]) -> None:
  namespace, of_beam = parsing.parse(command_names.LAUNCH, argv)
  if of_beam:
    raise WinnowError(f"{of_beam[0]} is an option of Beam: write it behind the command that it is for")
  for flag, schedulers in _MEANT_FOR.items():
    if getattr(namespace, flag) is not None and namespace.scheduler not in schedulers:
      raise WinnowError(f"--{flag} is for winnow launch {' and '.join(schedulers)}: leave it out")
  chosen = steps.read(argv, namespace.scheduler, namespace.volume)
  if namespace.scheduler == launch_flags.SLURM:
    _refuse_missing(chosen)
  sized = sizes.choose(namespace, chosen)
  typed = ["winnow", command_names.LAUNCH, *argv]
  if namespace.scheduler == launch_flags.SLURM:
    text = slurm.script(chosen, sized, options=namespace.sbatch_options, typed=typed)
    _hand_over(namespace, text, ["bash"], needs="sbatch")
  else:
    require(namespace, "image")
    pods = kubernetes.Pods.of(namespace.image, namespace.volume, namespace.service_account)
    if namespace.scheduler == launch_flags.KUBERNETES:
      text = kubernetes.job(chosen, sized, pods, hours=namespace.hours, typed=typed)
    else:
      text = flink.deployment(chosen, sized, pods, typed=typed)
    _hand_over(namespace, text, ["kubectl", "apply", "-f", "-"], needs="kubectl")
  for step, size in zip(chosen, sized, strict=True):
    print(_described(namespace.scheduler, step, size), file=sys.stderr)
  if namespace.scheduler == launch_flags.FLINK:
    print("\n".join(["next:", *(f"  {line}" for line in flink.following(chosen, sized))]), file=sys.stderr)


def _refuse_missing(launched: Sequence[steps.Step]) -> None:
  """Raises WinnowError for files that tasks of Slurm would miss, since they see the disk of this machine.

  What a later command reads as its input may be made by then.
  """
  for step in launched:
    for stage in step.stages:
      for name in _READ_FIRST:
        path = getattr(stage, name, None)
        if path and steps.is_on_disk(name, path) and not os.path.exists(path):
          raise WinnowError(
            f"--{name}={path} is not there: give a path on a disk that this machine shares with all nodes"
          )
  first = launched[0]
  if first.command != command_names.EVALUATE and getattr(first.stages[0], "input", None) is not None:
    planning.read_corpus(first.stages[0])


def _described(scheduler: str, step: steps.Step, size: sizes.Sizes) -> str:
  tasks = {launch_flags.SLURM: "task", launch_flags.KUBERNETES: "pod", launch_flags.FLINK: "TaskManager"}[scheduler]
  parts = "" if scheduler == launch_flags.FLINK else f"{_counted(size.parts, 'part')} in "
  gpus = f", each on {_counted(size.gpus, 'GPU')}" if size.gpus else ""
  return "".join(
    [f"winnow: {step.command}: {parts}{_counted(size.tasks, tasks)}{gpus}", *(f"; {s}" for s in size.sources)]
  )


def _counted(count: int, noun: str) -> str:
  return f"{count:,} {noun}{'s' * (count != 1)}"


def _hand_over(namespace: argparse.Namespace, text: str, command: list[str], *, needs: str) -> None:
  """Prints a script or a manifest; with --submit, hands it to the command that submits it."""
  if not namespace.submit:
    print(text, end="")
    return
  if shutil.which(needs) is None:
    raise WinnowError(f"--submit needs {needs}, which this machine lacks: leave it out, and submit what is printed")
  with commands.writing():
    if subprocess.run(command, input=text.encode()).returncode:
      raise WinnowError(f"{needs} did not take all jobs, as it says above")


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(launch, argv, resumes=False)


if __name__ == "__main__":
  sys.exit(main())
