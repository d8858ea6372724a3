"""What a launcher takes over from Beam: its own counters alone, and of the logs only what is of use to users."""

import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics

from pipelines.runners import launch
from pipelines.worker import progress

JOB = """
import sys
import apache_beam as beam
from pipelines.runners import launch
launch.Launcher(sys.argv[1:]).run(lambda root: root | beam.Create([1]))
"""


@pytest.mark.long
@pytest.mark.parametrize(
  ("level", "are_shown"), [("", {"ERROR"}), ("--default_sdk_harness_log_level=INFO", {"ERROR", "WARNING", "INFO"})]
)
def test_what_beam_logs_is_not_shown_but_for_its_errors(tmp_path, level, are_shown):
  """A job server that does not start. Kills the mutants: errors that are hidden; a level that the user asks for in
  vain; warnings of Beam's own work, such as that it really starts a service."""
  java = tmp_path / "java"
  java.write_text("#!/bin/sh\necho the jar is damaged\nexit 1\n")
  java.chmod(0o755)
  (tmp_path / "server.jar").touch()
  server = [f"--job_server_java_launcher={java}", f"--flink_job_server_jar={tmp_path}/server.jar"]
  flags = ["--runner=FlinkRunner", "--flink_master=localhost:1", *server, *([level] if level else [])]
  result = subprocess.run([sys.executable, "-c", JOB, *flags], capture_output=True, text=True)
  assert "JobError: RuntimeError: Service failed to start up" in result.stderr
  assert {level for level in ("ERROR", "WARNING", "INFO") if f"\n{level}:" in f"\n{result.stderr}"} == are_shown
  assert ("Really starting service" in result.stderr) == ("the jar is damaged" in result.stderr) == bool(level)


class CountFn(beam.DoFn):
  """Counts its elements, and again in a namespace that is not Winnow's, as Flink's job server does."""

  def __init__(self):
    self._counters = [Metrics.counter(namespace, "elements") for namespace in (progress.METRICS, "beam")]

  def process(self, element):
    for counter in self._counters:
      counter.inc()
    yield element


@pytest.mark.parametrize("workers", ["--direct_num_workers=1", "--direct_num_workers=2"])
def test_counters_are_winnows_and_of_all_steps(workers):
  """Kills the mutants: Beam's own counters among them; one step's count in place of the sum."""
  counts = launch.Launcher([workers]).run(
    lambda root: root | beam.Create(range(7)) | "First" >> beam.ParDo(CountFn()) | "Second" >> beam.ParDo(CountFn())
  )
  assert counts == {"elements": 14}
