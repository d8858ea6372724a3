"""The training loop and its command, for a model of any kind."""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from curation.demo.training import texts
from curation.errors import WinnowError
from curation.models import t5, training


def optimise(
  loss: Callable[[t5.Params, Any], tuple[jax.Array, jax.Array]],
  params: t5.Params,
  optimiser: optax.GradientTransformation,
  batches: Iterable[Any],
  log: Callable[[str], None],
) -> tuple[t5.Params, list[float]]:
  """Runs `training.train_steps` to its end; returns the parameters as NumPy arrays and the loss of each step."""
  losses: list[float] = []
  started = time.monotonic()
  trained = params
  for step in training.train_steps(loss, params, optimiser, batches):
    trained, reported = step
    losses.append(float(reported))
    if len(losses) % 50 == 0:
      log(f"step {len(losses):5d}  loss {np.mean(losses[-50:]):.4f}  {time.monotonic() - started:6.0f} s")
  return jax.tree.map(np.asarray, trained), losses


def run_command(
  argv: Sequence[str] | None,
  config: Any,
  name: str,
  *,
  train: Callable[..., tuple[Any, list[float]]],
  write: Callable[[str, Any], object],
) -> int:
  """Trains the demo's `name` (rater or embedder) by the arguments and writes it; returns the exit status.

  `train` takes the texts of --input, those of --shared, the config, and a function to log with. The config needs
  `steps` and `seed`. The status is 2 if the input is not suitable, otherwise 0.
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m curation.demo.{name}.train", description=f"Trains the demo's {name}."
  )
  parser.add_argument("--input", nargs="+", required=True, help="JSON Lines or Parquet files of texts, or their folder")
  parser.add_argument("--shared", help="a folder with c4/c4_en_1445.jsonl.gz, which then gives half of the texts")
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
