"""One answer everywhere: the same commands in this process, in several, on Prism and on Flink leave the same bytes.

Twelve shards in all formats, bad records in the middle, some 75 blocks; both scorers, scored and sampled by one job.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import corpora
import engines
import grpc
import numpy as np
import processes
import psutil
import pytest
from flink_cluster import Cluster, free_ports
from running import content, logs, run_in

pytestmark = pytest.mark.long

BIG_ROWS, SMALL_ROWS = 50_000, 1_500


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("engines")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
  corpora.write_model(folder / "model")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  (folder / "made").mkdir()
  for path in sorted((folder / "corpus").iterdir()):
    rows = BIG_ROWS if path.name == "big.jsonl.gz" else SMALL_ROWS + ("tfrecord" in path.name)
    generator = np.random.default_rng(list(path.name.encode()))
    np.save(folder / "made" / f"{path.name}.npy", generator.standard_normal((rows, 8)).astype(np.float32))
  return folder


def ask_llm(place: pathlib.Path) -> list[str]:
  model = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32"]
  return ["curate", *model, *everywhere(place), "--name=asked", "--output=asked"]


def density(place: pathlib.Path) -> list[str]:
  sketch = ["--sketch_rows=32", "--sketch_counters=500"]
  return ["curate", "--scorer=density", f"--embeddings={place}/made/*", *sketch, *everywhere(place), "--output=dense"]


def everywhere(place: pathlib.Path) -> list[str]:
  return [f"--input={place}/corpus/*", "--scores=scores", "--block_rows=1000", "--rate=0.3", "--num_shards=3"]


@pytest.fixture(scope="module")
def alone(place) -> dict[str, bytes]:
  """What one process leaves."""
  for command in (ask_llm(place), density(place)):
    assert run_in(place / "alone", [*command, "--direct_num_workers=1"]) == 0
  return content(place / "alone")


@pytest.fixture
def pool():
  """The address of a worker pool that answers: Prism ends where it finds nobody there."""
  (port,) = free_ports(1)
  process = subprocess.Popen([sys.executable, "-m", "pipelines.runners.worker_pool", f"--service_port={port}"])
  with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    grpc.channel_ready_future(channel).result(timeout=120)
  yield f"127.0.0.1:{port}"
  process.terminate()
  process.wait()


@pytest.fixture
def job_server():
  """The address of a Prism that is no child of a command, as a cluster's job server."""
  engines.prism_flags()
  (port,) = free_ports(1)
  process = subprocess.Popen(
    [engines.PRISM, f"--job_port={port}", "--serve_http=false", "--idle_shutdown_timeout=-1ns"]
  )
  with grpc.insecure_channel(f"localhost:{port}") as channel:
    grpc.channel_ready_future(channel).result(timeout=120)
  yield f"localhost:{port}"
  process.terminate()
  process.wait()


@pytest.fixture
def flink(tmp_path):
  """A cluster with two TaskManagers, and the flags by which a command runs there."""
  engines.need_flink()
  job_server = engines.job_server_flags()
  cluster = Cluster(tmp_path / "cluster")
  cluster.up()
  yield cluster, [*cluster.flags, *job_server]
  cluster.down()


def assert_same(folder: pathlib.Path, place: pathlib.Path, alone: dict[str, bytes], flags: list[str]) -> set[int]:
  """Runs both commands with the engine's flags; returns the processes that scored with the model."""
  for command in (ask_llm(place), density(place)):
    assert run_in(folder, [*command, *flags]) == 0
  found = content(folder)
  assert sorted(found) == sorted(alone)
  assert [name for name in alone if found[name] != alone[name]] == []
  by_process = logs(folder / "asked")[-1]["documents_by_process"]  # empty if the workers are elsewhere
  return {int(process) for process in by_process.get("scoring (ask_llm)", {})}


def assert_same_asked(folder: pathlib.Path, alone: dict[str, bytes]) -> None:
  """Compares only what the command with the model leaves."""
  found = content(folder)
  wanted = {name: data for name, data in alone.items() if name.split("/")[0] == "asked" or "/asked/" in name}
  assert sorted(found) == sorted(wanted)
  assert [name for name in wanted if found[name] != wanted[name]] == []


def test_in_two_processes(place, alone):
  workers = assert_same(place / "two", place, alone, ["--direct_num_workers=2"])
  assert len(workers - {os.getpid()}) == 2


def test_on_prism(place, alone):
  assert assert_same(place / "prism", place, alone, engines.prism_flags()) == {os.getpid()}


def test_on_prism_with_a_worker_pool(place, alone, pool):
  flags = [*engines.prism_flags(), "--environment_type=EXTERNAL", f"--environment_config={pool}"]
  assert os.getpid() not in (workers := assert_same(place / "pool", place, alone, flags)) and workers


SHORT_PAUSES = """
import sys
from pipelines import main
from pipelines.jobs import meter, watching
meter.pause_seconds, watching._SHARE = lambda elapsed: 0.01, 1
sys.exit(main.main(sys.argv[1:]))
"""


