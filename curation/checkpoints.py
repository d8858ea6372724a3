"""Loads a T5 from a local Hugging Face folder: config.json, safetensors (one file, or shards and index), spiece.model.

Nothing in such a folder is trusted: no pickle is read, every size is checked against the file before memory is taken
for it, and names in an index never lead out of the folder. Whatever is wrong is a WinnowError that names the file.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from curation import safetensors_reader, t5
from curation.errors import WinnowError
from curation.vocabulary import Vocabulary

_CONFIG = "config.json"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_VOCABULARY = "spiece.model"

_MAX_JSON_BYTES = 64 << 20
_MAX_VOCABULARY_BYTES = 256 << 20

# Copies of shared.weight that some writers keep, or keep instead of it.
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NOT_ENCODER = ("decoder.", "lm_head.")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model in memory: its config, its parameters as NumPy arrays (the tree of `curation.t5`), its vocabulary."""

  config: t5.T5Config
  params: t5.Params
  vocabulary: Vocabulary


def load_checkpoint(folder: str | Path, dtype: str | None = None, *, encoder_only: bool = False) -> Checkpoint:
  """Reads the folder's model with matrices in `dtype` ('float32' or 'bfloat16'; by default what suits the devices).

  Tensors in the files may be float32, bfloat16 or float16. `encoder_only`: the decoder is not looked for, and left out
  where there is one. Raises WinnowError in one sentence for anything missing, misshapen, truncated or unknown.
  """
  config, tensors, vocabulary = _open(Path(folder), dtype or t5.default_dtype(), encoder_only=encoder_only)
  return Checkpoint(config, build_params(tensors, config), vocabulary)


def check_checkpoint(folder: str | Path, *, encoder_only: bool = False) -> tuple[t5.T5Config, Vocabulary]:
  """Raises what `load_checkpoint` would, without reading a weight or waking a device; its config is in float32."""
  config, _, vocabulary = _open(Path(folder), "float32", encoder_only=encoder_only)
  return config, vocabulary


def _open(folder: Path, dtype: str, *, encoder_only: bool) -> tuple[t5.T5Config, dict[str, np.ndarray], Vocabulary]:
  """Config, tensors (views of the mapped files) and vocabulary, which belong together."""
  try:
    files = checkpoint_files(folder)
    config = t5.T5Config.from_hugging_face(read_json(folder / _CONFIG), dtype)
    tensors = _open_tensors(folder, files)
    vocabulary = _read_vocabulary(folder / _VOCABULARY)
  except OSError as error:
    raise WinnowError(
      f"{error.filename or folder} cannot be read ({error.strerror}): check that it is whole and yours to read."
    ) from error
  _check_tensors(folder, tensors, config, encoder_only=encoder_only)
  if len(vocabulary) > config.vocab_size:
    raise WinnowError(
      f"{folder / _VOCABULARY} has {len(vocabulary):,} pieces but the model embeds only {config.vocab_size:,}: "
      "the two do not belong together."
    )
  return config, tensors, vocabulary


