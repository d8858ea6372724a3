"""What is installed is what requirements.lock says, and what gets imported is what is installed.

t5 asks for seqio-nightly and a tfds-nightly of 2023, which install into the folders of seqio and tensorflow-datasets;
the one that comes last wins. docs/install.md has the way around it.
"""

import ast
import base64
import functools
import hashlib
import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = pathlib.Path(__file__).resolve().parent.parent
# Module -> the distribution that it must come from.
MEANT = {
  "seqio": "seqio",
  "tensorflow_datasets": "tensorflow-datasets",
  "sentencepiece": "sentencepiece",
  "t5": "t5",
}
MEND = "make the environment anew: `make clean`, then `make test`"


@functools.cache
def locked_versions() -> dict[str, str]:
  lock = (PROJECT / "requirements.lock").read_text()
  return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))


@functools.cache
def project() -> dict:
  return tomllib.loads((PROJECT / "pyproject.toml").read_text())


@functools.cache
def distributions() -> dict[str, importlib.metadata.Distribution]:
  found: dict[str, importlib.metadata.Distribution] = {}
  for distribution in importlib.metadata.distributions():
    found.setdefault(canonicalize_name(distribution.name), distribution)
  return found


@pytest.mark.parametrize("module_name", MEANT)
def test_imported_module_is_the_locked_one(module_name):
  """Kills: sentencepiece 0.2.2 (seqio then fails to import), and a module of that name elsewhere on the path."""
  distribution = distributions()[MEANT[module_name]]
  assert distribution.version == locked_versions()[MEANT[module_name]], MEND
  module_file = pathlib.Path(importlib.import_module(module_name).__file__ or "").resolve()
  assert module_file in {pathlib.Path(str(file.locate())).resolve() for file in distribution.files or []}


@pytest.mark.parametrize("module_name", MEANT)
def test_module_has_the_files_of_one_distribution(module_name):
  """Kills: a nightly installed over it, even where the nightly's metadata is gone again: its files stay."""
  assert set(importlib.metadata.packages_distributions()[module_name]) == {MEANT[module_name]}, MEND
  recorded = {}
  for file in distributions()[MEANT[module_name]].files or []:
    if file.parts[0] == module_name and file.suffix == ".py":
      assert file.hash and file.hash.mode == "sha256", file
      recorded[pathlib.Path(str(file.locate()))] = file.hash.value
  folder = min(recorded, key=lambda file: len(file.parts)).parent
  assert set(folder.rglob("*.py")) == set(recorded), MEND
  changed = [file for file, digest in recorded.items() if _digest(file) != digest]
  assert not changed, MEND


def _digest(file: pathlib.Path) -> str:
  return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")


def test_no_nightly_and_one_tensorflow():
  """Kills: the lock made without `exclude-dependencies`, and tensorflow-cpu beside tensorflow."""
  for names in (set(distributions()), set(locked_versions())):
    assert not {name for name in names if "nightly" in name}, MEND
    assert names & {"tensorflow", "tensorflow-cpu", "tensorflow-gpu", "intel-tensorflow"} == {"tensorflow"}


def requirements() -> Iterator[Requirement]:
  """What pyproject.toml asks for, for developers: all that the lock must hold."""
  metadata = project()["project"]
  extras = metadata["optional-dependencies"]
  groups = project()["dependency-groups"]
  for line in [*metadata["dependencies"], *extras["dev"], *extras["t5"], *groups["span-corruption"]]:
    yield Requirement(line)


def test_lock_is_in_step_with_pyproject():
  """Kills: a requirement added or narrowed in pyproject.toml without `make lock`."""
  missing = {str(r) for r in requirements() if canonicalize_name(r.name) not in locked_versions()}
  assert not missing, "run `make lock`"
  stale = {str(r) for r in requirements() if not r.specifier.contains(locked_versions()[canonicalize_name(r.name)])}
  assert not stale, "run `make lock`"


def test_lock_names_hashes_and_no_address():
  """Kills: a lock made without --generate-hashes, or with the address of the index that one machine uses."""
  lock = (PROJECT / "requirements.lock").read_text()
  unhashed = re.findall(r"^([a-z0-9-]+)==\S+(?! \\\n    --hash=sha256:)(?:\n|$)", lock, re.MULTILINE)
  assert not unhashed
  assert "://" not in lock and "--index" not in lock and "--find-links" not in lock


@functools.cache
def module_owners() -> dict[str, str]:
  """Importable path, such as google/api_core, -> the distribution that brings it."""
  owners = {}
  for name, distribution in distributions().items():
    for file in distribution.files or []:
      if file.suffix in (".py", ".so"):
        owners[file.parent.as_posix() if file.name == "__init__.py" else str(file.with_name(file.stem))] = name
  return owners


def imported_names(file: pathlib.Path) -> Iterator[str]:
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def owner_of(name: str) -> str | None:
  path = pathlib.PurePosixPath(*name.split("."))
  return next((owner for part in (path, *path.parents) if (owner := module_owners().get(str(part)))), None)


@pytest.mark.parametrize(
  "folders", [("curation", "pipelines", "dataflow_templates"), ("pretraining", "tests")], ids=" ".join
)
def test_every_imported_package_is_declared(folders):
  """Kills: an import that works only because another package happens to bring the library."""
  files = [file for folder in folders for file in (PROJECT / folder).rglob("*.py")]
  benchmarks = (PROJECT / "benchmarks").glob("*.py")  # on the path of the tests, too
  ours = {"curation", "pipelines", "pretraining", "dataflow_templates"} | {file.stem for file in (*files, *benchmarks)}
  imported = {
    name: file.name
    for file in files
    for name in imported_names(file)
    if name.partition(".")[0] not in ours | sys.stdlib_module_names
  }
  runtime = map(Requirement, project()["project"]["dependencies"])
  declared = {canonicalize_name(r.name) for r in (requirements() if "tests" in folders else runtime)}
  assert {name: file for name, file in imported.items() if owner_of(name) not in declared} == {}


# Imports a module where the named ones are as if they were not installed.
BARE = """
import importlib, importlib.abc, sys
refused = set(sys.argv[2].split())
class Refuse(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name in refused:
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
importlib.import_module(sys.argv[1])
"""


def brought(names: Iterator[Requirement]) -> set[str]:
  """The distributions that requirements bring along, as pip would follow them here."""
  found: set[tuple[str, str]] = set()
  waiting = [(canonicalize_name(r.name), extra) for r in names for extra in ("", *r.extras)]
  while waiting:
    name, extra = waiting.pop()
    if (name, extra) in found or name not in distributions():
      continue
    found.add((name, extra))
    for requirement in map(Requirement, distributions()[name].requires or []):
      if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
        waiting += [(canonicalize_name(requirement.name), of) for of in ("", *requirement.extras)]
  return {name for name, _ in found}


@pytest.mark.parametrize("module", ["pipelines.demo", "pipelines.report"])
def test_commands_start_with_what_is_declared_alone(module):
  """Kills: pyarrow's `to_pandas_dtype` at the top of a module, which wants pandas, and pandas comes with t5 alone."""
  known = brought(map(Requirement, project()["project"]["dependencies"]))
  owners = importlib.metadata.packages_distributions()
  refused = [name for name, of in owners.items() if not {canonicalize_name(o) for o in of} & known]
  assert {"pandas", "pytest", "t5"} <= set(refused)
  refused = [name for name in refused if name not in ("curation", "pipelines", "pretraining")]
  result = subprocess.run(
    [sys.executable, "-c", BARE, module, " ".join(refused)], cwd=PROJECT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
