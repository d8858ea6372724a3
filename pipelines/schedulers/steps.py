"""The commands that `winnow launch` is for, checked as they would check themselves, and made fit for other machines."""

import argparse
import dataclasses
import difflib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from curation.errors import WinnowError
from pipelines.corpus import inputs
from pipelines.files import storage
from pipelines.flags import launch_flags, parsing
from pipelines.flags.declarations import FLAGS
from pipelines.flags.recipes import is_inline
from pipelines.registry import flag as flag_types
from pipelines.registry.command_names import EVALUATE, IN_PARTS

_PROGRAM = "winnow"
_NAMES = ("model", "models")  # they may be a name on the hub as well
_OURS = {
  "part": "a task gets its part from winnow launch: leave it out, and say --parts=N before --",
  "overwrite": "would remove what other parts have done: leave it out, and delete the folder first",
  "estimate": "is for winnow launch itself: write it before --",
  "accelerator": "is for Dataflow: leave it out; with --estimate, write it before --",
}
_STEAL = "part_steal"


@dataclasses.dataclass(frozen=True)
class Step:
  """One command: its name, its arguments with paths that tasks can read, and its flags for each stage of a recipe."""

  command: str
  arguments: tuple[str, ...]
  stages: tuple[argparse.Namespace, ...] = dataclasses.field(compare=False, repr=False)
  num_workers: int = 1
  """The worker processes of a part; 0 for one on each core."""

  @property
  def runs_model(self) -> bool:
    return any(getattr(stage, name, None) for stage in self.stages for name in ("model", "models"))

  def in_parts(self) -> list[str]:
    """Returns the command and its arguments for a part; `--part` itself comes behind them.

    A part helps the others. So none waits for one that has no place on the cluster yet, and what it does when it comes
    is nothing.
    """
    has_it = any(_STEAL in stage.given for stage in self.stages)
    return [self.command, *self.arguments, *([] if has_it else [f"--{_STEAL}"])]


def read(argv: Sequence[str], scheduler: str, volume: str | None) -> list[Step]:
  """Returns the commands behind the separators of a command line; raises WinnowError for what they would refuse."""
  lines = list(_cut(argv))[1:]
  if not lines:
    raise WinnowError(f"there is no command to launch: write it behind {parsing.SEPARATOR}, without `{_PROGRAM}`")
  return [_step(line, scheduler, volume) for line in lines]


def _cut(argv: Sequence[str]) -> Iterator[list[str]]:
  line: list[str] = []
  for argument in argv:
    if argument == parsing.SEPARATOR:
      yield line
      line = []
    else:
      line.append(argument)
  yield line


def _step(line: list[str], scheduler: str, volume: str | None) -> Step:
  command, *argv = line or [""]
  if command not in IN_PARTS:
    near = difflib.get_close_matches(command, IN_PARTS, 1)
    hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(IN_PARTS)}"
    what = f"{command!r} is no command that" if command else f"a command is missing behind {parsing.SEPARATOR} which"
    raise WinnowError(f"{what} can be cut into parts; {hint}")
  stages, of_beam = parsing.parse_stages(command, argv)
  given = set().union(*(stage.given for stage in stages))
  for name in given & _OURS.keys():
    raise WinnowError(f"{command} --{name}: {_OURS[name]}")
  if scheduler == launch_flags.FLINK and (parts := [name for name in sorted(given) if name.startswith("part_")]):
    raise WinnowError(f"{command} --{parts[0]}: Flink divides the work itself, without parts: leave it out")
  for option in of_beam:
    if option.partition("=")[0] == "--runner":
      raise WinnowError(f"{command} {option}: winnow launch names the runner itself: leave it out")
  place = _absolute if scheduler == launch_flags.SLURM else _seen_by_pods(volume)
  arguments = _placed(command, parsing.normalised(command, argv), place)
  return Step(command, tuple(arguments), tuple(stages), _num_workers(of_beam))


def _num_workers(of_beam: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(allow_abbrev=False)
  parser.add_argument("--direct_num_workers", type=int, default=1)
  return parser.parse_known_args(of_beam)[0].direct_num_workers


def _placed(command: str, arguments: Sequence[str], place: Callable[[str, str], str]) -> Iterator[str]:
  """Yields the arguments with `place(flag, path)` for each path on a disk."""
  paths = {flag.name: flag for flag in FLAGS if command in flag.commands}
  for argument in arguments:
    name, equals, value = argument.partition("=")
    flag = paths.get(name.removeprefix("--"))
    if flag is None or not equals or flag.type not in (flag_types.path, flag_types.paths):
      yield argument
      continue
    # Other commands take such a flag for one path, which may have commas in it.
    several = (
      flag.type(value).split(",") if command == EVALUATE and flag.type is flag_types.paths else [flag.type(value)]
    )
    yield f"{name}={','.join(place(flag.name, path) if is_on_disk(flag.name, path) else path for path in several)}"


def is_on_disk(flag: str, path: str) -> bool:
  """Tells whether the value of a flag for paths is one on a disk, and no name or place on an object store."""
  if not storage.is_local(path) or path.startswith("tfds:"):
    return False
  if flag == "recipe":
    return not is_inline(path) and (os.path.isabs(path) or os.path.isfile(path))
  if flag == "proxy":  # or the name of a store in --scores
    return "/" in path
  return flag not in _NAMES or os.path.isabs(path) or os.path.exists(path) or bool(set(path) & set("*?["))


def _absolute(flag: str, path: str) -> str:
  return inputs.absolute(path)


def _seen_by_pods(volume: str | None) -> Callable[[str, str], str]:
  """Returns a function that returns a path, or raises WinnowError if no pod can see it."""
  folder = None if volume is None else volume_of(volume)[1]

  def seen(flag: str, path: str) -> str:
    if folder is None or not f"{os.path.normpath(path)}/".startswith(f"{folder}/"):
      where = (
        "give --volume=CLAIM:/FOLDER, and a path below that folder" if folder is None else f"it is not below {folder}"
      )
      raise WinnowError(f"--{flag}={path} is on no volume of the pods: use a bucket, such as gs://, or {where}")
    return path

  return seen


def volume_of(volume: str) -> tuple[str, str]:
  """Returns the claim and the folder of `--volume`; raises WinnowError if it is none."""
  claim, colon, folder = volume.partition(":")
  if not (claim and colon and os.path.isabs(folder)) or os.path.normpath(folder) == "/":
    raise WinnowError(f"--volume={volume} is no volume: write CLAIM:/FOLDER")
  return claim, os.path.normpath(folder)


def job_name(steps: Sequence[Step], *, longest: int) -> str:
  """Returns the name of the jobs of some commands: the same for the same commands, and no other's.

  It is a label of RFC 1123.
  """
  digest = hashlib.blake2b(json.dumps([[s.command, *s.arguments] for s in steps]).encode(), digest_size=4).hexdigest()
  words = "-".join([_PROGRAM, *dict.fromkeys(step.command for step in steps)])
  return f"{words[: longest - len(digest) - 1].rstrip('-')}-{digest}"


def program() -> list[str]:
  """Returns the words that start Winnow on a machine that shares this one's disk."""
  beside = os.path.join(os.path.dirname(sys.executable), _PROGRAM)
  return [beside] if os.path.exists(beside) else [sys.executable, "-m", "pipelines.main"]
