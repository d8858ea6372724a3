"""Running commands in a folder, and what they leave there."""

import json
import os
import pathlib

from pipelines import main


def run_in(folder: pathlib.Path, arguments: list[str]) -> int:
  folder.mkdir(exist_ok=True)
  before = os.getcwd()
  os.chdir(folder)
  try:
    return main.main(arguments)
  finally:
    os.chdir(before)


def content(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file below a run's folder but its logs."""
  files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
  return {name: data for name, data in files.items() if "/log/" not in f"/{name}"}


def logs(folder: pathlib.Path) -> list[dict]:
  return [json.loads(path.read_text()) for path in sorted((folder / "log").iterdir(), key=lambda p: p.stat().st_mtime)]
