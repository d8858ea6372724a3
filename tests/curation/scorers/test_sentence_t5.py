"""Sentence-T5: golden embeddings, the formula on a small model, and folders that are refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import tiny_t5

from curation.errors import WinnowError
from curation.models import t5
from curation.scorers import sentence_t5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  return tiny_t5.make_sentence_t5(tmp_path_factory.mktemp("sentence"))


@pytest.fixture(scope="module")
def embedder(folder) -> sentence_t5.SentenceT5Embedder:
  return sentence_t5.SentenceT5Embedder(sentence_t5.load(folder, "float32"), batch_tokens=64)


def embed(embedder, texts: list[str]) -> sentence_t5.Embeddings:
  return embedder.run(embedder.prepare(pa.array(texts, pa.string())))


def test_golden_embeddings(shared):
  """Kills: the mean over padding, without eos or before the final norm; a bias; no normalisation; another cut."""
  golden = shared / "golden"
  embedder = sentence_t5.SentenceT5Embedder(sentence_t5.load(golden / "sentence_t5_tiny", "float32"))
  texts = json.loads((golden / "expected/sentence_t5_tiny_texts.json").read_text())
  texts = texts["texts"] if isinstance(texts, dict) else texts
  expected = np.load(golden / "expected/sentence_t5_tiny.npz")
  prepared = embedder.prepare(pa.array(texts))
  for batch, ids_BL in zip(prepared.batches.plan, prepared.batches.ids, strict=True):
    for row, i in enumerate(batch.indices):
      length = expected["attention_mask"][i].sum()
      assert ids_BL[row, :length].tolist() == expected["input_ids"][i, :length].tolist()
      assert prepared.batches.lengths_N[i] == length
  embeddings_NO = embedder.run(prepared).embeddings
  np.testing.assert_allclose(embeddings_NO, expected["embeddings"], rtol=0, atol=1e-5)


def test_embeddings_are_the_formulas(folder, embedder):
  texts = [*tiny_t5.make_texts(12, longest=20), ""]
  model = sentence_t5.load(folder, "float32")
  dense_OD = safetensors.numpy.load_file(folder / "2_Dense/model.safetensors")["linear.weight"]
  embedded = embed(embedder, texts)
  encode = jax.jit(t5.encode, static_argnames="config")
  for text, embedding_O in zip(texts, embedded.embeddings, strict=True):
    ids = np.append(model.vocabulary.encode([text]).ids, 1)[None]
    states_LD = np.asarray(encode(model.params, ids, np.ones(ids.shape, bool), config=model.config))[0]
    projected = dense_OD.astype(np.float64) @ states_LD.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(embedding_O, projected / np.linalg.norm(projected), atol=2e-6)
  assert embedded.num_tokens.tolist() == model.vocabulary.encode(texts).lengths().tolist()


def test_an_embedding_depends_on_its_text_alone(embedder):
  """Kills: a row's mean that is taken over its bucket."""
  texts = tiny_t5.make_texts(60, longest=60)
  whole = embed(embedder, texts).embeddings
  order = np.random.default_rng(0).permutation(60)[:23]
  assert embed(embedder, [texts[i] for i in order]).embeddings.tobytes() == whole[order].tobytes()
  assert embed(embedder, []).embeddings.shape == (0, 20)


def test_the_end_of_a_long_text_is_cut(embedder):
  text = " ".join(tiny_t5.make_texts(20, longest=30))
  cut = embedder.prepare(pa.array([text])).batches
  assert cut.lengths_N.tolist() == [40] and cut.ids[0][0, 39] == 1


def test_what_sentence_transformers_5_saves_is_the_same_model(folder, embedder, tmp_path):
  """Kills: a limit or a pooling that is looked for under its old name alone."""
  tiny_t5.make_sentence_t5(tmp_path)
  tiny_t5.save_as_sentence_transformers_5(tmp_path)
  sentence_t5.check(tmp_path)
  again = sentence_t5.SentenceT5Embedder(sentence_t5.load(tmp_path, "float32"), batch_tokens=64)
  assert again.max_input_tokens == 40
  texts = tiny_t5.make_texts(5, longest=90)
  assert embed(again, texts).embeddings.tobytes() == embed(embedder, texts).embeddings.tobytes()


def test_the_tokenizers_settings_are_the_models_where_they_hold_its_limit(folder, tmp_path):
  """Kills: a fingerprint without the file that decides where texts are cut, and one that changes with a file that does
  not."""
  tiny_t5.make_sentence_t5(tmp_path)
  (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 12}')
  assert tmp_path / "tokenizer_config.json" not in sentence_t5.model_files(tmp_path)
  assert sentence_t5.load(tmp_path, "float32").max_input_tokens == 40  # the model's own goes first
  tiny_t5.save_as_sentence_transformers_5(tmp_path)
  assert tmp_path / "tokenizer_config.json" in sentence_t5.model_files(tmp_path)


