import subprocess
import sys

import processes
import psutil


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
