"""Progress reports of workers, and their display in a terminal or a log."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipelines.jobs import meter
from pipelines.jobs.durations import duration
from pipelines.worker import progress
from pipelines.worker.progress import Count, Stage

STRAY = [
  b"",
  b"\xff",
  b"{",
  b"[" * 1000,
  b"7",
  b"null",
  b"{}",
  b'{"run": "RUN", "stage": ["score"], "process": 1, "counts": [1, 0, 0, 1]}',
  b'{"run": "RUN", "stage": "score", "process": 1, "counts": ["1", 0, 0, 1]}',
  b'{"run": "RUN", "stage": "score", "process": 1, "counts": [NaN, 0, 0, 1]}',
  b'{"run": "RUN", "stage": "score", "counts": [1, 0, 0, 1]}',
  b'{"run": "RUN", "stage": "score", "process": 1, "counts": [1, 0, 0]}',
  b'{"run": "RUN", "stage": "other", "process": 1, "counts": [1, 0, 0, 1]}',
  b'{"run": "another", "stage": "score", "process": 1, "counts": [1, 0, 0, 1]}',
  b"x" * 2000,
]


class Hand:
  """A meter whose datagrams and time are given by the test."""

  def __init__(self, *stages: Stage):
    self.meter = meter.Meter(stages)

  def take(self, now: float, stage: str, *, new=0, resumed=0, tokens=0, at_work=1, process=1) -> None:
    message = {"run": self.meter.address.run, "stage": stage, "process": process}
    self.meter._take(json.dumps(message | {"counts": [new, resumed, tokens, at_work]}).encode(), now)

  def lines(self, now: float, capsys) -> list[str]:
    """Returns the lines that are printed at a time, including those of finished stages."""
    capsys.readouterr()
    self.meter._end_stages(now)
    self.meter._print_lines(now)
    return capsys.readouterr().err.splitlines()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
  monkeypatch.setattr(meter, "_cores", lambda: 2)


def test_stray_datagrams_are_passed_over():
  """Kills the mutants: a receiving thread that dies of a foreign datagram; one that accepts another run's datagrams."""
  stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
  with meter.Meter([Stage("score", Count(10, is_exact=True))]) as shown, progress.working(shown.address, "score"):
    for datagram in STRAY:
      datagram = datagram.replace(b"RUN", shown.address.run.encode())
      stranger.sendto(datagram, ("127.0.0.1", shown.address.port))
      progress.report(shown.address, stage="score", documents=1, tokens=2)
  assert shown.documents_by_process == {"score": {os.getpid(): len(STRAY)}}


def test_what_was_sent_before_the_end_is_counted():
  """Kills the mutants: a receiver that stops at once; one that reads one more; totals held back that are never sent."""
  with (
    meter.Meter([Stage("score"), Stage("write")]) as shown,
    progress.working(shown.address, "score"),
    progress.working(shown.address, "write"),
  ):
    for _ in range(100):
      progress.report(shown.address, stage="score", documents=1)
      progress.report(shown.address, stage="write", documents=2)
  assert shown.documents_by_process == {"score": {os.getpid(): 100}, "write": {os.getpid(): 200}}


def test_the_end_does_not_wait_for_datagrams_to_cease():
  """Kills the mutant that checks for the end only when no datagram has come for a while."""
  script = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
  script += "while True: s.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))"
  with meter.Meter([Stage("score")]) as shown:
    message = json.dumps({"run": shown.address.run, "stage": "score", "process": 1, "counts": [1, 0, 0, 1]})
    arguments = [sys.executable, "-c", script, str(shown.address.port), message]
    flood = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    guard = threading.Timer(20, flood.kill)
    guard.start()
    while not shown.documents_by_process["score"]:
      time.sleep(0.01)
    started = time.monotonic()
  seconds = time.monotonic() - started
  guard.cancel()
  flood.kill()
  flood.wait()
  assert seconds < 5


