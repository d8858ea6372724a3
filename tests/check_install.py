"""`make check-install`: what a user gets who installs the wheel, without the lock and without any extra.

Builds the wheel, installs it by its metadata into bare environments outside the checkout, with the newest and with the
lowest versions that it declares, and runs commands there. A Python that is not on this machine is named and left out.
With --sizes it only installs, without an extra and with t5, and prints what that takes on a disk.
"""

import contextlib
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures

PROJECT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("curation", "pipelines", "pretraining")
UV = str(pathlib.Path(sys.executable).parent / "uv")
# (Python, which versions of the direct dependencies)
ENVIRONMENTS = (("3.11", "highest"), ("3.11", "lowest-direct"), ("3.13", "highest"))
# What these import comes with the extra t5 and with t5.
OF_TRAINING = ["pretraining.tasks"]
IMPORTS = f"""
import importlib, pathlib, pkgutil, sys
failed = []
for package in map(importlib.import_module, {PACKAGES}):
  assert pathlib.Path(package.__file__).is_relative_to(sys.prefix), f"{{package.__file__}} is not the installed one"
  for module in pkgutil.walk_packages(package.__path__, f"{{package.__name__}}."):
    try:
      if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
      failed.append(module.name)
      print(module.name, error, file=sys.stderr)
assert failed == {OF_TRAINING}, failed
assert not [name for name in ("pandas", "seqio", "tensorflow") if importlib.util.find_spec(name)]
"""


def main() -> None:
  with tempfile.TemporaryDirectory(prefix="winnow-install-") as name:
    place = pathlib.Path(name)
    wheel = build(place)
    if "--sizes" in sys.argv[1:]:
      print_sizes(place, wheel)
      return
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      for told in pool.map(lambda kind: check_environment(place, wheel, *kind), ENVIRONMENTS):
        print(told, flush=True)


def check_environment(place: pathlib.Path, wheel: pathlib.Path, version: str, resolution: str) -> str:
  """Installs the wheel into an environment of its own and runs commands there; what came of it."""
  python = find_python(version)
  if python is None:
    return f"NOT CHECKED: there is no Python {version} on this machine"
  start = time.monotonic()
  with folder_for(place, f"{version}-{resolution}") as folder:
    install(folder, python, wheel, resolution)
    check(folder)
  return f"checked: Python {version}, {resolution} versions, {time.monotonic() - start:.0f} s"


def print_sizes(place: pathlib.Path, wheel: pathlib.Path) -> None:
  for extra in ("", "[t5]"):
    with folder_for(place, f"size{extra}") as folder:
      install(folder, pathlib.Path(sys.executable), f"{wheel}{extra}", "highest")
      (packages,) = (folder / "bare/lib").glob("python*/site-packages")
      size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
      print(
        f"{wheel.name}{extra}: {size / 1e9:.2f} GB in {len(list(packages.glob('*.dist-info')))} packages", flush=True
      )


@contextlib.contextmanager
def folder_for(place: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """A folder that is removed once it has served: an environment takes 1.5 GB."""
  folder = place / name
  folder.mkdir()
  yield folder
  shutil.rmtree(folder)


def run(*command: str | os.PathLike[str], folder: pathlib.Path, fails: bool = False) -> str:
  """What a command says on both streams; ends the check where it fails, or with `fails` where it does not."""
  result = subprocess.run(
    command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
  )
  if (result.returncode != 0) != fails:
    told = " ".join(map(str, command))
    sys.exit(f"{result.stdout[-5_000:]}\n{told} ended with status {result.returncode} in {folder}")
  return result.stdout


def environment() -> dict[str, str]:
  """This process's, without what would let the checkout or another environment in."""
  return {
    name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX")
  }


def build(place: pathlib.Path) -> pathlib.Path:
  """The wheel, built of a copy of the sources so that nothing is left among them."""
  source = place / "source"
  source.mkdir()
  for file in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
    shutil.copy(PROJECT / file, source)
  for name in (*PACKAGES, "recipes"):
    shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
  run(UV, "build", "--quiet", "--wheel", "--out-dir", place / "dist", source, folder=place)
  (wheel,) = (place / "dist").glob("*.whl")
  return wheel


def find_python(version: str) -> pathlib.Path | None:
  """A Python of that version that starts; pyenv's stand-ins on the PATH do not for every version that they name."""
  root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
  for candidate in [shutil.which(f"python{version}"), *sorted(glob.glob(f"{root}/versions/{version}.*/bin/python"))]:
    if (
      candidate is not None
      and subprocess.run([candidate, "-c", "import ssl, venv"], capture_output=True).returncode == 0
    ):
      return pathlib.Path(candidate)
  return None


def install(folder: pathlib.Path, python: pathlib.Path, wheel: str | pathlib.Path, resolution: str) -> None:
  run(UV, "venv", "--quiet", "--python", python, "bare", folder=folder)
  bare = ["--quiet", "--python", folder / "bare/bin/python"]
  run(UV, "pip", "install", *bare, f"--resolution={resolution}", wheel, folder=folder)
  run(UV, "pip", "check", *bare, folder=folder)


def check(folder: pathlib.Path) -> None:
  """Runs commands as a user types them, in a folder that holds nothing else."""
  python, winnow = folder / "bare/bin/python", folder / "bare/bin/winnow"
  run(python, "-c", IMPORTS, folder=folder)
  assert "--scorer" in run(winnow, "score", "--help", folder=folder)
  run(winnow, "demo", folder=folder)
  drawn = ("--input=demo-output/corpus/*", "--scores=scores", "--rate=0.1", "--output=drawn")
  run(winnow, "curate", "--recipe=paper/random", *drawn, folder=folder)
  assert "paper/ask_llm_xl" in run(winnow, "curate", "--recipe=paper/none", *drawn, folder=folder, fails=True)
  outputs = "--output=demo-output/sample,demo-output/sample_density"
  run(winnow, "report", "--scores=demo-output/scores", outputs, "--report=report", folder=folder)
  run(winnow, "verify", "demo-output/sample", folder=folder)
  for file in (
    "drawn/manifest.json",
    "report/report.html",
    "demo-output/report/report.html",
    "demo-output/sample/dataset_info.json",
  ):
    assert (folder / file).stat().st_size, file
  told = run(python, "-m", "pretraining.plan", "drawn", folder=folder).split("--gin_file=")[1].split()[0]
  assert pathlib.Path(told).is_file() and pathlib.Path(told).is_relative_to(folder / "bare"), told


if __name__ == "__main__":
  main()
