"""Sentence-T5: embeds a text as a unit vector (Ni et al. 2021; paper, section B.2), from sentence-transformers' layout.

An embedding is the mean of the encoder's states over a text's tokens, after a dense projection without bias and L2
normalisation. Shape suffixes as in `curation.models.t5`; N documents of a block, O dimensions of an embedding.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from curation.models import batching, checkpoints, engine, safetensors_files, t5
from curation.models.hugging_face_checkpoints import read_json
from curation.models.vocabulary import EOS_ID, Vocabulary

_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_SETTINGS, _TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json"
_LINEAR = "linear.weight"
_IDENTITY = "torch.nn.modules.linear.Identity"
_MAX_JSON_BYTES = 1 << 20
# The shortest bucket, since texts of fewer tokens are rare.
_SHORTEST = 16
_MOST_TOKENS = 1 << 16
# transformers writes 10**30 if a tokenizer has no limit, and takes any limit above this one for none.
_NO_LIMIT = 10**20


@dataclasses.dataclass(frozen=True)
class SentenceT5:
  """A model in memory; `params` is an encoder's tree with `dense_OD`."""

  config: t5.T5Config
  params: t5.Params
  vocabulary: Vocabulary
  max_input_tokens: int
  """The most tokens of one text, eos included."""

  @property
  def dimensions(self) -> int:
    """The dimensions of an embedding."""
    return self.params["dense_OD"].shape[0]


class Embeddings(NamedTuple):
  """The results of one block, in its order of documents."""

  embeddings: np.ndarray
  """Unit vectors: float32 [N, O]; NaN where the model gave NaN."""
  num_tokens: np.ndarray
  """Tokens of each whole text: int32 [N]."""
  useful_tokens: int
  """Tokens of all inputs, eos included."""
  computed_tokens: int
  """Tokens of all inputs, with padding and dummy rows."""


class SentenceT5Embedder:
  """Embeds blocks of texts with an `engine.Engine`, whose rules on threads and devices apply."""

  def __init__(
    self,
    model: SentenceT5,
    *,
    batch_tokens: int | None = None,
    devices_per_model: int = 1,
  ):
    """Puts the model on the devices; `batch_tokens` and `devices_per_model` are those of `engine.Engine`."""
    self.max_input_tokens = model.max_input_tokens
    self._vocabulary = model.vocabulary
    self.engine = engine.Engine(
      model.params,
      model.config,
      functools.partial(embed, config=model.config),
      buckets=functools.partial(batching.bucket_table, min(_SHORTEST, self.max_input_tokens), self.max_input_tokens),
      row_shape=(model.dimensions,),
      batch_tokens=batch_tokens,
      devices_per_model=devices_per_model,
    )

  def prepare(self, texts: pa.Array) -> engine.PreparedTexts:
    """Tokenises a block (Arrow strings [N], no nulls), truncates texts that are too long, and plans the batches."""
    if texts.null_count:
      raise ValueError("texts must not be null")
    tokens = self._vocabulary.encode(texts.to_pylist())
    room = self.max_input_tokens - 1
    inputs = [np.append(tokens[i][:room], np.int32(EOS_ID)) for i in range(len(texts))]
    return engine.PreparedTexts(self.engine.prepare(inputs), tokens.lengths().astype(np.int32))

  def run(self, prepared: engine.PreparedTexts, on_batch: engine.OnBatch | None = None) -> Embeddings:
    """Embeds a prepared block; `on_batch` is that of `engine.Engine.run`."""
    embeddings_NO = self.engine.run(prepared.batches, on_batch)
    return Embeddings(embeddings_NO, prepared.num_tokens_N, *prepared.batches.padding())

  def warm_up(self) -> None:
    """Compiles and tries every shape: see `engine.Engine.warm_up`."""
    self.engine.warm_up()

  def describe(self) -> dict[str, Any]:
    """Returns what decides an embedding besides weights and vocabulary, for a fingerprint; JSON types only."""
    return {**self.engine.describe(), **self._vocabulary.describe(), "max_input_tokens": self.max_input_tokens}


def load(
  folder: str | Path,
  dtype: str | None = None,
  *,
  max_input_tokens: int | None = None,
  vocabulary: str | Path | None = None,
) -> SentenceT5:
  """Reads a folder in sentence-transformers' layout; `checkpoints.load_checkpoint` reads the encoder in it.

  `max_input_tokens` replaces the folder's own limit. Raises WinnowError for anything missing, misshapen or unknown,
  such as another kind of pooling.
  """
  folder = Path(folder)
  limit, dense_OD = _read_head(folder, vocabulary)
  max_input_tokens = _longest(folder, limit, max_input_tokens)
  checkpoint = checkpoints.load_checkpoint(folder, dtype, encoder_only=True, vocabulary=vocabulary)
  _check_width(folder, dense_OD, checkpoint.config)
  dense_OD = dense_OD.astype(t5.matrix_dtype(checkpoint.config))
  return SentenceT5(
    checkpoint.config, checkpoint.params | {"dense_OD": dense_OD}, checkpoint.vocabulary, max_input_tokens
  )


