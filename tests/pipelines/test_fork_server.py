"""The process that the local runner's workers are forked from."""

import json
import os
import pathlib

import processes
import pytest
from running import run_in

from pipelines import fork_server

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


def test_workers_find_the_launchers_modules(folder):
  """Kills the mutant that looks in the working directory first, where a user may have a `pipelines` of their own."""
  for package in ("pipelines", "curation", "apache_beam"):
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(BROKEN)
  assert sample(folder) == 0


def test_all_pipelines_of_a_process_have_one_server(folder):
  """Kills the mutants: a server for each pipeline, which takes seconds; workers that stay."""
  assert sample(folder) == 0
  server = fork_server.start()
  assert sample(folder, "--seed=1", "--overwrite") == 0
  assert fork_server.start() is server and server.is_alive
  assert processes.local_workers(os.getpid()) == []


def test_a_worker_has_what_its_request_says(tmp_path, monkeypatch):
  """Kills the mutants: the server's variables, folder or standard error; an exit status of its own."""
  server = fork_server.ForkServer()
  (tmp_path / "options").write_text("no JSON")
  monkeypatch.chdir(tmp_path)
  with open("errors", "wb") as errors:
    pid = server.fork({"PIPELINE_OPTIONS_FILE": "options"}, errors.fileno())
    assert server.wait(pid) == 1
  assert "JSONDecodeError: Expecting value" in pathlib.Path("errors").read_text()
