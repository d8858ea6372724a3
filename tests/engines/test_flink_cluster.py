"""The cluster of `make cluster-up`: its processes, where they listen, and that none outlives it."""

import os
import signal
import time

import engines
import processes
import psutil
import pytest
from flink_cluster import Cluster

pytestmark = pytest.mark.long


@pytest.fixture
def cluster(tmp_path):
  engines.need_flink()
  cluster = Cluster(tmp_path)
  cluster.up()
  yield cluster
  cluster.down()


def processes_of(cluster: Cluster) -> list[psutil.Process]:
  return [psutil.Process(entry["id"]) for entry in cluster.state["processes"]]


def until(holds) -> bool:
  """Waits at most a minute."""
  deadline = time.monotonic() + 60
  while not (met := holds()) and time.monotonic() < deadline:
    time.sleep(0.2)
  return met


def test_flink_has_two_task_managers_and_gets_another_for_one_that_dies(cluster):
  """Kills the mutant whose heartbeat is Flink's own, which misses a dead TaskManager for 50 s."""
  assert cluster.ask("/overview")["taskmanagers"] == cluster.registered() == 2
  first, second = cluster.task_managers()
  first.send_signal(signal.SIGKILL)
  assert until(lambda: cluster.registered() == 1)
  assert cluster.task_managers() == [second]
  cluster.start_task_manager()
  assert until(lambda: cluster.registered() == 2)


def test_flink_listens_on_the_loopback_alone_and_is_gone_afterwards(cluster):
  ours = processes_of(cluster)
  assert len(ours) == 4
  listening = [
    connection.laddr.ip
    for process in ours
    for connection in process.net_connections("inet")
    if connection.status == psutil.CONN_LISTEN
  ]
  assert len(listening) >= 4
  assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
  stranger = psutil.Process(os.getpid())
  with pytest.raises(SystemExit, match="is up already"):
    cluster.up()
  cluster.down()
  assert not list(filter(processes.is_alive, ours))
  assert stranger.is_running() and not cluster.state
