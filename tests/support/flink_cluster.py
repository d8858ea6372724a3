"""A Flink cluster on this machine's loopback: a JobManager, TaskManagers of one slot, and a worker pool for Python.

Each is a process of its own, as on a cluster of several machines; `make cluster-up` and `make cluster-down` run this
file, and the tests use it. Flink comes from the package `apache-flink-libraries`, which has its jars but none of its
scripts, so this file does what those would do, and sets the memory of each JVM.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

import processes
import psutil

ENGINES = pathlib.Path(__file__).resolve().parent.parent.parent / ".engines"
FLINK, STATE = ENGINES / "flink" / "pyflink", ENGINES / "cluster"
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# From Flink's own configuration for Java 17: the packages that its serializers and its memory management access.
_CONCURRENT = ("util.concurrent", "util.concurrent.atomic")
_OPENED = ("lang", "lang.reflect", "io", "net", "nio", "text", "time", "util", *_CONCURRENT)
_JAVA = [
  *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED),
  "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
  "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
]
_HEAP_MB, _NETWORK_MB = 512, 64
_START_SECONDS, _END_SECONDS = 60.0, 10.0


class Cluster:
  """The processes of one cluster, which outlive this one: their ids are in `folder`."""

  def __init__(self, folder: pathlib.Path = STATE):
    self._folder = folder

  @property
  def state(self) -> dict[str, Any]:
    path = self._folder / "state.json"
    return json.loads(path.read_text()) if path.exists() else {}

  @property
  def flags(self) -> list[str]:
    """The flags that run a command on this cluster."""
    return [
      "--runner=FlinkRunner",
      f"--flink_master={self.state['master']}",
      "--environment_type=EXTERNAL",
      f"--environment_config={self.state['pool']}",
      f"--parallelism={len(self.task_managers())}",
    ]

  def up(self, task_managers: int = 2) -> None:
    """Starts all processes and waits until the JobManager has every TaskManager."""
    if any(map(_alive, self.state.get("processes", []))):
      raise SystemExit(f"a cluster is up already at {self.state['master']}: make cluster-down ends it")
    if not FLINK.is_dir():
      raise SystemExit(f"there is no Flink in {FLINK}: make cluster-up installs it")
    self._folder.mkdir(parents=True, exist_ok=True)
    rpc, rest, pool = free_ports(3)
    settings = {
      "jobmanager.rpc.address": "127.0.0.1",
      "jobmanager.rpc.port": rpc,
      "jobmanager.bind-host": "127.0.0.1",
      "rest.address": "127.0.0.1",
      "rest.bind-address": "127.0.0.1",
      "rest.port": rest,
      "taskmanager.host": "127.0.0.1",
      "taskmanager.bind-host": "127.0.0.1",
      "taskmanager.numberOfTaskSlots": 1,
      "restart-strategy.type": "fixed-delay",
      "restart-strategy.fixed-delay.attempts": 3,
      "restart-strategy.fixed-delay.delay": "1 s",
      "heartbeat.interval": 1000,
      "heartbeat.timeout": 5000,
      "io.tmp.dirs": str(self._folder),
    }
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
    (self._folder / "config.yaml").write_text("".join(lines))
    self._write({"master": f"127.0.0.1:{rest}", "pool": f"127.0.0.1:{pool}", "processes": []})
    self._start("pool", [sys.executable, "-m", "pipelines.runners.worker_pool", f"--service_port={pool}"])
    self._start("job manager", _java(_HEAP_MB, _JOB_MANAGER, self._folder))
    for _ in range(task_managers):
      self.start_task_manager()
    _wait("the JobManager to have its TaskManagers", lambda: self.registered() >= task_managers)

  def start_task_manager(self) -> None:
    """Adds a TaskManager, as a cluster's manager does in place of one that died."""
    resources = {
      "taskmanager.cpu.cores": 1.0,
      "taskmanager.memory.task.heap.size": f"{_HEAP_MB // 2}m",
      "taskmanager.memory.task.off-heap.size": "0m",
      "taskmanager.memory.framework.heap.size": "128m",
      "taskmanager.memory.framework.off-heap.size": "128m",
      "taskmanager.memory.network.min": f"{_NETWORK_MB}m",
      "taskmanager.memory.network.max": f"{_NETWORK_MB}m",
      "taskmanager.memory.managed.size": "128m",
      "taskmanager.memory.jvm-metaspace.size": "256m",
      "taskmanager.memory.jvm-overhead.min": "192m",
      "taskmanager.memory.jvm-overhead.max": "192m",
    }
    defined = [word for name, value in resources.items() for word in ("-D", f"{name}={value}")]
    self._start("task manager", [*_java(_HEAP_MB, _TASK_MANAGER, self._folder), *defined])

  def down(self) -> None:
    """Ends every process of the cluster that is still there, and no other."""
    running = [process for entry in self.state.get("processes", []) if (process := _alive(entry))]
    below = [child for process in running for child in processes.children(process.pid)]  # the pool's workers
    processes.end([*running, *below], _END_SECONDS)
    (self._folder / "state.json").unlink(missing_ok=True)

  def task_managers(self) -> list[psutil.Process]:
    """Returns the living TaskManagers, the oldest first."""
    entries = [entry for entry in self.state["processes"] if entry["name"] == "task manager"]
    return [process for entry in entries if (process := _alive(entry))]

  def registered(self) -> int:
    """Returns how many TaskManagers have given the JobManager their slot; 0 while it does not answer."""
    try:
      return self.ask("/overview")["slots-total"]
    except OSError:
      return 0

  def ask(self, path: str) -> Any:
    """Returns the JobManager's answer to a GET of its REST interface."""
    with urllib.request.urlopen(f"http://{self.state['master']}{path}", timeout=10) as answer:
      return json.load(answer)

  def _start(self, name: str, command: list[str]) -> None:
    state = self.state
    log = self._folder / f"{name.replace(' ', '_')}_{len(state['processes'])}.log"
    with log.open("wb") as output:
      process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
      )
    entry = {"name": name, "id": process.pid, "started": psutil.Process(process.pid).create_time(), "log": str(log)}
    self._write(state | {"processes": [*state["processes"], entry]})

  def _write(self, state: dict[str, Any]) -> None:
    (self._folder / "state.json").write_text(json.dumps(state, indent=2))


