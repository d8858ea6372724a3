"""T5 1.0 and T5 1.1 / Flan as pure JAX functions on a plain tree of parameters.

Shape suffixes: B batch, L encoder positions, T decoder positions, M positions attended to, D model width, H heads, K a
head's width, E = H * K, 3 query, key and value, F feed-forward width, G 2 if gated, else 1, V vocabulary, N layers, R
position buckets.

The parameter tree follows. Weights are [out, in] as Hugging Face stores them, which XLA multiplies as fast as [in,
out]. Matrices are in the compute dtype, all else in float32.

    embedding_VD, head_VD (absent if tied)
    encoder: position_RH, final_norm_D, layers: norm_ND, qkv_N3ED, out_NDE, mlp_norm_ND, wi_NGFD, wo_NDF
    decoder: the same, with q_NED, k_NED, v_NED for qkv, and cross_norm_ND, cross_q_NED, cross_k_NHKD, cross_v_NHKD,
      cross_out_NDE

Models that T5X trained with scanned layers have a position table for each layer: position_NRH among the layers, in
place of the stack's position_RH.

Layers are stacked and scanned, so that one layer is compiled instead of 24, which is as fast as unrolled layers.

Where the tree does not fit on one device, several devices hold it together, each with some of the heads and of the
feed-forward width (`shardings`). XLA then adds one sum over the devices to attention and one to the feed-forward block
(Shoeybi et al. 2019).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from curation.errors import WinnowError

Params = dict[str, Any]

MODEL_AXIS = "model"
_SPLIT = "EFH"

# Finite, so that a row with all positions masked gives a mean and not NaN; exp() of it is exactly 0.
_MASKED = -1e30

_LIMITS = {
  "vocab_size": 10_000_000,
  "d_model": 65_536,
  "d_kv": 4_096,
  "d_ff": 1_048_576,
  "num_layers": 1_024,
  "num_decoder_layers": 1_024,
  "num_heads": 4_096,
  "relative_attention_num_buckets": 4_096,
  "relative_attention_max_distance": 1_048_576,
}


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and kind of one T5, under Hugging Face's names. Hashable, so that it can be a static argument of jax.jit.

  `gated` selects the tanh-GELU gate of T5 1.1 instead of ReLU. `tie_word_embeddings` takes the logits from the
  embedding table, scaled by d_model**-0.5, as T5 1.0 does. `dtype` ('float32' or 'bfloat16') is the dtype of matrix
  products; norms, softmax, logits and the residual stream are always float32. Raises WinnowError for invalid values.
  """

  vocab_size: int = 32_128
  d_model: int = 512
  d_kv: int = 64
  d_ff: int = 2_048
  num_layers: int = 6
  num_decoder_layers: int = 6
  num_heads: int = 8
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  layer_norm_epsilon: float = 1e-6
  gated: bool = False
  tie_word_embeddings: bool = True
  dtype: str = "float32"

  def __post_init__(self):
    for name, limit in _LIMITS.items():
      value = getattr(self, name)
      if type(value) is not int or not 1 <= value <= limit:
        raise WinnowError(f"T5 config: {name} must be a whole number from 1 to {limit:,}, not {value!r}.")
    if self.relative_attention_num_buckets % 4 != 0:
      raise WinnowError(
        f"T5 config: relative_attention_num_buckets must be a multiple of 4, not {self.relative_attention_num_buckets}."
      )
    if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
      raise WinnowError(
        f"T5 config: relative_attention_max_distance ({self.relative_attention_max_distance}) must be more than half "
        f"of relative_attention_num_buckets ({self.relative_attention_num_buckets})."
      )
    epsilon = self.layer_norm_epsilon
    if type(epsilon) is not float or not 0 < epsilon < 1:
      raise WinnowError(f"T5 config: layer_norm_epsilon must be a number between 0 and 1, not {epsilon!r}.")
    for name in ("gated", "tie_word_embeddings"):
      if type(getattr(self, name)) is not bool:
        raise WinnowError(f"T5 config: {name} must be true or false, not {getattr(self, name)!r}.")
    if self.dtype not in ("float32", "bfloat16"):
      raise WinnowError(f"The compute dtype must be float32 or bfloat16, not {self.dtype!r}.")

  @classmethod
  def from_hugging_face(cls, config: dict[str, Any], dtype: str = "float32") -> "T5Config":
    """Converts the content of a config.json. Keys that old files lack get the defaults of transformers' T5Config.

    Raises WinnowError for a model that is not a T5 1.0 or 1.1.
    """
    if config.get("model_type", "t5") != "t5":
      raise WinnowError(f"T5 config: model_type is {config['model_type']!r}, and Winnow reads 't5' only.")
    if config.get("decoder_start_token_id") not in (0, None):
      raise WinnowError(f"T5 config: decoder_start_token_id must be 0, not {config['decoder_start_token_id']!r}.")
    activation = config.get("feed_forward_proj", "relu")
    if activation not in ("relu", "gated-gelu"):
      raise WinnowError(f"T5 config: feed_forward_proj must be 'relu' or 'gated-gelu', not {activation!r}.")
    known = {name: config[name] for name in _LIMITS if config.get(name) is not None}
    known.setdefault("num_decoder_layers", known.get("num_layers", cls.num_layers))
    tied = True if (tied := config.get("tie_word_embeddings")) is None else tied
    # transformers 5 writes tie_word_embeddings=true for every T5; scale_decoder_outputs has the former meaning.
    if tied is True and config.get("scale_decoder_outputs") is False:
      tied = False
    return cls(
      **known,
      layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-6),
      gated=activation == "gated-gelu",
      tie_word_embeddings=tied,
      dtype=dtype,
    )


