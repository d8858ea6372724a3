"""Opens a T5 in a T5X checkpoint_N folder under Hugging Face's names: T5 1.0 and 1.1, with or without scanned layers.

Names and shapes are those of T5X's networks (github.com/google-research/t5x, t5x/examples/t5 and scalable_t5). Kernels
are [in, out], the transposes of Hugging Face's. With scanned layers one array holds all layers, on axis 1, and has
heads as a dimension of its own. Such models have a position table for each layer, which gets the name that Hugging Face
would give it.

Nothing in such a folder is trusted; see `curation.models.t5x_arrays`. The config is inferred from the arrays' shapes;
the number of heads comes from the position table. Every array must then have the shape that follows from the config.
Before any array is read, the total size that all of them claim is compared with the size of their files.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from curation.errors import WinnowError
from curation.models import t5, t5x_arrays
from curation.models.hugging_face_checkpoints import expected_shapes

_WHOLE = {
  "shared": "token_embedder.embedding",
  "lm_head": "decoder.logits_dense.kernel",
  "encoder.final_layer_norm": "encoder.encoder_norm.scale",
  "decoder.final_layer_norm": "decoder.decoder_norm.scale",
}
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
# The sublayers that Hugging Face numbers within a layer: attention, cross-attention, feed-forward.
_SUBLAYERS = {
  "encoder": (("attention", "pre_attention_layer_norm"), ("mlp", "pre_mlp_layer_norm")),
  "decoder": (
    ("self_attention", "pre_self_attention_layer_norm"),
    ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    ("mlp", "pre_mlp_layer_norm"),
  ),
}
_LAYER_TENSOR = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(?:\w+\.)?(\w+)")
_POSITION = "relative_attention_bias"
_TABLE = "relpos_bias.rel_embedding"

# Weights hardly compress. So arrays may claim this many bytes for each byte of their files, and these bytes beyond.
_MAX_RATIO = 32
_SPARE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One of Hugging Face's tensors, read and transposed when NumPy asks for it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]
  """Reads T5X's array, which may hold the tensors of all layers."""
  layer: int | None
  transposed: bool

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    values = self.read()
    if self.layer is not None:
      values = values[:, self.layer]
    values = values.reshape(self.shape[::-1]).T if self.transposed else values
    return values if dtype is None else values.astype(dtype)


def is_checkpoint(folder: Path) -> bool:
  """Tells whether a folder is a T5X checkpoint and not one of Hugging Face's."""
  is_t5x = (folder / t5x_arrays.INDEX).is_file() or (folder / t5x_arrays.STATE).is_dir()
  return is_t5x and not (folder / "config.json").is_file()


def model_files(folder: Path) -> list[Path]:
  """Returns the files that hold the model's arrays; raises WinnowError if the first of them is missing."""
  return t5x_arrays.array_files(folder)


def open_tensors(folder: Path, dtype: str, *, encoder_only: bool) -> tuple[t5.T5Config, dict[str, Tensor]]:
  """Returns the config and, by Hugging Face's names, every tensor of its model. Tensors are read on demand.

  Raises WinnowError if the folder does not hold the arrays of a T5.
  """
  arrays = t5x_arrays.open_arrays(folder)
  scanned = any(name.startswith("encoder.encoder.") for name in arrays)
  config = _infer_config(folder, arrays, scanned, dtype)
  expected = _expected_shapes(config, scanned)
  sources = {name: _source(name, scanned) for name in expected}
  _check_names(folder, arrays, {source for source, _ in sources.values()})
  if encoder_only:
    expected = _expected_shapes(config, scanned, encoder_only=True)
  read = functools.lru_cache(maxsize=1)(lambda source: arrays[source].read())  # one array's layers come in sequence
  tensors = {}
  for name, shape in expected.items():
    source, layer = sources[name]
    stored = _stored_shape(name, shape, config, scanned)
    if arrays[source].shape != stored:
      raise WinnowError(
        f"{folder} has target.{source} with shape {list(arrays[source].shape)} where its other arrays call for "
        f"{list(stored)}: it is damaged, or not a T5."
      )
    tensors[name] = Tensor(shape, functools.partial(read, source), layer, transposed=name != "shared.weight")
  claimed = sum(arrays[source].nbytes for source in {sources[name][0] for name in tensors})
  held = sum(path.stat().st_size for path in model_files(folder))
  if claimed > _SPARE_BYTES + _MAX_RATIO * held:
    raise WinnowError(
      f"{folder} claims {claimed:,} bytes of weights, more than {_MAX_RATIO} times the {held:,} bytes of its files: "
      "copy the checkpoint again."
    )
  return config, tensors


