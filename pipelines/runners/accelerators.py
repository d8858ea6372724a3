"""Accelerators by name: what they are asked for with, how fast they are, and what they cost (accelerators.toml)."""

import dataclasses
import functools
import pathlib
import re
import tomllib
from typing import Any

from curation.errors import WinnowError

TABLE = pathlib.Path(__file__).with_name("accelerators.toml")
# Beside the model: TensorFlow-free workers take 1 GB, blocks and batches the rest.
_WORKER_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class Machine:
  """A worker of Dataflow's."""

  name: str
  vcpus: int
  memory_gb: float
  disk_gb: int

  @property
  def family(self) -> str:
    return self.name.partition("-")[0]


@dataclasses.dataclass(frozen=True)
class Accelerator:
  """A kind of GPU or TPU, and the machines that carry it, the smallest first. `hour`: its price alone, if known."""

  name: str
  kind: str
  teraflops: float
  utilisation: float
  machines: tuple[Machine, ...]
  options: str
  """What the service is told about it: how many or in which topology, and the driver."""
  hour: float | None = None

  @property
  def is_tpu(self) -> bool:
    return self.kind == "tpu"

  @property
  def count(self) -> int:
    """Of one worker: what its options say, 1 where that is a topology."""
    found = re.search(r"count:(\d+)", self.options)
    return int(found[1]) if found else 1

  def asked_for(self, machine: str | None = None) -> str:
    """As Dataflow's `worker_accelerator` and Beam's hint have it, on a machine of that type if it matters."""
    return f"type:{self.name};{self.options}" + ("" if machine is None else f";machine_type:{machine}")


@functools.cache
def table() -> dict[str, Any]:
  return tomllib.loads(TABLE.read_text())


def names() -> tuple[str, ...]:
  return tuple(table()["accelerators"])


def find(name: str) -> Accelerator:
  row = table()["accelerators"][name]
  return Accelerator(name, **row | {"machines": tuple(Machine(**machine) for machine in row["machines"])})


def plain_machines() -> tuple[Machine, ...]:
  """Those without an accelerator, the smallest first."""
  return tuple(Machine(**machine) for machine in table()["machines"])


def memory_gb(model_bytes: int) -> int:
  """What a worker needs: the model's files and what is made of them, and room to read and write."""
  return -(-(2 * model_bytes + _WORKER_BYTES) >> 30)


def smallest_machine(accelerator: Accelerator | None, model_bytes: int = 0) -> Machine:
  """The first machine of the table that has the memory; WinnowError where none has."""
  machines = plain_machines() if accelerator is None else accelerator.machines
  wanted = memory_gb(model_bytes)
  for machine in machines:
    if machine.memory_gb >= wanted:
      return machine
  of = "without an accelerator" if accelerator is None else f"with {accelerator.name}"
  raise WinnowError(
    f"--model= wants {wanted} GB of a worker's memory, and no machine {of} in {TABLE.name} has more than "
    f"{machines[-1].memory_gb:g}: add one there, or take a smaller model"
  )


def hour_price(machine: Machine, accelerator: Accelerator | None) -> float | None:
  """Of one worker; None where the accelerator's own is not known."""
  prices = table()["prices"]
  parts = [(machine.vcpus, "vcpu_hour"), (machine.memory_gb, "memory_gb_hour"), (machine.disk_gb, "disk_gb_hour")]
  price = sum(amount * prices[unit] for amount, unit in parts)
  if accelerator is None:
    return price
  return None if accelerator.hour is None else price + accelerator.hour