def default_dtype() -> str:
  """Returns the dtype for this process's devices: bfloat16 on accelerators, the faster float32 on the CPU."""
  return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def matrix_dtype(config: T5Config) -> np.dtype:
  """Returns the NumPy dtype of the matrices in the tree."""
  return jnp.dtype(config.dtype)


def cast(params: Params, dtype: str) -> Params:
  """Returns the tree with its matrices in `dtype`."""

  def leaf(name: str, value):
    if isinstance(value, dict):
      return cast(value, dtype)
    return value if "norm" in name or "position" in name else value.astype(jnp.dtype(dtype), copy=False)

  return {name: leaf(name, value) for name, value in params.items()}


def shardings(params: Params, mesh: Mesh) -> Params:
  """Returns a tree of NamedSharding that divides the parameters over the mesh's one axis, `MODEL_AXIS`.

  Arrays with a heads or feed-forward dimension are split along it. All others (embeddings, norms) are replicated.
  """

  def leaf(name: str, value):
    if isinstance(value, dict):
      return shardings(value, mesh)
    dims = name.rpartition("_")[2]
    return NamedSharding(mesh, PartitionSpec(*(MODEL_AXIS if dim in _SPLIT else None for dim in dims)))

  return {name: leaf(name, value) for name, value in params.items()}


def check_division(config: T5Config, devices: int) -> None:
  """Raises WinnowError if one model cannot be divided over this number of devices."""
  for name in ("num_heads", "d_ff"):
    size = getattr(config, name)
    if devices < 1 or size % devices != 0:
      raise WinnowError(f"--devices_per_model={devices} must divide the model's {name}, which is {size:,}.")


def useful_flops(config: T5Config, lengths_N: np.ndarray, *, encoder_only: bool = False) -> np.ndarray:
  """Counts the floating-point operations for each of N texts of these lengths, without padding: float64 [N].

  Counts the encoder and one decoder step with folded cross-attention. A product of m x k by k x n is 2mkn operations.
  """
  joined = config.num_heads * config.d_kv
  attention, feed_forward = 4 * config.d_model * joined, (3 if config.gated else 2) * config.d_model * config.d_ff
  tokens_N = np.asarray(lengths_N, np.float64)
  encoder_N = config.num_layers * (2 * (attention + feed_forward) * tokens_N + 4 * joined * tokens_N**2)
  if encoder_only:
    return encoder_N
  # Attention scores and a weighted mean over states of width d_model, for each head.
  cross_N = 4 * config.num_decoder_layers * config.num_heads * config.d_model * tokens_N
  step = config.num_decoder_layers * (2 * attention + feed_forward) + config.vocab_size * config.d_model
  return encoder_N + cross_N + 2 * step


