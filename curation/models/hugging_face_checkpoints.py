"""Opens a T5 in a Hugging Face folder: config.json, with safetensors in one file or in shards with an index."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from curation.errors import WinnowError
from curation.models import safetensors_files, t5

_CONFIG = "config.json"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

_MAX_JSON_BYTES = 64 << 20

_EMBEDDING, _HEAD = "shared.weight", "lm_head.weight"
# Copies of the embedding that some writers store besides it, or instead of it.
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NOT_ENCODER = ("decoder.", "lm_head.")
_SAYS_TIED = ("tie_word_embeddings", "scale_decoder_outputs")
_ROWS_AT_ONCE = 4_096


def open_tensors(folder: Path, dtype: str, *, encoder_only: bool) -> tuple[t5.T5Config, dict[str, np.ndarray]]:
  """Returns the config and, by name, the tensors that it calls for, as read-only views of the mapped files.

  Reads weights only to compare embeddings and head where the files hold several of them. Raises WinnowError if the
  files are not those of a T5 of that config.
  """
  settings, tensors = read_json(folder / _CONFIG), _map_tensors(folder)
  config = t5.T5Config.from_hugging_face(settings, dtype)
  _drop_copies(folder, tensors)
  if settings.get("tie_word_embeddings") is not False and _HEAD in tensors:
    tensors.setdefault(_EMBEDDING, tensors[_HEAD])
  if encoder_only:
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_NOT_ENCODER)}
  else:
    config = _settle_head(folder, tensors, config, settings)
  _check_tensors(folder, tensors, config, encoder_only=encoder_only)
  return config, tensors


def own_head(folder: Path) -> str | None:
  """Returns the head's name if only the tensors, not config.json, tell that it gives the logits; otherwise None."""
  settings = read_json(folder / _CONFIG)
  if any(settings.get(name) is not None for name in _SAYS_TIED):
    return None
  config, _ = open_tensors(folder, "float32", encoder_only=False)
  return None if config.tie_word_embeddings else _HEAD


def model_files(folder: Path) -> list[Path]:
  """Returns config and weights, with the index if there is one; raises WinnowError if one of them is missing."""
  if not (folder / _CONFIG).is_file():
    raise WinnowError(f"{folder} has no config.json: give a folder in Hugging Face's layout, or T5X's checkpoint_N.")
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
  return [folder / _CONFIG, *weights]


def expected_shapes(config: t5.T5Config, *, encoder_only: bool = False) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every tensor of a model of this config, or of its encoder, by Hugging Face's names."""
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
  """Reads the JSON object in a model's file; raises WinnowError if it is too large or not a JSON object."""
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
  """Reads the index's map of tensor names to file names, and checks that each is a plain name in the index's folder."""
  weight_map = read_json(path).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise WinnowError(f"{path} has no weight_map of tensors to files: download it again.")
  for shard in weight_map.values():
    if not isinstance(shard, str) or not shard.endswith(".safetensors") or any(c in shard for c in "/\\:\0"):
      raise WinnowError(f"{path} names the file {shard!r}, but shards must be .safetensors files beside the index.")
  return weight_map


def _map_tensors(folder: Path) -> dict[str, np.ndarray]:
  if (folder / _SINGLE).is_file():
    return safetensors_files.open_tensors(folder / _SINGLE)
  weight_map = _read_index(folder / _INDEX)
  shards = {shard: safetensors_files.open_tensors(folder / shard) for shard in sorted(set(weight_map.values()))}
  tensors = {}
  for name, shard in weight_map.items():
    if name not in shards[shard]:
      raise WinnowError(f"{folder / shard} lacks the tensor {name} that {_INDEX} puts there: download it again.")
    tensors[name] = shards[shard][name]
  return tensors


def _drop_copies(folder: Path, tensors: dict[str, np.ndarray]) -> None:
  """Leaves one embedding in `tensors`; raises WinnowError if its copies differ, since a T5 has one embedding."""
  for copy in _EMBEDDING_COPIES:
    if copy in tensors and not _is_same(tensors.setdefault(_EMBEDDING, tensors[copy]), tensors.pop(copy)):
      raise WinnowError(
        f"{folder} holds {copy}, which differs from {_EMBEDDING}, but a T5 has one embedding for both: remove the one "
        "that was not trained."
      )


def _settle_head(
  folder: Path, tensors: dict[str, np.ndarray], config: t5.T5Config, settings: dict[str, Any]
) -> t5.T5Config:
  """Returns the config with logits from the head or from the embedding, as the tensors have it.

  A separate head is never scaled (T5 1.1). The embedding as a head always is (T5 1.0), except under what transformers 5
  calls scale_decoder_outputs=false. Raises WinnowError if config and tensors contradict each other.
  """
  head, embedding = tensors.get(_HEAD), tensors.get(_EMBEDDING)
  if not config.tie_word_embeddings:
    if head is None and embedding is not None and settings.get("tie_word_embeddings") is True:
      tensors[_HEAD] = embedding
    return config
  if head is None or (embedding is not None and _is_same(embedding, head)):
    tensors.pop(_HEAD, None)
    return config
  for name in _SAYS_TIED:
    if settings.get(name) is not None:
      raise WinnowError(
        f"{folder} holds {_HEAD}, which differs from {_EMBEDDING}, though config.json says {name}=true, which "
        f"means one matrix for both: set it to false there if the head was trained, or remove {_HEAD}."
      )
  return dataclasses.replace(config, tie_word_embeddings=False)


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
  """Tells whether two matrices hold the same numbers (the same bits if of one dtype), a few rows at a time."""
  if one.shape != other.shape:
    return False
  if one.dtype == other.dtype:
    one, other = one.view(np.uint8), other.view(np.uint8)
  starts = range(0, len(one), _ROWS_AT_ONCE)
  return all(np.array_equal(one[i : i + _ROWS_AT_ONCE], other[i : i + _ROWS_AT_ONCE]) for i in starts)


def _check_tensors(folder: Path, tensors: dict[str, np.ndarray], config: t5.T5Config, *, encoder_only: bool) -> None:
  """Raises WinnowError unless `tensors` are those that the config calls for; drops a table that no T5 uses."""
  # Early conversions kept this table; transformers ignores it as well.
  tensors.pop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)
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
