"""The process from which the local runner's workers are forked."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import processes
import pytest
from running import run_in

from pipelines.runners import fork_server

PROJECT = pathlib.Path(__file__).parents[3]
pytestmark = pytest.mark.local_runner
BROKEN = 'raise ImportError("a package of the folder where the command was started")\n'


def sample(folder: pathlib.Path, *more: str) -> int:
  command = ["sample", "--sampler=random", "--rate=0.5", f"--input={folder}/corpus/*", "--output=out", "--num_shards=2"]
  return run_in(folder, [*command, "--direct_num_workers=2", *more])


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  (tmp_path / "corpus").mkdir()
  for shard in range(4):
    lines = [json.dumps({"text": f"the stone {shard} {row}"}) for row in range(500)]
    (tmp_path / f"corpus/{shard}.jsonl").write_text("\n".join(lines))
  return tmp_path


def test_workers_find_the_launchers_modules(folder, monkeypatch):
  """Kills the mutants: the working directory first in the path, where a user may have another `pipelines`; a launcher
  that hangs if its path holds objects that JSON cannot encode."""
  monkeypatch.setattr(sys, "path", [*sys.path, folder])
  for package in ("pipelines", "curation", "apache_beam"):
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(BROKEN)
  assert sample(folder) == 0


def test_all_pipelines_of_a_process_have_one_server(folder):
  """Kills the mutants: a server for each pipeline, which takes seconds; workers that do not end."""
  assert sample(folder) == 0
  server = fork_server.start()
  assert sample(folder, "--seed=1", "--overwrite") == 0
  assert fork_server.start() is server and server.is_alive
  assert processes.local_workers(os.getpid()) == []


def test_a_worker_has_what_its_request_says(tmp_path, monkeypatch):
  """Kills the mutants: variables, folder or standard error of the server; an exit status that is not the worker's."""
  server = fork_server.ForkServer()
  (tmp_path / "options").write_text("no JSON")
  monkeypatch.chdir(tmp_path)
  with open("errors", "wb") as errors:
    pid = server.fork({"PIPELINE_OPTIONS_FILE": "options"}, errors.fileno())
    assert server.wait(pid) == 1
  assert "JSONDecodeError: Expecting value" in pathlib.Path("errors").read_text()


def test_a_launcher_without_standard_streams_whose_folder_is_gone(folder):
  """Kills the mutants: sockets with the numbers of closed streams; a folder that is passed by name."""
  gone, marker = folder / "gone", folder / "status"
  gone.mkdir()
  command = ["sample", "--sampler=random", "--rate=0.5", f"--input={folder}/corpus/*", f"--output={folder}/out"]
  program = f"import sys; from pipelines import main; sys.exit(main.main({[*command, '--direct_num_workers=2']}))"
  shell = f"rmdir {gone}; {shlex.quote(sys.executable)} -P -c {shlex.quote(program)} <&- >&- 2>&-; echo $? > {marker}"
  subprocess.run(["sh", "-c", shell], cwd=gone, env=os.environ | {"PYTHONPATH": str(PROJECT)})
  assert marker.read_text() == "0\n"
  assert (folder / "out/manifest.json").exists()


def test_what_ended_a_server_is_told(monkeypatch):
  """Kills the mutants: a server that ends silently; a launcher that waits for the answer of a dead server."""
  monkeypatch.setattr(fork_server, "_SERVE", "raise MemoryError('no room')")
  server = fork_server.ForkServer()
  with pytest.raises(ConnectionError, match="its parent process ended with 1, MemoryError: no room"):
    server.wait(1)
