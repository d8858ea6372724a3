"""The order of imports: dataflow_templates, pretraining -> pipelines -> curation; heavy libraries only where used."""

import ast
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipelines.flags import completion
from pipelines.registry import command_names

PROJECT = pathlib.Path(__file__).resolve().parent.parent
HEAVY = {"jax", "seqio", "t5", "tensorflow", "tensorflow_datasets", "tensorstore"}
# A layer's own name and those below it.
ALLOWED = {
  "curation": {"curation"},
  "pipelines": {"curation", "pipelines"},
  "dataflow_templates": {"pipelines", "dataflow_templates"},
  "pretraining": {"curation", "pipelines", "pretraining"},
}

# The folders of a package in the order of imports; those of one line do not import each other. The empty name stands
# for modules beside the folders: commands in pipelines, errors and the like in curation.
FOLDERS = {
  "pipelines": (
    ("worker",),
    ("registry",),
    ("files",),
    ("corpus", "sorted_runs", "runners"),
    ("store",),
    ("selection",),
    ("scoring", "output"),
    ("scorers",),
    ("flags",),
    ("jobs",),
    ("reports", "schedulers"),
    ("", "distill"),
  ),
  "curation": (("",), ("selection",), ("models",), ("scorers", "coverage"), ("student", "demo")),
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

# Runs command lines that are answered before anything is done, and tells for each what it loaded, and its status.
ANSWERS = """
import json, sys
from pipelines import main
answers = []
for line in json.loads(sys.argv[2]):
  try:
    status = main.main(line)
  except SystemExit as ended:
    status = ended.code
  answers.append([line, [module for module in json.loads(sys.argv[1]) if module in sys.modules], status])
print(json.dumps(answers))
"""


def module_files(package: str) -> dict[str, pathlib.Path]:
  files = sorted((PROJECT / package).rglob("*.py"))
  names = {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
  return {name: file for name, file in names.items() if not name.endswith(".__main__")}


def imported_packages(file: pathlib.Path) -> Iterator[str]:
  """Yields the top-level names that a file imports anywhere in it, inside functions too."""
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{file}:{node.lineno} imports relatively; name the package"
      yield (node.module or "").partition(".")[0]


def imported_modules(file: pathlib.Path, known: set[str]) -> set[str]:
  """Returns the modules of the project that a file imports anywhere in it."""
  found: set[str] = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name for name in names if name in known} or {node.module or ""}
  return found & known


def folder_of(module: str) -> str:
  """Returns the folder of its package that a module is in, or "" for a module beside the folders."""
  parts = module.split(".")
  is_folder = (PROJECT / parts[0] / parts[1]).is_dir() if len(parts) > 1 else False
  return parts[1] if len(parts) > 1 and is_folder else ""


def first_loaders(package: str, watched: set[str]) -> dict[str, list[str]]:
  """Returns the modules of a package whose import, in a fresh process, loads a watched module."""
  command = [sys.executable, "-c", PROBE, json.dumps(sorted(watched)), *module_files(package)]
  result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return {name: modules for name, modules in json.loads(result.stdout.splitlines()[-1]).items() if modules}


@pytest.mark.parametrize("package", ALLOWED)
def test_layers_import_downwards(package):
  """Kills: an import of a higher layer, even one inside a function."""
  upwards = {
    name: above
    for name, file in module_files(package).items()
    if (above := set(imported_packages(file)) & set(ALLOWED) - ALLOWED[package])
  }
  assert not upwards


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_import_downwards(package):
  """Kills: an import of a folder above or beside, even one inside a function."""
  files, rank = module_files(package), {name: i for i, level in enumerate(FOLDERS[package]) for name in level}
  assert {folder_of(name) for name in files} == set(rank)
  faces = {package, *(f"{package}.{folder}" for folder in rank)}
  upwards = [
    f"{name} imports {other}"
    for name, file in files.items()
    if name not in faces  # they import only when a name is asked for
    for other in imported_modules(file, set(files)) - {package}
    if folder_of(name) != folder_of(other) and rank[folder_of(other)] >= rank[folder_of(name)]
  ]
  assert not upwards


@pytest.mark.parametrize("package", ALLOWED)
def test_no_module_imports_itself_through_others(package):
  """Kills: a cycle of imports, whose modules can only be understood together."""
  files = module_files(package)
  graph = {name: imported_modules(file, set(files)) - {name} for name, file in files.items()}
  waiting = {name: others for name, others in graph.items() if files[name].name != "__init__.py"}
  while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
    for name in free:
      del waiting[name]
  assert not waiting


def test_files_and_folders_stay_small():
  """One reads 400 lines at most in a sitting, and takes in 15 files at most at a glance."""
  code = [file for package in (*ALLOWED, "tests", "benchmarks") for file in (PROJECT / package).rglob("*.py")]
  assert not [str(file) for file in code if len(file.read_text().splitlines()) > 400]
  folders = {file.parent for file in code if file.is_relative_to(PROJECT / "pipelines") or "curation" in file.parts}
  sizes = {str(folder): len(list(folder.glob("*.py"))) for folder in folders if "tests" not in folder.parts}
  assert not {folder: size for folder, size in sizes.items() if size > 15}


def test_help_completion_and_refusals_need_nothing_of_what_runs_a_command():
  """`winnow score --help` answers at once. Kills: an import of Beam, Arrow or NumPy at the top of a module of flags, of
  a module with a scorer's entry, or of a registry; a flag whose choices load what they name.
  """
  watched = {"apache_beam", "numpy", "pyarrow"} | HEAVY
  lines = [["--help"], ["--version"], *(["--print-completion", shell] for shell in completion.SHELLS)]
  for command in command_names.COMMANDS:
    lines += [[command, "--help"], [command, "--hepl"], [command, "--seed=of", "--max_bad_fraction=x", "--runner=no"]]
  command = [sys.executable, "-c", ANSWERS, json.dumps(sorted(watched)), json.dumps(lines)]
  result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  answers = json.loads(result.stdout.splitlines()[-1])
  assert len(answers) == len(lines) and not [line for line, loaded, _ in answers if loaded]
  assert {status for line, _, status in answers if line[-1] == "--help"} == {0}
  assert {status for line, _, status in answers if line[0] in command_names.COMMANDS and line[-1] != "--help"} == {2}


def test_curation_never_names_beam():
  """Kills: `import apache_beam` inside a function of `curation`, which no fresh import would show."""
  assert not [name for name, file in module_files("curation").items() if "apache_beam" in set(imported_packages(file))]


def test_importing_curation_loads_no_beam():
  """Kills: `import apache_beam` at the top of a module, even through another library."""
  assert len(module_files("curation")) > 3
  assert not first_loaders("curation", {"apache_beam"})


def test_importing_pipelines_loads_nothing_heavy():
  """Kills: `import tensorflow` (or seqio, JAX) at the top of a module of `pipelines`, or of one that it imports."""
  assert len(module_files("pipelines")) > 3
  assert not first_loaders("pipelines", HEAVY)


@pytest.mark.long  # it imports T5 and all that T5 imports
def test_only_the_tasks_of_pretraining_are_heavy():
  """Kills: an import of TensorFlow or seqio in a process that only describes a sample."""
  assert set(first_loaders("pretraining", HEAVY)) == {"pretraining.tasks"}