def checkpoint_files(folder: str | Path) -> list[Path]:
  """The files that define the model, sorted by name: config, weights (with the index, if sharded) and vocabulary.

  Raises WinnowError if one of them is missing.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise WinnowError(f"{folder} is not a folder: give one that holds config.json, model.safetensors and spiece.model.")
  if not (folder / _CONFIG).is_file():
    raise WinnowError(f"{folder} has no config.json: give a folder in Hugging Face's layout.")
  if (folder / _SINGLE).is_file():
    weights = [folder / _SINGLE]
  elif (folder / _INDEX).is_file():
    shards = sorted(set(_read_index(folder / _INDEX).values()))
    weights = [folder / _INDEX, *(folder / shard for shard in shards)]
    for shard in weights:
      if not shard.is_file():
        raise WinnowError(f"{shard} is missing, though {_INDEX} names it: download the folder again.")
  else:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
      raise WinnowError(
        f"{folder} has its weights only as a pickle ({pickles[0]}), which could run code when read: "
        "convert it to model.safetensors with safetensors.torch.save_model, or choose a revision that has that file."
      )
    raise WinnowError(f"{folder} has neither {_SINGLE} nor {_INDEX}: give a folder with a model's weights.")
  if not (folder / _VOCABULARY).is_file():
    raise WinnowError(f"{folder} has no {_VOCABULARY}: copy the model's SentencePiece file there.")
  return sorted([folder / _CONFIG, folder / _VOCABULARY, *weights])


def expected_shapes(config: t5.T5Config, *, encoder_only: bool = False) -> dict[str, tuple[int, ...]]:
  """Hugging Face's names and shapes of every tensor that a model of this config has, or its encoder."""
  width, joined = config.d_model, config.num_heads * config.d_kv
  projections = {"q": (joined, width), "k": (joined, width), "v": (joined, width), "o": (width, joined)}
  gates = ("wi_0", "wi_1") if config.gated else ("wi",)
  shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config.vocab_size, width)}
  if not config.tie_word_embeddings:
    shapes["lm_head.weight"] = (config.vocab_size, width)
  for stack, layers, attentions in (
    ("encoder", config.num_layers, ("SelfAttention",)),
    ("decoder", config.num_decoder_layers, ("SelfAttention", "EncDecAttention")),
  ):
    shapes[f"{stack}.final_layer_norm.weight"] = (width,)
    shapes[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (
      config.relative_attention_num_buckets,
      config.num_heads,
    )
    for i in range(layers):
      block = f"{stack}.block.{i}.layer"
      for j, attention in enumerate(attentions):
        shapes[f"{block}.{j}.layer_norm.weight"] = (width,)
        shapes |= {f"{block}.{j}.{attention}.{name}.weight": shape for name, shape in projections.items()}
      mlp = len(attentions)
      shapes[f"{block}.{mlp}.layer_norm.weight"] = (width,)
      shapes |= {f"{block}.{mlp}.DenseReluDense.{gate}.weight": (config.d_ff, width) for gate in gates}
      shapes[f"{block}.{mlp}.DenseReluDense.wo.weight"] = (width, config.d_ff)
  if encoder_only:
    return {name: shape for name, shape in shapes.items() if not name.startswith(_NOT_ENCODER)}
  return shapes


def read_json(path: Path) -> dict[str, Any]:
  """The JSON object in a model's file; WinnowError where it is too large, or none."""
  if path.stat().st_size > _MAX_JSON_BYTES:
    raise WinnowError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB, too large for such a file.")
  try:
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise WinnowError(f"{path} is not valid JSON ({error}): download it again.") from error
  if not isinstance(value, dict):
    raise WinnowError(f"{path} must hold a JSON object, not a {type(value).__name__}.")
  return value


def _read_index(path: Path) -> dict[str, str]:
  """The index's map of tensor names to file names, each of which is a plain name in the index's folder."""
  weight_map = read_json(path).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise WinnowError(f"{path} has no weight_map of tensors to files: download it again.")
  for shard in weight_map.values():
    if not isinstance(shard, str) or not shard.endswith(".safetensors") or any(c in shard for c in "/\\:\0"):
      raise WinnowError(f"{path} names the file {shard!r}, but shards must be .safetensors files beside the index.")
  return weight_map


def _open_tensors(folder: Path, files: list[Path]) -> dict[str, np.ndarray]:
  """All tensors by name, as read-only views of the mapped files."""
  if folder / _INDEX not in files:
    return safetensors_reader.open_tensors(folder / _SINGLE)
  shards = {path.name: safetensors_reader.open_tensors(path) for path in files if path.suffix == ".safetensors"}
  tensors = {}
  for name, shard in _read_index(folder / _INDEX).items():
    if name not in shards[shard]:
      raise WinnowError(f"{folder / shard} lacks the tensor {name} that {_INDEX} puts there: download it again.")
    tensors[name] = shards[shard][name]
  return tensors


def _check_tensors(folder: Path, tensors: dict[str, np.ndarray], config: t5.T5Config, *, encoder_only: bool) -> None:
  """Makes `tensors` hold exactly the expected names; raises WinnowError where it cannot."""
  copies = [*_EMBEDDING_COPIES, *(["lm_head.weight"] if config.tie_word_embeddings else [])]
  for copy in copies:
    if copy in tensors:
      tensors.setdefault("shared.weight", tensors[copy])
      del tensors[copy]
  # Early conversions kept a table that no T5 uses; transformers ignores it as well.
  tensors.pop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)
  if encoder_only:
    for name in [name for name in tensors if name.startswith(_NOT_ENCODER)]:
      del tensors[name]
  expected = expected_shapes(config, encoder_only=encoder_only)
  missing = [name for name in expected if name not in tensors]
  if missing:
    raise WinnowError(
      f"{folder} lacks {len(missing)} of the {len(expected)} tensors that its config.json calls for, "
      f"the first being {missing[0]}: config and weights do not belong together."
    )
  unknown = sorted(tensors.keys() - expected.keys())
  if unknown:
    raise WinnowError(
      f"{folder} has {len(unknown)} tensors that a T5 of its config.json does not have, the first being {unknown[0]}: "
      "config and weights do not belong together."
    )
  for name, shape in expected.items():
    if tensors[name].shape != shape:
      raise WinnowError(
        f"{folder} has the tensor {name} with shape {list(tensors[name].shape)} where its config.json calls for "
        f"{list(shape)}: config and weights do not belong together."
      )