def test_where_workers_are_elsewhere_a_user_sees_progress_and_nothing_else(place, alone, pool, job_server):
  """A job server and a pool that know nothing of the command, as on a cluster. Kills the mutants: no progress of what
  is on record; what Beam logs about its own work among it."""
  flags = ["--runner=PortableRunner", f"--job_endpoint={job_server}"]
  flags += ["--environment_type=EXTERNAL", f"--environment_config={pool}"]
  folder = place / "elsewhere"
  folder.mkdir()
  command = [sys.executable, "-c", SHORT_PAUSES, *ask_llm(place), *flags]
  result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert_same_asked(folder, alone)
  assert re.search(r"^scoring \(ask_llm\): [\d,]+ of ~[\d,]+ documents \(\d+%\)", result.stderr, re.MULTILINE)
  of_ours = "starting the workers", "scoring (ask_llm)", "selecting", "collecting", "writing", "done in"
  assert [line for line in result.stderr.splitlines() if not line.startswith(of_ours)] == []
  log = logs(folder / "asked")[-1]
  assert log["documents_by_process"] == {} and log["counters"] == logs(place / "alone/asked")[-1]["counters"]


def test_a_job_after_one_that_ended_prism_starts_another(place, tmp_path, capfd):
  """Prism ends where no worker pool answers, and where it is killed. Kills the mutant that asks the ended server."""
  flags = [*engines.prism_flags(), f"--input={place}/corpus/a.jsonl", "--rate=0.5", "--sampler=random"]
  (port,) = free_ports(1)
  nobody = ["--environment_type=EXTERNAL", f"--environment_config=127.0.0.1:{port}"]
  assert run_in(tmp_path, ["sample", *flags, *nobody, "--output=first"]) == 1
  assert f"once the worker pool at --environment_config=127.0.0.1:{port} answers" in capfd.readouterr().err
  assert run_in(tmp_path, ["sample", *flags, "--output=first"]) == 0
  (prism,) = [child for child in processes.children() if str(engines.PRISM) in processes.command_line(child)]
  prism.kill()
  psutil.wait_procs([prism], timeout=20)
  assert run_in(tmp_path, ["sample", *flags, "--output=second"]) == 0


def test_on_prism_with_workers_that_are_booted_as_in_a_container(place, alone, tmp_path):
  flags = [*engines.prism_flags(), *engines.process_flags(tmp_path)]
  assert os.getpid() not in (workers := assert_same(place / "booted", place, alone, flags)) and workers


def test_on_flink(place, alone, flink):
  _, flags = flink
  assert_same(place / "flink", place, alone, flags)


def kill_while_scoring(folder: pathlib.Path, command: list[str], find) -> subprocess.Popen:
  """Starts a command, and kills what `find` finds once some blocks are on record."""
  folder.mkdir()
  process = subprocess.Popen(
    [sys.executable, "-m", "pipelines.main", *command], cwd=folder, stderr=subprocess.PIPE, text=True
  )
  while process.poll() is None and len(list(folder.glob("scores/asked/blocks/*/*.parquet"))) < 3:
    time.sleep(0.01)
  victims = find()
  assert process.poll() is None and victims, process.communicate()
  for victim in victims:
    with contextlib.suppress(psutil.NoSuchProcess):
      victim.send_signal(signal.SIGKILL)
  return process


def test_where_a_worker_is_killed_the_job_fails_and_the_same_command_goes_on(place, alone, pool):
  """Prism gives up with its worker. Kills the mutant that waits for the job for ever."""
  flags = [*engines.prism_flags(), "--environment_type=EXTERNAL", f"--environment_config={pool}"]

  def workers():
    return [process for process in processes.children() if "SdkHarness" in processes.command_line(process)]

  process = kill_while_scoring(place / "killed", [*ask_llm(place), *flags], workers)
  told = process.communicate(timeout=60)[1]
  assert process.returncode == 1
  assert "winnow: a worker process died" in told
  begun = len(list((place / "killed").glob("scores/asked/blocks/*/*.parquet")))
  assert 0 < begun < 70
  assert_same(place / "killed", place, alone, flags)
  log = logs(place / "killed/asked")[-1]
  assert log["this_run"]["documents_scored_before"] > 0
  assert log["counters"] == logs(place / "alone/asked")[-1]["counters"]


def test_where_a_task_manager_of_flink_is_killed_the_job_ends_well(place, alone, flink):
  cluster, flags = flink
  process = kill_while_scoring(place / "flink_killed", [*ask_llm(place), *flags], lambda: cluster.task_managers()[:1])
  cluster.start_task_manager()  # as a cluster's manager does
  told = process.communicate(timeout=300)[1]
  assert process.returncode == 0, told
  assert logs(place / "flink_killed/asked")[-1]["counters"] == logs(place / "alone/asked")[-1]["counters"]
  assert_same_asked(place / "flink_killed", alone)
