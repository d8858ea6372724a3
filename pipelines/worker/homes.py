"""Home folders: what `~` means in a path, and a temporary one for a user who has none.

Containers often run as a user without HOME and without an entry in passwd. `~` then stays as it is, and whatever keeps
a cache in `~/.cache` would make a folder called `~` where the command was started.
"""

import atexit
import os
import shutil
import sys
import tempfile

_made: str | None = None


def provide() -> None:
  """Sets HOME to a temporary folder, for this process and those that it starts, where the user has no home."""
  global _made
  if not os.environ.get("HOME"):
    os.environ.pop("HOME", None)  # an empty one would mean the root of the file system
    if os.path.expanduser("~") == "~":
      _made = os.environ["HOME"] = tempfile.mkdtemp(prefix="winnow-home-")
      atexit.register(_remove, _made, os.getpid())
      print(
        f"winnow: this user has no home folder, so caches go to {_made} and are removed at the end; set HOME to "
        "keep them",
        file=sys.stderr,
      )


def expand(path: str) -> str:
  """The path with the home folder that a leading `~` or `~USER` means; ValueError where there is none."""
  if not path.startswith("~"):
    return path
  expanded = os.path.expanduser(path)
  user = path[1:].partition("/")[0]
  if user and expanded == path:
    raise ValueError(f"there is no user {user!r}; write ./{path} for a file whose name starts with ~")
  if not user and _made is not None:
    raise ValueError("this user has no home folder; set HOME, or write the whole path")
  return expanded


def _remove(folder: str, process: int) -> None:
  if os.getpid() == process:  # a forked child may come here too
    shutil.rmtree(folder, ignore_errors=True)