def _infer_config(folder: Path, arrays: dict[str, t5x_arrays.Array], scanned: bool, dtype: str) -> t5.T5Config:
  """Infers the sizes from the arrays' shapes; maximum distance and epsilon are constants of T5X's networks."""

  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in arrays:
      raise WinnowError(f"{folder} has no target.{name}, which every T5 has: give T5X's checkpoint of a T5 1.0 or 1.1.")
    if len(arrays[name].shape) != rank:
      raise WinnowError(f"{folder} has target.{name} with {len(arrays[name].shape)} dimensions instead of {rank}.")
    return arrays[name].shape

  def layers(stack: str) -> int:
    if scanned:
      return shape(f"{stack}.{stack}.{_TABLE}", 3)[1]
    return len({name.split(".")[1] for name in arrays if name.startswith(f"{stack}.layers_")})

  first = "encoder.encoder" if scanned else "encoder.layers_0"
  gated = f"{first}.mlp.wi_0.kernel" in arrays
  vocab_size, d_model = shape("token_embedder.embedding", 2)
  *_, d_ff = shape(f"{first}.mlp.{'wi_0' if gated else 'wi'}.kernel", 3 if scanned else 2)
  num_heads, *_, buckets = shape(f"encoder.encoder.{_TABLE}", 3) if scanned else shape(f"encoder.{_TABLE}", 2)
  if scanned:
    d_kv, remainder = shape(f"{first}.attention.query.kernel", 4)[3], 0
  else:
    d_kv, remainder = divmod(shape(f"{first}.attention.query.kernel", 2)[1], num_heads or 1)
  if remainder:
    raise WinnowError(f"{folder} has {num_heads} heads in its position table, which do not divide its queries' width.")
  try:
    return t5.T5Config(
      vocab_size=vocab_size,
      d_model=d_model,
      d_kv=d_kv,
      d_ff=d_ff,
      num_layers=layers("encoder"),
      num_decoder_layers=layers("decoder"),
      num_heads=num_heads,
      relative_attention_num_buckets=buckets,
      gated=gated,
      tie_word_embeddings="decoder.logits_dense.kernel" not in arrays,
      dtype=dtype,
    )
  except WinnowError as error:
    raise WinnowError(f"{folder}, by the shapes of its arrays: {error}") from error


def _expected_shapes(config: t5.T5Config, scanned: bool, *, encoder_only: bool = False) -> dict[str, tuple[int, ...]]:
  """Returns Hugging Face's names and shapes, with a position table for each layer if scanned."""
  shapes = expected_shapes(config, encoder_only=encoder_only)
  if not scanned:
    return shapes
  first = f"encoder.block.0.layer.0.SelfAttention.{_POSITION}.weight"
  layers = {"encoder": config.num_layers} | ({} if encoder_only else {"decoder": config.num_decoder_layers})
  tables = {
    first.replace("encoder.block.0", f"{stack}.block.{i}"): shapes[first]
    for stack, number in layers.items()
    for i in range(number)
  }
  return shapes | tables


def _source(name: str, scanned: bool) -> tuple[str, int | None]:
  """Returns the T5X array that holds a tensor of Hugging Face's, and the layer if the array holds all layers."""
  name = name.removesuffix(".weight")
  if name in _WHOLE:
    return _WHOLE[name], None
  match = _LAYER_TENSOR.fullmatch(name)
  assert match is not None
  stack, layer, sublayer, part = match.groups()
  block, norm = _SUBLAYERS[stack][int(sublayer)]
  if part == _POSITION:
    source = _TABLE
  else:
    source = f"{norm}.scale" if part == "layer_norm" else f"{block}.{_ATTENTION.get(part, part)}.kernel"
  if scanned:
    return f"{stack}.{stack}.{source}", int(layer)
  return (f"{stack}.{source}" if part == _POSITION else f"{stack}.layers_{layer}.{source}"), None


def _stored_shape(name: str, shape: tuple[int, ...], config: t5.T5Config, scanned: bool) -> tuple[int, ...]:
  """Returns the shape of the T5X array that holds a tensor of this name and shape."""
  match = _LAYER_TENSOR.fullmatch(name.removesuffix(".weight"))
  stored = shape if name == "shared.weight" else shape[::-1]
  if not scanned or match is None:
    return stored
  stack, _, _, part = match.groups()
  heads = (config.num_heads, config.d_kv)
  if part in _ATTENTION:
    stored = (*heads, config.d_model) if part == "o" else (config.d_model, *heads)
  layers = config.num_layers if stack == "encoder" else config.num_decoder_layers
  return stored[0], layers, *stored[1:]


def _check_names(folder: Path, arrays: dict[str, t5x_arrays.Array], expected: set[str]) -> None:
  missing, unknown = sorted(expected - arrays.keys()), sorted(arrays.keys() - expected)
  if missing:
    raise WinnowError(
      f"{folder} lacks {len(missing)} of the {len(expected)} arrays of a T5 of its shape, the first being "
      f"target.{missing[0]}: copy the checkpoint again."
    )
  if unknown:
    raise WinnowError(
      f"{folder} has {len(unknown)} arrays that a T5 1.0 or 1.1 does not have, the first being target.{unknown[0]}: "
      "it is another kind of model."
    )
