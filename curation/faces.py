"""Faces: the public names of a package, each of which is imported from its module when it is first used.

A package that imported all its modules at once would load Beam, Arrow or JAX for whoever needs only a constant.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any


def lazy(
  package: str, *, names: Iterable[str] = (), modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
  """Returns `__getattr__`, `__dir__` and `__all__` for the `__init__` of a package.

  `names` are names within modules, such as "score_store.ScoreStore"; `modules` are modules, such as "coverage.density".
  Both are relative to the package; the last part of each is its public name. `__getattr__` raises
  AttributeError for other names.
  """
  public = {path.rpartition(".")[2]: path for path in (*names, *modules)}
  are_modules = frozenset(modules)

  def getattr_(name: str) -> Any:
    if name not in public:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    path = f"{package}.{public[name]}"
    if public[name] in are_modules:
      return importlib.import_module(path)
    return getattr(importlib.import_module(path.rpartition(".")[0]), name)

  def dir_() -> list[str]:
    return sorted({*vars(importlib.import_module(package)), *public})

  return getattr_, dir_, [*public]
