"""What every training here has in common: where weights start, optimisers, and the steps.

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
  """Tensors under Hugging Face's names, float32: random by fan-in; norms are 1, an untied head and positions 0.

  An embedding that is the head, too, has T5's standard deviation of 1. What is added to the residual stream is `added`
  times as large, to be small beside the embedding.
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
  """AdamW with clipped gradients, a warm-up and a cosine decay to 0; only matrices decay."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices))


def adafactor(learning_rate: float, steps: int) -> optax.GradientTransformation:
  """T5's optimiser (Shazeer and Stern 2018), whose rate is a share of each matrix's size, with `adamw`'s schedule.

  T5's own, the inverse square root of the step, is made for a million of them.
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
  """One step for each batch: yields the parameters after it, and the second part of its loss, not waited for.

  `loss` is a function of (parameters, batch): what is to become small, and what is told of it. The parameters are on
  the device, and the next step overwrites them.
  """

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    (_, told), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
    updates, state = optimiser.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, told

  params = jax.tree.map(jnp.asarray, params)
  state = optimiser.init(params)
  for batch in batches:
    params, state, told = step(params, state, batch)
    yield params, told


def _matrices(params: t5.Params) -> t5.Params:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
