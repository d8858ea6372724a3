"""T5X checkpoints: golden values, equality with a Hugging Face copy, and a one-sentence error for each defect."""

import functools
import gzip
import json
import pathlib
import shutil
from collections.abc import Callable

import google_crc32c
import jax
import ml_dtypes
import msgpack
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import t5x_files
import tiny_t5

from curation.errors import WinnowError
from curation.models import checkpoint_writer, checkpoints, random_t5, t5
from curation.scorers import ask_llm

GOLDEN = ("legacy_v1_1", "orbax_v1_1", "orbax_v1_0", "scan_legacy_v1_1", "scan_orbax_v1_1")
TOLERANCE = 2e-5  # the golden files' own
INLINE = functools.partial(t5x_files.write_legacy, inline=True)
EMBEDDING = "target.token_embedder.embedding"
KERNEL = "target.encoder.layers_0.mlp.wo.kernel"


def golden(shared: pathlib.Path, name: str) -> checkpoints.Checkpoint:
  folder = shared / "golden/t5x" / name / "checkpoint_60"
  return checkpoints.load_checkpoint(folder, "float32", vocabulary=shared / "golden/spiece.model")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> pathlib.Path:
  """A T5 1.1 in Hugging Face's layout."""
  return tiny_t5.make_checkpoint(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture(scope="module")
def arrays(sound) -> dict[str, np.ndarray]:
  return t5x_files.to_arrays(safetensors.numpy.load_file(sound / "model.safetensors"))


@pytest.fixture
def legacy(arrays, tmp_path) -> pathlib.Path:
  return t5x_files.write_legacy(tmp_path / "checkpoint_7", arrays)


@pytest.fixture
def orbax(arrays, tmp_path) -> pathlib.Path:
  return t5x_files.write_orbax(tmp_path / "checkpoint_7", arrays)


def load(folder: pathlib.Path, sound: pathlib.Path, dtype: str = "float32") -> checkpoints.Checkpoint:
  return checkpoints.load_checkpoint(folder, dtype, vocabulary=sound / "spiece.model")


def same(first: checkpoints.Checkpoint, second: checkpoints.Checkpoint) -> bool:
  equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), first.params, second.params)
  return first.config == second.config and all(jax.tree.leaves(equal))


def refusal(folder: pathlib.Path, sound: pathlib.Path) -> str:
  """Returns the one-sentence error of loading."""
  with pytest.raises(WinnowError) as caught:
    load(folder, sound)
  message = str(caught.value)
  assert message.endswith(".") and "\n" not in message and len(message) < 1000, message
  return message


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(shared, name):
  """Kills: one position table for all layers of a scanned model; an axis of heads or layers in another place."""
  checkpoint = golden(shared, name)
  expected = np.load(shared / "golden/t5x" / name / "expected.npz")
  ids_BL, targets_BT = expected["encoder_input_tokens"], expected["decoder_target_tokens"]
  mask_BL = np.arange(ids_BL.shape[1]) < expected["input_lengths"][:, None]
  target_mask_BT = np.arange(targets_BT.shape[1]) < expected["target_lengths"][:, None]
  states_BLD = t5.encode(checkpoint.params, ids_BL, mask_BL, checkpoint.config)
  computed = {
    "encoder_mean": np.mean(states_BLD, 1, where=mask_BL[..., None]),
    "first_step_logits": t5.first_step_logits(checkpoint.params, states_BLD, mask_BL, checkpoint.config),
    "nll_per_token": t5.nll_per_token(
      checkpoint.params,
      states_BLD,
      mask_BL,
      targets_BT=targets_BT,
      target_mask_BT=target_mask_BT,
      config=checkpoint.config,
    ),
  }
  computed["nll_sum"] = np.sum(np.asarray(computed["nll_per_token"]), 1, dtype=np.float64)
  computed["nll_mean"] = computed["nll_sum"] / expected["target_lengths"]
  for key, values in computed.items():
    # Sums are of up to 140 tokens and are stored in float32, whose last place is 6e-5 there.
    error = np.abs(values - expected[key]) / (expected["target_lengths"] if key == "nll_sum" else 1)
    assert error.max() < TOLERANCE, key


