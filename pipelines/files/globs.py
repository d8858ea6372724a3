"""Globs, with the same meaning on a disk and on an object store.

`*`, `?` and `[...]` match characters of one name, never a slash. `**` between slashes matches any number of folders,
including none; at the end of a pattern it matches every file below. A name that begins with a dot is hidden: a wildcard
matches it only if the pattern itself has the dot.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence

from curation.errors import WinnowError

ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?[]")
_ESCAPED = re.compile(r"\[([*?[])\]")
_FIRST_OF_SET = re.compile(r"(?<=\[)[^]!-]|(?<=\[!)[^]-]")


def has_magic(pattern: str) -> bool:
  """Tells whether a pattern has wildcards."""
  return _MAGIC.search(_ESCAPED.sub("_", pattern)) is not None


def escape(path: str) -> str:
  """Returns the glob that matches exactly this path."""
  return _MAGIC.sub(r"[\g<0>]", path)


def may_be_a_name(pattern: str) -> bool:
  """Tells whether brackets are the only wildcards of a pattern, so that it may be meant as a plain name."""
  return has_magic(pattern) and not re.search("[*?]", pattern)


def without_empty_parts(path: str) -> str:
  """Returns a path or a pattern without its root and doubled slashes, which mean nothing on a disk."""
  return "/".join(filter(None, path.split("/")))


def components(pattern: str) -> list[str]:
  """Returns the parts between the slashes of a pattern without a scheme.

  Slashes at the end are dropped. Other empty parts stay, since names of objects can have them. Raises WinnowError if
  `**` shares a part with anything else.
  """
  parts: list[str] = []
  stripped = pattern.rstrip("/")
  for part in stripped.split("/") if stripped else []:
    if ANY_DEPTH in _ESCAPED.sub("_", part) and part != ANY_DEPTH:
      rest = part.replace(ANY_DEPTH, "*")
      raise WinnowError(f"{pattern}: ** stands for folders, between slashes; write **/{rest} in place of {part}")
    if part != ANY_DEPTH or parts[-1:] != [ANY_DEPTH]:
      parts.append(part)
  return parts


def literal(component: str) -> str | None:
  """Returns the one name that a component matches; None if the component has wildcards."""
  return None if has_magic(component) else _ESCAPED.sub(r"\1", component)


def fits(name: str, component: str, *, hidden: bool) -> bool:
  """Tells whether a component matches the name of a file or folder. `hidden`: wildcards match hidden names too."""
  is_shown = hidden or not name.startswith(".") or component.startswith(".")
  return is_shown and (component == ANY_DEPTH or fnmatch.fnmatchcase(name, component))


def fits_path(names: Sequence[str], wanted: Sequence[str]) -> bool:
  """Tells whether the components `wanted` match the path of these names; hidden names need a dot in the pattern."""
  if not wanted or not names:
    return not wanted and not names
  (name, *inner), (first, *rest) = names, wanted
  is_fitting = fits(name, first, hidden=False)
  if first != ANY_DEPTH:
    return (is_fitting or is_named(name, first)) and fits_path(inner, rest)
  if not rest:
    return is_fitting and (not inner or fits_path(inner, wanted))
  return fits_path(names, rest) or (is_fitting and fits_path(inner, wanted))


def refuse_ambiguous(matches: Mapping[str, Sequence[str]], wanted: Sequence[str], pattern: str) -> None:
  """Raises WinnowError if brackets in a pattern match some paths as a name and others as a wildcard.

  `matches` maps each path that the pattern matches to the names in it. `wanted` are the components of the pattern.
  """
  for place, component in enumerate(wanted):
    if not may_be_a_name(component) or not any(component in names for names in matches.values()):
      continue
    as_name = [*wanted[:place], escape(component), *wanted[place + 1 :]]
    by_name = {path for path, names in matches.items() if fits_path(names, as_name)}
    if by_name and len(by_name) < len(matches):
      first, second = min(by_name), min(matches.keys() - by_name)
      doubled = _FIRST_OF_SET.sub(r"\g<0>\g<0>", component, count=1)  # the same set, which is another name
      raise WinnowError(
        f"{component} in {pattern} is both a name, which matches {first}, and a wildcard, which matches {second}: "
        f"write {escape(component)} for the name, or {doubled} for the wildcard"
      )


def below_fixed(paths: Sequence[Sequence[str]], wanted: Sequence[str]) -> list[str]:
  """Returns paths, given as lists of names, relative to the folders that precede the first wildcard of `wanted`."""
  depths = [_fixed_depth(names[:-1], wanted) for names in paths]
  return ["/".join(names[min(depths) :]) for names in paths]


def _fixed_depth(folders: Sequence[str], wanted: Sequence[str]) -> int:
  depth = 0
  for name, component in zip(folders, wanted, strict=False):
    if not is_named(name, component):
      break
    depth += 1
  return depth


def is_named(name: str, component: str) -> bool:
  """Tells whether a component is this name as it stands, rather than a pattern that matches it."""
  return literal(component) == name or (may_be_a_name(component) and component == name)
