"""The training of a network of two layers in JAX.

Shape suffixes: N documents, F inputs, H hidden units, B documents of a batch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from curation.selection import hashing

HIDDEN = 128
_EPOCHS = 8
_LEAST_STEPS, _MOST_EPOCHS = 600, 60
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2
Weights = dict[str, np.ndarray]


def batch_rows(documents: int) -> int:
  """Returns the number of documents of one step: fewer of a small corpus, so that there are steps enough."""
  return min(1024, max(32, 1 << (documents // 64).bit_length()), documents)


def epochs(documents: int) -> int:
  """Returns how often training goes through all documents."""
  steps = documents // batch_rows(documents)
  return min(max(_EPOCHS, -(-_LEAST_STEPS // steps)), _MOST_EPOCHS)


def train(
  read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], documents: int, inputs: int, seed: int
) -> Iterator[Weights]:
  """Yields the weights after each epoch: `first` [F, H], `constants` [H], `second` [H] and `constant` [].

  `read` returns the standardised inputs, float32 [B, F], and targets, float32 [B], of documents by their numbers. The
  order of documents is a hash's, and the result depends on the documents and the seed alone, on one kind of machine.
  The loss is the mean square error, by AdamW with a cosine schedule.
  """
  import jax.numpy as jnp

  from curation.models import training

  rows, count = batch_rows(documents), epochs(documents)
  steps = documents // rows

  def batches() -> Iterator[Any]:
    for epoch in range(count):
      order_N = np.argsort(hashing.hash_documents("student epoch", seed, str(epoch), np.arange(documents)))
      for step in range(steps):
        yield read(np.sort(order_N[step * rows : (step + 1) * rows]))

  def loss(params: Any, batch: Any) -> Any:
    inputs_BF, targets_B = batch
    units_BH = jnp.maximum(inputs_BF @ params["first"] + params["constants"], 0)
    error = jnp.mean((units_BH @ params["second"] + params["constant"] - targets_B) ** 2)
    return error, error

  optimiser = training.adamw(_LEARNING_RATE, count * steps, weight_decay=_WEIGHT_DECAY)
  states = training.train_steps(loss, _initial(inputs, seed), optimiser, batches())
  for number, (params, _) in enumerate(states, 1):
    if number % steps == 0:
      yield {name: np.array(value) for name, value in params.items()}  # the next step overwrites the device's copy


def _initial(inputs: int, seed: int) -> Weights:
  import scipy.special

  uniform = hashing.uniforms("student weight", seed, 0, (inputs + 1) * HIDDEN)
  drawn = scipy.special.ndtri(uniform).astype(np.float32)
  return {
    "first": drawn[: inputs * HIDDEN].reshape(inputs, HIDDEN) * np.float32((2 / inputs) ** 0.5),
    "constants": np.zeros(HIDDEN, np.float32),
    "second": drawn[inputs * HIDDEN :] * np.float32(0.5 / HIDDEN**0.5),
    "constant": np.zeros((), np.float32),
  }
