"""The test of devices at launch: a command that JAX cannot run is refused before a store is begun."""

import contextlib
import os
import pathlib
import subprocess
import sys

import corpora
import pytest

from curation.errors import WinnowError
from pipelines.runners import devices, launch

PROJECT = pathlib.Path(__file__).resolve().parents[3]


def in_another_process(arguments: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess:
  """Runs Python without a visible GPU, in a process of its own, since JAX reads its settings only once."""
  environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=PROJECT,
    env=environment | {"CUDA_VISIBLE_DEVICES": ""} | settings,
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
  place = tmp_path_factory.mktemp("devices")
  corpora.write_model(place / "model")
  (place / "prompt.txt").write_text(corpora.PROMPT)
  (place / "a.jsonl").write_text('{"text": "the river"}\n')
  asking = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32", "--name=tiny"]
  return ["-m", "pipelines.main", "score", f"--input={place}/a.jsonl", *asking]


@pytest.mark.parametrize(
  ("settings", "flags", "message"),
  [
    (
      {"JAX_PLATFORMS": "cuda"},
      ["--direct_num_workers=1"],
      "JAX cannot compute here with JAX_PLATFORMS=cuda (there is no such device)",
    ),
    (
      {"JAX_PLATFORMS": "cuda"},
      ["--direct_num_workers=1", "--estimate"],
      "JAX cannot compute here with JAX_PLATFORMS=cuda (there is no such device)",
    ),
    (
      {"XLA_FLAGS": "--xla_no_such_flag=1"},
      ["--direct_num_workers=2"],
      "with XLA_FLAGS=--xla_no_such_flag=1 (Unknown flag in XLA_FLAGS: --xla_no_such_flag=1)",
    ),
    (
      {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"},
      ["--direct_num_workers=1", "--devices_per_model=2"],
      "--devices_per_model=2 must divide the devices of this machine, which has 3",
    ),
  ],
  ids=["no GPU", "no GPU to measure", "no flag of XLA", "three devices"],
)
def test_a_command_that_cannot_compute_is_refused_in_a_sentence_and_writes_nothing(
  settings, flags, message, command, tmp_path
):
  """Kills the mutant that leaves it to the workers, after the store is claimed; XLA ends a process with bad
  settings."""
  done = in_another_process([*command, f"--scores={tmp_path}/scores", *flags], settings)
  assert done.returncode == 2, done.stderr
  assert message in done.stderr and "Traceback" not in done.stderr
  assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["winnow"]
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"JAX_PLATFORMS": "tpu"}, "with JAX_PLATFORMS=tpu (Unable to initialize backend 'tpu'"),
    ({"JAX_PLATFORMS": "cpv"}, "Backend 'cpv' is not in the list of known backends"),
    ({"JAX_PLATFORM_NAME": "gpu"}, "with JAX_PLATFORM_NAME=gpu (Unknown backend: 'gpu' requested"),
    ({"JAX_DISABLE_JIT": "maybe"}, "invalid truth value 'maybe' for environment 'JAX_DISABLE_JIT'"),
    ({"XLA_FLAGS": "--xla_force_host_platform_device_count=x"}, "Couldn't interpret value x"),
  ],
  ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_whatever_jax_refuses_is_one_error_of_ours(settings, message):
  program = """
from curation import errors
from pipelines.runners import devices
try:
  devices.platforms()
except errors.WinnowError as error:
  print(error)
"""
  done = in_another_process(["-c", program], settings)
  assert done.returncode == 0, done.stderr
  (line,) = done.stdout.splitlines()
  assert message in line and "(set JAX_PLATFORMS=" not in line


def test_an_accelerator_that_jax_cannot_use_is_told(tmp_path, monkeypatch, capsys):
  """Kills the mutant that silently scores a corpus on the CPU of a machine with a GPU."""
  for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(devices, "platforms", lambda: ("cpu",))  # as on a machine whose JAX has no plugin
  local = launch.Launcher(["--direct_num_workers=1"])
  (tmp_path / "dev").mkdir()
  local.hold_one_model(root=str(tmp_path))
  assert capsys.readouterr().err == ""
  (tmp_path / "dev/nvidia0").touch()
  local.hold_one_model(root=str(tmp_path))
  assert "this machine has 1 accelerator that JAX cannot use" in capsys.readouterr().err
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  local.hold_one_model(root=str(tmp_path))
  assert capsys.readouterr().err == ""


def test_devices_that_hold_one_model_must_be_there():
  """Devices of other machines are not counted."""
  count = len(devices.platforms())
  with pytest.raises(WinnowError, match=f"must divide the devices of this machine, which has {count}"):
    launch.Launcher(["--direct_num_workers=1"]).hold_one_model(count + 1)
  launch.Launcher(["--runner=FlinkRunner", "--flink_master=there:8081"]).hold_one_model(count + 1)


@pytest.mark.parametrize(
  ("files", "environment", "count"),
  [
    (["null", "nvidiactl", "nvidia-uvm", "vfio/vfio", "accel/accel0"], {}, 0),
    (["nvidia0", "nvidia1"], {}, 2),
    (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": ""}, 0),
    (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "-1"}, 0),
    (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "1"}, 1),
    (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "GPU-8932f937,-1,0"}, 1),
    (["nvidia0"], {"JAX_PLATFORMS": "cpu"}, 0),
    (["nvidia0"], {"JAX_PLATFORMS": "cuda,cpu"}, 1),
    (["accel0", "accel1"], {"CUDA_VISIBLE_DEVICES": ""}, 2),
    (["vfio/0", "vfio/1", "vfio/2", "vfio/3"], {}, 4),
  ],
)
def test_local_processes_do_not_share_an_accelerator(files, environment, count, tmp_path, monkeypatch):
  """Kills the mutants: nvidiactl and others that count as devices; an environment that is ignored."""
  for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  for file in files:
    (tmp_path / "dev" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "dev" / file).touch()
  root = str(tmp_path)
  assert devices.visible_accelerators(root) == count
  there = ["--runner=FlinkRunner", "--flink_master=there:8081", "--direct_num_workers=2"]
  launch.Launcher(there).hold_one_model(root=root)
  with pytest.raises(WinnowError, match="use --direct_num_workers=1") if count else contextlib.nullcontext():
    launch.Launcher(["--direct_num_workers=2"]).hold_one_model(root=root)
