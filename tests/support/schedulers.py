"""Stand-ins for Slurm and for a kubelet, which run what they are given as processes of this machine."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import yaml

_SBATCH = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
number = 1 + len(list(folder.glob("*.json")))
script = sys.stdin.read()
if any(word in script for word in {refused!r}):
  sys.exit("sbatch: error: Batch job submission failed")
(folder / f"{{number}}.sh").write_text(script)
(folder / f"{{number}}.json").write_text(json.dumps(sys.argv[1:]))
print(f"{{number}};here")  # as on a cluster of several
"""
_SQUEUE = """#!{python}
import pathlib, sys
names = next(a for a in sys.argv if a.startswith("--name=")).removeprefix("--name=").split(",")
for script in sorted(pathlib.Path({folder!r}).glob("*.sh")):
  if any(f"#SBATCH --job-name={{name}}\\n" in script.read_text() for name in names):
    print(script.stem)
"""

_SCANCEL = """#!{python}
import pathlib, sys
for number in sys.argv[1:]:
  pathlib.Path({folder!r}, f"{{number}}.sh").unlink()
  pathlib.Path({folder!r}, f"{{number}}.json").unlink()
"""


@dataclasses.dataclass
class Array:
  """A job array as sbatch got it: its script, its directives, and the options beside it."""

  number: int
  script: str
  options: dict[str, str]

  @property
  def tasks(self) -> range:
    first, last = self.options["array"].split("-")
    return range(int(first), int(last) + 1)

  @property
  def after(self) -> int | None:
    """The array whose tasks must succeed first."""
    dependency = self.options.get("dependency")
    if dependency is None:
      return None
    kind, number = dependency.split(":")
    assert kind == "afterok"
    return int(number)


class Slurm:
  """A queue in a folder: sbatch, squeue and scancel on the path fill it, list it and empty it; `start` runs a task.

  sbatch refuses a script with one of the `refused` words.
  """

  def __init__(self, folder: pathlib.Path, *, refused: tuple[str, ...] = ("--partition=none",)):
    self._queue, binaries = folder / "queue", folder / "bin"
    self._queue.mkdir(parents=True)
    binaries.mkdir()
    for name, text in (("sbatch", _SBATCH), ("squeue", _SQUEUE), ("scancel", _SCANCEL)):
      program = binaries / name
      program.write_text(text.format(python=sys.executable, folder=str(self._queue), refused=refused))
      program.chmod(0o755)
    self.environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}

  def arrays(self) -> list[Array]:
    return [self._array(number) for number in range(1, 1 + len(list(self._queue.glob("*.json"))))]

  def _array(self, number: int) -> Array:
    script = (self._queue / f"{number}.sh").read_text()
    head = itertools.takewhile(lambda line: line.startswith("#"), script.splitlines())
    directives = [line.removeprefix("#SBATCH ").strip('"') for line in head if line.startswith("#SBATCH ")]
    words = [*directives, *json.loads((self._queue / f"{number}.json").read_text())]
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    return Array(number, script, options)

  def start(
    self, array: Array, task: int, folder: pathlib.Path, more: dict[str, str] | None = None
  ) -> subprocess.Popen:
    """Starts a task as Slurm does, with its script in a folder of its own and its log as the script wants it."""
    log = array.options["output"].replace("%A", str(array.number)).replace("%a", str(task))
    environment = self.environment | {"SLURM_ARRAY_TASK_ID": str(task)} | (more or {})
    mode = "ab" if array.options.get("open-mode") == "append" else "wb"
    with (folder / log).open(mode) as output:
      return subprocess.Popen(
        ["bash", str(self._queue / f"{array.number}.sh")],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )

  def remove(self, array: Array) -> None:
    """Takes an array that has ended out of the queue."""
    for suffix in ("sh", "json"):
      (self._queue / f"{array.number}.{suffix}").unlink()


def containers_of(manifest: str) -> tuple[int, list[dict]]:
  """Returns the number of pods of an Indexed Job, and the containers of each in the order in which they run."""
  job = yaml.safe_load(manifest)
  assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
  assert job["spec"]["completions"] == job["spec"]["parallelism"]
  pod = job["spec"]["template"]["spec"]
  return job["spec"]["completions"], [*pod.get("initContainers", []), *pod["containers"]]


def command_in_pod(container: dict, index: int) -> list[str]:
  """Returns the words of a container's process in a pod, with variables replaced as Kubernetes does."""
  values = {}
  for variable in container["env"]:
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values[variable["name"]] = str(index)

  def replaced(match: re.Match) -> str:
    return "$" if match[0] == "$$" else values.get(match[1], match[0])

  return [re.sub(r"\$\$|\$\(([^)]*)\)", replaced, word) for word in container["command"]]
