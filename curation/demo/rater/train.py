"""Trains the demo rater: `python -m curation.demo.rater.train --input=FOLDER --output=FOLDER`.

It learns to answer the Ask-LLM prompt with yes for an excerpt of a real text and with no for the same excerpt damaged.
For an excerpt damaged in part, P(yes) is to be the share that is intact. Inputs are the scorer's own, to the token. The
same texts, settings and machine give the same bytes. Shape suffixes as in `curation.models.t5`.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curation.demo.rater import examples, initial
from curation.demo.training import loop, texts
from curation.models import checkpoint_writer, checkpoints, random_t5, t5, training
from curation.models.vocabulary import Vocabulary
from curation.scorers import ask_llm


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Sizes of the model and of its training; the defaults are the shipped rater's."""

  pieces: int = 3_000
  d_model: int = 128
  d_kv: int = 32
  d_ff: int = 256
  num_layers: int = 2
  num_decoder_layers: int = 1
  num_heads: int = 4
  steps: int = 2_000
  batch_tokens: int = 4_096
  max_input_tokens: int = 512
  learning_rate: float = 7e-4
  weight_decay: float = 0.02
  probe: float = 1.0
  """The weight of the probe's loss relative to the answer's."""
  seed: int = 0


def train(
  own: list[str], others: list[str], config: TrainConfig, log: Callable[[str], None] = print
) -> tuple[checkpoints.Checkpoint, list[float]]:
  """Trains on `own` texts and, half of the time, on `others`; returns the model and the loss of every step.

  The vocabulary is learnt from `own` and the prompt alone. Held-out texts are left out.
  """
  own, others = texts.not_held_out(own), texts.not_held_out(others)
  vocabulary = Vocabulary(train_vocabulary(own, config.pieces))
  model = t5.T5Config(
    vocab_size=len(vocabulary),
    d_model=config.d_model,
    d_kv=config.d_kv,
    d_ff=config.d_ff,
    num_layers=config.num_layers,
    num_decoder_layers=config.num_decoder_layers,
    num_heads=config.num_heads,
    gated=True,
    tie_word_embeddings=False,
  )
  params = initial.initial_params(model, vocabulary.encode(own + others).ids, config.seed)
  scorer = ask_llm.AskLlmScorer(
    checkpoints.Checkpoint(model, params, vocabulary),
    max_input_tokens=config.max_input_tokens,
    batch_tokens=config.batch_tokens,
  )
  answers = (vocabulary.answer_id("yes"), vocabulary.answer_id("no"))
  optimiser = optax.chain(
    training.adamw(config.learning_rate, config.steps, weight_decay=config.weight_decay), _scale_updates()
  )

  def loss(params, batch: examples.TrainBatch):
    losses_2 = _losses(params, batch, answers, model)
    return losses_2[0] + config.probe * losses_2[1], losses_2[0]

  # Training covers a single decoder step, which sees all tokens at once. It learns where to look much sooner if every
  # token's state must predict the answer by itself, through a probe that is not part of the model.
  params = params | {"probe_D": np.zeros(config.d_model, np.float32)}
  example_batches = examples.batches(
    [own, others], scorer, steps=config.steps, batch_tokens=config.batch_tokens, seed=config.seed
  )
  params, losses = loop.optimise(loss, params, optimiser, example_batches, log)
  del params["probe_D"]
  return checkpoints.Checkpoint(model, params, vocabulary), losses


def train_vocabulary(own: list[str], pieces: int) -> bytes:
  """Trains a vocabulary with T5's conventions on `own` and the prompt, repeated so that it takes few tokens."""
  prompt = ask_llm.Prompt()
  return random_t5.train_vocabulary([*own, *[prompt.prefix + prompt.suffix] * max(20, len(own) // 20)], pieces)


def _scale_updates() -> optax.GradientTransformation:
  """Scales updates down for the embedding and up for weights that start at 0, since Adam moves all weights alike."""
  factors = {"embedding_VD": 0.3, "head_VD": 4.0, "probe_D": 4.0}

  def update(updates, state, params=None):
    return updates | {name: factor * updates[name] for name, factor in factors.items()}, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _losses(params: t5.Params, batch: examples.TrainBatch, answers: tuple[int, int], model: t5.T5Config) -> jax.Array:
  """Computes the cross-entropy of the answer, over all pieces, and of the probe, in nats per row: float32 [2]."""
  mask_BL = jnp.arange(batch.ids_BL.shape[1])[None, :] < batch.lengths_B[:, None]
  states_BLD = t5.encode(params, jnp.asarray(batch.ids_BL), mask_BL, model)
  log_p_BV = jax.nn.log_softmax(t5.first_step_logits(params, states_BLD, mask_BL, model))
  yes_B, no_B = (log_p_BV[:, answer] for answer in answers)
  answer_B = -(batch.wanted_B * yes_B + (1 - batch.wanted_B) * no_B)
  probe_BL = optax.sigmoid_binary_cross_entropy(states_BLD @ params["probe_D"], batch.wanted_B[:, None])
  probe_B = jnp.sum(probe_BL * mask_BL, axis=1) / batch.lengths_B
  return jnp.stack([jnp.sum(loss_B * batch.weight_B) for loss_B in (answer_B, probe_B)]) / jnp.sum(batch.weight_B)


def main(argv: Sequence[str] | None = None, config: TrainConfig | None = None) -> int:
  """Trains and writes the checkpoint; returns exit status 2 if the input is not suitable, otherwise 0."""
  return loop.run_command(argv, config or TrainConfig(), "rater", train=train, write=_write)


def _write(folder: str, checkpoint: checkpoints.Checkpoint) -> None:
  checkpoint_writer.write_checkpoint(
    folder, checkpoint.config, checkpoint.params, vocabulary=checkpoint.vocabulary.model
  )


if __name__ == "__main__":
  sys.exit(main())
