"""Training steps of a T5, its initial weights and its optimisers, for the demo's models and `pretraining`.

Shape suffixes as in `curation.models.t5`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curation.models import hugging_face_checkpoints, t5


def random_tensors(
  model: t5.T5Config, generator: np.random.Generator, *, added: float, encoder_only: bool = False
) -> dict[str, np.ndarray]:
  """Draws initial float32 tensors under Hugging Face's names.

  Matrices are scaled by fan-in. Norms are 1; an untied head and the position tables are 0. A tied embedding has T5's
  standard deviation of 1. Projections back to the residual stream are multiplied by `added`, so that they start small
  beside the embedding.
  """
  tensors = {}
  for name, shape in hugging_face_checkpoints.expected_shapes(model, encoder_only=encoder_only).items():
    if name.endswith("layer_norm.weight"):
      values = np.ones(shape)
    elif name == "lm_head.weight" or "relative_attention_bias" in name:
      values = np.zeros(shape)
    elif name == "shared.weight" and model.tie_word_embeddings and not encoder_only:
      values = generator.standard_normal(shape)
    else:
      values = generator.standard_normal(shape) * shape[-1] ** -0.5
      if name.endswith(".q.weight"):  # T5's attention is not scaled by d_kv**-0.5
        values *= model.d_kv**-0.5
      if name.endswith((".o.weight", ".wo.weight")):
        values *= added
    tensors[name] = values.astype(np.float32)
  return tensors


def adamw(learning_rate: float, steps: int, *, weight_decay: float) -> optax.GradientTransformation:
  """Returns AdamW with clipped gradients, a warm-up and a cosine decay to 0. Weight decay applies to matrices only."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices))


def adafactor(learning_rate: float, steps: int) -> optax.GradientTransformation:
  """Returns Adafactor, T5's optimiser (Shazeer and Stern 2018), with the schedule of `adamw`.

  The learning rate is relative to each matrix's scale. T5's own schedule, the inverse square root of the step, suits a
  million steps.
  """
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adafactor(schedule, min_dim_size_to_factor=32, multiply_by_parameter_scale=True),
  )


def train_steps(
  loss: Callable[[t5.Params, Any], tuple[jax.Array, jax.Array]],
  params: t5.Params,
  optimiser: optax.GradientTransformation,
  batches: Iterable[Any],
) -> Iterator[tuple[t5.Params, jax.Array]]:
  """Takes one step for each batch; yields the parameters after it and the reported loss, without waiting for them.

  `loss` is a function of (parameters, batch) that returns the loss to minimise and the loss to report. The parameters
  are on the device, and the next step overwrites them.
  """

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    (_, reported), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
    updates, state = optimiser.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, reported

  params = jax.tree.map(jnp.asarray, params)
  state = optimiser.init(params)
  for batch in batches:
    params, state, reported = step(params, state, batch)
    yield params, reported


def _matrices(params: t5.Params) -> t5.Params:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
