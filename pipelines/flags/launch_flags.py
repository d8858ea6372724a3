"""Flags of `winnow launch`; `declarations` joins them with all others."""

from pipelines.registry.command_names import LAUNCH
from pipelines.registry.flag import Flag

SLURM, KUBERNETES, FLINK = "slurm", "k8s", "flink"
_COMMANDS = (LAUNCH,)

FLAGS = (
  Flag(
    "scheduler",
    "Task",
    _COMMANDS,
    "what starts the tasks: slurm for job arrays, k8s for an Indexed Job of Kubernetes, flink for a Flink cluster on "
    "Kubernetes",
    choices=(SLURM, KUBERNETES, FLINK),
    positional=True,
  ),
  Flag(
    "parts",
    "Task",
    _COMMANDS,
    "the number of parts that share each command, each a process of its own; for flink, the number of TaskManagers",
    type=int,
    required=_COMMANDS,
  ),
  Flag(
    "gpus_per_task",
    "Task",
    _COMMANDS,
    "the GPUs of a task, in commands that run a model; a task of slurm runs one part on each of its GPUs, as many as a "
    "node has",
    type=int,
    default=0,
  ),
  Flag("cpus", "Task", _COMMANDS, "the CPU cores of each part", type=int, default=8),
  Flag(
    "memory",
    "Task",
    _COMMANDS,
    "the memory of each part in GB (default: 48 with a model, 8 without, or what --estimate says)",
    type=int,
  ),
  Flag(
    "hours",
    "Task",
    _COMMANDS,
    "the most hours that a task of slurm, or the Job of k8s, may take (default: for slurm 24, or twice what --estimate "
    "says; for k8s no limit)",
    type=float,
  ),
  Flag(
    "sbatch_options",
    "Task",
    _COMMANDS,
    "more options of sbatch for slurm, in one argument, such as '--partition=gpu --account=me'",
  ),
  Flag("image", "Task", _COMMANDS, "the container image with Winnow, for k8s and flink"),
  Flag(
    "volume",
    "Task",
    _COMMANDS,
    "a volume that all pods mount, given as CLAIM:/FOLDER with the name of a PersistentVolumeClaim",
    pattern=r"[a-z0-9.-]+:/.+",
  ),
  Flag(
    "service_account",
    "Task",
    _COMMANDS,
    "the service account of the pods (default: for flink the operator's, flink; for k8s that of the namespace)",
  ),
  Flag("submit", "Task", _COMMANDS, "submit the jobs, with sbatch or kubectl, in place of printing them", type=bool),
)
