"""Who imports whom: dataflow_templates, pretraining -> pipelines -> curation; heavy libraries only where used."""

import ast
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent
HEAVY = {"jax", "seqio", "t5", "tensorflow", "tensorflow_datasets", "tensorstore"}
# A layer's own name and those below it.
ALLOWED = {
  "curation": {"curation"},
  "pipelines": {"curation", "pipelines"},
  "dataflow_templates": {"pipelines", "dataflow_templates"},
  "pretraining": {"curation", "pipelines", "pretraining"},
}

# Imports the modules of a package one by one and tells for each which of the watched modules it was the first to load.
PROBE = """
import importlib, json, sys
watched = json.loads(sys.argv[1])
loaded = {}
for name in sys.argv[2:]:
  before = set(sys.modules)
  importlib.import_module(name)
  loaded[name] = sorted(module for module in watched if module in sys.modules and module not in before)
print(json.dumps(loaded))
"""


def module_files(package: str) -> dict[str, pathlib.Path]:
  files = sorted((PROJECT / package).rglob("*.py"))
  names = {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
  return {name: file for name, file in names.items() if not name.endswith(".__main__")}


def imported_packages(file: pathlib.Path) -> Iterator[str]:
  """Top-level names that a file imports anywhere in it, inside functions too."""
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{file}:{node.lineno} imports relatively; name the package"
      yield (node.module or "").partition(".")[0]


def first_loaders(package: str, watched: set[str]) -> dict[str, list[str]]:
  """Modules of a package whose import, in a fresh process, loads a watched module."""
  command = [sys.executable, "-c", PROBE, json.dumps(sorted(watched)), *module_files(package)]
  result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return {name: modules for name, modules in json.loads(result.stdout.splitlines()[-1]).items() if modules}


@pytest.mark.parametrize("package", ALLOWED)
def test_layers_import_downwards(package):
  """Kills: an import of a higher layer, also one that hides inside a function."""
  upwards = {
    name: above
    for name, file in module_files(package).items()
    if (above := set(imported_packages(file)) & set(ALLOWED) - ALLOWED[package])
  }
  assert not upwards


def test_curation_never_names_beam():
  """Kills: `import apache_beam` inside a function of `curation`, which no fresh import would show."""
  assert not [name for name, file in module_files("curation").items() if "apache_beam" in set(imported_packages(file))]


def test_importing_curation_loads_no_beam():
  """Kills: `import apache_beam` at the top of a module, also through another library."""
  assert len(module_files("curation")) > 3
  assert not first_loaders("curation", {"apache_beam"})


def test_importing_pipelines_loads_nothing_heavy():
  """Kills: `import tensorflow` (or seqio, JAX) at the top of a module of `pipelines`, or of one that it imports."""
  assert len(module_files("pipelines")) > 3
  assert not first_loaders("pipelines", HEAVY)


def test_only_the_tasks_of_pretraining_are_heavy():
  """Kills: TensorFlow and seqio in the process that only tells of a sample."""
  assert set(first_loaders("pretraining", HEAVY)) == {"pretraining.tasks"}
