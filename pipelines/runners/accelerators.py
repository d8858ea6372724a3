"""Accelerators by name, with their options, speeds and prices (accelerators.toml)."""

import dataclasses
import functools
import pathlib
import re
import tomllib
from typing import Any

from curation.errors import WinnowError

TABLE = pathlib.Path(__file__).with_name("accelerators.toml")
# Memory besides the model: a worker without TensorFlow takes 1 GB, blocks and batches the rest.
_WORKER_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class Machine:
  """A machine type of Dataflow workers."""

  name: str
  vcpus: int
  memory_gb: float
  disk_gb: int

  @property
  def family(self) -> str:
    return self.name.partition("-")[0]


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A kind of GPU or TPU, and the machines that carry it, smallest first. `hour` is its price without the machine."""

  name: str
  kind: str
  teraflops: float
  utilisation: float
  machines: tuple[Machine, ...]
  options: str
  """The options for the service: the count or topology, and the driver."""
  hour: float | None = None

  @property
  def is_tpu(self) -> bool:
    return self.kind == "tpu"

  @property
  def count(self) -> int:
    """The number of accelerators in one worker, by its options; 1 if they give a topology."""
    match = re.search(r"count:(\d+)", self.options)
    return int(match[1]) if match else 1

  def resource(self, machine: str | None = None) -> str:
    """Returns the value of Dataflow's `worker_accelerator` and of Beam's hint, maybe with a machine type."""
    return f"type:{self.name};{self.options}" + ("" if machine is None else f";machine_type:{machine}")


@functools.cache
def table() -> dict[str, Any]:
  """Returns the content of accelerators.toml."""
  return tomllib.loads(TABLE.read_text())


def names() -> tuple[str, ...]:
  """Returns the names of all accelerators."""
  return tuple(table()["accelerators"])


def find(name: str) -> Accelerator:
  """Returns the accelerator of this name; raises KeyError if there is none."""
  row = table()["accelerators"][name]
  return Accelerator(name, **row | {"machines": tuple(Machine(**machine) for machine in row["machines"])})


def plain_machines() -> tuple[Machine, ...]:
  """Returns the machines without an accelerator, smallest first."""
  return tuple(Machine(**machine) for machine in table()["machines"])


def memory_gb(model_bytes: int) -> int:
  """Returns the memory that a worker needs: for the files of a model, for its arrays, and for blocks and batches."""
  return -(-(2 * model_bytes + _WORKER_BYTES) >> 30)


def smallest_machine(accelerator: Accelerator | None, model_bytes: int = 0) -> Machine:
  """Returns the smallest machine with enough memory for a model; raises WinnowError if there is none."""
  machines = plain_machines() if accelerator is None else accelerator.machines
  wanted = memory_gb(model_bytes)
  for machine in machines:
    if machine.memory_gb >= wanted:
      return machine
  kind = "without an accelerator" if accelerator is None else f"with {accelerator.name}"
  raise WinnowError(
    f"--model= needs {wanted} GB of memory in a worker, and no machine {kind} in {TABLE.name} has more than "
    f"{machines[-1].memory_gb:g}: add one there, or use a smaller model"
  )


def hour_price(machine: Machine, accelerator: Accelerator | None) -> float | None:
  """Returns the price of one worker for an hour; None if the price of the accelerator is unknown."""
  prices = table()["prices"]
  parts = [(machine.vcpus, "vcpu_hour"), (machine.memory_gb, "memory_gb_hour"), (machine.disk_gb, "disk_gb_hour")]
  price = sum(amount * prices[unit] for amount, unit in parts)
  if accelerator is None:
    return price
  return None if accelerator.hour is None else price + accelerator.hour
