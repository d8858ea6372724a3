"""The T5 engine against golden values, brute force, and itself."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny_t5

from curation.errors import WinnowError
from curation.models import checkpoints, t5

_encode = jax.jit(t5.encode, static_argnames="config")
_first_step = jax.jit(t5.first_step_logits, static_argnames="config")
_nll = jax.jit(t5.nll_per_token, static_argnames="config")

GOLDEN_MODELS = ["t5_v1_0_tiny", "t5_v1_1_tiny", "t5_v1_1_tiny_sharded"]


@pytest.fixture(scope="module", params=[True, False], ids=["gated", "relu"])
def tiny(request, tmp_path_factory) -> checkpoints.Checkpoint:
  folder = tmp_path_factory.mktemp("t5")
  return checkpoints.load_checkpoint(tiny_t5.make_checkpoint(folder, gated=request.param), "float32")


def random_inputs(config: t5.T5Config, rows: int, length: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and mask; the first row is full, the others are shorter."""
  generator = np.random.default_rng(seed)
  lengths = generator.integers(1, length + 1, rows)
  lengths[0] = length
  mask_BL = np.arange(length) < lengths[:, None]
  return np.where(mask_BL, generator.integers(3, config.vocab_size, (rows, length)), 0).astype(np.int32), mask_BL


@pytest.mark.parametrize("model", [*GOLDEN_MODELS, "minimal config"])
def test_golden_values(shared, model, tmp_path):
  """Encoder states, their mean, first-step logits and NLL are Hugging Face's, within the golden tolerances."""
  folder = shared / "golden" / ("t5_v1_0_tiny" if model == "minimal config" else model)
  if model == "minimal config":
    for name in ("model.safetensors", "spiece.model"):
      (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "config.json").write_bytes((folder / "config.minimal.json").read_bytes())
  checkpoint = checkpoints.load_checkpoint(tmp_path if model == "minimal config" else folder, "float32")
  config, params = checkpoint.config, checkpoint.params
  expected = np.load(shared / "golden" / "expected" / f"{folder.name.removesuffix('_sharded')}.npz")

  mask_BL = expected["attention_mask"].astype(bool)
  states_BLD = np.asarray(_encode(params, expected["input_ids"], mask_BL, config=config))
  states_BLD = np.where(mask_BL[..., None], states_BLD, 0)
  few, short, _ = expected["encoder_last_hidden_state"].shape
  np.testing.assert_allclose(states_BLD[:few, :short], expected["encoder_last_hidden_state"], rtol=0, atol=1e-4)
  mean_BD = states_BLD.sum(1) / mask_BL.sum(1)[:, None]
  np.testing.assert_allclose(mean_BD, expected["encoder_mean"], rtol=0, atol=1e-4)
  logits_BV = np.asarray(_first_step(params, states_BLD, mask_BL, config=config))
  np.testing.assert_allclose(logits_BV, expected["first_step_logits"], rtol=0, atol=1e-4)
  log_p_BV = np.asarray(jax.nn.log_softmax(logits_BV))
  np.testing.assert_allclose(log_p_BV[:, expected["word_ids"]], expected["word_logprobs"], rtol=0, atol=1e-4)

  mask_BL = expected["nll_input_mask"].astype(bool)
  target_mask_BT = expected["nll_target_mask"].astype(bool)
  states_BLD = _encode(params, expected["nll_input_ids"], mask_BL, config=config)
  targets = {"targets_BT": expected["nll_target_ids"], "target_mask_BT": target_mask_BT}
  nll_BT = np.asarray(_nll(params, states_BLD, mask_BL, config=config, **targets))
  np.testing.assert_allclose(nll_BT, expected["nll_per_token"], rtol=0, atol=1e-4)
  mean_B = nll_BT.sum(1) / target_mask_BT.sum(1)
  np.testing.assert_allclose(mean_B, expected["nll_mean"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_golden_relative_buckets(shared, side):
  expected = np.load(shared / "golden" / "expected" / "relative_buckets.npz")
  buckets = t5.relative_buckets(expected["relative_position"], bidirectional=side == "encoder", config=t5.T5Config())
  np.testing.assert_array_equal(buckets, expected[side])


def test_relative_buckets_are_exact_near_and_monotonic_far():
  """Half of each direction's buckets are single distances; farther ones share buckets that only grow."""
  config = t5.T5Config()
  distance = np.arange(0, 2000)
  before = t5.relative_buckets(-distance, bidirectional=True, config=config)
  after = t5.relative_buckets(distance, bidirectional=True, config=config)
  causal = t5.relative_buckets(-distance, bidirectional=False, config=config)
  np.testing.assert_array_equal(before[:8], distance[:8])
  np.testing.assert_array_equal(after[1:], before[1:] + 16)
  np.testing.assert_array_equal(causal[:16], distance[:16])
  assert (np.diff(before) >= 0).all() and before[-1] == 15
  assert (np.diff(causal) >= 0).all() and causal[-1] == 31
  assert (t5.relative_buckets(distance[1:], bidirectional=False, config=config) == 0).all()


def numpy_encoder(params: t5.Params, ids_L: np.ndarray, config: t5.T5Config) -> np.ndarray:
  """One unpadded text through the encoder in float64, one head at a time, as the T5 paper writes it."""

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.layer_norm_epsilon) * scale

  encoder = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"])
  length, width = len(ids_L), config.d_kv
  position_LM = np.arange(length)[None, :] - np.arange(length)[:, None]
  bias_LMH = encoder["position_RH"][t5.relative_buckets(position_LM, bidirectional=True, config=config)]
  x_LD = np.asarray(params["embedding_VD"], np.float64)[ids_L]
  for i in range(config.num_layers):
    w = {name: leaf[i] for name, leaf in encoder["layers"].items()}
    h_LD = norm(x_LD, w["norm_ND"])
    q_LE, k_LE, v_LE = (h_LD @ w_ED.T for w_ED in w["qkv_N3ED"])
    heads = []
    for head in range(config.num_heads):
      part = slice(head * width, (head + 1) * width)
      weights_LM = np.exp(q_LE[:, part] @ k_LE[:, part].T + bias_LMH[:, :, head])
      heads.append(weights_LM / weights_LM.sum(1, keepdims=True) @ v_LE[:, part])
    x_LD = x_LD + np.concatenate(heads, 1) @ w["out_NDE"].T
    gate, *linear = (norm(x_LD, w["mlp_norm_ND"]) @ w_FD.T for w_FD in w["wi_NGFD"])
    if config.gated:
      tanh = np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))
      h_LF = 0.5 * gate * (1 + tanh) * linear[0]
    else:
      h_LF = np.maximum(gate, 0)
    x_LD = x_LD + h_LF @ w["wo_NDF"].T
  return norm(x_LD, encoder["final_norm_D"])