@pytest.mark.parametrize("stored", [10**30, None, "no file"])
def test_a_model_without_a_limit_takes_the_flags(tmp_path, stored):
  tiny_t5.make_sentence_t5(tmp_path)
  tiny_t5.save_as_sentence_transformers_5(tmp_path, model_max_length=None if stored == "no file" else stored)
  if stored == "no file":
    (tmp_path / "tokenizer_config.json").unlink()
  for open_it in (sentence_t5.check, sentence_t5.load):
    with pytest.raises(WinnowError, match="give --max_input_tokens"):
      open_it(tmp_path)
  sentence_t5.check(tmp_path, max_input_tokens=9)
  assert sentence_t5.load(tmp_path, "float32", max_input_tokens=9).max_input_tokens == 9


@pytest.mark.parametrize(
  ("name", "fields", "sentence"),
  [
    ("1_Pooling/config.json", {"pooling_mode": "cls"}, "asks for cls, but Sentence-T5 pools by the mean"),
    ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "asks for mean, max, but"),
    ("1_Pooling/config.json", {"pooling_mode": 3}, "asks for 3, but"),
    ("2_Dense/config.json", {"use_residual": True}, "use_residual"),
    ("tokenizer_config.json", {"model_max_length": "many"}, "tokenizer_config.json: model_max_length must be"),
    ("tokenizer_config.json", {"model_max_length": 1}, "tokenizer_config.json: model_max_length must be"),
    ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 9}}}, "processing_kwargs"),
  ],
)
def test_settings_of_sentence_transformers_5_that_mean_another_model_are_refused(tmp_path, name, fields, sentence):
  tiny_t5.make_sentence_t5(tmp_path)
  tiny_t5.save_as_sentence_transformers_5(tmp_path)
  (tmp_path / name).write_text(json.dumps(json.loads((tmp_path / name).read_text()) | fields))
  with pytest.raises(WinnowError, match=sentence):
    sentence_t5.check(tmp_path)


def spoil(folder: Path, how: str) -> None:
  def change(name: str, **fields) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))

  modules = json.loads((folder / "modules.json").read_text())
  if how == "no modules":
    (folder / "modules.json").unlink()
  elif how == "other modules":
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
  elif how == "a module twice":
    (folder / "modules.json").write_text(json.dumps([*modules[:3], *modules[2:]]))
  elif how == "not modules":
    (folder / "modules.json").write_text('{"a": 1}')
  elif how == "path":
    modules[2]["path"] = "../2_Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
  elif how == "pooling":
    change("1_Pooling/config.json", pooling_mode_cls_token=True)
  elif how == "limit":
    change("sentence_bert_config.json", max_seq_length="many")
  elif how == "case":
    change("sentence_bert_config.json", do_lower_case=True)
  elif how == "bias":
    change("2_Dense/config.json", bias=True)
  elif how == "activation":
    change("2_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh")
  elif how == "pickle":
    (folder / "2_Dense/model.safetensors").rename(folder / "2_Dense/pytorch_model.bin")
  elif how == "width":
    safetensors.numpy.save_file({"linear.weight": np.ones((20, 31), np.float32)}, folder / "2_Dense/model.safetensors")
    change("2_Dense/config.json", in_features=31)
  elif how == "features":
    change("2_Dense/config.json", out_features=21)
  elif how == "tensors":
    safetensors.numpy.save_file({"weight": np.ones((20, 32), np.float32)}, folder / "2_Dense/model.safetensors")


@pytest.mark.parametrize(
  ("how", "sentence"),
  [
    ("no modules", "has no modules.json"),
    ("other modules", "names the modules Transformer, Pooling, but"),
    ("a module twice", "Dense, Dense, Normalize, but"),
    ("not modules", "is not a list of modules"),
    ("path", "names the folder '../2_Dense'"),
    ("pooling", "pooling_mode_cls_token, pooling_mode_mean_tokens, but Sentence-T5 pools by the mean"),
    ("limit", "max_seq_length"),
    ("case", "case-sensitive"),
    ("bias", "asks for a bias or an activation"),
    ("activation", "asks for a bias or an activation"),
    ("pickle", "could run code"),
    ("width", "do not belong together"),
    ("features", "is not what"),
    ("tensors", "must hold one matrix"),
  ],
)
def test_folders_that_are_no_sentence_t5_are_refused(tmp_path, how, sentence):
  tiny_t5.make_sentence_t5(tmp_path)
  sentence_t5.check(tmp_path)
  spoil(tmp_path, how)
  for open_it in (sentence_t5.check, sentence_t5.load):
    with pytest.raises(WinnowError, match=sentence) as caught:
      open_it(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_whole_t5_serves_by_its_encoder(folder, tmp_path, embedder):
  """Some folders on the hub hold a whole T5. Kills: a decoder that is kept in memory, or makes an error."""
  tiny_t5.make_sentence_t5(tmp_path)
  whole = tiny_t5.make_checkpoint(tmp_path / "whole")
  (tmp_path / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes())
  model = sentence_t5.load(tmp_path, "float32")
  assert "decoder" not in model.params and "head_VD" not in model.params
  again = sentence_t5.SentenceT5Embedder(model, batch_tokens=64)
  texts = tiny_t5.make_texts(5)
  assert embed(again, texts).embeddings.tobytes() == embed(embedder, texts).embeddings.tobytes()
