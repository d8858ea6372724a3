"""Runs the commands of tutorial.md and of README.md again and writes what they print into the pages:
`python docs/make_tutorial.py`, with the `dev` extra installed.

A block ```console has commands, which begin with `$`, each with what it prints on standard output. A block ```python
whose first line is a comment with a file's name is saved as that file. All of a page's blocks run in one folder, which
the pages call /home/you. README.md shows C4 and a Flan-T5; its commands run on a sample of C4, if that is there, with
the demo rater in the model's place, as the page says.
"""

import contextlib
import io
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from curation.demo import rater
from pipelines import main

PROJECT = pathlib.Path(__file__).resolve().parent.parent
TUTORIAL, README = PROJECT / "docs/tutorial.md", PROJECT / "README.md"
C4_SAMPLE = "data/c4/c4_en_1445.jsonl.gz"
HOME = "/home/you"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)
# Times and speeds differ from run to run.
TIME = re.compile(r"\b\d+:\d\d:\d\d\b|[\d,.]+ ?(?:ms|s|min|seconds|minutes)\b|[\d,.]+(?: (?:documents|tokens))?/s\b")
FRACTION = re.compile(r"\d[\d,]*\.\d+(?:e-?\d+)?")
TOLERANCE = 1e-3  # processors round differently


class Step(NamedTuple):
  """A command of a page, the output that the page shows, and the place of that output in the page."""

  command: str
  shown: str
  start: int
  end: int


def prepare(page: pathlib.Path, folder: pathlib.Path, c4_sample: pathlib.Path | None) -> None:
  """Puts what a page takes as given into the folder where its commands run."""
  if page == README:
    assert c4_sample is not None
    shutil.copy(c4_sample, folder / "c4-train.00000.json.gz")
    (folder / "google").mkdir()
    (folder / "google/flan-t5-small").symlink_to(rater.folder())


def run_page(page: pathlib.Path, folder: pathlib.Path) -> list[tuple[Step, str]]:
  """Runs a page's commands in their order; returns each with what it prints. Raises ValueError if one fails."""
  text, results = page.read_text(), []
  for block in BLOCK.finditer(text):
    kind, content = block.groups()
    if kind == "python":
      if named := re.match(r"# (\w+\.py)\n", content):
        (folder / named[1]).write_text(content)
      continue
    for found in COMMAND.finditer(content):
      command = found[1].replace("\\\n", " ").strip()
      place = block.start(2)
      step = Step(command, found[2], place + found.start(2), place + found.end(2))
      results.append((step, run_command(command, folder)))
  return results


def run_command(command: str, folder: pathlib.Path) -> str:
  """Runs a command in the folder and returns its standard output. Raises ValueError if it fails or warns."""
  if command.startswith("winnow "):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
      status = main.main(shlex.split(command)[1:])
    printed, said = output.getvalue(), errors.getvalue()
  else:
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(PROJECT), "LC_ALL": "C"}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    status, printed, said = done.returncode, done.stdout, done.stderr
  if status or "winnow: " in said:
    raise ValueError(f"{command} ended with status {status} and said {said}")
  return re.sub(r" +$", "", printed.replace(str(folder), HOME), flags=re.MULTILINE)


def is_same(shown: str, printed: str) -> bool:
  """Tells whether two outputs agree but for times, speeds, and the last digits of fractions."""
  shown, printed = TIME.sub("TIME", shown), TIME.sub("TIME", printed)
  if FRACTION.split(shown) != FRACTION.split(printed):
    return False
  pairs = zip(FRACTION.findall(shown), FRACTION.findall(printed), strict=True)
  numbers = ((float(one.replace(",", "")), float(other.replace(",", ""))) for one, other in pairs)
  return all(math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for one, other in numbers)


def rewrite(page: pathlib.Path, results: list[tuple[Step, str]]) -> None:
  """Puts the outputs that differ into the page; times alone do not change it."""
  text = page.read_text()
  for step, printed in reversed(results):
    if not is_same(step.shown, printed):
      text = text[: step.start] + printed + text[step.end :]
  page.write_text(text)


if __name__ == "__main__":
  sample = pathlib.Path(os.environ.get("WINNOW_SHARED", PROJECT.parent / "shared")) / C4_SAMPLE
  for each in (TUTORIAL, README):
    if each == README and not sample.exists():
      print(f"README.md stays as it is, because {sample} is not here", file=sys.stderr)
      continue
    with tempfile.TemporaryDirectory() as scratch:
      place_to_run = pathlib.Path(scratch).resolve()
      prepare(each, place_to_run, sample)
      rewrite(each, run_page(each, place_to_run))
