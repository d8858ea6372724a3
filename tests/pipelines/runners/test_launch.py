import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import grpc
import processes
import psutil
import pytest
import waiting_command
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as beam_runner
from google.api_core import exceptions as api_exceptions

from curation.errors import WinnowError
from pipelines import main
from pipelines.runners import commands, launch


def test_the_sentence_is_found_below_every_layer_of_a_runner():
  try:
    try:
      raise WinnowError("x.gz cannot be read: replace it")
    except WinnowError as error:
      raise RuntimeError(
        f"Traceback ...\n  curation.errors.WinnowError: {error} [while running 'Score/ScoreBlocks']\n"
      ) from error
  except RuntimeError as error:
    assert str(commands.job_error(error)) == "x.gz cannot be read: replace it"


def test_what_has_no_sentence_is_told_by_its_last_line():
  assert "RuntimeError: the last line" in str(commands.job_error(RuntimeError("first\nthe last line")))
  lost = "bundle inst007 failed:SDK worker disconnected: worker[1], 4 active instructions"  # as Prism tells it
  assert str(commands.job_error(RuntimeError(lost))).startswith(
    "a worker process died (SDK worker disconnected): run the"
  )


def test_an_endpoint_that_does_not_answer_is_told_by_what_grpc_says():
  """Kills the mutant that shows the last line of the error's own text, which is a bracket."""
  with grpc.insecure_channel("localhost:1") as channel, pytest.raises(grpc.RpcError) as raised:
    channel.unary_unary("/service/method")(b"")
  sentence = str(commands.job_error(raised.value))
  assert "Failed to connect" in sentence or "refused" in sentence


def test_an_error_without_a_sentence_names_the_file_with_its_traceback(tmp_path):
  """Kills the mutant that speaks of a log and leaves it to the user to find it."""
  with pytest.raises(commands.JobError) as raised, commands.Log(str(tmp_path), ["score"]):
    try:
      raise RuntimeError("first\nlast")
    except RuntimeError as error:
      raise commands.job_error(error) from error
  (path,) = (tmp_path / "log").iterdir()
  assert str(raised.value) == f"RuntimeError: last; the traceback is in {path}"
  assert "RuntimeError: first" in json.loads(path.read_text())["error"]


@pytest.mark.parametrize(
  ("error", "status"),
  [
    (WinnowError("no"), 2),
    (commands.JobError("no"), 1),
    (KeyboardInterrupt(), 130),
    (None, 0),
    (TimeoutError(), 2),
    (api_exceptions.Forbidden("no\nno"), 2),
  ],
)
def test_exit_statuses(error, status, capsys):
  def command(argv):
    if error:
      raise error

  assert commands.run_command(command, []) == status
  assert len(capsys.readouterr().err.splitlines()) == (status != 0)


@pytest.mark.parametrize(("begun", "status"), [(False, 2), (True, 1)])
def test_what_the_system_refuses_is_told_in_a_sentence(begun, status, tmp_path, capsys):
  """Kills the mutants that show a traceback for a file in place of a folder, and that say "refused" too late."""
  (tmp_path / "file").touch()

  def command(argv):
    with commands.writing() if begun else contextlib.nullcontext():
      os.mkdir(argv[0])

  assert commands.run_command(command, [str(tmp_path / "file/folder")]) == status
  assert capsys.readouterr().err == f"winnow: Not a directory: {tmp_path}/file/folder\n"


def test_a_defect_keeps_its_traceback():
  with pytest.raises(ZeroDivisionError):
    commands.run_command(lambda argv: 1 // 0, [])


def test_the_runner_is_named_by_winnow_and_not_by_beam():
  launcher = launch.Launcher(["--direct_num_workers=3"])
  assert launcher.is_local
  assert launcher.parallelism == 3
  assert launch.Launcher(["--runner=direct"]).is_local
  assert not launch.Launcher(["--runner=FlinkRunner"]).is_local
  assert launch.Launcher(["--runner=FlinkRunner", "--parallelism=5"]).parallelism == 5


@pytest.mark.parametrize(
  ("arguments", "are_here"),
  [
    ([], True),
    (["--runner=PrismRunner"], True),
    (["--runner=PrismRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:1"], True),
    (["--runner=PrismRunner", "--environment_type=DOCKER"], False),
    (["--runner=PrismRunner", "--job_endpoint=elsewhere:1"], False),
    (["--runner=FlinkRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:1"], False),
    (["--runner=FlinkRunner", "--environment_type=LOOPBACK"], True),
  ],
)
def test_progress_is_asked_of_workers_that_can_reach_this_process(arguments, are_here):
  assert launch.Launcher(arguments).workers_are_here == are_here


DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # Beam imports it by this name where Dask is installed


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--runner=Foo"], "--runner=Foo cannot be used: Unexpected pipeline runner: Foo. Valid values are"),
    (["--runner=absent_package.Runner"], "--runner=absent_package.Runner cannot be used: No module named"),
    (["--runner=os.getcwd"], "--runner=os.getcwd cannot be used: it is not a runner of Beam"),
    (["--runner=DaskRunner"], f"winnow: --runner=DaskRunner {commands.NO_DASK}"),
    ([f"--runner={DASK}"], f"winnow: --runner={DASK} {commands.NO_DASK}"),
    (["--runner=DataflowRunner"], "Missing required option: project."),
    (["--runner=FlinkRunner", "--environment_type=PROCESS"], "Option process_command is required"),
    (["--default_sdk_harness_log_level=LOUD"], "LOUD is not a level: take DEBUG, INFO, WARNING or ERROR"),
  ],
)
def test_a_runner_that_cannot_be_used_is_refused_in_a_sentence(arguments, sentence, capsys):
  """Kills the mutant that checks only when it makes the pipeline, after the store is claimed."""
  assert commands.run_command(launch.Launcher, arguments) == commands.REFUSED
  message = capsys.readouterr().err
  assert sentence in message
  assert len(message.splitlines()) == 1


