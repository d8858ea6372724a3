"""Runs a T5 over token sequences of any length, on all local devices, in batches of a few fixed shapes.

A sequence may be a pair of an input and a target. Its result does not depend on its neighbours: see
`curation.models.batching`. Shape suffixes as in `curation.models.t5`; N sequences of a block, B rows of a batch, L its
bucket's length, n rows that are not dummies.
"""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from curation.errors import WinnowError
from curation.models import batching, t5
from curation.models.vocabulary import usable_cores

# Part of every fingerprint: increment it with any change that may change a result's bits.
ENGINE_VERSION = 1

# On the CPU, with a batch on every core, 1,024 tokens a batch are as fast as 2,048 (T5-base: 0.88-0.94 of sgemm against
# 0.90-0.92), and the half-empty last batches of 16 buckets cost half as much.
BATCH_TOKENS_CPU = 1_024
BATCH_TOKENS_ACCELERATOR = 8_192
# Batches in flight on every accelerator: one computes while the others' inputs and results are transferred.
_IN_FLIGHT_ACCELERATOR = 3

Program = Callable[..., jax.Array]
"""A compiled function (parameters, ids int32 [B, L], lengths int32 [B]) -> float32 [B, ...].

Each row of the result depends on its own input row alone. For pairs, two more arguments follow: the targets' ids int32
[B, T] and lengths int32 [B].
"""

OnBatch = Callable[[np.ndarray, int], None]
"""A callback for each computed batch, with the positions of its sequences, int64 [n], and their number of tokens."""

_Part = tuple[np.ndarray, np.ndarray]
"""A batch's ids, int32 [B, L], and the lengths of the rows that are not dummies, int32 [n]."""


class Prepared(NamedTuple):
  """A block ready for the devices; host memory only."""

  plan: list[batching.Batch]
  ids: list[np.ndarray]
  """One int32 [B, L] for every batch of the plan, padded with 0."""
  lengths_N: np.ndarray
  """Tokens of every sequence: int32 [N]."""
  targets: Sequence[np.ndarray] = ()
  """For pairs, one int32 [B, T] of target ids for every batch of the plan."""
  target_lengths_N: np.ndarray | None = None

  @property
  def tokens_N(self) -> np.ndarray:
    """Tokens of every sequence, input and target together for a pair: int32 [N]."""
    return self.lengths_N if self.target_lengths_N is None else self.lengths_N + self.target_lengths_N

  def padding(self) -> batching.Padding:
    """Counts the tokens of the block, with and without padding."""
    return batching.padding(self.tokens_N, self.plan)


class PreparedTexts(NamedTuple):
  """A block of texts, possibly cut to the model's limit, ready for the devices."""

  batches: Prepared
  num_tokens_N: np.ndarray
  """Tokens of every document's whole text, without eos and before any cut: int32 [N]."""


class Work(NamedTuple):
  """The work that scoring N texts would take."""

  num_tokens_N: np.ndarray
  """Tokens of the whole texts."""
  lengths_N: np.ndarray
  """Tokens that the model reads of each text."""
  flops_N: np.ndarray
  """Floating-point operations for each text, without padding."""
  table: batching.BucketTable
  pairs: tuple[np.ndarray, np.ndarray] | None = None
  """Lengths of the inputs and of the targets, if the texts become pairs."""


