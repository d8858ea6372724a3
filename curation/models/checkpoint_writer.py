"""Writes a T5 in Hugging Face's layout and a Sentence-T5 in sentence-transformers' layout."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from curation.models import t5


def write_checkpoint(
  folder: str | Path, config: t5.T5Config, params: t5.Params, *, vocabulary: bytes, dtype: str = "float16"
) -> Path:
  """Writes a model's parameters in `dtype` with `write_tensors`; returns the folder.

  Raises OverflowError if a weight does not stay finite in `dtype`.
  """
  return write_tensors(folder, config, _rounded(to_tensors(params, config), dtype), vocabulary=vocabulary)


def write_sentence_t5(
  folder: str | Path,
  config: t5.T5Config,
  params: t5.Params,
  *,
  vocabulary: bytes,
  max_seq_length: int,
  dtype: str = "float16",
) -> Path:
  """Writes an encoder with `dense_OD` as `write_checkpoint` does, for `curation.scorers.sentence_t5` to read."""
  write_sentence_head(folder, _rounded({"dense_OD": params["dense_OD"]}, dtype)["dense_OD"], max_seq_length)
  return write_checkpoint(folder, config, params, vocabulary=vocabulary, dtype=dtype)


def write_sentence_head(folder: str | Path, dense_OD: np.ndarray, max_seq_length: int) -> None:
  """Writes what a Sentence-T5 has besides its encoder: modules, token limit, mean pooling and dense projection."""
  out, width = dense_OD.shape
  kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
  modules = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate(kinds.items())
  ]
  files = {
    "modules.json": modules,
    "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
    "1_Pooling/config.json": {
      "word_embedding_dimension": width,
      "pooling_mode_cls_token": False,
      "pooling_mode_mean_tokens": True,
      "pooling_mode_max_tokens": False,
      "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "2_Dense/config.json": {
      "in_features": width,
      "out_features": out,
      "bias": False,
      "activation_function": "torch.nn.modules.linear.Identity",
    },
  }
  for name, content in files.items():
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
  safetensors.numpy.save_file(
    {"linear.weight": dense_OD}, Path(folder, "2_Dense/model.safetensors"), metadata={"format": "pt"}
  )


def write_tensors(
  folder: str | Path, config: t5.T5Config, tensors: dict[str, np.ndarray], *, vocabulary: bytes
) -> Path:
  """Writes config.json, model.safetensors and spiece.model. The same input gives the same bytes.

  `tensors` have Hugging Face's names. Returns the folder, which is created if missing.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "spiece.model").write_bytes(vocabulary)
  (folder / "config.json").write_text(json.dumps(hugging_face_config(config), indent=2) + "\n")
  safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
  return folder


def hugging_face_config(config: t5.T5Config) -> dict:
  """Returns the config.json that transformers would write."""
  sizes = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
  names = (*sizes, "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon")
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu" if config.gated else "relu",
    "tie_word_embeddings": config.tie_word_embeddings,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    **{name: getattr(config, name) for name in names},
  }


def to_tensors(params: t5.Params, config: t5.T5Config) -> dict[str, np.ndarray]:
  """Returns Hugging Face's tensors by name from a parameter tree of `curation.models.t5`.

  A tree without a decoder gives an encoder's tensors alone.
  """
  tensors = {"shared.weight": np.asarray(params["embedding_VD"])}
  if "head_VD" in params:
    tensors["lm_head.weight"] = np.asarray(params["head_VD"])
  gates = ("wi_0", "wi_1") if config.gated else ("wi",)
  for stack, mlp in (("encoder", 1), ("decoder", 2)):
    if stack not in params:
      continue
    tree = params[stack]
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors[bias] = np.asarray(tree["position_RH"])
    tensors[f"{stack}.final_layer_norm.weight"] = np.asarray(tree["final_norm_D"])
    weights = {name: np.asarray(value) for name, value in tree["layers"].items()}
    for i, wi_GFD in enumerate(weights["wi_NGFD"]):
      layer = {
        "0.layer_norm": weights["norm_ND"][i],
        "0.SelfAttention.o": weights["out_NDE"][i],
        f"{mlp}.layer_norm": weights["mlp_norm_ND"][i],
        f"{mlp}.DenseReluDense.wo": weights["wo_NDF"][i],
      }
      layer |= {f"{mlp}.DenseReluDense.{g}": part for g, part in zip(gates, wi_GFD, strict=True)}
      if stack == "encoder":
        qkv = weights["qkv_N3ED"][i]
      else:
        qkv = [weights[f"{p}_NED"][i] for p in "qkv"]
        layer["1.layer_norm"] = weights["cross_norm_ND"][i]
        layer["1.EncDecAttention.q"] = weights["cross_q_NED"][i]
        layer["1.EncDecAttention.o"] = weights["cross_out_NDE"][i]
        layer |= {f"1.EncDecAttention.{p}": weights[f"cross_{p}_NHKD"][i].reshape(-1, config.d_model) for p in "kv"}
      layer |= {f"0.SelfAttention.{p}": part for p, part in zip("qkv", qkv, strict=True)}
      tensors |= {f"{stack}.block.{i}.layer.{name}.weight": value for name, value in layer.items()}
  return tensors


def _rounded(tensors: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
  """Casts tensors to `dtype`; raises OverflowError if a value does not stay finite."""
  with np.errstate(over="ignore"):
    rounded = {name: np.ascontiguousarray(value, dtype) for name, value in tensors.items()}
  for name, value in rounded.items():
    if not np.isfinite(value).all():
      raise OverflowError(f"{name} has values that overflow {dtype}")
  return rounded
