"""The vocabulary: SentencePiece's own ids, in blocks."""

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
import tiny_t5
from sentencepiece import sentencepiece_model_pb2

from curation.errors import WinnowError
from curation.models import checkpoints, random_t5, vocabulary
from curation.scorers import ask_llm, perplexity, sentence_t5


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
      assert tokens[i].tolist() == processor.encode(text)
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


def with_sentinels(model: bytes, how: str) -> bytes:
  """The model with T5's sentinels as its last pieces: matched wherever they are in a text, or as likely as words."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  for k in reversed(range(vocabulary.NUM_SENTINELS)):
    if how == "symbols":  # as in T5X's cc_all.32000.100extra
      proto.pieces.add(piece=f"<extra_id_{k}>", score=0.0, type=proto.SentencePiece.USER_DEFINED)
    else:  # as in mT5's
      proto.pieces.add(piece=f"▁<extra_id_{k}>", score=0.0)
  return proto.SerializeToString()


MARKED = ["stone <extra_id_0> river", "<extra_id_0>", "the<extra_id_5>river <extra_id_99>", "<extra_id_7> <extra_id_7>"]


@pytest.mark.parametrize("how", ["symbols", "words"])
def test_sentinels_in_texts_are_text_under_every_vocabulary(model, how):
  """Kills: a document that puts a model's own marks into its input; ids of sentinels that move."""
  plain, other = vocabulary.Vocabulary(model), vocabulary.Vocabulary(with_sentinels(model, how))
  texts = [*MARKED, *tiny_t5.make_texts(20)]
  assert other.encode(texts).ids.tolist() == plain.encode(texts).ids.tolist()
  assert pickle.loads(pickle.dumps(other)).encode(texts).ids.tolist() == plain.encode(texts).ids.tolist()
  assert other.sentinel_ids().tolist() == plain.sentinel_ids().tolist()
  marked = sentencepiece.SentencePieceProcessor(model_proto=with_sentinels(model, how))
  assert set(marked.encode(MARKED[0])) & set(other.sentinel_ids().tolist())  # which SentencePiece would give
  assert plain.describe() == {} and other.describe()


def test_what_scorers_ask_is_the_same_under_both_vocabularies(tmp_path):
  """Kills: a scorer that tokenises by itself."""
  folder = tiny_t5.make_sentence_t5(tmp_path / "sentence")
  rater = tiny_t5.make_checkpoint(tmp_path / "rater")
  (tmp_path / "own.model").write_bytes(with_sentinels((rater / "spiece.model").read_bytes(), "symbols"))
  texts, prompt = pa.array(MARKED), ask_llm.Prompt("{document} ?", "yes")
  prepared = []
  for pieces in (None, tmp_path / "own.model"):
    checkpoint = checkpoints.load_checkpoint(rater, "float32", vocabulary=pieces)
    scorers = (
      ask_llm.AskLlmScorer(checkpoint, prompt, max_input_tokens=60, batch_tokens=120),
      perplexity.PerplexityScorer(checkpoint, max_input_tokens=60, batch_tokens=120),
      sentence_t5.SentenceT5Embedder(sentence_t5.load(folder, "float32", vocabulary=pieces), batch_tokens=120),
    )
    batches = [
      scorers[0].prepare(texts).batches,
      scorers[1].prepare(texts, np.arange(len(MARKED), dtype=np.uint64)).batches,
      scorers[2].prepare(texts).batches,
    ]
    prepared.append([array.tolist() for of in batches for array in (*of.ids, *of.targets, of.lengths_N)])
  assert prepared[0] == prepared[1]


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
    assert tokens[i].tolist() == processor.encode(text), text
  # Without a space it is cut nevertheless, and nothing else suffers.
  tokens = words.encode(["short", "x" * 1_000, "the river"])
  assert tokens[0].tolist() == processor.encode("short") and tokens[2].tolist() == processor.encode("the river")
  assert len(tokens[1]) >= len(processor.encode("x" * 1_000))


def test_real_texts_are_cut_the_same_but_for_ties(shared, monkeypatch):
  """Where two segmentations are equally good, rounding decides, and it depends on what came before."""
  raw = (shared / "golden" / "spiece.model").read_bytes()
  words, processor = vocabulary.Vocabulary(raw), sentencepiece.SentencePieceProcessor(model_proto=raw)
  with gzip.open(shared / "data/c4/c4_en_1445.jsonl.gz") as file:
    texts = [json.loads(line)["text"] for line in file][:300]
  monkeypatch.setattr(vocabulary, "_LONGEST_CHARACTERS", 100)
  tokens, expected = words.encode(texts), [processor.encode(text) for text in texts]
  assert tokens.lengths().tolist() == list(map(len, expected))
  assert sum(tokens[i].tolist() == ids for i, ids in enumerate(expected)) > 0.97 * len(texts)
