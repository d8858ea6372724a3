"""Job arrays of Slurm: a shell script that submits one for each command, after those of the commands before it."""

import math
import os
import shlex
from collections.abc import Sequence

from curation.errors import WinnowError
from pipelines.schedulers import steps as steps_module
from pipelines.schedulers.sizes import Sizes
from pipelines.schedulers.steps import Step

_END = "END_OF_SCRIPT"
_TASK = "SLURM_ARRAY_TASK_ID"
_NAME_LENGTH = 40


def script(steps: Sequence[Step], sizes: Sequence[Sizes], *, options: str | None, typed: Sequence[str]) -> str:
  """Returns the script, for bash on a machine with sbatch. `typed`: the command line that asked for it."""
  directives = _directives(options)
  names = [steps_module.job_name([step], longest=_NAME_LENGTH) for step in steps]
  if len(set(names)) < len(names):
    raise WinnowError("two of the commands are the same: leave one of them out")
  lines = [
    "#!/bin/bash",
    "# Made by: " + shlex.join(typed).replace("\n", " "),
    "# Submits the job arrays: run it with bash where sbatch is. Run it again to go on with what is not complete.",
    "set -euo pipefail",
    "jobs=()",
    "# All arrays are submitted, or none.",
    "trap 'if (($? && ${#jobs[@]})); then scancel \"${jobs[@]}\"; fi' EXIT",
    f"queued=$(squeue --me --noheader --format=%i --name={','.join(names)})",
    "if [[ -n $queued ]]; then",
    '  echo "winnow: these jobs are queued or running already, so nothing is submitted:" $queued >&2',
    "  exit 1",
    "fi",
  ]
  for number, (step, size, name) in enumerate(zip(steps, sizes, names, strict=True), 1):
    text = array(step, size, name, directives)
    end = _END
    while end in text:
      end += "_"
    # A task that fails keeps those that come after it from starting; they would read what is not complete.
    after = "" if number == 1 else ' --dependency="afterok:${job%%;*}" --kill-on-invalid-dep=yes'
    lines += [
      "",
      f"script_{number}() {{",
      f"  cat <<'{end}'",
      text + end,
      "}",
      f"job=$(script_{number} | sbatch --parsable{after})",
      "jobs+=(${job%%;*})",
      f'echo "{step.command}: job ${{job%%;*}}, {name}"',
    ]
  return "\n".join(lines) + "\n"


def array(step: Step, size: Sizes, name: str, directives: Sequence[str] = ()) -> str:
  """Returns the batch script of one command, as sbatch takes it."""
  minutes = math.ceil(60 * size.hours)
  per_task = size.parts_per_task
  lines = [
    "#!/bin/bash",
    f"#SBATCH --job-name={name}",
    f"#SBATCH --array=0-{size.tasks - 1}",
    "#SBATCH --nodes=1",
    "#SBATCH --ntasks=1",
    f"#SBATCH --cpus-per-task={size.cpus * per_task}",
    f"#SBATCH --mem={size.memory_gb * per_task}G",
    *([f"#SBATCH --gres=gpu:{size.gpus}"] if size.gpus else []),
    f"#SBATCH --time={minutes // 60}:{minutes % 60:02d}:00",
    "#SBATCH --requeue",
    "#SBATCH --open-mode=append",
    f"#SBATCH --output={name}-%A_%a.log",
    *(f"#SBATCH {directive}" for directive in directives),
  ]
  lines.append(f"cd {shlex.quote(os.getcwd())} || exit")  # a recipe may name files from here
  words = [shlex.quote(word) for word in [*steps_module.program(), *step.in_parts()]]
  if per_task == 1:
    command = [*words, f'--part="${_TASK}/{size.parts}"']
    return "\n".join([*lines, "exec " + " \\\n  ".join(command)]) + "\n"
  command = [*words, f'--part="$(({per_task} * {_TASK} + gpu))/{size.parts}"']
  return "\n".join([*lines, *_on_each_gpu(" \\\n    ".join(command), per_task)]) + "\n"


def _on_each_gpu(command: str, count: int) -> list[str]:
  """Returns lines that run a command as one process a GPU; if one fails, all end, to be started again together."""
  return [
    "# Slurm names the task's GPUs, which need not begin with 0.",
    f'IFS=, read -ra gpus <<< "${{CUDA_VISIBLE_DEVICES:-{",".join(map(str, range(count)))}}}"',
    f"if ((${{#gpus[@]}} < {count})); then",
    f'  echo "winnow: this task has ${{#gpus[@]}} GPUs in place of {count}" >&2',
    "  exit 1",
    "fi",
    "parts=()",
    "trap 'kill \"${parts[@]}\" 2> /dev/null; wait' EXIT",
    "trap 'exit 143' TERM",
    f"for ((gpu = 0; gpu < {count}; gpu++)); do",
    f"  CUDA_VISIBLE_DEVICES=${{gpus[gpu]}} {command} &",
    "  parts[gpu]=$!",
    "done",
    "while ((${#parts[@]})); do",
    "  sleep 1",
    '  for gpu in "${!parts[@]}"; do',
    '    if ! kill -0 "${parts[gpu]}" 2> /dev/null; then',
    '      wait "${parts[gpu]}" || exit',
    '      unset "parts[gpu]"',
    "    fi",
    "  done",
    "done",
  ]


def _directives(options: str | None) -> list[str]:
  """Returns options of sbatch as one line each, quoted as sbatch reads them."""
  try:
    words = shlex.split(options or "")
  except ValueError as error:
    raise WinnowError(f"--sbatch_options={options} cannot be read: {error}") from error
  for word in words:
    if not word.startswith("-") or "\n" in word or '"' in word:
      raise WinnowError(f"--sbatch_options={options}: {word!r} is no option: write --NAME=VALUE, without quotes in it")
  return [f'"{word}"' if set(word) & set(" \t'#\\") else word for word in words]