# An endpoint to which Beam sends no request.
DATAFLOW = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]


def test_local_paths_are_refused_where_workers_are_other_machines():
  """Kills the mutants: a check of only the first path; a missing path that counts; a refusal by every runner."""
  paths = {"--scores": "gs://bucket/scores", "--prompt_file": None, "--output": "out"}
  launch.Launcher([]).refuse_local(paths)
  launch.Launcher(["--runner=FlinkRunner"]).refuse_local(paths)
  with pytest.raises(WinnowError, match="--output=out is on this machine"):
    launch.Launcher(DATAFLOW).refuse_local(paths)
  launch.Launcher(DATAFLOW).refuse_local(paths | {"--output": "gs://bucket/out"})


@pytest.mark.parametrize(
  ("given", "experiments"),
  [
    ([], ["no_use_multiple_sdk_containers"]),
    (["--experiments=other"], ["other", "no_use_multiple_sdk_containers"]),
    (["--experiments=use_multiple_sdk_containers"], ["use_multiple_sdk_containers"]),
    (["--experiments=no_use_multiple_sdk_containers"], ["no_use_multiple_sdk_containers"]),
  ],
)
def test_dataflow_runs_one_process_a_machine_unless_told_otherwise(given, experiments):
  """Kills the mutants: a setting of the user that is overruled; a setting for other runners too."""
  for arguments, expected in (([*DATAFLOW, *given], experiments), (["--direct_num_workers=1"], None)):
    launcher = launch.Launcher(arguments)
    launcher.hold_one_model()
    assert launcher.options.view_as(pipeline_options.DebugOptions).experiments == expected


class NoMetrics(beam_runner.PipelineRunner):
  """A runner whose service fails after the job is done."""

  def run_pipeline(self, pipeline, options):
    return NoMetricsResult(beam_runner.PipelineState.DONE)


class NoMetricsResult(beam_runner.PipelineResult):
  def wait_until_finish(self, duration=None):
    return self.state

  def metrics(self):
    raise RuntimeError("503 unavailable")


def test_a_run_that_cannot_be_defined_or_told_of_is_a_failed_job():
  """Files may have been written by then. Kills the mutants: a pipeline that is made, or metrics that are read, outside
  of the try."""

  def define(root):
    raise WinnowError("x.parquet has no column text")

  with pytest.raises(commands.JobError, match=r"^x.parquet has no column text$"):
    launch.Launcher([]).run(define)
  with pytest.raises(commands.JobError, match="503 unavailable"):
    launch.Launcher([f"--runner={__name__}.NoMetrics"]).run(lambda root: None)


def start(
  folder: pathlib.Path, num_workers: int, where: str = "element", on_interrupt=signal.SIG_DFL
) -> subprocess.Popen:
  """Starts waiting_command in its own process group; tests in the background would make it ignore SIGINT."""
  command = [sys.executable, waiting_command.__file__, str(folder), where, f"--direct_num_workers={num_workers}"]
  return subprocess.Popen(
    command,
    start_new_session=True,
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),
  )


def when_all_work(process: subprocess.Popen, folder: pathlib.Path, workers: int) -> list[psutil.Process]:
  """Waits until every worker has its first element; returns the worker processes."""
  while len(list(folder.iterdir())) < workers:
    assert process.poll() is None
    time.sleep(0.02)
  return processes.local_workers(process.pid)


def ended(process: subprocess.Popen, workers: list[psutil.Process]) -> tuple[int, str]:
  """Returns the command's status and output, which come before a worker lets go; checks that no worker or traceback is
  left."""
  try:
    _, message = process.communicate(timeout=60)
    assert not list(filter(processes.is_alive, workers))
  finally:
    for left in (process, *workers):
      with contextlib.suppress(psutil.NoSuchProcess):
        left.kill()
  assert len(message.splitlines()) == 1
  return process.returncode, message


