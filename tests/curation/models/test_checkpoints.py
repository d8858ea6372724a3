"""Loading checkpoints: every valid layout, and a one-sentence error for each invalid one."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny_t5
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.models import checkpoints, safetensors_files

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  """A sound T5 1.1 folder; tests change copies of it."""
  return tiny_t5.make_checkpoint(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path):
  return shutil.copytree(sound, tmp_path / "model")


def read(folder) -> dict[str, np.ndarray]:
  return safetensors.numpy.load_file(folder / WEIGHTS)


def write(folder, tensors, name=WEIGHTS):
  safetensors.numpy.save_file(tensors, folder / name)


def change_config(folder, **changes):
  config = json.loads((folder / "config.json").read_text()) | changes
  (folder / "config.json").write_text(json.dumps(config))


def shard(folder) -> dict[str, str]:
  """Splits the weights into two shards with an index; returns its weight map."""
  tensors = read(folder)
  weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
  for file in set(weight_map.values()):
    write(folder, {name: tensors[name] for name in tensors if weight_map[name] == file}, file)
  (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
  (folder / WEIGHTS).unlink()
  return weight_map


def write_index(folder, weight_map):
  (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def same(first: checkpoints.Checkpoint, second: checkpoints.Checkpoint) -> bool:
  equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), first.params, second.params)
  return first.config == second.config and all(jax.tree.leaves(equal))


def refusal(folder) -> str:
  """Returns the one-sentence error of loading."""
  with pytest.raises(WinnowError) as caught:
    checkpoints.load_checkpoint(folder, "float32")
  message = str(caught.value)
  assert message.endswith(".") and "\n" not in message
  return message


@pytest.mark.parametrize("gated", [True, False])
def test_weights_go_to_their_places(tmp_path, gated):
  """Kills: q, k, v or the two gates joined in another order."""
  folder = tiny_t5.make_checkpoint(tmp_path, gated=gated)
  tensors, params = read(folder), checkpoints.load_checkpoint(folder, "float32").params
  encoder, decoder = params["encoder"]["layers"], params["decoder"]["layers"]
  attention = "encoder.block.1.layer.0.SelfAttention"
  expected = np.stack([tensors[f"{attention}.{name}.weight"] for name in "qkv"])
  np.testing.assert_array_equal(encoder["qkv_N3ED"][1], expected)
  np.testing.assert_array_equal(encoder["out_NDE"][1], tensors[f"{attention}.o.weight"])
  mlp = "encoder.block.0.layer.1.DenseReluDense"
  gates = [tensors[f"{mlp}.{gate}.weight"] for gate in (("wi_0", "wi_1") if gated else ("wi",))]
  np.testing.assert_array_equal(encoder["wi_NGFD"][0], np.stack(gates))
  cross = tensors["decoder.block.1.layer.1.EncDecAttention.v.weight"]
  np.testing.assert_array_equal(decoder["cross_v_NHKD"][1], cross.reshape(3, 8, 32))
  np.testing.assert_array_equal(decoder["cross_norm_ND"][0], tensors["decoder.block.0.layer.1.layer_norm.weight"])
  assert ("head_VD" in params) == gated


def test_shards_equal_one_file(sound, folder):
  weight_map = shard(folder)
  assert same(checkpoints.load_checkpoint(folder, "float32"), checkpoints.load_checkpoint(sound, "float32"))
  names = [path.name for path in checkpoints.checkpoint_files(folder)]
  assert names == sorted(["config.json", "spiece.model", INDEX, *set(weight_map.values())])


def test_files_of_a_single_file_model(folder):
  (folder / "tokenizer_config.json").write_text("{}")
  names = [path.name for path in checkpoints.checkpoint_files(folder)]
  assert names == ["config.json", WEIGHTS, "spiece.model"]


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_half_precision_files(sound, folder, stored, wanted):
  tensors = read(folder)
  halves = {name: tensor.astype(stored) for name, tensor in tensors.items()}
  if stored is np.float16:
    write(folder, halves)
  else:  # safetensors' NumPy writer lacks bfloat16
    _write_by_hand(folder / WEIGHTS, {name: ("BF16", half.shape, half.tobytes()) for name, half in halves.items()})
  params = checkpoints.load_checkpoint(folder, wanted).params
  expected = halves["lm_head.weight"].astype(wanted)
  assert params["head_VD"].dtype == expected.dtype
  np.testing.assert_array_equal(params["head_VD"], expected)
  norm = halves["encoder.final_layer_norm.weight"].astype(np.float32)
  assert params["encoder"]["final_norm_D"].dtype == np.float32
  np.testing.assert_array_equal(params["encoder"]["final_norm_D"], norm)


def test_known_superfluous_tensors_are_ignored(tmp_path):
  folder = tiny_t5.make_checkpoint(tmp_path, gated=False)
  expected = checkpoints.load_checkpoint(folder, "float32")
  tensors = read(folder)
  bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
  write(folder, tensors | {bias: np.ones((32, 3), np.float32)} | {name: tensors["shared.weight"] for name in copies})
  assert same(checkpoints.load_checkpoint(folder, "float32"), expected)


def test_a_copy_of_the_embedding_serves_where_it_is_the_only_one(sound, folder):
  tensors = read(folder)
  tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
  write(folder, tensors)
  assert same(checkpoints.load_checkpoint(folder, "float32"), checkpoints.load_checkpoint(sound, "float32"))


def without(tensors: dict, name: str) -> dict:
  return {other: tensor for other, tensor in tensors.items() if other != name}


def drop_settings(folder, *names):
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({name: config[name] for name in config if name not in names}))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_head_that_the_config_does_not_name_gives_the_logits(sound, folder, sharded):
  """Kills: transformers' default for a silent config, which drops the head and takes the embedding for it."""
  drop_settings(folder, "tie_word_embeddings")
  if sharded:
    shard(folder)
  assert same(checkpoints.load_checkpoint(folder, "float32"), checkpoints.load_checkpoint(sound, "float32"))
  assert checkpoints.own_head(folder) == "lm_head.weight"
  assert checkpoints.own_head(sound) is None