def test_a_report_for_every_batch_is_few_datagrams():
  """Kills the mutant that sends one datagram for each report."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    address = progress.Address(receiver.getsockname()[1], "few")
    started = time.monotonic()
    with progress.working(address, "score"):
      for _ in range(10_000):
        progress.report(address, stage="score", documents=3, tokens=7)
    seconds, received = time.monotonic() - started, []
    while True:
      try:
        received.append(json.loads(receiver.recv(progress.DATAGRAM_BYTES)))
      except BlockingIOError:
        break
  assert received[-1]["counts"] == [30_000, 0, 70_000, 0]
  assert len(received) <= 4 + 20 * seconds


def test_a_block_is_reported_exactly_whatever_its_scorer_tells():
  """Kills: documents of a batch that count again with their block; bad documents that are not counted."""
  with meter.Meter([Stage("score")]) as shown, progress.working(shown.address, "score"):
    block = progress.Block(shown.address, "score")
    block.add(range(5), 70)
    block.add(range(2), 30)
    block.finish(12, 130)
    progress.Block(shown.address, "score").finish(8, 0)
  assert shown.documents_by_process == {"score": {os.getpid(): 20}}
  assert shown._shown["score"].total(2) == 130


def test_a_clock_runs_from_the_first_work_to_the_last(capsys):
  """A run of 113 s on one block. Kills: a clock that starts with the first report; a clock that goes on after its
  stage; "waiting" while work is done."""
  hand = Hand(Stage("scoring", Count(4_000, is_exact=False)), Stage("writing", Count(800, is_exact=False), 100.0))
  assert hand.lines(hand.meter._began + 10, capsys) == ["starting the workers: 0:00:10 so far"]
  hand.take(1_000, "scoring")
  assert hand.lines(1_010, capsys) == ["scoring: 0:00:10 so far"]
  hand.take(1_113, "scoring", new=4_000, tokens=452_000)
  assert hand.lines(1_113, capsys) == ["scoring: 4,000 documents, 35.4/s, 4,000 tokens/s"]
  hand.take(1_113, "scoring", new=4_000, tokens=452_000, at_work=0)
  hand.take(1_120, "writing")
  over = "scoring: 4,000 documents in 0:01:53, 35.4/s, 4,000 tokens/s"
  assert hand.lines(1_130, capsys) == [over, "writing: 0:00:10 so far"]
  hand.take(1_900, "writing", new=400)
  assert hand.lines(1_900, capsys) == ["writing: 400 of ~800 documents (50%), 0.5/s; about 0:13:00 left"]
  assert len(hand.lines(1_901, capsys)) == 1


def test_the_speed_is_of_new_documents(capsys):
  """Kills: a speed of 1,445,000/s from resumed documents; a share of only the remaining documents."""
  hand = Hand(Stage("scoring", Count(10_000, is_exact=True)))
  hand.take(50, "scoring", resumed=5_000, at_work=0)  # before the model is loaded
  assert hand.meter._shown["scoring"].figures(50) == (
    "5,000 of 10,000 documents (50%), 5,000 of them done by an earlier run"
  )
  hand.take(100, "scoring", resumed=5_000)
  hand.take(110, "scoring", new=100, resumed=5_000)
  assert hand.lines(110, capsys) == [
    "scoring: 5,100 of 10,000 documents (51%), 5,000 of them done by an earlier run, 10.0/s; about 0:08:10 left"
  ]


def test_the_time_left_is_the_whole_commands(capsys):
  """Kills: the time of only the current stage; a stage of unknown speed that counts as no time."""
  stages = [
    Stage("embedding", Count(1_000, is_exact=True)),
    Stage("sketch", Count(1_000, is_exact=True), 5.0),  # by one of two cores
    Stage("asking", Count(1_000, is_exact=True)),
  ]
  for some, told in ((stages[:1], "about 0:00:10"), (stages[:2], "about 0:01:50"), (stages, "at least 0:01:50")):
    hand = Hand(*some)
    hand.take(100, "embedding")
    hand.take(190, "embedding", new=900)
    assert hand.lines(190, capsys)[-1].endswith(f"10.0/s; {told} left")


def test_nothing_is_whole_before_the_end(capsys):
  """Kills: 100% of an estimate that was too low, or before the stage is over; a share that is rounded up to 100%."""
  hand = Hand(Stage("scoring", Count(1_000, is_exact=False)))
  hand.take(100, "scoring")
  for new, told in ((999, "999 of ~1,000 documents (99%)"), (1_000, "1,000 documents"), (1_200, "1,200 documents")):
    hand.take(200, "scoring", new=new)
    (line,) = hand.lines(200, capsys)
    assert line.startswith(f"scoring: {told}, {new / 100:.1f}/s") and "100%" not in line


def test_stages_in_turn_keep_their_own_time(capsys):
  """Two outputs that are drawn in turn. Kills: a stage that counts the time of others, or not its own pause."""
  hand = Hand(Stage("select"), Stage("write"))
  for now, stage, new, at_work in (
    (0, "select", 0, 1),
    (10, "select", 100, 0),
    (15, "select", 100, 1),  # the next shard
    (20, "select", 200, 0),
    (20, "write", 0, 1),
    (120, "write", 10, 0),
    (120, "select", 200, 1),
    (130, "select", 300, 0),
  ):
    hand.take(1_000 + now, stage, new=new, at_work=at_work)
  assert hand.meter._shown["select"].clock.seconds(2_000) == 30
  assert hand.meter._shown["write"].clock.seconds(2_000) == 100


def test_processes_add_up_and_their_clock_is_one():
  """Kills the mutants: totals of only the latest process; a clock that stops with the first process."""
  hand = Hand(Stage("score", Count(100, is_exact=True)))
  for process in (1, 2):
    hand.take(process, "score", process=process)
    hand.take(10 * process, "score", new=10 * process, at_work=0, process=process)
  assert hand.meter.documents_by_process == {"score": {1: 10, 2: 20}}
  assert hand.meter._shown["score"].clock.seconds(100) == 19


def test_stages_of_a_recipe_are_told_apart():
  stages = [Stage("stage 2 of 3: embedding"), Stage("embedding")]
  with meter.Meter(stages, recipe_stages=3) as shown, progress.working(shown.address.within(2), "embedding"):
    progress.report(shown.address.within(2), stage="embedding", documents=4)
  assert shown.documents_by_process == {"stage 2 of 3: embedding": {os.getpid(): 4}, "embedding": {}}


def test_a_terminal_has_a_bar_and_in_the_end_what_each_stage_took():
  """Kills: a stage whose line never goes away; a stage that is drawn before it begins."""
  script = """
