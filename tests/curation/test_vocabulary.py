"""The vocabulary: SentencePiece's own ids, in blocks."""

import gzip
import json
import pickle

import numpy as np
import pytest
import sentencepiece
import tiny_t5

from curation import random_t5, vocabulary
from curation.errors import WinnowError


@pytest.fixture(scope="module")
def model() -> bytes:
  return random_t5.train_vocabulary(tiny_t5.make_texts(300, seed=1), 300)


def test_blocks_give_sentencepieces_own_ids(model, monkeypatch):
  """Whole blocks, cut into slices of a few texts, equal one text at a time, in any number of threads.

  Kills: a slice that loses its last text, offsets off by one.
  """
  monkeypatch.setattr(vocabulary, "_SLICE_CHARACTERS", 500)
  texts = [*tiny_t5.make_texts(50), "", "x" * 2_000, " \n ", "Ünknown 漢字 \0 text </s> <extra_id_0>"]
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  words = vocabulary.Vocabulary(model)
  for threads in (None, 1, 3):
    tokens = words.encode(texts, num_threads=threads)
    assert tokens.ids.dtype == np.int32 and len(tokens.offsets) == len(texts) + 1
    for i, text in enumerate(texts):
      assert tokens.of(i).tolist() == processor.encode(text)
    assert tokens.lengths().tolist() == [len(processor.encode(text)) for text in texts]


def test_no_texts(model):
  tokens = vocabulary.Vocabulary(model).encode([])
  assert tokens.offsets.tolist() == [0] and len(tokens.ids) == len(tokens.lengths()) == 0


def test_pickles_as_its_model(model):
  words = vocabulary.Vocabulary(model)
  raw = pickle.dumps(words)
  assert len(raw) < len(model) + 200
  again = pickle.loads(raw)
  assert len(again) == len(words)
  assert again.encode(["the river"]).ids.tolist() == words.encode(["the river"]).ids.tolist()


def test_answers(model):
  words = vocabulary.Vocabulary(model)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  assert words.answer_id("yes") == words.answer_id("▁yes") == processor.piece_to_id("▁yes")
  for answer in ("yes no", "zzzzz", "漢", "", " "):
    with pytest.raises(WinnowError, match="one known piece"):
      words.answer_id(answer)


def test_golden_answers(shared):
  words = vocabulary.Vocabulary((shared / "golden" / "spiece.model").read_bytes())
  assert [words.answer_id(answer) for answer in ("yes", "Yes", "no")] == [998, 989, 231]


@pytest.mark.parametrize("damaged", [b"", b"no model", "cut"])
def test_damaged_models(model, damaged):
  with pytest.raises(WinnowError, match="here is not a SentencePiece model"):
    vocabulary.Vocabulary(model[: len(model) // 2] if damaged == "cut" else damaged, name="here")


def test_long_texts_are_cut_at_spaces_and_give_the_same_ids(model, monkeypatch):
  """Kills: a part that begins inside a word, a space that is lost or stands for a piece, offsets by parts."""
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  words = vocabulary.Vocabulary(model)
  monkeypatch.setattr(vocabulary, "_LONGEST_CHARACTERS", 45)
  texts = [*tiny_t5.make_texts(60), "", "the  river   " * 20, " " * 100 + "stone", "\n the\triver " * 9]
  tokens = words.encode(texts)
  assert max(map(len, texts)) > 200
  for i, text in enumerate(texts):
    assert tokens.of(i).tolist() == processor.encode(text), text
  # Without a space it is cut nevertheless, and nothing else suffers.
  tokens = words.encode(["short", "x" * 1_000, "the river"])
  assert tokens.of(0).tolist() == processor.encode("short") and tokens.of(2).tolist() == processor.encode("the river")
  assert len(tokens.of(1)) >= len(processor.encode("x" * 1_000))


def test_real_texts_are_cut_the_same_but_for_ties(shared, monkeypatch):
  """Where two segmentations are equally good, rounding decides, and it depends on what came before."""
  raw = (shared / "golden" / "spiece.model").read_bytes()
  words, processor = vocabulary.Vocabulary(raw), sentencepiece.SentencePieceProcessor(model_proto=raw)
  with gzip.open(shared / "data/c4/c4_en_1445.jsonl.gz") as file:
    texts = [json.loads(line)["text"] for line in file][:300]
  monkeypatch.setattr(vocabulary, "_LONGEST_CHARACTERS", 100)
  tokens, expected = words.encode(texts), [processor.encode(text) for text in texts]
  assert tokens.lengths().tolist() == list(map(len, expected))
  assert sum(tokens.of(i).tolist() == ids for i, ids in enumerate(expected)) > 0.97 * len(texts)
