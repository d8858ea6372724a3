"""The engines that pipelines are tested on beside Beam's own local runner, as make installs them into .engines.

A test asks for one by name; where it is missing, the test is skipped and says what is missing. In CI it fails instead,
unless `.ci/run` names the engine in WINNOW_WITHOUT.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from apache_beam.options import pipeline_options
from apache_beam.runners.portability import flink_runner
from flink_cluster import ENGINES, FLINK

PRISM, BOOT = ENGINES / "prism", ENGINES / "boot"


def prism_flags() -> list[str]:
  """Returns flags for Prism, where workers are threads of the launcher unless other flags say otherwise."""
  if not PRISM.exists():
    missing("prism", f"{PRISM} is not here: `make test-all` builds it, with Go")
  return ["--runner=PrismRunner", f"--prism_location={PRISM}"]


def process_flags(folder: pathlib.Path) -> list[str]:
  """Returns flags for workers that are processes started by Beam's own boot program, as in a container."""
  script = folder / "boot.sh"
  # The program writes into the folder that it starts in, and Prism quotes the worker's id once too often.
  script.write_text(f'#!/bin/bash\ncd {folder}\nexec {BOOT} --semi_persist_dir={folder} "${{@//\\\'/}}"\n')
  script.chmod(0o755)
  path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # the program starts `python`
  environment = {"RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1", "PATH": path}
  return [
    "--environment_type=PROCESS",
    f"--environment_config={json.dumps({'command': str(script), 'env': environment})}",
  ]


def need_flink() -> None:
  if not FLINK.is_dir():
    missing("flink", f"{FLINK} is not here: `make test-flink` installs it")
  if shutil.which("java") is None or subprocess.run(["java", "-version"], capture_output=True).returncode:
    missing("flink", "there is no Java on this machine")


def job_server_flags() -> list[str]:
  """Returns the flag that names Beam's job server for Flink; Beam fetches it unless FLINK_JOB_SERVER_JAR names one."""
  named = os.environ.get("FLINK_JOB_SERVER_JAR")
  server = flink_runner.FlinkJarJobServer(pipeline_options.PipelineOptions(flink_job_server_jar=named))
  try:
    jar = server.local_jar(server.path_to_jar())
  except Exception as error:  # a download may raise anything
    why = str(error).partition(". ")[0]
    missing("job_server", f"Beam's job server is not available ({why}): name its jar in FLINK_JOB_SERVER_JAR")
  return [f"--flink_job_server_jar={jar}"]


def missing(engine: str, why: str) -> None:
  if os.environ.get("CI") == "true" and engine not in os.environ.get("WINNOW_WITHOUT", "").split():
    pytest.fail(f"CI needs {engine}: {why}")
  pytest.skip(why)