import time
from pipelines.jobs import meter
from pipelines.worker import progress
from pipelines.worker.progress import Count, Stage
stages = [Stage("scoring", Count(40, is_exact=False)), Stage("splitting"), Stage("writing", Count(10, is_exact=True))]
with meter.Meter(stages) as shown:
  for stage in ("scoring", "writing"):
    with progress.working(shown.address, stage):
      progress.report(shown.address, stage=stage, documents=10)
      while not (shown._shown[stage].was_shown and shown._shown[stage].passed):
        time.sleep(0.01)
      shown._shown[stage].was_shown = False  # once more, with the documents
      while not shown._shown[stage].was_shown:
        time.sleep(0.01)
"""
  main, other = pty.openpty()
  with subprocess.Popen([sys.executable, "-c", script], stderr=other) as process:
    os.close(other)
    seen = b""
    with pytest.raises(OSError):  # the terminal is closed
      while True:
        seen += os.read(main, 1 << 16)
  assert process.wait() == 0
  os.close(main)
  text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
  assert "scoring ━" in text and "10 of ~40 documents (25%)" in text
  for stage in ("scoring", "writing"):
    assert re.search(rf"\b{stage}: 10 documents in [\d:]+, [\d.,]+/s *\r\n", text), text
  assert "splitting" not in text and "100%" not in text


@pytest.mark.parametrize(
  ("seconds", "told"),
  [
    (0, "0:00:00"),
    (-3, "0:00:00"),
    (59.6, "0:01:00"),
    (86_399, "23:59:59"),
    (86_400, "1 day 0:00:00"),
    (3 * 86_400 + 4 * 3600 + 5 * 60 + 6, "3 days 4:05:06"),
    (1_000 * 86_400, "1,000 days 0:00:00"),
  ],
)
def test_durations_do_not_wrap_at_a_day(seconds, told):
  """Kills the mutant that formats a duration as a time of day."""
  assert duration(seconds) == told
