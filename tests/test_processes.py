import json
import signal
import subprocess
import sys

import processes
import psutil
import pytest
from flink_cluster import Cluster


def test_a_zombie_is_no_living_process_and_asks_nothing_of_who_walks_the_tree():
  """Kills the mutants: a walk that raises psutil.ZombieProcess; one that counts what has ended."""
  ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
  assert ended.stdout.read() == b""  # closed as it ends
  zombie = psutil.Process(ended.pid)
  while zombie.status() != psutil.STATUS_ZOMBIE:
    pass
  with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as waiting:
    try:
      assert zombie not in processes.children() and processes.command_line(zombie) == ""
      assert psutil.Process(waiting.pid) in processes.children()
      assert "input()" in processes.command_line(psutil.Process(waiting.pid))
      assert processes.resident_bytes(waiting.pid) > processes.resident_bytes(ended.pid) == 0
    finally:
      waiting.communicate(b"\n")
  ended.wait()
  assert not processes.is_alive(zombie) and processes.command_line(zombie) == ""
  assert processes.children(ended.pid) == [] and processes.resident_bytes(ended.pid) == 0


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"

PARENT = """
import signal, subprocess
children = [subprocess.Popen(["sleep", "600"]) for _ in range(20)]
print(flush=True)
signal.pause()
"""


@pytest.fixture
def stubborn():
  """Yields a process that ignores SIGTERM."""
  with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b"\n"
    yield process
    process.kill()


def test_processes_are_ended_though_some_of_them_end_meanwhile(stubborn):
  """Kills the mutants: one that has ended stops the others' end; one that ignores SIGTERM stays."""
  gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
  seen = psutil.Process(gone.pid)
  gone.communicate(b"\n")
  processes.end([seen, psutil.Process(stubborn.pid)], 0.2)
  assert stubborn.wait(60) == -signal.SIGKILL


def test_a_cluster_goes_down_though_its_processes_end_meanwhile(tmp_path, stubborn):
  """A parent that is ended takes its children with it, as a worker pool does. Kills the mutants: a cluster that stays
  up by its record; children that nobody ends; one that ends strangers."""
  parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
  assert parent.stdout.readline() == b"\n"
  above, found = psutil.Process(parent.pid), processes.children(parent.pid)
  assert len(found) == 20
  entry = {"name": "pool", "id": parent.pid, "started": above.create_time(), "log": ""}
  other = {"name": "task manager", "id": stubborn.pid, "started": 1.0, "log": ""}  # its id is another's by now
  state = tmp_path / "state.json"
  state.write_text(json.dumps({"processes": [entry, other]}))
  for child in found[::2]:
    child.kill()
  Cluster(tmp_path).down()
  assert not state.exists() and not any(map(processes.is_alive, found))
  assert not processes.is_alive(above) and stubborn.poll() is None
