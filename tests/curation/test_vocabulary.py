"""The vocabulary: SentencePiece's own ids, in blocks."""

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
