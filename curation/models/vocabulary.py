"""SentencePiece as Winnow uses it: whole blocks of texts in, ragged token ids out."""

import dataclasses
import os
import re
from typing import Any

import numpy as np
import sentencepiece

from curation.errors import WinnowError

EOS_ID = 1
NUM_SENTINELS = 100
_SENTINEL = re.compile(r"▁?<extra_id_\d+>", re.ASCII)

# encode() holds Python's lock (sentencepiece 0.2.1, measured), so a block goes in slices of about 60 ms on one core:
# between them a thread that feeds a device gets its turn.
_SLICE_CHARACTERS = 1 << 19
_LONGEST_CHARACTERS = 1 << 20  # of what is tokenised at once


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token ids of N texts, end to end: int32 ids, int64 offsets [N + 1]; text i has ids[offsets[i]:offsets[i + 1]]."""

  ids: np.ndarray
  offsets: np.ndarray

  def of(self, i: int) -> np.ndarray:
    return self.ids[self.offsets[i] : self.offsets[i + 1]]

  def lengths(self) -> np.ndarray:
    """int64 [N]."""
    return np.diff(self.offsets)


class Vocabulary:
  """A SentencePiece model; travels between processes as the model's bytes.

  Ids are SentencePiece's own: Hugging Face's fast tokenizer breaks ties between equally good segmentations otherwise.
  `<extra_id_0>` inside a text is text under every vocabulary, as under T5's `spiece.model`: a model that has sentinels
  for pieces would find its own marks in a document that only talks about them.

  Raises WinnowError if the bytes are no model, or one without T5's end of sequence at id 1.
  """

  def __init__(self, model: bytes, *, name: str = "spiece.model"):
    self.model = model
    try:
      if not model:
        raise ValueError("no bytes")  # which SentencePiece takes for "load later"
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError) as error:
      raise WinnowError(f"{name} is not a SentencePiece model: download it again.") from error
    if self._processor.eos_id() != EOS_ID:
      raise WinnowError(
        f"{name} has its end of sequence at id {self._processor.eos_id()} and not {EOS_ID}: it is not a T5 vocabulary."
      )
    if self._has_sentinels():
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=_with_sentinels_as_controls(model))

  def __reduce__(self):
    return Vocabulary, (self.model,)

  def __len__(self) -> int:
    return self._processor.get_piece_size()

  def describe(self) -> dict[str, Any]:
    """What beside the model's bytes decides ids, for a fingerprint; empty but for a model with sentinels for pieces."""
    return {"sentinels_in_texts": "text"} if self._has_sentinels() else {}

  def encode(self, texts: list[str], *, num_threads: int | None = None) -> Tokens:
    """Tokenises texts, no end of sequence added; threads default to the cores that this process may use.

    SentencePiece takes over 200 bytes a character while it works: a text of more than a million is cut at spaces, which
    no piece crosses, and where there are none after a million characters.
    """
    num_threads = num_threads or usable_cores()
    parts = [list(_parts(text)) for text in texts]
    ids, lengths = [], []
    for slice_ in _slices([part for of_text in parts for part in of_text]):
      for sequence in self._processor.encode(slice_, num_threads=num_threads):
        ids.append(np.array(sequence, np.int32))
        lengths.append(len(sequence))
    ends = np.cumsum([0, *lengths])
    offsets = ends[np.cumsum([0, *map(len, parts)])].astype(np.int64)
    return Tokens(np.concatenate(ids) if ids else np.zeros(0, np.int32), offsets)

  def answer_id(self, answer: str) -> int:
    """The id of the one piece that `answer` is when the model says it ('yes' or '▁yes').

    Raises WinnowError if it takes several pieces, or one that the vocabulary does not know.
    """
    text = answer.removeprefix("▁")
    ids = self._processor.encode(text)
    if len(ids) != 1 or ids[0] == self._processor.unk_id():
      pieces = self._processor.encode(text, out_type=str)
      raise WinnowError(
        f"The answer {answer!r} must be one known piece of the vocabulary, but it becomes {pieces}: choose another one."
      )
    return ids[0]

  def sentinel_ids(self) -> np.ndarray:
    """`<extra_id_0>` to `<extra_id_99>`: int32 [100], descending.

    T5's SentencePiece models do not know them, and the embedding table has them right behind the pieces; mT5's, and
    those that T5X calls "100extra", have them as their last pieces.
    """
    first = len(self) - 1 if self._has_sentinels() else len(self) + NUM_SENTINELS - 1
    return np.arange(first, first - NUM_SENTINELS, -1, dtype=np.int32)

  def _has_sentinels(self) -> bool:
    return self._processor.id_to_piece(len(self) - 1).removeprefix("▁") == "<extra_id_0>"


def usable_cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_sentinels_as_controls(model: bytes) -> bytes:
  """The same pieces under the same ids, but sentinels are of the kind that SentencePiece finds in no text."""
  from sentencepiece import sentencepiece_model_pb2

  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  for piece in proto.pieces:
    if _SENTINEL.fullmatch(piece.piece):
      piece.type = piece.CONTROL
  return proto.SerializeToString()


def _parts(text: str):
  start = 0
  while len(text) - start > _LONGEST_CHARACTERS:
    space = text.rfind(" ", start + 1, start + _LONGEST_CHARACTERS)
    stop = start + _LONGEST_CHARACTERS if space < 0 else space
    yield text[start:stop]
    start = stop
  yield text[start:]


def _slices(texts: list[str]):
  """Cuts the list where a slice has enough characters; a slice holds at least one text."""
  start = characters = 0
  for i, text in enumerate(texts):
    characters += len(text)
    if characters >= _SLICE_CHARACTERS:
      yield texts[start : i + 1]
      start, characters = i + 1, 0
  if start < len(texts):
    yield texts[start:]
