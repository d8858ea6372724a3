"""Registries of named entries: Winnow's own, and those of installed packages, by entry points of importlib.metadata."""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from curation.errors import WinnowError


class Registry(Mapping[str, Any]):
  """The entries of one kind by name: ours first, then those of installed packages. Each is loaded on its first use.

  `own` says where ours are, as "package.module:NAME", and `of` where the type of entries is. Raises WinnowError if a
  package brings a name that is taken, something that cannot be loaded, or something of another type.
  """

  def __init__(self, kind: str, group: str, of: str, own: Mapping[str, str]):
    self._kind, self._group, self._type, self._own = kind, group, of, dict(own)

  @functools.cached_property
  def _places(self) -> dict[str, str]:
    places = dict(self._own)
    for point in sorted(_entry_points().select(group=self._group)):
      if places.setdefault(point.name, point.value) != point.value:
        raise WinnowError(
          f"the package of {point.value} brings the {self._kind} {point.name}, but there is one of that name already: "
          f"{places[point.name]}; give it another name in the package's entry points"
        )
    return places

  @functools.cached_property
  def _loaded(self) -> dict[str, Any]:
    return {}

  def __getitem__(self, name: str) -> Any:
    if name not in self._loaded:
      self._loaded[name] = self._load(name, self._places[name])
    return self._loaded[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)

  def _load(self, name: str, place: str) -> Any:
    try:
      entry = _import(place)
    except Exception as error:
      if name in self._own:
        raise
      raise WinnowError(
        f"the {self._kind} {name} cannot be loaded from {place}: {type(error).__name__}: {error}; repair its package, "
        "or uninstall it"
      ) from error
    of = _import(self._type)
    if not isinstance(entry, of):
      raise WinnowError(f"{place}, the {self._kind} {name} of an installed package, is no {of.__name__}")
    return entry


@functools.cache
def _entry_points() -> Any:  # its type differs between versions of Python
  """Returns those of all installed packages, which are read once for all registries: it takes tens of milliseconds."""
  return importlib.metadata.entry_points()


def _import(place: str) -> Any:
  """Returns what is at "package.module:NAME"."""
  module, _, attribute = place.partition(":")
  return getattr(importlib.import_module(module), attribute)
