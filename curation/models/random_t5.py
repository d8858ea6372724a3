"""Writes a small T5 with random weights and its own vocabulary, for tests and benchmarks. Its scores mean nothing."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from curation.models import checkpoint_writer, t5
from curation.models.hugging_face_checkpoints import expected_shapes

# T5's sentinels, which have rows in the embedding table but are unknown to SentencePiece.
_EXTRA_IDS = 100
ANSWERS = ("▁yes", "▁no")


def write_random_checkpoint(
  folder: str | Path,
  texts: Iterable[str],
  *,
  pieces: int = 1_000,
  d_model: int = 64,
  d_kv: int = 16,
  d_ff: int = 160,
  num_layers: int = 2,
  num_heads: int = 4,
  gated: bool = True,
  seed: int = 0,
) -> Path:
  """Trains SentencePiece on `texts` and writes it with a random T5 (1.1 if `gated`, else 1.0) in Hugging Face's layout.

  `pieces` is an upper limit, since few texts give fewer. `▁yes` and `▁no` are always single pieces. The same arguments
  give the same bytes. Returns the folder, which is created if missing.
  """
  model = train_vocabulary(texts, pieces)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  config = t5.T5Config(
    vocab_size=processor.get_piece_size() + _EXTRA_IDS,
    d_model=d_model,
    d_kv=d_kv,
    d_ff=d_ff,
    num_layers=num_layers,
    num_decoder_layers=num_layers,
    num_heads=num_heads,
    gated=gated,
    tie_word_embeddings=not gated,
  )
  return checkpoint_writer.write_tensors(folder, config, random_tensors(config, seed), vocabulary=model)


def train_vocabulary(texts: Iterable[str], pieces: int) -> bytes:
  """Trains a SentencePiece unigram model with T5's conventions (pad 0, eos 1, unk 2, no bos); returns its bytes."""
  from sentencepiece import sentencepiece_model_pb2

  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(line for text in texts for line in text.splitlines() if line.strip()),
    model_writer=out,
    vocab_size=pieces,
    hard_vocab_limit=False,
    max_sentence_length=1 << 20,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    num_threads=1,
    minloglevel=2,
  )
  model = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
  known = {piece.piece for piece in model.pieces}
  for answer in ANSWERS:  # training does not always keep them as single pieces, however often it sees them
    if answer not in known:
      model.pieces.add(piece=answer, score=max(piece.score for piece in model.pieces[3:]))
  return model.SerializeToString(deterministic=True)


def random_tensors(config: t5.T5Config, seed: int) -> dict[str, np.ndarray]:
  """Returns random float32 tensors under Hugging Face's names.

  They are scaled so that attention is peaked and answers differ between documents.
  """
  generator = np.random.default_rng(seed)
  tensors = {}
  for name, shape in expected_shapes(config).items():
    values = generator.standard_normal(shape, np.float32)
    if name.endswith("layer_norm.weight"):
      values = 1 + 0.2 * values
    elif "relative_attention_bias" not in name and name != "shared.weight":
      values *= shape[-1] ** -0.5
    if name.endswith(".q.weight"):  # T5's attention is not scaled by d_kv**-0.5
      values *= 1.5 * config.d_kv**-0.5
    tensors[name] = values.astype(np.float32)
  return tensors