def check(
  folder: str | Path,
  *,
  max_input_tokens: int | None = None,
  batch_tokens: int | None = None,
  devices_per_model: int = 1,
  vocabulary: str | Path | None = None,
) -> None:
  """Raises the WinnowError that `load` or a SentenceT5Embedder would raise, without reading weights or a device."""
  folder = Path(folder)
  limit, dense_OD = _read_head(folder, vocabulary)
  config, _ = checkpoints.check_checkpoint(folder, encoder_only=True, vocabulary=vocabulary)
  _check_width(folder, dense_OD, config)
  longest = _longest(folder, limit, max_input_tokens)
  if not 1 < longest <= _MOST_TOKENS:
    raise WinnowError(f"--max_input_tokens={longest} is not between 2 and {_MOST_TOKENS:,}.")
  t5.check_division(config, devices_per_model)
  tokens = engine.BATCH_TOKENS_CPU if batch_tokens is None else batch_tokens
  batching.bucket_table(min(_SHORTEST, longest), longest, tokens)


def work(
  folder: str | Path,
  texts: list[str],
  *,
  max_input_tokens: int | None,
  batch_tokens: int,
  vocabulary: str | Path | None = None,
) -> engine.Work:
  """Returns the work of embedding N texts, without reading weights."""
  limit, _ = _read_head(Path(folder), vocabulary)
  config, pieces = checkpoints.check_checkpoint(folder, encoder_only=True, vocabulary=vocabulary)
  longest = _longest(Path(folder), limit, max_input_tokens)
  num_tokens_N = pieces.encode(texts).lengths()
  lengths_N = np.minimum(num_tokens_N + 1, longest)
  table = batching.bucket_table(min(_SHORTEST, longest), longest, batch_tokens)
  return engine.Work(num_tokens_N, lengths_N, t5.useful_flops(config, lengths_N, encoder_only=True), table)


def model_files(folder: str | Path, vocabulary: str | Path | None = None) -> list[Path]:
  """Returns the files that define the model, sorted by name; raises WinnowError if one of them is missing.

  tokenizer_config.json is one of them only if it holds the limit on tokens.
  """
  folder = Path(folder)
  places = _places(folder)
  head = [
    folder / "modules.json",
    folder / _SETTINGS,
    places["Pooling"] / "config.json",
    places["Dense"] / "config.json",
    places["Dense"] / "model.safetensors",
  ]
  for file in head:
    if not file.is_file():
      pickled = file.suffix == ".safetensors" and file.with_name("pytorch_model.bin").is_file()
      raise WinnowError(
        f"{file} is missing"
        + (
          ", and pytorch_model.bin beside it is a pickle, which could run code when read: convert it with "
          "safetensors.torch."
          if pickled
          else ": give a folder in sentence-transformers' layout."
        )
      )
  if _own_limit(folder) is None and (folder / _TOKENIZER).is_file():
    head.append(folder / _TOKENIZER)
  return sorted([*checkpoints.checkpoint_files(folder, vocabulary), *head])


def _places(folder: Path) -> dict[str, Path]:
  """Returns the modules' folders by module type; raises WinnowError unless they are those of Sentence-T5."""
  path = folder / "modules.json"
  if not path.is_file():
    raise WinnowError(f"{folder} has no modules.json: give a folder in sentence-transformers' layout.")
  if path.stat().st_size > _MAX_JSON_BYTES:
    raise WinnowError(f"{path} is larger than 1 MiB, too large for such a file.")
  try:
    modules = json.loads(path.read_bytes())
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    places = [module["path"] for module in modules]
  except (ValueError, RecursionError, KeyError, TypeError) as error:
    raise WinnowError(f"{path} is not a list of modules: download it again.") from error
  if tuple(kinds) != _MODULES:
    raise WinnowError(f"{path} names the modules {', '.join(kinds)}, but Sentence-T5 has {', '.join(_MODULES)}.")
  for place in places:
    if not isinstance(place, str) or len(place) > 100 or any(c in place for c in "/\\:\0") or place == "..":
      raise WinnowError(f"{path} names the folder {place!r}, but modules must be in folders beside it.")
  if places[0]:
    raise WinnowError(f"{path} puts the transformer into {places[0]!r}, but its files must be beside {path.name}.")
  return {kind: folder / place for kind, place in zip(kinds, places, strict=True)}


def _read_head(folder: Path, vocabulary: str | Path | None) -> tuple[int | None, np.ndarray]:
  """Returns the limit on tokens, if there is one, and the dense projection [O, D] as a view of the mapped file."""
  model_files(folder, vocabulary)
  places = _places(folder)
  limit = _read_limit(folder)
  _check_pooling(places["Pooling"] / "config.json")
  return limit, _read_dense(places["Dense"])


