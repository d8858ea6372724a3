"""Trains the demo embedder: `python -m curation.demo.embedder.train --input=FOLDER --output=FOLDER`.

Given an excerpt, it learns to pick the other excerpt of the same document, or the excerpt slightly edited, from those
of all documents of its batch (Gao, Yao and Chen 2021; Ni et al. 2021). The same texts, settings and machine give the
same bytes. Shape suffixes as in `curation.models.t5`; P pairs, O dimensions of an embedding.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from curation.coverage import minhash
from curation.demo.embedder import examples, initial
from curation.demo.training import loop, texts
from curation.errors import WinnowError
from curation.models import checkpoint_writer, random_t5, t5, training
from curation.models.vocabulary import Vocabulary
from curation.scorers import sentence_t5


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Sizes of the model and of its training; the defaults are the shipped embedder's."""

  pieces: int = 5_000
  d_model: int = 112
  d_kv: int = 32
  d_ff: int = 192
  num_layers: int = 2
  num_heads: int = 2
  max_input_tokens: int = 256
  steps: int = 650
  shapes: tuple[tuple[int, int], ...] = ((128, 56), (64, 88), (64, 144))
  """Rows and tokens of a batch's groups; two rows are a pair."""
  edited: float = 0.25
  """The share of pairs that are an excerpt and its edit."""
  temperature: float = 0.05
  learning_rate: float = 2e-3
  weight_decay: float = 0.02
  seed: int = 0


def train(
  own: list[str], others: list[str], config: TrainConfig, log: Callable[[str], None] = print
) -> tuple[sentence_t5.SentenceT5, list[float]]:
  """Trains on `own` texts and, half of the time, on `others`; returns the model and the loss of every step.

  The vocabulary is learnt from `own` alone. Held-out texts are left out, and so are near-copies, which would be
  negatives of each other in a batch. Raises WinnowError if too few texts remain for a batch or for the model's
  dimensions.
  """
  own, others = (fit_texts(texts.not_held_out(pool)) for pool in (own, others))
  needed = 1 + max(config.d_model, sum(rows for rows, _ in config.shapes) // 2)
  if not own or len({*own, *others}) < needed:
    raise WinnowError(
      f"{len({*own, *others}):,} different texts of {examples.MIN_WORDS} words or more are left to train on, but "
      f"{needed} are needed: give more JSON Lines or Parquet files."
    )
  vocabulary = Vocabulary(random_t5.train_vocabulary(own, config.pieces))
  model = t5.T5Config(
    vocab_size=len(vocabulary),
    d_model=config.d_model,
    d_kv=config.d_kv,
    d_ff=config.d_ff,
    num_layers=config.num_layers,
    num_decoder_layers=config.num_layers,
    num_heads=config.num_heads,
    gated=True,
  )
  params = initial.initial_params(model, vocabulary.encode(own + others), config.seed)

  def loss(params, batch: examples.PairBatch):
    loss = contrastive_loss(params, batch, config.temperature, model)
    return loss, loss

  example_batches = examples.batches(
    [own, others], vocabulary, steps=config.steps, shapes=config.shapes, edited=config.edited, seed=config.seed
  )
  optimiser = training.adamw(config.learning_rate, config.steps, weight_decay=config.weight_decay)
  params, losses = loop.optimise(loss, params, optimiser, example_batches, log)
  return sentence_t5.SentenceT5(model, params, vocabulary, config.max_input_tokens), losses


def fit_texts(pool: list[str]) -> list[str]:
  """Returns the texts that are long enough for two excerpts, without near-copies of an earlier text."""
  fit = [text for text in pool if len(text.split()) >= examples.MIN_WORDS]
  copies_N = minhash.near_copies(fit, minhash.MinHashConfig(similarity=0.5, bands=32, rows=4))
  return [text for text, copy in zip(fit, copies_N, strict=True) if not copy]


def contrastive_loss(params: t5.Params, batch: examples.PairBatch, temperature: float, model: t5.T5Config) -> jax.Array:
  """Computes the cross-entropy, in nats, of each row's partner among all rows of the other side, both ways: float32."""
  embedded = [sentence_t5.embed(params, group.ids_RL, group.lengths_R, model) for group in batch.groups]
  embedded_BO = jnp.concatenate(embedded)[batch.places_B]
  left_PO, right_PO = jnp.split(embedded_BO, 2)
  cosines_PP = left_PO @ right_PO.T / temperature
  both = [jnp.diagonal(jax.nn.log_softmax(cosines_PP, axis=axis)) for axis in (0, 1)]
  return -jnp.mean(jnp.stack(both))


def main(argv: Sequence[str] | None = None, config: TrainConfig | None = None) -> int:
  """Trains and writes the model; returns exit status 2 if the input is not suitable, otherwise 0."""
  return loop.run_command(argv, config or TrainConfig(), "embedder", train=train, write=write)


def write(folder: str, model: sentence_t5.SentenceT5) -> None:
  """Writes the model in sentence-transformers' layout, in float16."""
  checkpoint_writer.write_sentence_t5(
    folder, model.config, model.params, vocabulary=model.vocabulary.model, max_seq_length=model.max_input_tokens
  )


if __name__ == "__main__":
  sys.exit(main())