INTERRUPTED, TERMINATED = (signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")


@pytest.mark.parametrize(
  ("to_group", "number", "status", "what"),
  [
    pytest.param(True, *INTERRUPTED, id="SIGINT to the group"),
    pytest.param(False, *TERMINATED, id="SIGTERM to the launcher"),
    pytest.param(False, *INTERRUPTED, id="SIGINT to the launcher", marks=pytest.mark.long),
    pytest.param(True, *TERMINATED, id="SIGTERM to the group", marks=pytest.mark.long),
  ],
)
def test_an_interruption_ends_a_command_and_its_workers(to_group, number, status, what, tmp_path):
  """Kills the mutants: workers that handle the signal too, before the launcher does; SIGTERM that leaves them
  behind."""
  process = start(tmp_path, 2)
  workers = when_all_work(process, tmp_path, 2)
  assert len(workers) == 2
  if to_group:
    for worker in workers:
      worker.send_signal(number)
    time.sleep(0.5)
  process.send_signal(number)
  assert ended(process, workers) == (status, f"winnow: {what}; run the same command again to continue\n")


def test_an_interruption_while_the_workers_exit_leaves_none(tmp_path):
  """Kills the mutant that leaves workers that Beam has not closed yet."""
  process = start(tmp_path, 2, "exit")
  workers = when_all_work(process, tmp_path, 2)
  while not list(tmp_path.glob("*.exits")):
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGINT)
  assert ended(process, workers) == (130, "winnow: interrupted; run the same command again to continue\n")


def test_a_command_of_one_process_is_terminated_too(tmp_path):
  """Kills the mutant that takes the exception from Beam's layers for an interrupt from the keyboard."""
  process = start(tmp_path, 1)
  assert not when_all_work(process, tmp_path, 1)
  process.terminate()
  assert ended(process, []) == (143, "winnow: terminated; run the same command again to continue\n")


def test_more_interruptions_do_not_disturb_the_end_of_the_workers(tmp_path):
  """Kills the mutant that leaves the cleanup to Beam, where a second interrupt stops the closing of workers."""
  process = start(tmp_path, 2)
  workers = when_all_work(process, tmp_path, 2)
  for _ in range(30):  # a terminal's Ctrl-C, key held down
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.02)
  status, message = ended(process, workers)
  assert status in (130, -signal.SIGINT)  # the latter where the last one found Python at its own end
  assert message == "winnow: interrupted; run the same command again to continue\n"


def test_a_worker_that_dies_ends_the_command_at_once(tmp_path):
  """The other worker holds its element for five seconds. Kills `_thread.interrupt_main`, which does not wake a waiting
  main thread."""
  process = start(tmp_path, 2)
  workers = when_all_work(process, tmp_path, 2)
  workers[1].kill()
  status, message = ended(process, workers)
  assert status == 1
  assert message.startswith("winnow: a worker process died (-9;")


def test_a_worker_that_dies_as_it_starts_ends_the_command_in_the_background_too(tmp_path):
  """Shells make background jobs ignore SIGINT. Kills the mutants: a death that goes unnoticed then; a wait for the
  start."""
  process = start(tmp_path, 2, on_interrupt=signal.SIG_IGN)
  while not (workers := processes.local_workers(process.pid)):
    time.sleep(0.01)
  workers[0].kill()
  status, message = ended(process, workers)
  assert status == 1
  assert message.startswith("winnow: a worker process died (-9;")


def test_the_death_of_the_fork_server_loses_no_worker(tmp_path):
  """Kills the mutants: a server that is not started again; a worker's death that only the server reports."""
  process = start(tmp_path, 2)
  while not (server := processes.children(process.pid, recursive=False)):
    time.sleep(0.01)
  server[0].kill()
  workers = when_all_work(process, tmp_path, 2)
  assert len(workers) == 2
  for server in processes.children(process.pid, recursive=False):
    server.kill()
  time.sleep(0.5)
  assert process.poll() is None and all(map(processes.is_alive, workers))
  workers[0].kill()
  status, message = ended(process, workers)
  assert status == 1
  assert message.startswith("winnow: a worker process died (its parent process ended with -9;")


def test_what_only_dataflow_has_is_refused_elsewhere(tmp_path, capsys):
  """Kills the mutants: a dry run that scores a corpus; a hint that puts a local stage into separate processes."""
  command = ["score", "--input=x/*", "--model=m", f"--scores={tmp_path}/s"]
  assert main.main([*command, "--dry_run=True"]) == 2
  assert "--dry_run is for --runner=DataflowRunner" in capsys.readouterr().err
  assert main.main([*command, "--accelerator=nvidia-l4"]) == 2
  assert "--accelerator=nvidia-l4 is for Dataflow and for --estimate" in capsys.readouterr().err
  launcher = launch.Launcher([*DATAFLOW, "--setup_file=./setup.py"], "nvidia-l4")
  with pytest.raises(WinnowError, match="--devices_per_model=4 is more than the 1 of a worker"):
    launcher.hold_one_model(4)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_command_that_does_not_resume_does_not_say_so(capsys, resumes):
  """Kills the mutant that promises it for every command: a training starts again."""

  def interrupted(_):
    raise KeyboardInterrupt

  assert commands.run_command(interrupted, [], resumes=resumes) == commands.INTERRUPTED
  assert ("run the same command again to continue" in capsys.readouterr().err) == resumes