def test_encoder_equals_brute_force_whatever_the_padding(tiny):
  """Kills: a mask that is left out, or that is not broadcast over the queries."""
  ids_BL, mask_BL = random_inputs(tiny.config, 4, 40)
  states_BLD = np.asarray(_encode(tiny.params, ids_BL, mask_BL, config=tiny.config))
  for row in range(4):
    length = mask_BL[row].sum()
    expected_LD = numpy_encoder(tiny.params, ids_BL[row, :length], tiny.config)
    np.testing.assert_allclose(states_BLD[row, :length], expected_LD, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("rows", "length"), [(20, 48), (33, 32), (56, 18)])
def test_a_row_has_the_same_bits_in_each_place_of_a_batch(tiny, rows, length):
  """Invariant 1, for numbers of rows that no vector register divides. Kills the mutant that folds the cross-attention
  by einsum, on CPUs without AVX-512: there the last rows of such a batch had other bits.
  """
  ids_BL, mask_BL = random_inputs(tiny.config, rows, length)
  targets = {"targets_BT": ids_BL[:, :9], "target_mask_BT": mask_BL[:, :9]}

  def run(order_B):
    ids, mask = ids_BL[order_B], mask_BL[order_B]
    states_BLD = _encode(tiny.params, ids, mask, config=tiny.config)
    chosen = {name: value[order_B] for name, value in targets.items()}
    return (
      np.asarray(states_BLD) * mask[..., None],
      np.asarray(_first_step(tiny.params, states_BLD, mask, config=tiny.config)),
      np.asarray(_nll(tiny.params, states_BLD, mask, **chosen, config=tiny.config)),
    )

  whole = run(np.arange(rows))
  for shift in (1, 7, 16):
    order_B = np.roll(np.arange(rows), shift)
    for result, expected in zip(run(order_B), whole, strict=True):
      np.testing.assert_array_equal(result, expected[order_B])


def test_folded_cross_attention_equals_plain(tiny):
  """One folded decoder step gives what the whole decoder with its K/V projections gives at length one.

  Kills: W_k and W_v exchanged in the fold, the mask left out of the folded scores, decoder inputs that are not shifted.
  """
  ids_BL, mask_BL = random_inputs(tiny.config, 4, 40)
  states_BLD = _encode(tiny.params, ids_BL, mask_BL, config=tiny.config)
  folded_BV = np.asarray(_first_step(tiny.params, states_BLD, mask_BL, config=tiny.config))
  log_p_BV = np.asarray(jax.nn.log_softmax(folded_BV))
  for token in (0, 1, 5, 77, tiny.config.vocab_size - 1):
    nll_BT = _nll(
      tiny.params,
      states_BLD,
      mask_BL,
      targets_BT=np.full((4, 1), token, np.int32),
      target_mask_BT=np.ones((4, 1), bool),
      config=tiny.config,
    )
    np.testing.assert_allclose(-np.asarray(nll_BT)[:, 0], log_p_BV[:, token], rtol=0, atol=2e-5)


