"""Local files that match a glob. Like a shell, the search goes folder by folder and follows symbolic links.

A folder is listed only if the pattern can match something in it.
"""

import collections
import dataclasses
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from curation.errors import WinnowError
from pipelines.files import globs
from pipelines.files.object_stores import AccessError

_ADVICE = "or choose a pattern that leaves it out"


def match(pattern: str) -> dict[str, os.stat_result]:
  """Returns the files that match one of our own globs, hidden ones too, without dangling links; raises AccessError."""
  listing = _Listing(pattern, is_users=False)
  statuses = {path: listing.look(path) for path in listing.paths()}
  return {path: status for path, status in sorted(statuses.items()) if status and stat.S_ISREG(status.st_mode)}


def find(pattern: str) -> dict[str, os.stat_result]:
  """Returns the files that match a user's glob, and never leaves one out silently.

  Raises WinnowError with the path for a dangling link, a loop of links, a folder that cannot be listed, a folder or a
  device among the files, a file that is reached through two paths, and brackets that are both a name and a wildcard.
  """
  listing = _Listing(pattern, is_users=True)
  looked_up = {path: listing.look(path) for path in sorted(set(listing.paths()))}
  matches = {path: status for path, status in looked_up.items() if status is not None}
  listing.refuse_ambiguous(matches)
  for path, status in matches.items():
    if stat.S_ISDIR(status.st_mode):
      advice = (
        f"or change {pattern}, which matches it, to leave it out" if globs.has_magic(pattern) else "for all of them"
      )
      raise WinnowError(f"{path} is a folder, and files are wanted: write {path}/*, {advice}")
    if not stat.S_ISREG(status.st_mode):
      raise WinnowError(f"{path} is neither a file nor a folder: remove it, {_ADVICE}")
  _refuse_duplicates(matches)
  return matches


def match_folders(pattern: str) -> list[str]:
  """Returns the folders that match one of our own globs, by the rules of `match`."""
  return _folders(_Listing(pattern, is_users=False))


def find_folders(pattern: str) -> list[str]:
  """Returns the folders that match a user's glob, by the rules of `find`; files are left out."""
  listing = _Listing(pattern, is_users=True)
  folders = _folders(listing)
  listing.refuse_ambiguous(folders)
  return folders


def _folders(listing: "_Listing") -> list[str]:
  return [path for path in sorted(set(listing.paths())) if listing.is_folder(path)]


def _refuse_duplicates(matches: dict[str, os.stat_result]) -> None:
  """Raises WinnowError if two paths lead to one file through symbolic links. Two hard links count as two files."""
  by_inode = collections.defaultdict(list)
  for path, status in matches.items():
    by_inode[status.st_dev, status.st_ino].append(path)
  for paths in by_inode.values():
    seen: dict[str, str] = {}
    for path in paths if len(paths) > 1 else ():
      if (first := seen.setdefault(os.path.realpath(path), path)) != path:
        raise WinnowError(
          f"{first} and {path} are one file, reached through links, so its documents would be read twice: remove "
          "a link, or choose a pattern that matches one of them"
        )


@dataclasses.dataclass(frozen=True)
class _Listing:
  """The expansion of one pattern.

  `is_users`: the pattern is a user's, so hidden names need a dot and paths that cannot be followed are refused.
  """

  pattern: str
  is_users: bool

  def paths(self) -> Iterator[str]:
    """Yields the paths that may match, of files and folders alike; a path that ends in a plain name may not exist."""
    root = "/" if self.pattern.startswith("/") else ""
    return self._below(root, self._components())

  def refuse_ambiguous(self, paths: Iterable[str]) -> None:
    """Raises WinnowError if brackets in the pattern match some of these paths as a name and others as a wildcard."""
    names = {path: globs.without_empty_parts(path).split("/") for path in paths}
    globs.refuse_ambiguous(names, self._components(), self.pattern)

  def _components(self) -> list[str]:
    return globs.components(globs.without_empty_parts(self.pattern))

  def _below(self, folder: str, wanted: Sequence[str]) -> Iterator[str]:
    if not wanted:
      yield folder
      return
    first, *rest = wanted
    if first == globs.ANY_DEPTH:
      yield from self._at_any_depth(folder, rest, [os.path.realpath(folder)])
      return
    if (name := globs.literal(first)) is not None:
      path = os.path.join(folder, name)
      if not rest or self.is_folder(path):
        yield from self._below(path, rest)
      return
    for entry in self._list(folder):
      is_name = self.is_users and globs.is_named(entry.name, first)
      if is_name or globs.fits(entry.name, first, hidden=not self.is_users):
        path = os.path.join(folder, entry.name)
        if not rest or self._leads_on(entry, path):
          yield from self._below(path, rest)

  def _at_any_depth(self, folder: str, rest: Sequence[str], above: list[str]) -> Iterator[str]:
    """Yields paths at any depth. `above`: the real paths of the folders on the way, the last of them this folder's."""
    if rest:
      yield from self._below(folder, rest)
    for entry in self._list(folder):
      if not globs.fits(entry.name, globs.ANY_DEPTH, hidden=not self.is_users):
        continue
      path = os.path.join(folder, entry.name)
      if not self._leads_on(entry, path):
        if not rest:
          yield path
        continue
      is_link = entry.is_symlink()
      real = os.path.realpath(path) if is_link else os.path.join(above[-1], entry.name)
      if not is_link or not any(os.path.commonpath([real, folder]) == real for folder in above):
        yield from self._at_any_depth(path, rest, [*above, real])
      elif self.is_users:
        raise WinnowError(
          f"{path} is a link to a folder that contains it, and {self.pattern} would follow it forever: remove it, "
          f"{_ADVICE}"
        )

  def _list(self, folder: str) -> list[os.DirEntry[str]]:
    try:
      with os.scandir(folder or ".") as entries:
        return list(entries)
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
      return []
    except OSError as error:
      raise self._refusal(f"cannot list {folder or '.'}", error) from error

  def _leads_on(self, entry: os.DirEntry[str], path: str) -> bool:
    return self.is_folder(path) if entry.is_symlink() else entry.is_dir()

  def is_folder(self, path: str) -> bool:
    """Tells whether a path is a folder, through links; raises as `look` does."""
    status = self.look(path)
    return status is not None and stat.S_ISDIR(status.st_mode)

  def look(self, path: str) -> os.stat_result | None:
    """Returns the status of a path, through links; None if nothing is there. Raises as `find` and `match` do."""
    try:
      return os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
      if self.is_users and os.path.islink(path):
        target = os.readlink(path)
        raise WinnowError(f"{path} is a link to {target}, which does not exist: restore that, {_ADVICE}") from error
      return None
    except OSError as error:
      if error.errno == errno.ELOOP and not self.is_users:
        return None
      if error.errno == errno.ELOOP:
        raise WinnowError(f"{path} is a link in a loop of links: remove it, {_ADVICE}") from error
      raise self._refusal(f"cannot look at {path}", error) from error

  def _refusal(self, what: str, error: OSError) -> WinnowError:
    is_denied = isinstance(error, PermissionError) and self.is_users
    advice = f"; make it readable, {_ADVICE}" if is_denied else ""
    return AccessError(f"{what}: {error.strerror}{advice}")
