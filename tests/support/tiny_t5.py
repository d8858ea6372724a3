"""A small random T5 and its vocabulary in a Hugging Face folder, from sentences made here: no shared data."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from jax.experimental.compilation_cache import compilation_cache

from curation.models import checkpoint_writer, engine, random_t5

_WORDS = (
  "the a river stone bread window letter garden teacher engine winter market bridge paper candle sailor doctor "
  "orchard kettle mountain harbour violin carries finds paints repairs counts remembers follows sells opens "
  "measures under behind near across quickly slowly carefully never always yes no often bright heavy quiet "
  "wooden ancient yellow"
)


def make_texts(number: int, *, seed: int = 0, longest: int = 60) -> list[str]:
  """Returns texts of 1 to `longest` words, in sentences; the same seed gives the same texts."""
  generator = np.random.default_rng(seed)
  texts = []
  for words in generator.integers(1, longest + 1, number):
    chosen = generator.choice(_WORDS.split(), words)
    texts.append(" ".join(word + "." if i % 9 == 8 else word for i, word in enumerate(chosen)))
  return texts


def make_checkpoint(folder: Path, *, gated: bool = True, seed: int = 0, **sizes: int) -> Path:
  """Writes the folder of a T5 1.1 if `gated`, else 1.0; `sizes` are those of `write_random_checkpoint`."""
  sizes = {"pieces": 300, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 3} | sizes
  return random_t5.write_random_checkpoint(folder, make_texts(300, seed=1), gated=gated, seed=seed, **sizes)


def make_sentence_t5(
  folder: Path, *, dimensions: int = 20, max_seq_length: int = 40, gated: bool = True, seed: int = 0, **sizes: int
) -> Path:
  """Writes a random Sentence-T5 in sentence-transformers' layout: an encoder, mean pooling, a dense layer, L2."""
  make_checkpoint(folder, gated=gated, seed=seed, **sizes)
  weights = safetensors.numpy.load_file(folder / "model.safetensors")
  encoder = {name: value for name, value in weights.items() if not name.startswith(("decoder.", "lm_head."))}
  safetensors.numpy.save_file(encoder, folder / "model.safetensors")
  width = weights["shared.weight"].shape[1]
  generator = np.random.default_rng(5)
  dense_OD = generator.standard_normal((dimensions, width)).astype(np.float32)
  checkpoint_writer.write_sentence_head(folder, dense_OD, max_seq_length)
  return folder


def save_as_sentence_transformers_5(folder: Path, *, model_max_length: int | None = 40) -> None:
  """Changes the settings of a Sentence-T5's folder to what sentence-transformers 5.4 and later write for it.

  The vocabulary stays, though transformers 5 would leave only a tokenizer.json.
  """
  places = {
    "Transformer": "base.modules.transformer",
    "Pooling": "sentence_transformer.modules.pooling",
    "Dense": "base.modules.dense",
    "Normalize": "base.modules.normalize",
  }
  modules = json.loads((folder / "modules.json").read_text())
  for module in modules:
    kind = module["type"].rpartition(".")[2]
    module["type"] = f"sentence_transformers.{places[kind]}.{kind}"
  dense = json.loads((folder / "2_Dense/config.json").read_text())
  names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
  files = {
    "modules.json": modules,
    "sentence_bert_config.json": {
      "transformer_task": "feature-extraction",
      "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
      "module_output_name": "token_embeddings",
    },
    "tokenizer_config.json": {"backend": "tokenizers", "tokenizer_class": "T5Tokenizer"},
    "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True},
    "2_Dense/config.json": {**dense, **names},
    "3_Normalize/config.json": names,
  }
  if model_max_length is not None:
    files["tokenizer_config.json"]["model_max_length"] = model_max_length
  (folder / "3_Normalize").mkdir(exist_ok=True)
  for name, content in files.items():
    (folder / name).write_text(json.dumps(content))


@contextlib.contextmanager
def kept_programs(folder: Path) -> Iterator[None]:
  """Keeps what is compiled meanwhile in the folder, where it is found again: half of the time of training twice."""
  settings = [
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  ]
  before = {name: getattr(jax.config, name) for name in settings}
  jax.clear_caches()
  compilation_cache.reset_cache()
  try:
    engine.enable_compilation_cache(folder)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
