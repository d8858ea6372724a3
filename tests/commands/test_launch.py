"""`winnow launch --estimate`: the sizes of tasks follow from the corpus, the model and the device."""

import dataclasses
import re

import pytest
from asking import DRAWING, sample, score

from pipelines import main
from pipelines.jobs import estimate
from pipelines.runners import accelerators


def launch(capsys, *argv: str) -> tuple[list[tuple[str, str]], str]:
  """Returns the memory and the time limit of each array, and what is said on standard error."""
  assert main.main(["launch", "slurm", *argv]) == 0
  printed = capsys.readouterr()
  return re.findall(r"#SBATCH --mem=(\S+)\n(?:#SBATCH --gres=\S+\n)?#SBATCH --time=(\S+)", printed.out), printed.err


def steps(model: str) -> list[str]:
  return ["--", *score(model, "--name=one"), "--", *sample(*DRAWING)]


def test_sizes_come_from_flags_or_else_from_the_estimate_or_else_by_default(place, model, capsys, monkeypatch):
  """Kills the mutants: an estimate that hides what was typed, is not divided among parts, or is given to a command that
  it says nothing of; a size without its source.
  """
  on_gpus = ["--parts=4", "--gpus_per_task=2"]
  sizes, said = launch(capsys, *on_gpus, *steps(model))
  assert sizes == [("96G", "24:00:00"), ("8G", "24:00:00")]
  assert said.splitlines() == [
    "winnow: score: 4 parts in 2 tasks, each on 2 GPUs; --memory=48 by default; --hours=24 by default",
    "winnow: sample: 4 parts in 4 tasks; --memory=8 by default; --hours=24 by default",
  ]
  on_l4 = [*on_gpus, "--estimate", "--accelerator=nvidia-l4"]
  gigabytes = accelerators.memory_gb(1)
  sizes, said = launch(capsys, *on_l4, *steps(model))
  assert sizes == [(f"{2 * gigabytes}G", "1:00:00"), ("8G", "24:00:00")]
  assert f"--memory={gigabytes} by the model's size; --hours=1 twice the estimate of" in said.splitlines()[0]
  slow = dataclasses.replace(accelerators.find("nvidia-l4"), teraflops=1e-10)
  with monkeypatch.context() as patch:
    patch.setattr(accelerators, "find", lambda name: slow)
    (of_score, _), _ = launch(capsys, *on_l4, *steps(model))
  monkeypatch.setattr(estimate, "needs", lambda stage: pytest.fail("nobody asked"))
  sizes, said = launch(capsys, *on_gpus, "--memory=5", "--hours=0.25", *steps(model))
  assert sizes == [("10G", "0:15:00"), ("5G", "0:15:00")]
  assert said.splitlines()[0] == "winnow: score: 4 parts in 2 tasks, each on 2 GPUs"
  hours = int(of_score[1].partition(":")[0])
  assert hours > 1


def test_the_estimate_is_divided_among_parts(place, model, capsys, monkeypatch):
  """Kills the mutants: hours of one machine as the limit of each part; cores that count on GPUs, or do not on CPUs."""
  monkeypatch.setattr(estimate, "needs", lambda stage: estimate.Needs(1600.0, 33))
  limits = {
    "on GPUs": ["--parts=8", "--gpus_per_task=2", "--cpus=4", "--estimate", "--accelerator=nvidia-l4"],
    "on CPUs": ["--parts=8", "--cpus=4", "--estimate"],
  }
  sizes = {name: launch(capsys, *flags, *steps(model))[0] for name, flags in limits.items()}
  assert sizes == {
    "on GPUs": [("66G", "401:00:00"), ("8G", "24:00:00")],
    "on CPUs": [("33G", "101:00:00"), ("8G", "24:00:00")],
  }