@pytest.mark.parametrize("copy", ["lm_head.weight", None])
def test_without_a_head_of_its_own_a_silent_config_means_a_tied_one(folder, copy):
  """Kills: a head that is a copy of the embedding taken for a trained one, whose logits are not scaled."""
  drop_settings(folder, "tie_word_embeddings")
  tensors = without(read(folder), "lm_head.weight")
  write(folder, tensors | ({copy: tensors["shared.weight"]} if copy else {}))
  loaded = checkpoints.load_checkpoint(folder, "float32")
  assert loaded.config.tie_word_embeddings and "head_VD" not in loaded.params
  assert checkpoints.own_head(folder) is None


@pytest.mark.parametrize("setting", ["tie_word_embeddings", "scale_decoder_outputs"])
def test_a_head_that_the_config_denies_is_refused(folder, setting):
  drop_settings(folder, "tie_word_embeddings")
  change_config(folder, **{setting: True})
  assert f"lm_head.weight, which differs from shared.weight, though config.json says {setting}=true" in refusal(folder)


def test_a_head_that_the_config_promises_and_the_files_lack_is_refused(folder):
  write(folder, without(read(folder), "lm_head.weight"))
  assert "the first being lm_head.weight" in refusal(folder)


def test_transformers_5_shares_the_embedding_without_scaling_it(sound, folder):
  """It writes one matrix for embedding and head, and says by a setting of its own that logits are not scaled.

  Kills: the scaling that one matrix for both means in older files.
  """
  change_config(folder, tie_word_embeddings=True, scale_decoder_outputs=False)
  assert same(checkpoints.load_checkpoint(folder, "float32"), checkpoints.load_checkpoint(sound, "float32"))
  write(folder, without(read(folder), "lm_head.weight"))
  loaded = checkpoints.load_checkpoint(folder, "float32")
  assert not loaded.config.tie_word_embeddings
  np.testing.assert_array_equal(loaded.params["head_VD"], loaded.params["embedding_VD"])


