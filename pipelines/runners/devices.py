"""The devices of this machine, counted without starting JAX, and tested before a command writes anything."""

import functools
import itertools
import os
import pathlib
import re
import subprocess
import sys
from types import ModuleType

from curation.errors import WinnowError

_CUDA_DEVICE = re.compile(r"\s*(\d|GPU-|MIG-)")
_SETTINGS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "LIBTPU_INIT_ARGS")
_ENDING = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # a bad value of these ends the process, which cannot be caught
_TRIAL = "import jax; jax.local_devices()"
_LOGGED_ERROR = re.compile(r"^[EF]\d{4} [^\]]*\] (.+)$", re.MULTILINE)
_HINT = re.compile(r"\.? \((set JAX_PLATFORMS|you may need).*\)", re.DOTALL)


def visible_accelerators(root: str = "/") -> int:
  """Returns the number of GPUs and TPU chips that JAX would find on this machine, without starting JAX."""
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return 0
  devices = pathlib.Path(root, "dev")
  gpus = len(list(devices.glob("nvidia[0-9]*")))
  if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
    # CUDA stops at the first invalid name, such as -1.
    gpus = min(gpus, len(list(itertools.takewhile(_CUDA_DEVICE.match, named.split(",")))))
  return gpus + len([*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")])


def import_jax() -> ModuleType:
  """Imports and returns `jax`; raises WinnowError if it rejects a setting in the environment."""
  try:
    import jax
  except ValueError as error:  # the message names the variable
    raise WinnowError(f"JAX does not start: {error}; correct the variable or unset it") from error
  return jax


@functools.cache
def platforms() -> tuple[str, ...]:
  """Returns the platform of each device that JAX uses in this process, and makes this process hold the devices.

  Raises WinnowError if JAX finds no device.
  """
  if any(os.environ.get(name) for name in _ENDING):
    trial = subprocess.run([sys.executable, "-c", _TRIAL], stderr=subprocess.PIPE, text=True, errors="replace")
    if trial.returncode:
      match = _LOGGED_ERROR.search(trial.stderr)
      cause = match[1] if match else (trial.stderr.strip().splitlines() or [""])[-1]
      if any(name in cause for name in _ENDING):
        raise WinnowError(f"JAX does not start with {_settings()} ({_HINT.sub('', cause)}): correct or unset it")
      raise _refusal(cause)
  jax = import_jax()
  try:
    return tuple(device.platform for device in jax.local_devices())
  except Exception as error:  # which may be a bare AssertionError
    raise _refusal(str(error)) from error


def warn_of_unused(root: str = "/") -> None:
  """Warns the user if this machine has accelerators that JAX does not use."""
  count = visible_accelerators(root)
  if count and set(platforms()) == {"cpu"}:
    print(
      f"winnow: warning: this machine has {count} accelerator{'s' * (count > 1)} that JAX cannot use, so the model "
      "runs on the CPU: install the driver and winnow-curation[gpu] or [tpu], or set JAX_PLATFORMS=cpu to silence this",
      file=sys.stderr,
    )


def _settings() -> str:
  return " ".join(f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name))


def _refusal(cause: str) -> WinnowError:
  settings = _settings()
  cause = _HINT.sub("", (cause.splitlines() or [""])[0]) or "there is no such device"
  return WinnowError(
    f"JAX cannot compute here{' with ' * bool(settings)}{settings} ({cause}): correct or unset "
    "what is wrong, or install the accelerator's plugin (winnow-curation[gpu] or [tpu]); JAX_PLATFORMS=cpu computes on "
    "the CPU"
  )
