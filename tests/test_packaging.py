"""The wheel, the source archive of Dataflow's --setup_file, and what make says where there is no fit Python."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("curation", "pipelines", "pretraining")


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[zipfile.ZipFile, tarfile.TarFile]:
  """The project, built by `setup.py` in a folder of its own, so that nothing is left in the working tree."""
  source = tmp_path_factory.mktemp("source")
  for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
    shutil.copy(PROJECT / name, source)
  for name in (*PACKAGES, "recipes", "tests"):
    shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
  (source / "demo-output").mkdir()
  (source / "demo-output" / "module.py").touch()
  command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "sdist"]
  subprocess.run(command, cwd=source, check=True, capture_output=True)
  (wheel,) = (source / "dist").glob("*.whl")
  (archive,) = (source / "dist").glob("*.tar.gz")
  return zipfile.ZipFile(wheel), tarfile.open(archive)


def test_wheel_holds_the_packages_whole_and_nothing_else(archives):
  """Kills: a list of packages that leaves out a folder or the recipes, or takes in tests and what a demo left."""
  files = {name for name in archives[0].namelist() if ".dist-info/" not in name}
  sources = {
    (pathlib.Path(inside) / file.relative_to(PROJECT / folder)).as_posix()
    for folder, inside in [*zip(PACKAGES, PACKAGES, strict=True), ("recipes", "pipelines/shipped_recipes")]
    for file in (PROJECT / folder).rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
  }
  assert files == sources


def test_wheel_brings_the_command_and_the_licence(archives):
  (info,) = {name.partition("/")[0] for name in archives[0].namelist() if ".dist-info/" in name}
  scripts = configparser.ConfigParser()
  scripts.read_string(archives[0].read(f"{info}/entry_points.txt").decode())
  assert dict(scripts["console_scripts"]) == {"winnow": "pipelines.main:main"}
  assert archives[0].read(f"{info}/licenses/LICENSE") == (PROJECT / "LICENSE").read_bytes()


def test_metadata_leads_nobody_to_the_nightly_builds(archives):
  """Kills: t5 among an extra's requirements, from where pip follows it to seqio-nightly and tfds-nightly."""
  (metadata,) = (name for name in archives[0].namelist() if name.endswith(".dist-info/METADATA"))
  lines = archives[0].read(metadata).decode().splitlines()
  required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
  assert any(line.startswith("seqio") and "extra ==" in line for line in required)
  assert not [line for line in required if line.startswith("t5") or "nightly" in line]


def test_source_archive_can_be_built_again(archives):
  """Kills: a setup.py or pyproject.toml that stays behind, without which Dataflow's workers install nothing."""
  names = {name.partition("/")[2] for name in archives[1].getnames()}
  assert {
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "pipelines/main.py",
    "pipelines/shipped_recipes/d4.yaml",
  } <= names


@pytest.mark.parametrize("python", ["false", "no-such-python", "./python3.10", "./python3.14"])
def test_make_says_which_python_it_needs(tmp_path, python):
  """Kills: a traceback of an old Python's pip, and a `.venv` half made."""
  if not shutil.which("make"):
    pytest.skip("make is not installed")
  for name in ("Makefile", "pyproject.toml", "requirements.lock", "setup.py"):
    shutil.copy(PROJECT / name, tmp_path)
  for minor in (10, 14):
    unfit = tmp_path / f"python3.{minor}"
    lie = f"import sys; sys.version_info = (3, {minor}); exec(sys.argv[1])"
    unfit.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{lie}' \"$2\"\n")
    unfit.chmod(0o755)
  # Not as a child of the `make` that runs this.
  environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
  command = ["make", "test", f"PYTHON={python}"]
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
  assert result.returncode == 2
  said = [line for line in result.stderr.splitlines() if not line.startswith("make:")]
  assert len(said) == 1 and f"{python} is not a Python from 3.11 to 3.13" in said[0] and "make PYTHON=" in said[0]
  assert not (tmp_path / ".venv").exists()


def test_make_lets_uv_trust_the_systems_certificates():
  """Kills: a setting by a name that the locked uv does not know, so that nothing installs behind a company's proxy."""
  (name,) = re.findall(r"^export (UV_\w+) \?= true$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
  command = [pathlib.Path(sys.executable).with_name("uv"), "help", "pip", "install"]
  told = subprocess.run(command, capture_output=True, text=True).stdout
  (option,) = re.findall(r" --system-certs\n(.*?)\n +--", told, re.DOTALL)
  assert f"[env: {name}=" in " ".join(option.split())