@pytest.mark.parametrize("copy", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_two_embeddings_are_refused(folder, copy):
  """Kills: one of them dropped in silence."""
  tensors = read(folder)
  changed = tensors["shared.weight"].copy()
  changed[-1, -1] += 1
  write(folder, tensors | {copy: changed})
  assert f"{copy}, which differs from shared.weight" in refusal(folder)


@pytest.mark.parametrize("kept", ["decoder.embed_tokens.weight", "lm_head.weight"])
def test_an_encoder_finds_the_embedding_under_any_of_its_names(tmp_path, kept):
  """safetensors' save_model keeps the first of the names that share a matrix."""
  folder = tiny_t5.make_checkpoint(tmp_path, gated=False)
  tensors = read(folder)
  embedding = tensors.pop("shared.weight")
  write(folder, tensors | {kept: embedding})
  for encoder_only in (False, True):
    params = checkpoints.load_checkpoint(folder, "float32", encoder_only=encoder_only).params
    np.testing.assert_array_equal(params["embedding_VD"], embedding)


def test_missing_files(folder, tmp_path):
  assert "is not a folder" in refusal(tmp_path / "absent")
  (folder / "spiece.model").rename(tmp_path / "aside")
  assert "has no spiece.model" in refusal(folder)
  assert "only a tokenizer.json" in refusal(folder) and "with --vocabulary" in refusal(folder)
  checkpoints.check_checkpoint(folder, vocabulary=tmp_path / "aside")
  (tmp_path / "aside").rename(folder / "spiece.model")
  (folder / WEIGHTS).unlink()
  assert "neither" in refusal(folder)
  (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
  assert "convert it to model.safetensors" in refusal(folder)
  (folder / "config.json").unlink()
  assert "has no config.json" in refusal(folder)


def test_unreadable_file(folder):
  (folder / "config.json").unlink()
  (folder / "config.json").symlink_to("/proc/self/mem")  # reading it from the start fails, for root as well
  assert "cannot be read (Input/output error)" in refusal(folder)


@pytest.mark.parametrize(
  "text", ["{", "[1]", '"t5"', "\xff", "[" * 100_000], ids=["cut", "list", "str", "bytes", "deep"]
)
def test_bad_json(folder, text):
  (folder / "config.json").write_bytes(text.encode("latin-1"))
  assert "config.json" in refusal(folder)


def test_config_that_asks_for_other_weights(folder):
  change_config(folder, d_ff=64)
  assert "wi_0.weight with shape [48, 32]" in refusal(folder)
  change_config(folder, d_ff=48, num_layers=3)
  assert "lacks 9 of the" in refusal(folder)
  change_config(folder, num_layers=1)
  assert "encoder.block.1" in refusal(folder)
  change_config(folder, num_layers=2, d_model=10**7)
  assert "d_model" in refusal(folder)


def test_missing_and_unknown_tensors(folder):
  tensors = read(folder)
  norm = tensors.pop("encoder.final_layer_norm.weight")
  write(folder, tensors)
  assert "first being encoder.final_layer_norm.weight" in refusal(folder)
  write(folder, tensors | {"encoder.final_layer_norm.weight": norm, "adapter.weight": norm})
  assert "first being adapter.weight" in refusal(folder)


def test_vocabulary_that_does_not_fit(folder):
  tensors = read(folder)
  for name in ("shared.weight", "lm_head.weight"):
    tensors[name] = tensors[name][:20].copy()
  write(folder, tensors)
  change_config(folder, vocab_size=20)
  assert "embeds only 20" in refusal(folder)
  (folder / "spiece.model").write_bytes(b"not a model")
  assert "is not a SentencePiece model" in refusal(folder)


def test_bad_indices(folder, tmp_path):
  weight_map = shard(folder)
  name, file = next(iter(weight_map.items()))
  outside = tmp_path / "outside.safetensors"
  shutil.copy(folder / file, outside)
  for path in ("../outside.safetensors", str(outside), "sub/x.safetensors", "..", "", 3, None, "x.bin"):
    write_index(folder, weight_map | {name: path})
    assert "must be .safetensors files beside the index" in refusal(folder)
  write_index(folder, weight_map | {name: "model-00003-of-00003.safetensors"})
  assert "model-00003-of-00003.safetensors is missing" in refusal(folder)
  write_index(folder, weight_map | {"absent.weight": file})
  assert "lacks the tensor absent.weight" in refusal(folder)
  write_index(folder, {})
  assert "has no weight_map" in refusal(folder)


def _write_by_hand(path, tensors, *, header=None):
  """A safetensors file of (dtype, shape, bytes) by name; `header` changes entries."""
  entries, data = {}, b""
  for name, (dtype, shape, raw) in tensors.items():
    entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
  text = json.dumps(entries | (header or {})).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_truncated_at_any_place(sound, folder):
  whole = (sound / WEIGHTS).read_bytes()
  header = 8 + int.from_bytes(whole[:8], "little")
  for size in (0, 7, 8, 100, header - 1, header, header + 1, len(whole) - 1):
    (folder / WEIGHTS).write_bytes(whole[:size])
    assert "truncated or not a safetensors file" in refusal(folder)
  (folder / WEIGHTS).write_bytes(whole + b"\0")
  assert "truncated or not a safetensors file" in refusal(folder)


@pytest.mark.parametrize(
  ("entry", "named"),
  [
    ({"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}, "F64"),
    ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "do not fit its shape"),
    ({"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}, "malformed"),
    ({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}, "malformed"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "malformed"),
    ({"dtype": "F32", "shape": [2]}, "malformed"),
    ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "malformed"),
    ("F32", "malformed"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "does not follow"),
    ({"dtype": "F32", "shape": [10**12, 10**12], "data_offsets": [0, 4 * 10**24]}, "header calls for"),
  ],
)
def test_bad_headers(tmp_path, entry, named):
  path = tmp_path / WEIGHTS
  _write_by_hand(path, {"a": ("F32", (2,), bytes(8))}, header={"a": entry})
  with pytest.raises(WinnowError, match=named):
    safetensors_files.open_tensors(path)


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_files_load_or_say_so(sound, tmp_path_factory, data):
  """Whatever bytes are changed, reading gives tensors within the file or a WinnowError, never another exception."""
  raw = bytearray((sound / WEIGHTS).read_bytes())
  for _ in range(data.draw(st.integers(1, 4))):
    raw[data.draw(st.integers(0, 3_000))] = data.draw(st.integers(0, 255))
  path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
  path.write_bytes(raw)
  try:
    tensors = safetensors_files.open_tensors(path)
  except WinnowError:
    return
  assert sum(tensor.nbytes for tensor in tensors.values()) < len(raw)


def test_views_equal_the_reference_reader(sound):
  expected = read(sound)
  tensors = safetensors_files.open_tensors(sound / WEIGHTS)
  assert tensors.keys() == expected.keys()
  for name, tensor in tensors.items():
    assert not tensor.flags.writeable
    np.testing.assert_array_equal(tensor, expected[name])