def _own_limit(folder: Path) -> Any:
  """Returns the limit on tokens in sentence_bert_config.json; None if that is left to the tokenizer.

  sentence-transformers before 5.4 wrote it there.
  """
  return read_json(folder / _SETTINGS).get("max_seq_length")


def _read_limit(folder: Path) -> int | None:
  """Returns the limit on tokens, eos included, as sentence-transformers determines it; None if the folder has none."""
  settings = read_json(folder / _SETTINGS)
  if settings.get("do_lower_case"):
    raise WinnowError(f"{folder / _SETTINGS} sets do_lower_case, but Sentence-T5 is case-sensitive.")
  if settings.get("processing_kwargs"):
    raise WinnowError(f"{folder / _SETTINGS} has processing_kwargs, which Winnow does not support: remove them.")
  path, name = folder / _SETTINGS, "max_seq_length"
  limit: Any = _own_limit(folder)
  if limit is None and (folder / _TOKENIZER).is_file():
    path, name = folder / _TOKENIZER, "model_max_length"
    limit = read_json(path).get(name)
    if type(limit) in (int, float) and limit > _NO_LIMIT:
      return None
  if limit is None:
    return None
  if type(limit) is not int or not 1 < limit <= 1 << 20:
    raise WinnowError(f"{path}: {name} must be a whole number from 2 to {1 << 20:,}, not {limit!r}.")
  return limit


def _longest(folder: Path, limit: int | None, max_input_tokens: int | None) -> int:
  """Returns the flag's limit on tokens, or else the model's own; raises WinnowError if there is neither."""
  longest = limit if max_input_tokens is None else max_input_tokens
  if longest is None:
    raise WinnowError(
      f"{folder} has no limit on the tokens of a text, neither in {_SETTINGS} (max_seq_length) nor in {_TOKENIZER} "
      "(model_max_length): give --max_input_tokens."
    )
  return longest


def _check_pooling(path: Path) -> None:
  """Raises WinnowError unless the pooling is the mean.

  sentence-transformers names the pooling since 5.4, and set one of several flags before. It ignores the flags if there
  is a name.
  """
  settings = read_json(path)
  if (named := settings.get("pooling_mode")) is None:
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    is_mean = modes == ["pooling_mode_mean_tokens"]
  else:
    modes = list(map(str, named)) if isinstance(named, list) else [str(named)]
    is_mean = modes == ["mean"]
  if not is_mean:
    raise WinnowError(f"{path} asks for {', '.join(modes) or 'no pooling'}, but Sentence-T5 pools by the mean.")


def _read_dense(folder: Path) -> np.ndarray:
  """Returns the dense projection [O, D] as a view of the mapped file."""
  config, weights = folder / "config.json", folder / "model.safetensors"
  settings = read_json(config)
  if settings.get("bias") is not False or settings.get("activation_function", _IDENTITY) != _IDENTITY:
    raise WinnowError(f"{config} asks for a bias or an activation, but Sentence-T5's projection has neither.")
  if settings.get("use_residual"):
    raise WinnowError(f"{config} asks for use_residual, but Sentence-T5's projection has no residual connection.")
  tensors = safetensors_files.open_tensors(weights)
  if tensors.keys() != {_LINEAR} or tensors[_LINEAR].ndim != 2:
    raise WinnowError(f"{weights} must hold one matrix, {_LINEAR}, and nothing else.")
  if list(tensors[_LINEAR].shape) != [settings.get("out_features"), settings.get("in_features")]:
    raise WinnowError(f"{weights} holds a matrix of {list(tensors[_LINEAR].shape)}, which is not what {config} says.")
  return tensors[_LINEAR]


def _check_width(folder: Path, dense_OD: np.ndarray, config: t5.T5Config) -> None:
  if dense_OD.shape[1] != config.d_model:
    raise WinnowError(
      f"{folder} projects {dense_OD.shape[1]} dimensions, but its encoder has {config.d_model}: they do not belong "
      "together."
    )


@functools.partial(jax.jit, static_argnames="config")
def embed(params: t5.Params, ids_BL: jax.Array, lengths_B: jax.Array, config: t5.T5Config) -> jax.Array:
  """Embeds ids (int32 [B, L]), of which the first `lengths_B` count, as unit vectors: float32 [B, O]."""
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < lengths_B[:, None]
  states_BLD = t5.encode(params, ids_BL, mask_BL, config)
  mean_BD = jnp.sum(states_BLD * mask_BL[..., None], axis=1) / lengths_B[:, None]
  projected_BO = t5.product("bd,od->bo", mean_BD, params["dense_OD"], config, jnp.float32)
  return projected_BO * jax.lax.rsqrt(jnp.sum(projected_BO**2, axis=-1, keepdims=True))
