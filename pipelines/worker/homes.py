"""Home folders: the expansion of `~` in a path, and a temporary home for a user who has none.

Containers often run as a user without HOME and without an entry in passwd. `~` is not expanded then, and a library that
caches in `~/.cache` would create a folder called `~` in the working directory.
"""

import atexit
import os
import shutil
import sys
import tempfile

_made: str | None = None


def provide() -> None:
  """Sets HOME to a temporary folder if the user has no home, for this process and the processes that it starts."""
  global _made
  if not os.environ.get("HOME"):
    os.environ.pop("HOME", None)  # an empty HOME would mean the root of the file system
    if os.path.expanduser("~") == "~":
      _made = os.environ["HOME"] = tempfile.mkdtemp(prefix="winnow-home-")
      atexit.register(_remove, _made, os.getpid())
      print(
        f"winnow: this user has no home folder, so caches go to {_made} and are removed at exit; set HOME to keep them",
        file=sys.stderr,
      )


def expand(path: str) -> str:
  """Returns the path with a leading `~` or `~USER` expanded; raises ValueError if there is no such home folder."""
  if not path.startswith("~"):
    return path
  expanded = os.path.expanduser(path)
  user = path[1:].partition("/")[0]
  if user and expanded == path:
    raise ValueError(f"there is no user {user!r}; write ./{path} for a file whose name starts with ~")
  if not user and _made is not None:
    raise ValueError("this user has no home folder; set HOME, or write the full path")
  return expanded


def _remove(folder: str, process: int) -> None:
  if os.getpid() == process:  # a forked child runs exit handlers too
    shutil.rmtree(folder, ignore_errors=True)