def _java(heap_mb: int, main: str, folder: pathlib.Path) -> list[str]:
  java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if "JAVA_HOME" in os.environ else "java"
  return [java, f"-Xmx{heap_mb}m", *_JAVA, "-cp", f"{FLINK}/lib/*", main, "--configDir", str(folder)]


def _alive(entry: dict[str, Any]) -> psutil.Process | None:
  """Returns the process of an entry, or None if it has ended; its id may belong to another process by now."""
  try:
    process = psutil.Process(entry["id"])
    return process if process.create_time() == entry["started"] and processes.is_alive(process) else None
  except psutil.NoSuchProcess:
    return None


def free_ports(count: int) -> list[int]:
  """Returns ports of the loopback that nobody listens on."""
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(("127.0.0.1", 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


def _wait(what: str, is_there) -> None:
  deadline = time.monotonic() + _START_SECONDS
  while not is_there():
    if time.monotonic() > deadline:
      raise SystemExit(f"waited {_START_SECONDS:.0f} s for {what}: see the logs in {STATE}, then make cluster-down")
    time.sleep(0.2)


def main() -> None:
  cluster = Cluster()
  if sys.argv[1:] == ["up"]:
    cluster.up()
    print(f"Flink at http://{cluster.state['master']}; a command runs there with\n  {' '.join(cluster.flags)}")
  elif sys.argv[1:] == ["down"]:
    cluster.down()
  else:
    raise SystemExit("usage: flink_cluster.py up|down")


if __name__ == "__main__":
  main()
