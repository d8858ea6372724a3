"""Trains a small T5 on one machine: `python -m pretraining.train OUTPUT --model_dir=FOLDER --vocabulary=FILE`.

The models are for comparing samples, and nobody should use them otherwise. Training reads what T5X reads, by the same
seqio task, and runs the T5 that scores. A step takes a batch of T5's span corruption, and the loss is the mean negative
log-likelihood of a target token. The same sample, settings, versions and machine give the same weights. Training is
short and cannot be resumed: checkpoints have no optimiser state.

Shape suffixes: B batch, L input positions, T target positions.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curation.errors import WinnowError
from curation.models import checkpoint_writer, checkpoints, engine, t5, training
from curation.models.vocabulary import NUM_SENTINELS, Vocabulary
from curation.scorers import span_corruption
from pipelines.corpus import inputs
from pipelines.registry import flag
from pipelines.runners import commands
from pipelines.scorers.t5 import model_files

# Steps that a logged loss is averaged over.
_LOGGED_STEPS = 50
# Scale of the projections to the residual stream, relative to an embedding of 1.
_ADDED = 0.3


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Sizes of a T5 1.0, without its vocabulary, and of its training."""

  d_model: int = 64
  d_kv: int = 16
  d_ff: int = 256
  num_layers: int = 2
  num_heads: int = 4
  input_tokens: int = 128
  batch_size: int = 32
  steps: int = 1_000
  checkpoint_steps: int | None = None
  """Steps between two checkpoints; None writes the last one only."""
  learning_rate: float = 0.03
  seed: int = 0

  def model(self, vocabulary: Vocabulary) -> t5.T5Config:
    """Returns the model's config for a vocabulary and its sentinels."""
    return t5.T5Config(
      vocab_size=len(vocabulary) + NUM_SENTINELS,
      d_model=self.d_model,
      d_kv=self.d_kv,
      d_ff=self.d_ff,
      num_layers=self.num_layers,
      num_decoder_layers=self.num_layers,
      num_heads=self.num_heads,
    )


class TrainBatch(NamedTuple):
  """Inputs int32 [B, L] and targets int32 [B, T], with eos and padded with 0."""

  inputs_BL: jax.Array | np.ndarray
  targets_BT: jax.Array | np.ndarray


def batches(task: str, vocabulary: Vocabulary, config: TrainConfig) -> Iterator[TrainBatch]:
  """Yields `config.steps` batches of a registered seqio task, repeating its data with new masks as needed.

  Data and masks depend on the sample and `config.seed` alone. Raises WinnowError if the task's vocabulary has another
  size.
  """
  import seqio

  pieces = seqio.get_mixture_or_task(task).output_features["targets"].vocabulary
  if pieces.vocab_size != len(vocabulary) + NUM_SENTINELS:
    raise WinnowError(
      f"the task {task} has {pieces.vocab_size:,} pieces with its sentinels, but the vocabulary has "
      f"{len(vocabulary) + NUM_SENTINELS:,}; register it with the same vocabulary"
    )
  window = span_corruption.window_length(span_corruption.SPAN_CORRUPTION, config.input_tokens)
  _, targets = span_corruption.pair_lengths(np.array([window]))
  examples = seqio.get_dataset(
    task,
    {"inputs": config.input_tokens, "targets": int(targets[0])},
    dataset_split="train",
    shuffle=True,
    seed=config.seed,
    num_epochs=None,
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
  ).batch(config.batch_size)
  for example in examples.take(config.steps).prefetch(8).as_numpy_iterator():
    yield TrainBatch(example["encoder_input_tokens"], example["decoder_target_tokens"])


def mean_nll(params: t5.Params, batch: TrainBatch, model: t5.T5Config) -> jax.Array:
  """Computes the mean negative log-likelihood of a target token over a batch, in nats: float32."""
  inputs_BL, targets_BT = jnp.asarray(batch.inputs_BL), jnp.asarray(batch.targets_BT)
  mask_BL, mask_BT = inputs_BL > 0, targets_BT > 0
  states_BLD = t5.encode(params, inputs_BL, mask_BL, model)
  nll_BT = t5.nll_per_token(params, states_BLD, mask_BL, targets_BT=targets_BT, target_mask_BT=mask_BT, config=model)
  return jnp.sum(nll_BT) / jnp.sum(mask_BT)


