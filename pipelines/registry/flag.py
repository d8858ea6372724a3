"""The description of one flag, and the groups of flags; `pipelines.flags` declares them."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from curation.errors import WinnowError
from pipelines.worker import homes

# In the order in which --help and a console show them.
GROUPS = (
  "What to look at",
  "Report",
  "Recipe",
  "Corpus",
  "Store",
  "Scorer",
  "Density",
  "Clusters",
  "MinHash",
  "Student",
  "Sample",
  "Cascade",
  "Parts",
  "Task",
)
BUCKET = "gs://[a-z0-9][-a-z0-9_.]*/.+"
"""The pattern of a path on an object store, for a console."""


def path(value: str) -> str:
  """Reads a path, or a glob of paths; a leading `~` is a home folder. It is the type of a flag that takes one."""
  try:
    return homes.expand(value)
  except ValueError as error:
    raise argparse.ArgumentTypeError(f"{value}: {error}") from error


def paths(value: str) -> str:
  """Reads paths separated by commas. It is the type of a flag that takes several in one of its commands."""
  return ",".join(map(path, value.split(",")))


_METAVARS = {int: "N", float: "X", path: "PATH", paths: "PATH"}


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag: the commands that have it, its help, and how its value is read."""

  name: str
  group: str
  """One of GROUPS."""
  commands: tuple[str, ...]
  help: str
  type: Any = str
  """Reads a value: str, int, float or bool, or `path` or `paths` for names of files."""
  default: Any = None
  choices: tuple[str, ...] | None = None
  scorers: tuple[str, ...] = ()
  """The scorers to which it means anything; empty for all."""
  required: tuple[str, ...] = ()
  """The commands that need it."""
  pattern: str | None = None
  """A regular expression of the whole value, for a console, where workers are other machines."""

  positional: bool = False
  """True for a flag that is given by its position, without its name."""
  helps: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """The help in commands in which the flag means something else than `help` says."""

  def __post_init__(self):
    if self.group not in GROUPS:
      raise ValueError(f"--{self.name} is of the group {self.group!r}, which is none of GROUPS")

  def is_given(self, value: Any) -> bool:
    """Tells whether a value says more than the default does."""
    return bool(value) if self.type is bool else value is not None and value != self.default

  def help_in(self, command: str) -> str:
    """Returns the help as one command shows it."""
    return self.helps.get(command, self.help)

  def add_to(self, parser: Any, command: str) -> argparse.Action:
    """Adds the flag to a command's parser, or to a group of one, and returns the parser's action."""
    text = self.help_in(command)
    if command in self.required:
      text = f"(required) {text}"
    if self.default is not None and self.type is not bool:
      text += f" (default: {self.default})"
    text = text.replace("%", "%%")
    if self.type is bool:
      return parser.add_argument(f"--{self.name}", action="store_true", help=text)
    if self.positional:
      return parser.add_argument(self.name, type=self.type, choices=self.choices, metavar=self.name.upper(), help=text)
    return parser.add_argument(
      f"--{self.name}",
      type=self.type,
      default=self.default,
      choices=self.choices,
      metavar=None if self.choices else _METAVARS.get(self.type, self.name.rpartition("_")[2].upper()),
      help=text,
    )


def require(namespace: argparse.Namespace, *names: str) -> None:
  """Raises WinnowError, which names the missing flags, unless all of `names` are given."""
  missing = [f"--{name}=" for name in names if getattr(namespace, name) is None]
  if missing:
    raise WinnowError(f"{' and '.join(missing)} must be given")