@pytest.mark.parametrize("pair", [("legacy_v1_1", "orbax_v1_1"), ("scan_legacy_v1_1", "scan_orbax_v1_1")])
def test_both_layouts_of_a_model_give_the_same_bits(shared, pair):
  first, second = (golden(shared, name) for name in pair)
  assert same(first, second)
  assert ("position_NRH" in first.params["encoder"]["layers"]) == pair[0].startswith("scan")


@pytest.mark.parametrize("name", [pytest.param("legacy_v1_1", marks=pytest.mark.long), "orbax_v1_0"])
def test_a_hugging_face_copy_gives_the_same_scores(shared, tmp_path, name):
  read = golden(shared, name)
  vocabulary = (shared / "golden/spiece.model").read_bytes()
  folder = checkpoint_writer.write_checkpoint(
    tmp_path, read.config, read.params, vocabulary=vocabulary, dtype="float32"
  )
  texts = pa.array([" ".join(text.split()[:8]) for text in tiny_t5.make_texts(12, seed=3)])
  prompt = ask_llm.Prompt("{document} Is that useful?")
  scores = []
  for checkpoint in (read, checkpoints.load_checkpoint(folder, "float32")):
    scorer = ask_llm.AskLlmScorer(checkpoint, prompt, max_input_tokens=40)
    scores.append(scorer.run(scorer.prepare(texts)).scores)
  np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
  assert np.isfinite(scores[0]).all() and np.unique(scores[0]).size > 1


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("layout", ["legacy", "small arrays inline", "old specs", "many chunks", "orbax"])
def test_every_layout_equals_hugging_face(tmp_path, layout, gated):
  """Kills: q, k, v or the gates in each other's place; a matrix not turned; scaled logits where the head is its own."""
  model = tiny_t5.make_checkpoint(tmp_path / "model", gated=gated)
  arrays = t5x_files.to_arrays(safetensors.numpy.load_file(model / "model.safetensors"))
  folder = tmp_path / "checkpoint_7"
  if layout == "orbax":
    t5x_files.write_orbax(folder, arrays)
  else:
    t5x_files.write_legacy(
      folder,
      arrays,
      inline=layout == "small arrays inline",
      old_specs=layout == "old specs",
      chunk_rows=5 if layout == "many chunks" else None,
    )
  for dtype in ("float32", "bfloat16"):
    assert same(load(folder, model, dtype), checkpoints.load_checkpoint(model, dtype))
  encoders = [
    checkpoints.load_checkpoint(place, "float32", encoder_only=True, vocabulary=model / "spiece.model")
    for place in (folder, model)
  ]
  assert same(*encoders) and "decoder" not in encoders[0].params
  config, _ = checkpoints.check_checkpoint(folder, vocabulary=model / "spiece.model")
  assert config == checkpoints.check_checkpoint(model)[0]


@pytest.mark.parametrize("layout", [t5x_files.write_legacy, INLINE, t5x_files.write_orbax])
@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_arrays(sound, arrays, tmp_path, layout, stored):
  """Kills the mutant that takes the bits of bfloat16 for another dtype's."""
  folder = layout(tmp_path / "checkpoint_7", {name: values.astype(stored) for name, values in arrays.items()})
  params = load(folder, sound).params
  np.testing.assert_array_equal(params["embedding_VD"], arrays["token_embedder.embedding"].astype(stored).astype("f4"))
  norm = arrays["decoder.decoder_norm.scale"].astype(stored).astype(np.float32)
  np.testing.assert_array_equal(params["decoder"]["final_norm_D"], norm)


def test_an_absent_chunk_is_the_fill_value_where_there_is_one(sound, legacy):
  """T5X sets no fill value and writes every chunk.

  Kills the mutants: zeros for what was not copied; a fill value unheeded.
  """
  (legacy / KERNEL / "0.0").unlink()
  with pytest.raises(WinnowError, match=r"cannot be read .*missing.*copy the checkpoint again"):
    load(legacy, sound)
  head = legacy / KERNEL / ".zarray"
  head.write_text(json.dumps(json.loads(head.read_text()) | {"fill_value": 0.0}))
  params = load(legacy, sound).params
  assert not params["encoder"]["layers"]["wo_NDF"][0].any() and params["encoder"]["layers"]["wo_NDF"][1].any()