def train(
  task: str,
  vocabulary: Vocabulary,
  config: TrainConfig,
  *,
  save: Callable[[int, checkpoints.Checkpoint], None],
  log: Callable[[str], None] = print,
) -> None:
  """Trains a T5 from random weights on a task; passes each checkpoint with its step to `save`, the last at the end.

  Raises JobError if the loss does not stay finite.
  """
  model = config.model(vocabulary)
  generator = np.random.default_rng([config.seed, 0])
  params = checkpoints.build_params(training.random_tensors(model, generator, added=_ADDED), model)
  optimiser = training.adafactor(config.learning_rate, config.steps)

  def loss(params: t5.Params, batch: TrainBatch) -> tuple[jax.Array, jax.Array]:
    nll = mean_nll(params, batch, model)
    return nll, nll

  period = config.checkpoint_steps or config.steps
  losses, started = [], time.monotonic()
  steps = training.train_steps(loss, params, optimiser, batches(task, vocabulary, config))
  for step, (trained, nll) in enumerate(steps, start=1):
    losses.append(nll)
    if step % _LOGGED_STEPS == 0 or step == config.steps:
      mean = np.mean(jax.device_get(losses))
      losses.clear()
      if not np.isfinite(mean):
        raise commands.JobError(f"the loss is {mean} at step {step:,}: take a lower --learning_rate")
      log(f"step {step:6,d}  loss {mean:.4f}  perplexity {np.exp(mean):9.2f}  {time.monotonic() - started:6.0f} s")
    if step % period == 0 or step == config.steps:
      save(step, checkpoints.Checkpoint(model, jax.tree.map(np.asarray, trained), vocabulary))


def write_checkpoint(model_dir: pathlib.Path, step: int, checkpoint: checkpoints.Checkpoint) -> None:
  """Writes `checkpoint-STEP` in Hugging Face's layout, in float32, as a whole or not at all."""
  temporary = model_dir / f"checkpoint-{step}.tmp-{os.getpid()}"
  checkpoint_writer.write_checkpoint(
    temporary, checkpoint.config, checkpoint.params, vocabulary=checkpoint.vocabulary.model, dtype="float32"
  )
  temporary.rename(model_dir / f"checkpoint-{step}")


def run(argv: Sequence[str]) -> None:
  """Trains as the arguments say; raises WinnowError if they do not fit together."""
  parser = argparse.ArgumentParser(prog="python -m pretraining.train", description="Trains a small T5 on one machine.")
  parser.add_argument("output", type=flag.path, metavar="OUTPUT", help="an output of winnow sample, local or gs://")
  folder = "a local folder, for checkpoint-STEP in Hugging Face's layout"
  parser.add_argument("--model_dir", type=flag.path, required=True, help=folder)
  file = "a SentencePiece file with T5's conventions, local or gs://"
  parser.add_argument("--vocabulary", type=flag.path, required=True, help=file)
  for field in dataclasses.fields(TrainConfig):
    kind = int if field.name == "checkpoint_steps" else type(field.default)
    default = "the last step only" if field.default is None else f"{field.default:,}"
    parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=f"default: {default}")
  namespace = parser.parse_args(argv)
  config = TrainConfig(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(TrainConfig)})
  _check(config)
  pieces = model_files.local_vocabulary(namespace.vocabulary)
  assert pieces is not None  # the flag is required
  try:
    vocabulary = checkpoints.read_vocabulary(pieces)
  except OSError as error:
    raise WinnowError(f"--vocabulary={namespace.vocabulary} cannot be read: {error.strerror}") from error
  span_corruption.check_sentinels(vocabulary, config.model(vocabulary).vocab_size, config.input_tokens)
  model_dir = pathlib.Path(inputs.absolute(namespace.model_dir))
  if any(model_dir.glob("checkpoint-*")):
    raise WinnowError(f"--model_dir={namespace.model_dir} has checkpoints: take another, or remove them")
  task = _register(namespace.output, str(pieces))
  engine.enable_compilation_cache(model_files.cache_folder() / "programs")
  with commands.writing():
    model_dir.mkdir(parents=True, exist_ok=True)
    train(
      task,
      vocabulary,
      config,
      save=functools.partial(write_checkpoint, model_dir),
      log=functools.partial(print, flush=True),
    )
    print(model_dir / f"checkpoint-{config.steps}")


def _check(config: TrainConfig) -> None:
  for name in ("input_tokens", "batch_size", "steps", "checkpoint_steps"):
    value = getattr(config, name)
    if value is not None and value < (2 if name == "input_tokens" else 1):
      raise WinnowError(f"--{name}={value} is too small; type {2 if name == 'input_tokens' else 1} or more")
  if not (0 < config.learning_rate < 1 and 0 <= config.seed < 2**31):
    raise WinnowError("--learning_rate must be between 0 and 1, and --seed from 0 to 2,147,483,647")


def _register(output: str, vocabulary: str) -> str:
  try:
    import seqio

    from pretraining import tasks
  except ModuleNotFoundError as error:
    raise WinnowError(
      f"training needs {error.name}, which is not installed: pip install 'winnow-curation[t5]' and then "
      "pip install --no-deps 't5>=0.9.4,<0.10'"
    ) from error
  return tasks.register_sample(
    output, vocabulary=seqio.SentencePieceVocabulary(inputs.absolute(vocabulary), extra_ids=NUM_SENTINELS)
  )


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(run, argv, resumes=False)


if __name__ == "__main__":
  sys.exit(main())
