"""The training loop and the command around it, for a model of any kind."""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curation import t5
from curation.demo_training import texts
from curation.errors import WinnowError


def adamw(learning_rate: float, steps: int, *, weight_decay: float) -> optax.GradientTransformation:
  """AdamW with clipped gradients, a warm-up and a cosine decay to 0; only matrices decay."""
  schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, steps)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay, mask=_matrices))


def optimise(
  loss: Callable[[t5.Params, Any], tuple[jax.Array, jax.Array]],
  params: t5.Params,
  optimiser: optax.GradientTransformation,
  batches: Iterable[Any],
  log: Callable[[str], None],
) -> tuple[t5.Params, list[float]]:
  """One step for each batch; returns the parameters as NumPy arrays and the second part of the loss of every step.

  `loss` is a function of (parameters, batch): what is to become small, and what is told of it.
  """

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    (_, told), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch)
    updates, state = optimiser.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, told

  params = jax.tree.map(jnp.asarray, params)
  state = optimiser.init(params)
  losses: list[float] = []
  started = time.monotonic()
  for batch in batches:
    params, state, told = step(params, state, batch)
    losses.append(float(told))
    if len(losses) % 50 == 0:
      log(f"step {len(losses):5d}  loss {np.mean(losses[-50:]):.4f}  {time.monotonic() - started:6.0f} s")
  return jax.tree.map(np.asarray, params), losses


def run_command(
  argv: Sequence[str] | None,
  config: Any,
  name: str,
  *,
  train: Callable[..., tuple[Any, list[float]]],
  write: Callable[[str, Any], object],
) -> int:
  """Trains the demo's `name` (rater or embedder) as the arguments say and writes it; returns the exit status.

  `train` takes the texts of --input and of --shared, the config with its `steps` and `seed`, and where to log to. The
  status is 2 where the input does not suit.
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m curation.demo_{name}.train", description=f"Trains the demo's {name}."
  )
  parser.add_argument("--input", nargs="+", required=True, help="JSON Lines or Parquet files of texts, or their folder")
  parser.add_argument("--shared", help="a folder with c4/c4_en_1445.jsonl.gz, which is then half of what is shown")
  parser.add_argument("--output", required=True, help="the folder to write the checkpoint to")
  parser.add_argument("--steps", type=int, default=config.steps)
  parser.add_argument("--seed", type=int, default=config.seed)
  arguments = parser.parse_args(argv)
  config = dataclasses.replace(config, steps=arguments.steps, seed=arguments.seed)
  try:
    own, others = texts.read_texts(arguments.input), texts.read_shared(arguments.shared)
    model, _ = train(own, others, config, log=functools.partial(print, flush=True))
  except WinnowError as error:
    print(error, file=sys.stderr)
    return 2
  write(arguments.output, model)
  return 0


def _matrices(params: t5.Params) -> t5.Params:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
