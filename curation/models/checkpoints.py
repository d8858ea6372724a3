"""Loads a T5 from a local folder in Hugging Face's layout or in T5X's, whose vocabulary is a separate file.

`curation.models.hugging_face_checkpoints` and `curation.models.t5x_checkpoints` open the tensors, both under Hugging
Face's names. This module turns them into the parameter tree of `curation.models.t5`.

Nothing in such a folder is trusted. No pickle is read, every size is checked against the file before memory is
allocated for it, and names in an index never lead out of the folder. Every defect raises a WinnowError that names the
file.
"""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from curation.errors import WinnowError
from curation.models import hugging_face_checkpoints, t5, t5x_checkpoints
from curation.models.vocabulary import Vocabulary

_VOCABULARY = "spiece.model"
_MAX_VOCABULARY_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model in memory: its config, its parameters as NumPy arrays (the tree of `t5`), and its vocabulary."""

  config: t5.T5Config
  params: t5.Params
  vocabulary: Vocabulary


def load_checkpoint(
  folder: str | Path,
  dtype: str | None = None,
  *,
  encoder_only: bool = False,
  vocabulary: str | Path | None = None,
) -> Checkpoint:
  """Reads the folder's model with matrices in `dtype`: 'float32', 'bfloat16' or by default what suits the devices.

  Tensors in the files may be float32, bfloat16 or float16. `encoder_only` leaves out the decoder, which may be missing
  in Hugging Face's layout. `vocabulary` is the SentencePiece file, in place of spiece.model in the folder. Raises
  WinnowError for anything missing, misshapen, truncated or unknown.
  """
  config, tensors, pieces = _open(Path(folder), dtype or t5.default_dtype(), encoder_only, vocabulary)
  try:
    return Checkpoint(config, build_params(tensors, config), pieces)
  except OSError as error:
    raise _unreadable(folder, error) from error


def check_checkpoint(
  folder: str | Path, *, encoder_only: bool = False, vocabulary: str | Path | None = None
) -> tuple[t5.T5Config, Vocabulary]:
  """Raises what `load_checkpoint` would, without using a device or building the parameter tree.

  Returns the config, in float32, and the vocabulary.
  """
  config, _, pieces = _open(Path(folder), "float32", encoder_only, vocabulary)
  return config, pieces


def _open(
  folder: Path, dtype: str, encoder_only: bool, vocabulary: str | Path | None
) -> tuple[t5.T5Config, dict[str, Any], Vocabulary]:
  """Returns the config, the tensors and the vocabulary, checked to belong together. NumPy reads tensors on demand."""
  spiece = _vocabulary_path(folder, vocabulary)
  try:
    checkpoint_files(folder, vocabulary)
    config, tensors = _layout(folder).open_tensors(folder, dtype, encoder_only=encoder_only)
    pieces = read_vocabulary(spiece)
  except OSError as error:
    raise _unreadable(folder, error) from error
  if len(pieces) > config.vocab_size:
    raise WinnowError(
      f"{spiece} has {len(pieces):,} pieces, but the model in {folder} embeds only {config.vocab_size:,}: name the "
      "model's own vocabulary."
    )
  return config, tensors, pieces


def checkpoint_files(folder: str | Path, vocabulary: str | Path | None = None) -> list[Path]:
  """Returns the files that define the model, sorted by path: config, weights, the index if sharded, and vocabulary.

  Raises WinnowError if one of them is missing.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise WinnowError(f"{folder} is not a folder: give one that holds config.json, model.safetensors and spiece.model.")
  spiece = _vocabulary_path(folder, vocabulary)
  model = _layout(folder).model_files(folder)
  if not spiece.is_file():
    if vocabulary is not None:
      raise WinnowError(f"{spiece} does not exist: name the model's SentencePiece file.")
    if t5x_checkpoints.is_checkpoint(folder):
      raise WinnowError(f"{folder} is a T5X checkpoint, which holds no vocabulary: name its file with --vocabulary.")
    raise WinnowError(
      f"{folder} has no {_VOCABULARY} (transformers 5 saves only a tokenizer.json): copy the SentencePiece file of the "
      "original model there, or name it with --vocabulary."
    )
  return sorted([*model, spiece])


def own_head(folder: str | Path) -> str | None:
  """Returns the name of the tensor that gives the logits if only the tensors, not the config, tell; otherwise None."""
  folder = Path(folder)
  return None if t5x_checkpoints.is_checkpoint(folder) else hugging_face_checkpoints.own_head(folder)