@pytest.mark.parametrize("layout", [t5x_files.write_legacy, t5x_files.write_orbax])
def test_the_named_files_are_all_that_is_read(sound, arrays, tmp_path, layout):
  """Kills the mutants that leave a file out of the model's identity, or read the optimizer's state."""
  folder = layout(tmp_path / "checkpoint_7", arrays)
  files = checkpoints.checkpoint_files(folder, sound / "spiece.model")
  assert sound / "spiece.model" in files and not [path for path in files if "param_states" in str(path)]
  for path in files:
    if path.is_relative_to(folder):
      place = tmp_path / "copy" / path.relative_to(folder)
      place.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(path, place)
  assert same(load(tmp_path / "copy", sound), checkpoints.load_checkpoint(sound, "float32"))


def test_the_vocabulary(sound, legacy, tmp_path):
  with pytest.raises(WinnowError, match=r"checkpoint_7 is a T5X checkpoint, .* with --vocabulary\.$"):
    checkpoints.load_checkpoint(legacy, "float32")
  with pytest.raises(WinnowError, match="nowhere does not exist"):
    checkpoints.load_checkpoint(legacy, "float32", vocabulary=tmp_path / "nowhere")
  letters = ["".join(chr(0x4E00 + 20 * i + j) for j in range(20)) for i in range(20)]
  (tmp_path / "larger").write_bytes(random_t5.train_vocabulary(letters, 500))
  with pytest.raises(WinnowError, match="own vocabulary"):
    checkpoints.load_checkpoint(legacy, "float32", vocabulary=tmp_path / "larger")
  shutil.copy(sound / "spiece.model", legacy)
  assert same(checkpoints.load_checkpoint(legacy, "float32"), load(legacy, sound))


@pytest.mark.parametrize("layout", ["legacy", "orbax"])
def test_folders_by_any_path(sound, layout, request, monkeypatch):
  """tensorstore takes absolute paths without `..` alone."""
  folder = request.getfixturevalue(layout)
  monkeypatch.chdir(folder)
  for path in ("../checkpoint_7", ".", str(folder / ".." / "checkpoint_7")):
    assert same(load(pathlib.Path(path), sound), checkpoints.load_checkpoint(sound, "float32"))