def test_nll_looks_back_only_and_is_zero_where_masked(tiny):
  """Kills: a decoder without its causal mask."""
  ids_BL, mask_BL = random_inputs(tiny.config, 3, 16)
  states_BLD = _encode(tiny.params, ids_BL, mask_BL, config=tiny.config)
  targets_BT, _ = random_inputs(tiny.config, 3, 12, seed=1)
  changed_BT = targets_BT.copy()
  changed_BT[:, 7:] = (changed_BT[:, 7:] + 5) % tiny.config.vocab_size
  mask_BT = np.arange(12) < np.array([[12], [9], [8]])
  first, second = (
    np.asarray(_nll(tiny.params, states_BLD, mask_BL, targets_BT=targets, target_mask_BT=mask_BT, config=tiny.config))
    for targets in (targets_BT, changed_BT)
  )
  np.testing.assert_array_equal(first[:, :7], second[:, :7])
  assert (first[:, 7] != second[:, 7]).all()
  assert (first[~mask_BT] == 0).all() and (first[mask_BT] > 0).all()


def test_accelerators_path_of_attention_equals_the_cpus(tiny, monkeypatch):
  """All heads at once, which only other platforms run, gives what one head at a time gives."""
  ids_BL, mask_BL = random_inputs(tiny.config, 3, 24)
  by_head = np.asarray(_encode(tiny.params, ids_BL, mask_BL, config=tiny.config))
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
  all_heads = np.asarray(t5.encode(tiny.params, ids_BL, mask_BL, tiny.config))
  np.testing.assert_allclose(by_head[mask_BL], all_heads[mask_BL], rtol=0, atol=2e-5)


def test_bfloat16_computes_float32_states_and_logits_nearby(tiny):
  config = dataclasses.replace(tiny.config, dtype="bfloat16")
  params = t5.cast(tiny.params, "bfloat16")
  assert params["encoder"]["layers"]["wo_NDF"].dtype == t5.matrix_dtype(config)
  assert params["encoder"]["layers"]["norm_ND"].dtype == params["decoder"]["position_RH"].dtype == np.float32
  ids_BL, mask_BL = random_inputs(config, 4, 24)
  results = []
  for these_params, this_config in ((tiny.params, tiny.config), (params, config)):
    states_BLD = _encode(these_params, ids_BL, mask_BL, config=this_config)
    results.append(_first_step(these_params, states_BLD, mask_BL, config=this_config))
    assert states_BLD.dtype == results[-1].dtype == np.float32
  difference = np.abs(np.asarray(results[0]) - np.asarray(results[1]))
  assert 0 < difference.max() < 0.3


def test_old_configs_get_transformers_defaults():
  config = t5.T5Config.from_hugging_face({"d_model": 768, "num_layers": 12, "n_positions": 512})
  assert config == t5.T5Config(d_model=768, num_layers=12, num_decoder_layers=12)
  assert not config.gated and config.tie_word_embeddings and config.vocab_size == 32_128


def test_transformers_5_writes_untied_models_as_tied():
  written = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "scale_decoder_outputs": False}
  assert not t5.T5Config.from_hugging_face(written).tie_word_embeddings
  assert t5.T5Config.from_hugging_face(written | {"scale_decoder_outputs": True}).tie_word_embeddings


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"d_model": 0}, "d_model"),
    ({"d_model": True}, "d_model"),
    ({"d_ff": 2.5}, "d_ff"),
    ({"num_heads": "12"}, "num_heads"),
    ({"num_layers": 10**9}, "num_layers"),
    ({"vocab_size": -1}, "vocab_size"),
    ({"relative_attention_num_buckets": 30}, "relative_attention_num_buckets"),
    ({"relative_attention_max_distance": 16}, "relative_attention_max_distance"),
    ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
    ({"layer_norm_epsilon": math.nan}, "layer_norm_epsilon"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ({"feed_forward_proj": "gated-silu"}, "gated-silu"),
    ({"feed_forward_proj": ["relu"]}, "feed_forward_proj"),
    ({"model_type": "bert"}, "bert"),
    ({"decoder_start_token_id": 2}, "decoder_start_token_id"),
  ],
)
def test_bad_configs_are_named(change, named):
  with pytest.raises(WinnowError, match=named):
    t5.T5Config.from_hugging_face(change)


def test_unknown_dtype_is_refused():
  with pytest.raises(WinnowError, match="float16"):
    t5.T5Config(dtype="float16")