def relative_buckets(positions: np.ndarray, *, bidirectional: bool, config: T5Config) -> np.ndarray:
  """Returns the buckets of relative positions (memory - query): int32 of the same shape, in [0, R).

  Half of the buckets are exact distances; the others grow logarithmically up to the maximum distance (Raffel et al.
  2020, section 2.1). Computed in float32 like the reference, whose rounding decides the borders.
  """
  buckets = config.relative_attention_num_buckets
  positions = np.asarray(positions, np.int32)
  offset = np.zeros_like(positions)
  if bidirectional:
    buckets //= 2
    offset = np.where(positions > 0, buckets, 0)
    distance = np.abs(positions)
  else:
    distance = np.maximum(-positions, 0)
  exact = buckets // 2
  ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
  scale = np.float32(math.log(config.relative_attention_max_distance / exact))
  far = exact + (ratio / scale * np.float32(buckets - exact)).astype(np.int32)
  return (offset + np.where(distance < exact, distance, np.minimum(far, buckets - 1))).astype(np.int32)


def encode(params: Params, ids_BL: jax.Array, mask_BL: jax.Array, config: T5Config) -> jax.Array:
  """Runs the encoder on int32 ids: float32 states [B, L, D], meaningless where `mask_BL` (bool) is false."""
  encoder = params["encoder"]
  position_bias = functools.partial(_position_bias, length=ids_BL.shape[1], bidirectional=True, config=config)
  shared_HLM = position_bias(encoder["position_RH"]) if "position_RH" in encoder else None
  mask_BM = _additive(mask_BL)

  def layer(x_BLD, weights):
    bias_HLM = position_bias(weights["position_NRH"]) if shared_HLM is None else shared_HLM
    h_BLD = _norm(x_BLD, weights["norm_ND"], config)
    q_BLHK, k_BMHK, v_BMHK = (
      _heads(product("bld,ed->ble", h_BLD, weights["qkv_N3ED"][i], config), config) for i in range(3)
    )
    a_BLE = _attend(q_BLHK, k_BMHK, v_BMHK, bias_HLM, mask_BM, config)
    x_BLD += product("ble,de->bld", a_BLE, weights["out_NDE"], config, jnp.float32)
    return _feed_forward(x_BLD, weights, config), None

  x_BLD = params["embedding_VD"][ids_BL].astype(jnp.float32)
  x_BLD, _ = jax.lax.scan(layer, x_BLD, encoder["layers"])
  return _norm(x_BLD, encoder["final_norm_D"], config)


def first_step_logits(params: Params, states_BLD: jax.Array, mask_BL: jax.Array, config: T5Config) -> jax.Array:
  """Runs one decoder step on decoder input [0]: float32 logits [B, V].

  Self-attention over one position is its value. The cross-attention has a single query, so W_k is folded into the query
  and W_v into the output. Computing (q W_k) . s instead of q . (W_k s) saves two projections of every encoder position.
  """
  decoder = params["decoder"]
  states_BLD = states_BLD.astype(config.dtype)
  mask_BL1 = _additive(mask_BL)[:, None, :]

  def layer(x_BD, weights):
    h_BD = _norm(x_BD, weights["norm_ND"], config)
    v_BE = product("bd,ed->be", h_BD, weights["v_NED"], config)
    x_BD += product("be,de->bd", v_BE, weights["out_NDE"], config, jnp.float32)
    h_BD = _norm(x_BD, weights["cross_norm_ND"], config)
    q_BHK = _heads(product("bd,ed->be", h_BD, weights["cross_q_NED"], config), config)
    q_BHD = _by_head(q_BHK, weights["cross_k_NHKD"], config)
    scores_BHL = product("bhd,bld->bhl", q_BHD, states_BLD, config, jnp.float32) + mask_BL1
    context_BHD = product("bhl,bld->bhd", jax.nn.softmax(scores_BHL), states_BLD, config)
    a_BHK = _by_head(context_BHD, weights["cross_v_NHKD"].transpose(0, 2, 1), config)
    a_BE = a_BHK.reshape(a_BHK.shape[0], -1)
    x_BD += product("be,de->bd", a_BE, weights["cross_out_NDE"], config, jnp.float32)
    return _feed_forward(x_BD, weights, config), None

  start_D = params["embedding_VD"][0].astype(jnp.float32)
  x_BD = jnp.broadcast_to(start_D, (states_BLD.shape[0], config.d_model))
  x_BD, _ = jax.lax.scan(layer, x_BD, decoder["layers"])
  return _logits(params, _norm(x_BD, decoder["final_norm_D"], config), config)


