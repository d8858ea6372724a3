import json
import os
import socket
import subprocess
import sys
import threading
import time

from pipelines import progress

STRAY = [
  b"",
  b"\xff",
  b"{",
  b"[" * 1000,
  b"7",
  b"null",
  b"{}",
  b'{"stage": ["score"], "documents": 1, "tokens": 1, "process": 1}',
  b'{"stage": "score", "documents": "1", "tokens": 1, "process": 1}',
  b'{"stage": "score", "documents": NaN, "tokens": 1, "process": 1}',
  b'{"stage": "score", "documents": 1, "tokens": 1}',
  b'{"stage": "other", "documents": 1, "tokens": 1, "process": 1}',
  b"x" * 2000,
]


def test_stray_datagrams_are_passed_over():
  """Kills the mutant whose receiving thread dies of the first that is not ours."""
  stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
  with progress.Meter({"score": 10}) as meter:
    for datagram in STRAY:
      stranger.sendto(datagram, meter.address)
      progress.report(meter.address, stage="score", documents=1, tokens=2)
  assert meter.documents_by_process == {"score": {os.getpid(): len(STRAY)}}


def test_what_was_sent_before_the_end_is_counted():
  """Kills the mutants: the receiver stops at once; it reads one more."""
  with progress.Meter({"score": None, "write": None}) as meter:
    for _ in range(100):
      progress.report(meter.address, stage="score", documents=1)
      progress.report(meter.address, stage="write", documents=2)
  assert meter.documents_by_process == {"score": {os.getpid(): 100}, "write": {os.getpid(): 200}}


def test_the_end_does_not_wait_for_datagrams_to_cease():
  """Kills the mutant that looks for it only when none came for a while."""
  message = json.dumps({"stage": "score", "documents": 1, "tokens": 0, "process": 1})
  script = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
  script += "while True: s.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))"
  with progress.Meter({"score": None}) as meter:
    flood = subprocess.Popen([sys.executable, "-c", script, str(meter.address[1]), message], stderr=subprocess.DEVNULL)
    guard = threading.Timer(20, flood.kill)
    guard.start()
    while not meter.documents_by_process["score"]:
      time.sleep(0.01)
    started = time.monotonic()
  seconds = time.monotonic() - started
  guard.cancel()
  flood.kill()
  flood.wait()
  assert seconds < 5
