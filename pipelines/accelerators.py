"""Accelerators by name: what they are asked for with, how fast they are, and what they cost (accelerators.toml)."""

import dataclasses
import functools
import pathlib
import re
import tomllib
from typing import Any

TABLE = pathlib.Path(__file__).with_name("accelerators.toml")
# Beside the model: TensorFlow-free workers take 1 GB, blocks and batches the rest.
_WORKER_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class Machine:
  """A worker of Dataflow's."""

  name: str
  vcpus: int
  memory_gb: float
  disk_gb: float


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A kind of GPU or TPU, and the machine that carries one. `hour` is its price alone, None where it is not known."""

  name: str
  teraflops: float
  utilisation: float
  memory_gb: float
  machine: Machine
  hint: str
  hour: float | None = None

  @property
  def is_tpu(self) -> bool:
    return self.name.startswith("tpu")

  @property
  def count(self) -> int:
    """Of one worker: what its hint says, 1 where that is a topology."""
    found = re.search(r"count:(\d+)", self.hint)
    return int(found[1]) if found else 1

  @property
  def pool_option(self) -> str:
    """The Dataflow service option that gives one to every worker."""
    return f"worker_accelerator={self.hint}"


@functools.cache
def table() -> dict[str, Any]:
  return tomllib.loads(TABLE.read_text())


def names() -> tuple[str, ...]:
  return tuple(table()["accelerators"])


def find(name: str) -> Accelerator:
  row = table()["accelerators"][name]
  return Accelerator(name, **row | {"machine": Machine(**row["machine"])})


def default_machine() -> Machine:
  return Machine(**table()["machine"])


def hour_price(machine: Machine, accelerator: Accelerator | None) -> float | None:
  """Of one worker; None where the accelerator's own is not known."""
  prices = table()["prices"]
  parts = [(machine.vcpus, "vcpu_hour"), (machine.memory_gb, "memory_gb_hour"), (machine.disk_gb, "disk_gb_hour")]
  price = sum(amount * prices[unit] for amount, unit in parts)
  if accelerator is None:
    return price
  return None if accelerator.hour is None else price + accelerator.hour


def resource_hints(name: str | None, model_bytes: int) -> dict[str, str]:
  """Beam's hints for the stage that has the model: the accelerator, and memory for reading the model onto it."""
  if name is None or find(name).is_tpu:
    return {}
  return {"accelerator": find(name).hint, "min_ram": f"{-(-(2 * model_bytes + _WORKER_BYTES) >> 30)}GiB"}