def set_place(path: str) -> Callable[[pathlib.Path], None]:
  def damage(folder: pathlib.Path) -> None:
    (folder.parent / "target.outside").mkdir()
    shutil.copytree(folder / KERNEL, folder.parent / "target.outside/kernel")

    def change(target: dict) -> None:
      target["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]["kvstore"]["path"] = path

    t5x_files.change_index(folder, change)

  return damage


def set_metadata(place: str, **changes) -> Callable[[pathlib.Path], None]:
  def damage(folder: pathlib.Path) -> None:
    path = folder / place / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return damage


def claim_a_large_vocabulary(folder: pathlib.Path) -> None:
  set_metadata(EMBEDDING, shape=[9_000_000, 32])(folder)
  set_metadata("target.decoder.logits_dense.kernel", shape=[32, 9_000_000])(folder)


def set_index(content: bytes) -> Callable[[pathlib.Path], None]:
  return lambda folder: (folder / "checkpoint").write_bytes(content)


def set_leaf(leaf) -> Callable[[pathlib.Path], None]:
  return lambda folder: t5x_files.change_index(folder, lambda target: target.update({"token_embedder": leaf}))


def set_chunk(change: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
  def damage(folder: pathlib.Path) -> None:
    path = folder / KERNEL / "0.0"
    path.write_bytes(change(path.read_bytes()))

  return damage


def forget(*names: str) -> Callable[[pathlib.Path], None]:
  def change(target: dict) -> None:
    for name in names[:-1]:
      target = target[name]
    del target[names[-1]]

  return lambda folder: t5x_files.change_index(folder, change)


def model_of(target: bytes) -> bytes:
  """An index with this msgpack for its model."""
  return b"\x81\xa9optimizer\x81\xa6target" + target


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (set_place("../target.outside/kernel"), "beside it"),
    (set_place("target.outside/../../target.outside/kernel"), "beside it"),
    (set_place("/etc"), "beside it"),
    (set_place(".."), "beside it"),
    (set_place("target.x\0"), "beside it"),
    (set_place("target.nowhere/"), "target.nowhere/.zarray is missing"),
    (set_metadata(EMBEDDING, shape=[1 << 40, 32], chunks=[1 << 30, 32]), "T5 config: vocab_size must be"),
    (claim_a_large_vocabulary, "claims 2,304,"),
    (set_metadata(EMBEDDING, shape=[0, 32], chunks=[1, 32]), "vocab_size must be"),
    (set_metadata(EMBEDDING, shape=[400], chunks=[400]), "token_embedder.embedding with 1 dimensions instead of 2"),
    (set_metadata(KERNEL, shape=[48, 33], chunks=[48, 33]), "layers_0.mlp.wo.kernel with shape [48, 33]"),
    (set_metadata(KERNEL, shape=[48, 32, 1], chunks=[48, 32, 1]), "wo.kernel with shape [48, 32, 1]"),
    (set_metadata(KERNEL, shape=[1] * 20, chunks=[1] * 20), "20 dimensions"),
    (set_metadata(KERNEL, chunks=[1 << 40, 32]), "larger than its shape"),
    (set_metadata(KERNEL, dtype="<i8"), "has dtype 'int64'"),
    (set_metadata(KERNEL, compressor={"id": "bz2", "level": 1}), "compressed with bz2"),
    (set_metadata(KERNEL, compressor={"id": "lzma"}), f"{KERNEL} cannot be read"),
    (set_metadata(KERNEL, dtype="|O"), f"{KERNEL} cannot be read"),
    (set_metadata(KERNEL, shape=[-48, 32]), f"{KERNEL} cannot be read"),
    (set_metadata("target.encoder.relpos_bias.rel_embedding", shape=[5, 32], chunks=[5, 32]), "5 heads"),
    (set_metadata("target.encoder.relpos_bias.rel_embedding", shape=[0, 32], chunks=[1, 32]), "num_heads must be"),
    (lambda folder: (folder / KERNEL / ".zarray").write_text("{"), f"{KERNEL} cannot be read"),
    (lambda folder: (folder / KERNEL / ".zarray").write_text("[" * (1 << 20)), "1,048,576 bytes, too many"),
    (lambda folder: (folder / KERNEL / ".zarray").unlink(), f"{KERNEL}/.zarray is missing"),
    (set_chunk(lambda data: data[: len(data) // 2]), f"{KERNEL}/0.0"),
    (set_chunk(lambda data: b"no gzip"), f"{KERNEL}/0.0"),
    (set_chunk(lambda data: gzip.compress(bytes(64 << 20))), "End of data expected"),
    (set_chunk(lambda data: gzip.compress(bytes(40))), "Not enough data"),
    (set_index(b""), "checkpoint is truncated or not an index of T5X"),
    (set_index(b"\x93\x01\x02\x03"), "not an index"),
    (set_index(b"\x81\xa9optimizer\x90"), "not an index"),
    (set_index(b"\x80"), "holds no model"),
    (set_index(model_of(b"\xc0")), "holds no model"),
    (set_index(model_of(b"\x80")), "has no target.token_embedder.embedding"),
    (set_index(model_of(b"\x81\xa1a\xc9\xff\xff\xff\xff\x01")), "not an index"),  # an extension of 4 GiB
    (set_index(model_of(b"\x81\xa1a\xdd\xff\xff\xff\xff")), "not an index"),  # an array of 4 billion
    (set_index(model_of(b"\xdf\xff\xff\xff\xff")), "not an index"),
    (set_index(model_of(b"\x91" * 100_000)), "not an index"),
    (set_index(b"\x81\xa9optimizer\x81\xa5state" + b"\x91" * 100_000), "not an index"),
    (set_index(model_of(b"\x81\xa1a" * 500 + b"\x80")), "16 deep"),
    (set_index(model_of(b"\x81\xa1a" + b"\xdc\x03\xe8" + (b"\xdc\x03\xe8" + b"\xc0" * 1000) * 1000)), "over 1,000,000"),
    (set_leaf({"embedding": msgpack.ExtType(42, b"x")}), "extension 42"),
    (set_leaf({"embedding": 7}), "as int"),
    (set_leaf({"embedding": msgpack.ExtType(1, b"\xc1")}), "not an index"),
    (set_leaf({"embedding": msgpack.ExtType(1, msgpack.packb(([2, 2], "float32", b"1234")))}), "do not fit its shape"),
    (set_leaf({"embedding": msgpack.ExtType(1, msgpack.packb(([1 << 62] * 4, "float32", b"")))}), "do not fit"),
    (set_leaf({"embedding": msgpack.ExtType(1, msgpack.packb(([1], "object", b"12345678")))}), "has dtype 'object'"),
    (set_leaf({"embedding": msgpack.ExtType(1, msgpack.packb(([1.5], "float32", b"")))}), "not (shape, dtype, bytes)"),
    (set_leaf({"embedding": {"driver": "zarr", "kvstore": 1}}), "beside it"),
    (set_leaf({"embedding": {"driver": "n5", "kvstore": {"path": "target.x"}}}), "beside it"),
    (forget("token_embedder"), "has no target.token_embedder.embedding"),
    (forget("encoder", "relpos_bias"), "has no target.encoder.relpos_bias.rel_embedding"),
    (forget("decoder", "layers_1", "mlp", "wo"), "the first being target.decoder.layers_1.mlp.wo.kernel"),
    (forget("encoder", "layers_0"), "has no target.encoder.layers_0"),
    (forget("decoder", "layers_0"), "the first being target.decoder.layers_0"),
    (set_leaf({"embedding": t5x_files.packed(np.ones((400, 32), "f4")), "bias": t5x_files.packed(np.ones(3, "f4"))}),
     "the first being target.token_embedder.bias"),
  ],
)  # fmt: skip
def test_what_is_not_sound_is_refused(sound, legacy, damage, words):
  damage(legacy)
  assert words in refusal(legacy, sound)


def test_an_index_names_folders_whatever_its_driver_says(sound, legacy):
  """Kills the mutant that hands a file's own kvstore to tensorstore: it could ask any server."""

  def change(target: dict) -> None:
    spec = target["token_embedder"]["embedding"]
    spec["kvstore"] = {"driver": "http", "base_url": "http://localhost:1", "path": spec["kvstore"]["path"]}

  t5x_files.change_index(legacy, change)
  assert same(load(legacy, sound), checkpoints.load_checkpoint(sound, "float32"))


def test_damaged_databases(sound, orbax):
  state = orbax / "state"
  manifest = state / "manifest.ocdbt"
  content = manifest.read_bytes()
  manifest.write_bytes(content[:50])
  assert "state cannot be read" in refusal(orbax, sound)
  manifest.write_bytes(content)
  for path in (state / "d").iterdir():
    path.write_bytes(path.read_bytes()[:-9])
  assert "cannot be read" in refusal(orbax, sound)
  manifest.unlink()
  assert "manifest.ocdbt is missing" in refusal(orbax, sound)


def test_a_database_does_not_lead_out_of_its_folder(sound, tmp_path):
  """The manifest, whole by its checksum, has its data in a folder beside the checkpoint."""
  arrays = t5x_files.to_arrays(safetensors.numpy.load_file(sound / "model.safetensors"))
  state = t5x_files.write_orbax(tmp_path / "checkpoint_7", arrays, plain=True) / "state"
  manifest = (state / "manifest.ocdbt").read_bytes()
  (path,) = (state / "d").iterdir()
  (tmp_path / "d").mkdir()
  shutil.copy(path, tmp_path / "d" / path.name[6:])
  changed = manifest[:-4].replace(f"d/{path.name}".encode(), f"../../d/{path.name[6:]}".encode())
  assert len(changed) == len(manifest) - 4 and changed != manifest[:-4]
  (state / "manifest.ocdbt").write_bytes(changed + google_crc32c.value(changed).to_bytes(4, "little"))
  assert "Invalid key" in refusal(tmp_path / "checkpoint_7", sound)


@pytest.mark.parametrize("layout", ["legacy", "orbax"])
def test_no_damage_ends_otherwise_than_in_a_sentence(sound, layout, request):
  """Bytes changed, cut off or put in: some of it cannot be noticed, and nothing else than WinnowError is raised."""
  folder = request.getfixturevalue(layout)
  files = [path for path in checkpoints.checkpoint_files(folder, sound / "spiece.model") if path.is_relative_to(folder)]
  generator = np.random.default_rng(0)
  refused = 0
  for _ in range(60):
    path = files[generator.integers(len(files))]
    content = path.read_bytes()
    start, stop = np.sort(generator.integers(0, len(content) + 1, 2))
    damaged = content[:start] + generator.bytes(generator.integers(0, 9)) + content[stop:]
    path.write_bytes(damaged)
    try:
      load(folder, sound)
    except WinnowError as error:
      assert "\n" not in str(error) and str(error).endswith(".")
      refused += 1
    path.write_bytes(content)
  assert refused > 20
  assert same(load(folder, sound), checkpoints.load_checkpoint(sound, "float32"))
