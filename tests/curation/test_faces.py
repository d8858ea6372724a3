"""The faces of packages: what a type checker sees is what a program gets, and nothing is loaded before it is used."""

import ast
import importlib
import pathlib
import subprocess
import sys
import types

import pytest

import curation

PROJECT = pathlib.Path(curation.__file__).parents[1]
FACES = {
  ".".join(file.parent.relative_to(PROJECT).parts): file
  for top in ("curation", "pipelines")
  for file in sorted((PROJECT / top).rglob("__init__.py"))
  if "faces.lazy(" in file.read_text()
}


def declared(file: pathlib.Path) -> dict[str, str]:
  """The names that a type checker sees in a face, and the modules from which it imports them."""
  (block,) = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.If)]
  return {alias.name: node.module or "" for node in block.body for alias in node.names}


@pytest.mark.parametrize("package", FACES)
def test_a_face_gives_what_it_declares(package):
  """Kills: a name that only a type checker or only a program knows; one that is taken from another module."""
  face, names = importlib.import_module(package), declared(FACES[package])
  assert sorted(names) == sorted(face.__all__) and {*names} <= {*dir(face)}
  for name, module in names.items():
    expected = getattr(importlib.import_module(module), name, None) or importlib.import_module(f"{module}.{name}")
    assert getattr(face, name) is expected
  with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
    _ = face.nothing


@pytest.mark.parametrize("package", FACES)
def test_no_name_hides_a_module(package):
  """Kills: a function named like its module, which the import of the module replaces."""
  face, folder = importlib.import_module(package), FACES[package].parent
  hidden = [name for name in declared(FACES[package]) if (folder / f"{name}.py").exists()]
  assert all(isinstance(getattr(face, name), types.ModuleType) for name in hidden)


def test_a_face_loads_nothing_before_it_is_used():
  """Kills: a face that imports its modules at once."""
  code = f"import sys, {', '.join(FACES)}; print({{'apache_beam', 'jax', 'numpy', 'pyarrow'}} & {{*sys.modules}})"
  done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True, text=True)
  assert len(FACES) > 9 and done.stdout == "set()\n"