def decode(
  params: Params, states_BLD: jax.Array, mask_BL: jax.Array, inputs_BT: jax.Array, config: T5Config
) -> jax.Array:
  """Runs the decoder teacher-forced on `inputs_BT` (int32, [0] + targets[:-1]): float32 states [B, T, D]."""
  decoder = params["decoder"]
  position_bias = functools.partial(_position_bias, length=inputs_BT.shape[1], bidirectional=False, config=config)
  shared_HTM = position_bias(decoder["position_RH"]) if "position_RH" in decoder else None
  no_bias_H11 = jnp.zeros((config.num_heads, 1, 1), jnp.float32)
  no_mask_BT = jnp.zeros(inputs_BT.shape, jnp.float32)
  mask_BM = _additive(mask_BL)

  def layer(x_BTD, weights):
    bias_HTM = position_bias(weights["position_NRH"]) if shared_HTM is None else shared_HTM
    h_BTD = _norm(x_BTD, weights["norm_ND"], config)
    q, k, v = (_heads(product("btd,ed->bte", h_BTD, weights[w], config), config) for w in ("q_NED", "k_NED", "v_NED"))
    a_BTE = _attend(q, k, v, bias_HTM, no_mask_BT, config)
    x_BTD += product("bte,de->btd", a_BTE, weights["out_NDE"], config, jnp.float32)
    h_BTD = _norm(x_BTD, weights["cross_norm_ND"], config)
    q = _heads(product("btd,ed->bte", h_BTD, weights["cross_q_NED"], config), config)
    k = product("bld,hkd->blhk", states_BLD, weights["cross_k_NHKD"], config)
    v = product("bld,hkd->blhk", states_BLD, weights["cross_v_NHKD"], config)
    a_BTE = _attend(q, k, v, no_bias_H11, mask_BM, config)
    x_BTD += product("bte,de->btd", a_BTE, weights["cross_out_NDE"], config, jnp.float32)
    return _feed_forward(x_BTD, weights, config), None

  x_BTD = params["embedding_VD"][inputs_BT].astype(jnp.float32)
  x_BTD, _ = jax.lax.scan(layer, x_BTD, decoder["layers"])
  return _norm(x_BTD, decoder["final_norm_D"], config)


def nll_per_token(
  params: Params,
  states_BLD: jax.Array,
  mask_BL: jax.Array,
  *,
  targets_BT: jax.Array,
  target_mask_BT: jax.Array,
  config: T5Config,
) -> jax.Array:
  """Computes the negative log-likelihood of every target token, in nats: float32 [B, T], 0 where masked.

  `states_BLD` and `mask_BL` are the encoder's states and mask; `targets_BT` is int32, `target_mask_BT` bool.
  """
  inputs_BT = jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)))
  decoded_BTD = decode(params, states_BLD, mask_BL, inputs_BT, config)

  def one_row(row):  # one row at a time, since logits of [B, T, V] would be the largest array of all
    decoded_TD, targets_T = row
    log_p_TV = jax.nn.log_softmax(_logits(params, decoded_TD, config))
    return -jnp.take_along_axis(log_p_TV, targets_T[:, None], axis=1)[:, 0]

  return jnp.where(target_mask_BT, jax.lax.map(one_row, (decoded_BTD, targets_BT)), 0.0)


def product(spec: str, x: jax.Array, weights: jax.Array, config: T5Config, out=None) -> jax.Array:
  """Computes an einsum in the compute dtype. The result has dtype `out`, by default the compute dtype."""
  # Without HIGHEST an accelerator would multiply float32 in TF32 or bfloat16 passes.
  precision = jax.lax.Precision.HIGHEST if config.dtype == "float32" else None
  out = out or config.dtype
  return jnp.einsum(
    spec, x.astype(config.dtype), weights.astype(config.dtype), precision=precision, preferred_element_type=out
  )


