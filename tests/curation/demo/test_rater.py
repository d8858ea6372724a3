"""The demo rater: small, whole, better than chance by far on texts it never saw, and trained alike twice."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_t5

from curation.demo import corpus as demo_corpus
from curation.demo import rater as demo_rater
from curation.demo.rater import damage, evaluate, examples, train
from curation.demo.training import texts
from curation.models import checkpoint_writer, checkpoints
from curation.scorers import ask_llm

ALL_KINDS = damage.KINDS | damage.UNSEEN_KINDS
SMALL = train.TrainConfig(
  pieces=400, d_model=32, d_kv=8, d_ff=16, num_layers=1, steps=8, batch_tokens=1_024, max_input_tokens=256,
  learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint() -> checkpoints.Checkpoint:
  return checkpoints.load_checkpoint(demo_rater.folder(), "float32")


@pytest.fixture(scope="module")
def scorer(checkpoint) -> ask_llm.AskLlmScorer:
  return ask_llm.AskLlmScorer(checkpoint)


@pytest.fixture(scope="module")
def held_out() -> list[str]:
  pool = [document.text for document in demo_corpus.read_documents()]
  return evaluate.held_out_texts(pool, limit=200, seed=1)


def test_shipped_files_are_small():
  """Kills: weights in float32."""
  files = checkpoints.checkpoint_files(demo_rater.folder())
  assert [file.name for file in files] == ["config.json", "model.safetensors", "spiece.model"]
  assert sum(file.stat().st_size for file in files) <= 4 << 20


def test_shipped_vocabulary_suits_the_prompt(checkpoint):
  """Kills: a vocabulary learnt without the prompt, which then fills a third of the 512 tokens."""
  prompt = ask_llm.Prompt()
  tokens = checkpoint.vocabulary.encode([prompt.prefix, prompt.suffix])
  assert len(tokens.ids) <= 90
  assert checkpoint.vocabulary.answer_id("yes") != checkpoint.vocabulary.answer_id("no")
  assert not (tokens.ids == 2).any()


@pytest.mark.long
def test_held_out_texts_are_told_from_spoilt_ones(scorer, held_out):
  """Kills: a checkpoint of another vocabulary or training, and one that looks at the length or at single words."""
  assert len(held_out) == 200
  areas = evaluate.damage_areas(scorer, held_out, damage.KINDS, seed=1)
  assert areas["all"] >= 0.95, areas
  assert min(areas.values()) >= 0.8, areas


@pytest.mark.long
def test_scores_spread_and_hardly_tie(scorer, checkpoint, held_out):
  """Kills: targets of 0 and 1, with which log P(yes) of many texts is 0.0; mass on answers that nobody asked for."""
  some = held_out[:100] + [damage.mix(text, np.random.default_rng(i)) for i, text in enumerate(held_out[:100])]
  scores_N = evaluate.score_texts(scorer, some)
  assert len(np.unique(scores_N)) >= 0.95 * len(set(some))
  assert scores_N.max() < -0.005 and scores_N.min() < -1.5
  no_scorer = ask_llm.AskLlmScorer(checkpoint, ask_llm.Prompt(yes_token="no"))
  mass_N = np.exp(scores_N) + np.exp(evaluate.score_texts(no_scorer, some))
  assert mass_N.min() > 0.98 and mass_N.max() < 1.001


def test_area_under_curve_counts_pairs():
  """Kills: ties that count whole or not at all, and a curve upside down."""
  generator = np.random.default_rng(0)
  above, below = generator.integers(0, 9, 50), generator.integers(0, 7, 40)
  pairs = [(a > b) + 0.5 * (a == b) for a in above for b in below]
  assert evaluate.area_under_curve(above, below) == pytest.approx(np.mean(pairs))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=9)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
  st.lists(words, min_size=damage.MIN_WORDS, max_size=60, unique=True), st.integers(0, 2**32), st.sampled_from(" \n\t")
)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_damage_depends_on_text_and_generator_and_always_changes_it(kind, parts, seed, joint):
  """Kills: a draw from elsewhere, and a permutation that happens to be none."""
  text = joint.join(parts)
  spoilt = ALL_KINDS[kind](text, np.random.default_rng(seed))
  assert spoilt.split() != text.split()
  assert spoilt == ALL_KINDS[kind](text, np.random.default_rng(seed))


def test_fragments_glued_in_their_old_order_are_not_the_text():
  """Kills: a comparison of characters, which a second space between the same words escapes."""
  text = "3 4 5 6 000 00000 00001 00002 000000000 0 1 2 00 01 0000"
  for seed in range(3_200, 3_400):
    assert damage.glue_fragments(text, np.random.default_rng(seed)).split() != text.split()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_damage_keeps_the_length(kind, held_out):
  """Kills: a kind that a rater could tell by its length alone."""
  generator = np.random.default_rng(2)
  some = [text for text in held_out if len(text.split()) >= 50][:60]
  ratios = [len(ALL_KINDS[kind](text, generator).split()) / len(text.split()) for text in some]
  assert 0.6 < np.median(ratios) < 1.7


@pytest.mark.parametrize("text", ["", " \n", "one", "one two", "?", "...  ... ..."])
def test_damage_takes_any_text(text):
  for seed in range(30):
    for kind in ALL_KINDS.values():
      assert isinstance(kind(text, np.random.default_rng(seed)), str)
    assert 0 <= damage.spoil_part(text, np.random.default_rng(seed))[1] <= 1


def test_spoil_part_leaves_the_rest():
  """Kills: a share that is not the one spoilt."""
  text = " ".join(f"word{i}" for i in range(200))
  for seed in range(40):
    spoilt, share = damage.spoil_part(text, np.random.default_rng(seed))
    kept = [word for word, other in zip(text.split(), spoilt.split(), strict=False) if word == other]
    assert 0.2 <= share <= 0.8 and spoilt != text
    front = next(i for i, (a, b) in enumerate(zip(text.split(), spoilt.split(), strict=False)) if a != b)
    assert front <= (1 - share) * 200 + 1 and len(kept) >= front


def test_examples_are_the_scorers_inputs(checkpoint):
  """Kills: another prompt, cut or padding in training than in scoring, and rows that count though they are dummies."""
  scorer = ask_llm.AskLlmScorer(checkpoint, max_input_tokens=128)
  prompt = ask_llm.Prompt()
  prefix, suffix = (checkpoint.vocabulary.encode([part]).ids for part in (prompt.prefix, prompt.suffix))
  pool = [" ".join(tiny_t5.make_texts(5, seed=i)) for i in range(50)]
  wanted = []
  for batch in examples.batches([pool, []], scorer, steps=40, batch_tokens=1_024, seed=3):
    for ids_L, length, weight in zip(batch.ids_BL, batch.lengths_B, batch.weight_B, strict=True):
      assert not ids_L[length:].any()
      if weight:
        assert ids_L[length - 1] == 1 and length <= 128
        assert ids_L[: len(prefix)].tolist() == prefix.tolist()
        assert ids_L[length - len(suffix) : length - 1].tolist() == suffix[1:].tolist()
      else:
        assert length == 1
    wanted += batch.wanted_B[batch.weight_B > 0].tolist()
  assert min(wanted) == pytest.approx(0.02) and max(wanted) == pytest.approx(0.98)
  assert abs(np.mean(wanted) - 0.5) < 0.05


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
  checkpoint_writer.write_checkpoint(folder / "two", made.config, made.params, vocabulary=made.vocabulary.model)
  return folder, losses


@pytest.mark.long
def test_training_writes_a_checkpoint_that_loads_and_twice_the_same(trained):
  """Kills: a generator without a seed, and texts in the order of a set."""
  folder, _ = trained
  read = checkpoints.load_checkpoint(folder / "one", "float32")
  assert read.config.d_model == SMALL.d_model and read.config.gated
  scores_N = evaluate.score_texts(ask_llm.AskLlmScorer(read, max_input_tokens=256), ["river stone", "bread"])
  assert np.isfinite(scores_N).all()
  for file in sorted((folder / "one").iterdir()):
    assert file.read_bytes() == (folder / "two" / file.name).read_bytes(), file.name


@pytest.mark.long
def test_training_lowers_the_loss(trained):
  """Kills: a step whose update goes the wrong way or is thrown away."""
  _, losses = trained
  assert len(losses) == SMALL.steps
  assert losses[0] == pytest.approx(np.log(400), rel=0.15) and losses[-1] < 0.75 * losses[0]


def test_input_that_does_not_suit_is_refused(tmp_path, capsys):
  (tmp_path / "empty.jsonl").write_text("")
  for path in (tmp_path / "nowhere", tmp_path / "empty.jsonl"):
    assert train.main([f"--input={path}", f"--output={tmp_path / 'out'}"], SMALL) == 2
    assert "JSON Lines or Parquet" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