def _read_vocabulary(path: Path) -> Vocabulary:
  if path.stat().st_size > _MAX_VOCABULARY_BYTES:
    raise WinnowError(f"{path} is larger than {_MAX_VOCABULARY_BYTES >> 20} MiB, too large for a vocabulary.")
  return Vocabulary(path.read_bytes(), name=str(path))


def build_params(tensors: dict[str, np.ndarray], config: t5.T5Config) -> t5.Params:
  """The tree of `curation.t5` from Hugging Face's tensors; one copy of every weight, straight into its place.

  Without a decoder and its head where the tensors have none.
  """
  matrix = t5.matrix_dtype(config)
  heads = (config.num_heads, config.d_kv, config.d_model)

  def stack(stack_name: str, layers: int, names: list[str], dtype) -> np.ndarray:
    """Layers of equally large tensors: [N, names, ...]."""
    parts = [[tensors[f"{stack_name}.block.{i}.layer.{name}.weight"] for name in names] for i in range(layers)]
    out = np.empty((layers, len(names), *parts[0][0].shape), dtype)
    for i, layer in enumerate(parts):
      np.stack(layer, out=out[i], casting="unsafe")
    return out

  def side(name: str, layers: int, mlp: int) -> t5.Params:
    def matrices(*names: str) -> np.ndarray:
      return stack(name, layers, list(names), matrix)

    def matrix_of(part: str) -> np.ndarray:
      return matrices(part)[:, 0]

    def norms(j: int) -> np.ndarray:
      return stack(name, layers, [f"{j}.layer_norm"], np.float32)[:, 0]

    gates = ("wi_0", "wi_1") if config.gated else ("wi",)
    weights = {
      "norm_ND": norms(0),
      "out_NDE": matrix_of("0.SelfAttention.o"),
      "mlp_norm_ND": norms(mlp),
      "wi_NGFD": matrices(*(f"{mlp}.DenseReluDense.{gate}" for gate in gates)),
      "wo_NDF": matrix_of(f"{mlp}.DenseReluDense.wo"),
    }
    if name == "encoder":
      weights["qkv_N3ED"] = matrices(*(f"0.SelfAttention.{p}" for p in "qkv"))
    else:
      weights |= {f"{p}_NED": matrix_of(f"0.SelfAttention.{p}") for p in "qkv"}
      weights["cross_norm_ND"] = norms(1)
      weights["cross_q_NED"] = matrix_of("1.EncDecAttention.q")
      weights |= {f"cross_{p}_NHKD": matrix_of(f"1.EncDecAttention.{p}").reshape(layers, *heads) for p in "kv"}
      weights["cross_out_NDE"] = matrix_of("1.EncDecAttention.o")
    bias = tensors[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    return {
      "position_RH": bias.astype(np.float32),
      "final_norm_D": tensors[f"{name}.final_layer_norm.weight"].astype(np.float32),
      "layers": weights,
    }

  params = {
    "embedding_VD": tensors["shared.weight"].astype(matrix),
    "encoder": side("encoder", config.num_layers, 1),
  }
  if "decoder.final_layer_norm.weight" in tensors:
    params["decoder"] = side("decoder", config.num_decoder_layers, 2)
  if "lm_head.weight" in tensors:
    params["head_VD"] = tensors["lm_head.weight"].astype(matrix)
  return params