def _layout(folder: Path) -> ModuleType:
  """Returns the module that reads the folder's layout."""
  return t5x_checkpoints if t5x_checkpoints.is_checkpoint(folder) else hugging_face_checkpoints


def _vocabulary_path(folder: Path, vocabulary: str | Path | None) -> Path:
  return folder / _VOCABULARY if vocabulary is None else Path(vocabulary)


def _unreadable(folder: str | Path, error: OSError) -> WinnowError:
  return WinnowError(
    f"{error.filename or folder} cannot be read ({error.strerror}): check that it is complete and that you may read it."
  )


def read_vocabulary(path: Path) -> Vocabulary:
  """Reads a SentencePiece file.

  Raises WinnowError if the file is not a SentencePiece model or too large to be one, and OSError if it cannot be read.
  """
  if path.stat().st_size > _MAX_VOCABULARY_BYTES:
    raise WinnowError(f"{path} is larger than {_MAX_VOCABULARY_BYTES >> 20} MiB, too large for a vocabulary.")
  return Vocabulary(path.read_bytes(), name=str(path))


def build_params(tensors: dict[str, Any], config: t5.T5Config) -> t5.Params:
  """Builds the parameter tree of `curation.models.t5` from Hugging Face's tensors, copying every weight once.

  `tensors` are array-likes with a `shape`. The tree has a decoder and a head only where the tensors do.
  """
  matrix = t5.matrix_dtype(config)
  heads = (config.num_heads, config.d_kv, config.d_model)

  def single(name: str, dtype) -> np.ndarray:
    return np.asarray(tensors[name]).astype(dtype)

  def stack(stack_name: str, layers: int, names: list[str], dtype) -> np.ndarray:
    """Stacks the layers of tensors of one shape: [N, names, ...]."""
    parts = [[tensors[f"{stack_name}.block.{i}.layer.{name}.weight"] for i in range(layers)] for name in names]
    out = np.empty((layers, len(names), *parts[0][0].shape), dtype)
    for j, part in enumerate(parts):
      for i, tensor in enumerate(part):  # a name's layers in sequence, since some files have them in one array
        out[i, j] = tensor
    return out

  def side(name: str, layers: int, mlp: int) -> t5.Params:
    def matrices(*names: str) -> np.ndarray:
      return stack(name, layers, list(names), matrix)

    def matrix_stack(part: str) -> np.ndarray:
      return matrices(part)[:, 0]

    def norms(j: int) -> np.ndarray:
      return stack(name, layers, [f"{j}.layer_norm"], np.float32)[:, 0]

    gates = ("wi_0", "wi_1") if config.gated else ("wi",)
    weights = {
      "norm_ND": norms(0),
      "out_NDE": matrix_stack("0.SelfAttention.o"),
      "mlp_norm_ND": norms(mlp),
      "wi_NGFD": matrices(*(f"{mlp}.DenseReluDense.{gate}" for gate in gates)),
      "wo_NDF": matrix_stack(f"{mlp}.DenseReluDense.wo"),
    }
    if name == "encoder":
      weights["qkv_N3ED"] = matrices(*(f"0.SelfAttention.{p}" for p in "qkv"))
    else:
      weights |= {f"{p}_NED": matrix_stack(f"0.SelfAttention.{p}") for p in "qkv"}
      weights["cross_norm_ND"] = norms(1)
      weights["cross_q_NED"] = matrix_stack("1.EncDecAttention.q")
      weights |= {f"cross_{p}_NHKD": matrix_stack(f"1.EncDecAttention.{p}").reshape(layers, *heads) for p in "kv"}
      weights["cross_out_NDE"] = matrix_stack("1.EncDecAttention.o")
    table = "0.SelfAttention.relative_attention_bias"
    tree = {"final_norm_D": single(f"{name}.final_layer_norm.weight", np.float32), "layers": weights}
    if f"{name}.block.1.layer.{table}.weight" in tensors:
      weights["position_NRH"] = stack(name, layers, [table], np.float32)[:, 0]
    else:
      tree["position_RH"] = single(f"{name}.block.0.layer.{table}.weight", np.float32)
    return tree

  params = {
    "embedding_VD": single("shared.weight", matrix),
    "encoder": side("encoder", config.num_layers, 1),
  }
  if "decoder.final_layer_norm.weight" in tensors:
    params["decoder"] = side("decoder", config.num_decoder_layers, 2)
  if "lm_head.weight" in tensors:
    params["head_VD"] = single("lm_head.weight", matrix)
  return params