def block_padding(work: Sequence[Work], texts: int) -> batching.Padding:
  """Returns the padding of a block of at least `texts` texts, made by repeating those of `work`."""
  times = -(-texts // sum(len(each.lengths_N) for each in work))
  inputs = np.tile(np.concatenate([each.lengths_N if each.pairs is None else each.pairs[0] for each in work]), times)
  if work[0].pairs is None:
    return batching.padding(inputs, batching.plan(inputs, work[0].table))
  targets = np.tile(np.concatenate([each.pairs[1] for each in work if each.pairs is not None]), times)
  return batching.padding(inputs + targets, batching.plan(inputs, work[0].table, targets))


class Engine:
  """One program on all local devices, with one copy of the parameters on each device or each group of devices.

  `prepare` needs only the host and may run in other threads while `run` computes. Both may be called from several
  threads. Their blocks are computed one after the other, since more batches at once than `warm_up` tried might not fit.
  """

  def __init__(
    self,
    params: t5.Params,
    config: t5.T5Config,
    program: Program,
    *,
    buckets: Callable[[int], batching.BucketTable],
    row_shape: tuple[int, ...] = (),
    batch_tokens: int | None = None,
    devices_per_model: int = 1,
  ):
    """Puts the parameters on the devices.

    `buckets` returns the bucket table for a number of tokens per batch; `row_shape` is the shape of one row's result.
    `devices_per_model` devices hold one model together (`t5.shardings`), which must divide the number of local devices.
    Raises WinnowError if the model cannot be divided that way or does not fit into memory.
    """
    t5.check_division(config, devices_per_model)
    self._program, self._row_shape, self._dtype = program, row_shape, config.dtype
    self._groups = _device_groups(devices_per_model)
    self._device_kind = jax.local_devices()[0].device_kind
    on_cpu = jax.local_devices()[0].platform == "cpu"
    # XLA gives one batch all cores, but its work between matrix products leaves most of them idle.
    self._in_flight = usable_cores() if on_cpu else _IN_FLIGHT_ACCELERATOR * len(self._groups)
    self._dispatching, self._turn = threading.Lock(), threading.Lock()
    if batch_tokens is None:
      batch_tokens = BATCH_TOKENS_CPU if on_cpu else BATCH_TOKENS_ACCELERATOR
    self.table = buckets(batch_tokens)
    params = t5.cast(params, config.dtype)
    with _out_of_memory(
      f"The model does not fit into the memory of {devices_per_model} device(s): raise --devices_per_model, or take a "
      "smaller model."
    ):
      self.params = [
        jax.block_until_ready(jax.device_put(params, t5.shardings(params, group))) for group in self._groups
      ]

  def prepare(self, sequences: Sequence[np.ndarray], targets: Sequence[np.ndarray] | None = None) -> Prepared:
    """Plans and pads the batches of a block of N int32 sequences; with `targets`, they are the inputs of pairs."""
    lengths_N = np.fromiter(map(len, sequences), np.int32, len(sequences))
    if targets is None:
      plan = batching.plan(lengths_N, self.table)
      return Prepared(plan, [_padded(sequences, batch, batch.length) for batch in plan], lengths_N)
    target_lengths_N = np.fromiter(map(len, targets), np.int32, len(targets))
    plan = batching.plan(lengths_N, self.table, target_lengths_N)
    ids = [_padded(sequences, batch, batch.length) for batch in plan]
    return Prepared(plan, ids, lengths_N, [_padded(targets, batch, batch.target) for batch in plan], target_lengths_N)

  def run(self, prepared: Prepared, on_batch: OnBatch | None = None) -> np.ndarray:
    """Computes a block: float32 [N, ...]. Models take batches in turn, several at a time.

    `on_batch` is called in this thread, batch by batch, while later batches are computed.
    """
    parts: list[tuple[_Part, ...]] = [
      ((ids_BL, prepared.lengths_N[batch.indices]),) for batch, ids_BL in zip(prepared.plan, prepared.ids, strict=True)
    ]
    if prepared.target_lengths_N is not None:
      for i, (batch, ids_BT) in enumerate(zip(prepared.plan, prepared.targets, strict=True)):
        parts[i] += ((ids_BT, prepared.target_lengths_N[batch.indices]),)
    results = np.empty((len(prepared.lengths_N), *self._row_shape), np.float32)
    for batch, result in zip(prepared.plan, self._compute(parts), strict=True):
      results[batch.indices] = result[: len(batch.indices)]
      if on_batch is not None:
        on_batch(batch.indices, int(prepared.tokens_N[batch.indices].sum()))
    return results

  def warm_up(self) -> None:
    """Compiles and runs every shape on every model, longest first, so that a lack of memory shows at once.

    The largest shapes run as many times in parallel as `run` would run them. Raises WinnowError that names the flag to
    change.
    """
    table = self.table
    shapes = list(zip(table.lengths, table.rows, table.targets or (0,) * len(table.lengths), strict=True))
    # Rounding rows makes some batches larger than the longest; attention grows with the square of the length.
    largest = {max(shapes, key=lambda shape: (shape[0] + shape[2]) ** power * shape[1]) for power in (1, 2)}
    for length, rows, target in reversed(shapes):
      with _out_of_memory(
        f"Batches of {rows:,} x {length + target:,} tokens do not fit into memory: lower --batch_tokens (now about "
        f"{rows * (length + target):,}) or take a smaller model."
      ):
        dummy = tuple((np.zeros((rows, size), np.int32), np.full(1, size)) for size in (length, target) if size)
        for i in range(len(self._groups)):
          self._compute_batch(i, dummy)
        if (length, rows, target) in largest:
          list(self._compute([dummy] * self._in_flight))

  def describe(self) -> dict[str, Any]:
    """Returns the engine's settings that decide a result, for a fingerprint; JSON types only."""
    return {
      **versions(),
      "dtype": self._dtype,
      "buckets": self.table.to_json(),
      "device_kind": self._device_kind,
      "devices_per_model": self._groups[0].size,
    }

  def _compute(self, batches: Sequence[tuple[_Part, ...]]) -> Iterator[np.ndarray]:
    """Yields the results of batches in their order, computing `_in_flight` of them at a time."""
    with self._turn, concurrent.futures.ThreadPoolExecutor(self._in_flight, "winnow-batch") as pool:
      yield from pool.map(self._compute_batch, range(len(batches)), batches)

  def _compute_batch(self, i: int, parts: tuple[_Part, ...]) -> np.ndarray:
    """Computes batch i on its model: float32 [B, ...]. Rows beyond the lengths given are dummies of one token."""
    place = i % len(self._groups)
    group = self._groups[place]
    inputs: list[np.ndarray] = []
    for ids_BL, lengths_n in parts:
      lengths_B = np.ones(len(ids_BL), np.int32)
      lengths_B[: len(lengths_n)] = lengths_n
      inputs += [ids_BL, lengths_B]
    on_device = jax.device_put(tuple(inputs), NamedSharding(group, PartitionSpec()))
    # Devices that sum together must all get the batches in one order, or each waits for another's batch for ever.
    with self._dispatching if group.size > 1 else contextlib.nullcontext():
      result = self._program(self.params[place], *on_device)
    return jax.device_get(result)


def versions() -> dict[str, Any]:
  """Returns the part of `Engine.describe` that is known without a model or a device."""
  return {"engine_version": ENGINE_VERSION, "jax": jax.__version__}  # JAX's compiler decides the last bits


def enable_compilation_cache(folder: str | Path) -> None:
  """Keeps compiled programs in `folder` (local or gs://), so that the next process need not compile them again.

  Applies to the whole process; call it before the first program is compiled.
  """
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # By default JAX keeps programs that took a second or more; a worker compiles 16 for a small model in half of that.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _padded(sequences: Sequence[np.ndarray], batch: batching.Batch, length: int) -> np.ndarray:
  """Returns a batch's sequences padded with 0: int32 [B, L]."""
  ids_BL = np.zeros((batch.rows, length), np.int32)
  for row, i in enumerate(batch.indices):
    ids_BL[row, : len(sequences[i])] = sequences[i]
  return ids_BL


def _device_groups(size: int) -> list[Mesh]:
  """Returns the local devices in groups of `size` neighbours; raises WinnowError if `size` does not divide them."""
  devices = jax.local_devices()
  if len(devices) % size != 0:
    raise WinnowError(f"--devices_per_model={size} must divide the {len(devices)} devices of a worker.")
  return [Mesh(np.array(devices[i : i + size]), (t5.MODEL_AXIS,)) for i in range(0, len(devices), size)]


@contextlib.contextmanager
def _out_of_memory(message: str) -> Iterator[None]:
  """Raises WinnowError with this message where a device or the host runs out of memory."""
  try:
    yield
  except MemoryError as error:
    raise WinnowError(message) from error
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
      raise
    raise WinnowError(message) from error