def _by_head(x_BHI: jax.Array, weights_HIO: jax.Array, config: T5Config) -> jax.Array:
  """Multiplies each head by a matrix of its own, in the compute dtype: [B, H, O].

  An einsum would be weights times x, which puts rows into vector lanes: without AVX-512 the last ones get other bits.
  """
  return jax.vmap(functools.partial(product, "bi,io->bo", config=config), (1, 0), 1)(x_BHI, weights_HIO)


def _norm(x: jax.Array, scale_D: jax.Array, config: T5Config) -> jax.Array:
  """Applies root mean square layer norm, without mean subtraction or bias (Zhang and Sennrich 2019)."""
  return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.layer_norm_epsilon) * scale_D


def _heads(x: jax.Array, config: T5Config) -> jax.Array:
  return x.reshape(*x.shape[:-1], config.num_heads, config.d_kv)


def _additive(mask: jax.Array | np.ndarray) -> jax.Array:
  return jnp.where(mask, 0.0, _MASKED).astype(jnp.float32)


def _position_bias(position_RH: jax.Array, length: int, *, bidirectional: bool, config: T5Config) -> jax.Array:
  """Returns each (query, memory) pair's bias, later ones masked unless `bidirectional`: float32 [H, length, length]."""
  buckets = relative_buckets(np.arange(1 - length, length), bidirectional=bidirectional, config=config)
  by_distance = position_RH.astype(jnp.float32).T[:, buckets]  # [H, 2 * length - 1]
  # Indices are computed on the device, since as a constant they would take 4 L^2 bytes in every compiled program.
  index_LM = jnp.arange(length)[None, :] - jnp.arange(length)[:, None] + (length - 1)
  bias_HLM = by_distance[:, index_LM]
  return bias_HLM if bidirectional else bias_HLM + _additive(np.tri(length, dtype=bool))


def _attend(
  q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, bias_HLM: jax.Array, mask_BM: jax.Array, config: T5Config
) -> jax.Array:
  """Computes softmax attention without the factor K**-0.5, which is in T5's initialisation: [B, L, E], compute dtype.

  `bias_HLM` broadcasts over L and M. The CPU computes one head at a time, so that scores stay in the cache.
  """
  q, k, v = (x.transpose(2, 0, 1, 3) for x in (q_BLHK, k_BMHK, v_BMHK))

  def one_head(q_BLK, k_BMK, v_BMK, bias_LM):
    scores_BLM = product("blk,bmk->blm", q_BLK, k_BMK, config, jnp.float32) + bias_LM + mask_BM[:, None, :]
    weights_BLM = jnp.exp(scores_BLM - jnp.max(scores_BLM, -1, keepdims=True))
    # Dividing after the product with the values saves a pass over the largest array.
    a_BLK = product("blm,bmk->blk", weights_BLM, v_BMK, config, jnp.float32)
    return (a_BLK / jnp.sum(weights_BLM, -1)[..., None]).astype(config.dtype)

  def head_by_head(q, k, v, bias_HLM):
    return jax.lax.map(lambda head: one_head(*head), (q, k, v, bias_HLM))

  def all_heads(q, k, v, bias_HLM):
    return jax.vmap(one_head)(q, k, v, bias_HLM)

  a_HBLK = jax.lax.platform_dependent(q, k, v, bias_HLM, cpu=head_by_head, default=all_heads)
  a_BLHK = a_HBLK.transpose(1, 2, 0, 3)
  return a_BLHK.reshape(*a_BLHK.shape[:2], -1)


def _feed_forward(x: jax.Array, weights: Params, config: T5Config) -> jax.Array:
  """Adds the feed-forward block to x [..., D]."""
  h = _norm(x, weights["mlp_norm_ND"], config)
  gate, *linear = (product("...d,fd->...f", h, w_FD, config).astype(jnp.float32) for w_FD in weights["wi_NGFD"])
  h = jax.nn.gelu(gate, approximate=True) * linear[0] if config.gated else jax.nn.relu(gate)
  return x + product("...f,df->...d", h, weights["wo_NDF"], config, jnp.float32)


def _logits(params: Params, x: jax.Array, config: T5Config) -> jax.Array:
  if config.tie_word_embeddings:
    return product("...d,vd->...v", x * config.d_model**-0.5, params["embedding_VD"], config, jnp.float32)
  return product("...d,vd->...v", x, params["head_VD"], config, jnp.float32)
