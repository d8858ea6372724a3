"""The demo embedder: small, whole, copies close and strangers apart on texts it never saw, and trained alike twice."""

import dataclasses
import json
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_t5

from curation.coverage import minhash
from curation.demo import corpus as demo_corpus
from curation.demo import embedder as demo_embedder
from curation.demo.embedder import edits, evaluate, examples, initial, train
from curation.demo.training import texts
from curation.models import t5
from curation.models.vocabulary import Tokens
from curation.scorers import sentence_t5

SMALL = train.TrainConfig(
  pieces=400, d_model=32, d_kv=8, d_ff=16, num_layers=1, steps=12, max_input_tokens=64, learning_rate=1e-2,
  shapes=((16, 24), (8, 32), (8, 48)),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> sentence_t5.SentenceT5:
  return sentence_t5.load(demo_embedder.folder(), "float32")


@pytest.fixture(scope="module")
def embedder(model) -> sentence_t5.SentenceT5Embedder:
  return sentence_t5.SentenceT5Embedder(model)


@pytest.fixture(scope="module")
def documents() -> list[demo_corpus.Document]:
  return list(demo_corpus.read_documents())


@pytest.fixture(scope="module")
def held_out(documents) -> list[str]:
  return evaluate.held_out_texts([document.text for document in documents], limit=200, seed=1)


def test_shipped_files_are_small(model):
  """Kills: weights in float32, a file that no reader looks at."""
  files = sentence_t5.model_files(demo_embedder.folder())
  assert sum(file.stat().st_size for file in files) <= 2_000_000
  others = {"README.md"} | {file.name for file in demo_embedder.folder().glob("*.py")}
  shipped = {file for file in demo_embedder.folder().rglob("*") if file.is_file() and "__pycache__" not in file.parts}
  assert shipped == {*files, *(demo_embedder.folder() / name for name in others)}
  assert model.max_input_tokens == 256


@pytest.mark.long
def test_edited_texts_lie_close_and_strangers_apart(embedder, model, held_out):
  """Kills: random weights, whose means of tokens are much alike for alike texts too, but not as much."""
  assert len(held_out) == 200

  def ratio(any_embedder) -> float:
    """Divides the squared distance that 5% of the edited texts exceed by the one that half of the strangers exceed."""
    edited_N, strangers = evaluate.cosines(any_embedder, held_out, seed=1)
    return (1 - np.percentile(edited_N, 5)) / (1 - np.median(strangers))

  assert ratio(embedder) < 0.045  # 0.019 to 0.037 over ten draws of 200 texts; without training 0.054 to 0.075
  assert ratio(sentence_t5.SentenceT5Embedder(evaluate.untrained(model, 0))) > 0.05
  edited_N, strangers = evaluate.cosines(embedder, held_out, seed=1)
  assert np.median(edited_N) > 0.99 and np.median(strangers) < 0.4


@pytest.mark.long
def test_halves_of_a_text_find_each_other(embedder, model, held_out):
  """Kills: a training that only learns what light edits leave alike."""
  left, right = zip(*map(examples.halves, held_out), strict=True)

  def share(some) -> float:
    return evaluate.matched_share(evaluate.embed_texts(some, list(left)) @ evaluate.embed_texts(some, list(right)).T)

  assert share(embedder) > 0.5
  assert share(sentence_t5.SentenceT5Embedder(evaluate.untrained(model, 0))) < 0.3


def test_copies_of_licences_have_large_kernel_sums_and_a_draw_leaves_few(embedder, documents):
  """Kills: near-copies that are cut, or shifted by a notice, to another place; strangers that count."""
  some = [d for i, d in enumerate(documents) if demo_corpus.is_licence(d.url) or i % 6 == 0]
  licence_N = np.array([demo_corpus.is_licence(d.url) for d in some])
  copies_N = np.zeros(len(some), bool)
  copies_N[licence_N] = minhash.near_copies([d.text for d in some if demo_corpus.is_licence(d.url)])
  assert copies_N.sum() > 50
  embedded_NO = evaluate.embed_texts(embedder, [d.text for d in some])
  sums_N = evaluate.KERNEL.sums(embedded_NO, embedded_NO)
  assert np.median(sums_N[copies_N]) > 10 * np.median(sums_N[~licence_N])
  kept = [evaluate.draw_rare(sums_N, len(some) // 5, np.random.default_rng(seed)) for seed in range(20)]
  assert np.mean([copies_N[places].mean() for places in kept]) < 0.2 * copies_N.mean()


words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=9)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(words, max_size=60), st.integers(0, 2**32), st.sampled_from(" \n\t"))
def test_edits_depend_on_text_and_generator_and_leave_most_words(parts, seed, joint):
  """Kills: a draw from elsewhere, and edits of which nothing is left alike."""
  text = joint.join(parts)
  edited = edits.edit_words(text, np.random.default_rng(seed))
  assert edited == edits.edit_words(text, np.random.default_rng(seed))
  assert edits.edit(text, np.random.default_rng(seed)) == edits.edit(text, np.random.default_rng(seed))
  before, after = text.split(), edited.split()
  changed = max(1, int(0.08 * len(before)))
  assert len(before) - changed <= len(after) <= len(before)
  assert set(after) <= set(before) and len(set(before) - set(after)) <= changed


def test_edits_of_a_notice_change_years_and_holder_alone():
  """Kills: a holder that stays, a year out of range, words lost on either side of the notice."""
  text = "The Licence Copyright (c) 2011-2014 Some Body, Inc. and friends. Made 1999 of 12345 parts."
  for seed in range(50):
    edited = edits.edit_notice(text, np.random.default_rng(seed))
    front, back = edited.split("Copyright (c) ")
    assert front == "The Licence " and " and friends. Made " in back and back.endswith(" of 12345 parts.")
    assert "Some" not in back and "Body" not in back and "Inc., " not in back
    years = [int(year) for year in re.findall(r"\b\d{4}\b", edited)]
    assert len(years) == 3 and all(1990 <= year <= 2026 for year in years)
    assert all(year != before for year, before in zip(years, (2011, 2014, 1999), strict=True))
  firsts = [edits.edit_notice("nothing here", np.random.default_rng(seed)) for seed in range(200)]
  assert all(first.endswith("nothing here") for first in firsts)
  assert 0.1 < np.mean([first.startswith("Copyright (c) ") for first in firsts]) < 0.3


def test_packed_rows_come_back_in_their_order():
  """Kills: the inverse of the wrong order, an end of sequence that is cut off, rows swapped between groups."""
  generator = np.random.default_rng(0)
  sequences = [generator.integers(3, 99, n).astype(np.int32) for n in generator.integers(0, 20, 12)]
  batch = examples.pack(sequences, ((6, 5), (4, 12), (2, 16)))
  rows = [ids_L[:n] for group in batch.groups for ids_L, n in zip(group.ids_RL, group.lengths_R, strict=True)]
  for group in batch.groups:
    past_RL = np.arange(group.ids_RL.shape[1]) >= group.lengths_R[:, None]
    assert not group.ids_RL[past_RL].any()
  for ids, place in zip(sequences, batch.places_B, strict=True):
    row = rows[place]
    assert row[-1] == 1 and row[:-1].tolist() == ids[: len(row) - 1].tolist()
    assert len(row) == min(len(ids) + 1, next(n for start, n in ((6, 5), (10, 12), (12, 16)) if place < start))


@pytest.mark.parametrize("edited", [0.0, 1.0])
def test_partners_are_of_one_text_and_no_text_is_twice_in_a_batch(model, edited):
  """Kills: pairs of two texts, and a text that is set against itself."""
  generator = np.random.default_rng(0)
  letters = list("abcdefghijklmnopqrstuvwxyz")
  own = [["".join(generator.choice(letters, 6)) for _ in range(10)] for _ in range(20)]
  pool = [" ".join(generator.choice(some, 300)) for some in own]
  shapes = ((20, 300), (20, 301))
  for batch in examples.batches([pool], model.vocabulary, steps=3, shapes=shapes, edited=edited, seed=1):
    rows = [set(ids_L.tolist()) for group in batch.groups for ids_L in group.ids_RL]
    rows = [rows[place] for place in batch.places_B]
    shared = np.array([[len(a & b) / len(a | b) for b in rows[20:]] for a in rows[:20]])
    assert (shared.argmax(axis=1) == np.arange(20)).all()


def test_loss_is_the_cross_entropy_of_partners():
  """Kills: rows against themselves, one direction only, a temperature upside down."""
  config = t5.T5Config(
    vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2, gated=True
  )
  params = initial.random_params(config, 6, seed=0)
  generator = np.random.default_rng(1)
  sequences = [generator.integers(3, 50, n).astype(np.int32) for n in generator.integers(1, 9, 8)]
  batch = examples.pack(sequences, ((4, 10), (4, 12)))
  vectors = []
  for ids in sequences:
    ids = np.append(ids, 1)
    vectors.append(np.asarray(sentence_t5.embed(params, ids[None], np.array([len(ids)]), config))[0])
  cosines = np.array(vectors[:4]) @ np.array(vectors[4:]).T / 0.1
  wanted = [np.log(np.exp(x).sum()) - x[i] for i in range(4) for x in (cosines[i], cosines[:, i])]
  assert float(train.contrastive_loss(params, batch, 0.1, config)) == pytest.approx(np.mean(wanted), rel=1e-4)


def test_token_factors_are_those_of_a_dense_decomposition():
  """Kills: factors by the wrong singular values, weights that are left out, counts of one token in two entries."""
  generator = np.random.default_rng(0)
  sequences = [generator.integers(0, 30, n) for n in generator.integers(1, 40, 60)]
  tokens = Tokens(np.concatenate(sequences), np.cumsum([0, *map(len, sequences)]))
  counts_NV = np.array([np.bincount(ids, minlength=30) for ids in sequences])
  idf_V = np.log(61 / (1 + (counts_NV > 0).sum(axis=0))) ** 1.5
  weights_NV = np.log1p(counts_NV) * idf_V
  _, values, right = np.linalg.svd(weights_NV / np.linalg.norm(weights_NV, axis=1, keepdims=True))
  wanted_VF = idf_V[:, None] * right[:5].T / np.sqrt(values[:5])
  factors_VF = initial.token_factors(tokens, 30, factors=5)
  np.testing.assert_allclose(factors_VF @ factors_VF.T, wanted_VF @ wanted_VF.T, atol=1e-8)


def test_tf_idf_weighs_rare_words_and_forgets_unknown_ones():
  vectors = evaluate.tf_idf(["a b", "B, b! c", "x"], ["a b", "a c", "a"]).toarray()
  a, b, c = np.log([4 / 3, 4, 4])
  np.testing.assert_allclose(vectors[0], np.array([a, b, 0]) / np.hypot(a, b))
  np.testing.assert_allclose(vectors[1], np.array([0, (1 + np.log(2)) * b, c]) / np.hypot((1 + np.log(2)) * b, c))
  assert not vectors[2].any()


def test_found_counts_rows_whose_own_column_is_alone_at_the_top():
  assert evaluate.matched_share(np.array([[3, 1, 2], [4, 4, 0], [0, 5, 1]])) == pytest.approx(1 / 3)


def test_rare_documents_are_drawn_by_the_inverse_of_their_sums():
  """Kills: keys upside down, and a draw with replacement."""
  firsts = [evaluate.draw_rare(np.array([1.0, 4.0, 5.0]), 2, np.random.default_rng(seed)) for seed in range(4_000)]
  assert all(len(set(places)) == 2 for places in firsts)
  shares = np.bincount([places[0] for places in firsts]) / 4_000
  np.testing.assert_allclose(shares, np.array([1, 1 / 4, 1 / 5]) / 1.45, atol=0.03)


def test_fit_texts_are_long_and_no_near_copies():
  long = " ".join(f"w{i}" for i in range(90))
  other = " ".join(f"v{i}" for i in range(90))
  assert train.fit_texts(["too short", long, f"Copyright. {long}", other]) == [long, other]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Two short runs on the same texts, the script and what it calls: their folder, and the losses of every step."""
  folder = tmp_path_factory.mktemp("train")
  lines = [json.dumps({"text": " ".join(tiny_t5.make_texts(3, seed=i))}) for i in range(400)]
  (folder / "texts").mkdir()
  (folder / "texts" / "some.jsonl").write_text("\n".join(lines) + "\n")
  with tiny_t5.kept_programs(folder / "programs"):
    assert train.main([f"--input={folder / 'texts'}", f"--output={folder / 'one'}"], SMALL) == 0
    made, losses = train.train(texts.read_texts([folder / "texts"]), [], SMALL)
  train.write(folder / "two", made)
  return folder, losses


@pytest.mark.long
def test_training_writes_a_model_that_loads_and_twice_the_same(trained):
  """Kills: a generator without a seed, texts in the order of a set, a singular vector from a random start."""
  folder, _ = trained
  read = sentence_t5.load(folder / "one", "float32")
  assert (read.config.d_model, read.dimensions, read.max_input_tokens) == (32, 32, 64)
  embedded_NO = evaluate.embed_texts(sentence_t5.SentenceT5Embedder(read), ["river stone", "bread"])
  np.testing.assert_allclose(np.linalg.norm(embedded_NO, axis=1), 1, rtol=1e-5)
  files = sentence_t5.model_files(folder / "one")
  assert len(files) == 8
  for file in files:
    assert file.read_bytes() == (folder / "two" / file.relative_to(folder / "one")).read_bytes(), file.name


@pytest.mark.long
def test_training_lowers_the_loss(trained):
  """Kills: a step whose update goes the wrong way or is thrown away."""
  _, losses = trained
  assert len(losses) == SMALL.steps
  assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:2])


def test_input_that_does_not_suit_is_refused(tmp_path, capsys):
  """Kills: a batch that waits for texts that never come."""
  (tmp_path / "empty.jsonl").write_text("")
  (tmp_path / "few.jsonl").write_text(json.dumps({"text": " ".join(f"w{i}" for i in range(90))}))
  for path in (tmp_path / "nowhere", tmp_path / "empty.jsonl", tmp_path / "few.jsonl"):
    assert train.main([f"--input={path}", f"--output={tmp_path / 'out'}"], dataclasses.replace(SMALL, steps=1)) == 2
    assert "JSON Lines or Parquet" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
