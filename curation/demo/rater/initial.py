"""Initial weights of the demo rater, which already measure whether neighbouring tokens go together.

Whether words are in order is a product of two embeddings, and a T5 with random weights takes longer to learn it than
this rater is trained. After a quarter of an hour it was still guessing which texts had shuffled words.

Shape suffixes as in `curation.models.t5`; S tokens of all texts, end to end; F factors of an embedding.
"""

import numpy as np

from curation.models import checkpoints, t5, training


def initial_params(model: t5.T5Config, ids_S: np.ndarray, seed: int) -> t5.Params:
  """Builds a float32 tree of `curation.models.t5`: random by fan-in, except a path through the encoder's first layer.

  Each token's embedding says what it follows and what follows it, F = D / 4 numbers each. One head brings in what
  follows the previous token. Pairs of gated units multiply the two, since a * b = gelu(a) * b - gelu(-a) * b. One
  channel has the sum, a measure of how well the neighbours go together. The head of the model starts at 0, so all
  answers are equally likely. Raises ValueError unless the T5 is gated with d_kv = D / 4 and d_ff >= D / 2.
  """
  factors = model.d_model // 4
  if not model.gated or model.d_kv != factors or model.d_ff < 2 * factors:
    raise ValueError(f"the path needs a gated T5 with d_kv = d_model / 4 and d_ff >= d_model / 2, not {model}")
  generator = np.random.default_rng([seed, 2])
  tensors = training.random_tensors(model, generator, added=0.3)

  before_VF, behind_VF = neighbour_factors(ids_S, model.vocab_size, factors=factors, seed=seed)
  embedding_VD = 0.1 * generator.standard_normal((model.vocab_size, model.d_model))
  embedding_VD[:, :factors] = 0.3 * before_VF / np.std(before_VF)
  embedding_VD[:, factors : 2 * factors] = 0.3 * behind_VF / np.std(behind_VF)
  tensors["shared.weight"] = embedding_VD.astype(np.float32)

  buckets = model.relative_attention_num_buckets
  bias_RH = tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
  bias_RH[1, 0] = 10.0  # attend to the previous position
  if model.num_heads > 2:
    bias_RH[buckets // 2 + 1, 1] = 10.0  # attend to the next position
  layer = "encoder.block.0.layer"
  eye_FF = np.eye(factors, dtype=np.float32)
  value, out = (tensors[f"{layer}.0.SelfAttention.{name}.weight"] for name in "vo")
  value[:factors] = 0
  value[:factors, :factors] = eye_FF
  out[:, :factors] = 0
  out[2 * factors : 3 * factors, :] = 0
  out[2 * factors : 3 * factors, :factors] = 0.2 * eye_FF
  gate, linear, wo = (tensors[f"{layer}.1.DenseReluDense.{name}.weight"] for name in ("wi_0", "wi_1", "wo"))
  wo[3 * factors] = 0
  for units, sign in ((slice(0, factors), 1), (slice(factors, 2 * factors), -1)):
    gate[units], linear[units], wo[:, units] = 0, 0, 0
    gate[units, 2 * factors : 3 * factors] = sign * eye_FF
    linear[units, factors : 2 * factors] = eye_FF
    wo[3 * factors, units] = sign * 0.05
  tensors["encoder.final_layer_norm.weight"][3 * factors] = 5.0  # large, or later layers take long to use it
  return checkpoints.build_params(tensors, model)


def neighbour_factors(ids_S: np.ndarray, size: int, *, factors: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Factorises how much more often than by chance token v follows token u: factors of u and of v, float32 [V, F] each.

  Their products approximate the positive pointwise mutual information of neighbours (Levy and Goldberg 2014), by
  a randomised singular value decomposition (Halko, Martinsson and Tropp 2011).
  """
  pairs_VV = np.bincount(ids_S[:-1].astype(np.int64) * size + ids_S[1:], minlength=size * size).reshape(size, size)
  counts_VV = pairs_VV.astype(np.float32)
  rows_V, columns_V = counts_VV.sum(1), counts_VV.sum(0) ** 0.75  # their power, by which rare neighbours count less
  with np.errstate(divide="ignore", invalid="ignore"):
    information_VV = np.log(counts_VV * columns_V.sum() / (rows_V[:, None] * columns_V))
  information_VV = np.nan_to_num(np.maximum(information_VV, 0), posinf=0).astype(np.float32)
  basis = np.random.default_rng([seed, 3]).standard_normal((size, factors + 16), np.float32)
  for _ in range(4):
    basis = np.linalg.qr(information_VV @ (information_VV.T @ basis))[0]
  left, values, right = np.linalg.svd(basis.T @ information_VV, full_matrices=False)
  roots_F = np.sqrt(values[:factors])
  return (basis @ left)[:, :factors] * roots_F, right[:factors].T * roots_F
