"""A SentencePiece vocabulary: tokenises whole blocks of texts into ragged token ids."""

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

# encode() holds Python's lock (sentencepiece 0.2.1, measured), so a block is tokenised in slices of about 60 ms on one
# core. Between slices a thread that feeds a device gets its turn.
_SLICE_CHARACTERS = 1 << 19
_LONGEST_CHARACTERS = 1 << 20  # the longest text that is tokenised at once


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token ids of N texts, end to end: int32 ids and int64 offsets [N + 1].

  The ids of text i, which `tokens[i]` returns, are `ids[offsets[i]:offsets[i + 1]]`.
  """

  ids: np.ndarray
  offsets: np.ndarray

  def __getitem__(self, i: int) -> np.ndarray:
    """Returns the ids of text i: int32."""
    return self.ids[self.offsets[i] : self.offsets[i + 1]]

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each text: int64 [N]."""
    return np.diff(self.offsets)


class Vocabulary:
  """A SentencePiece model, pickled as the model's bytes.

  Ids are SentencePiece's own. Hugging Face's fast tokenizer breaks ties between equally good segmentations differently.
  `<extra_id_0>` inside a text is ordinary text under every vocabulary, as under T5's `spiece.model`. Otherwise a model
  that has sentinels among its pieces would find sentinels in a document that only mentions them.

  Raises WinnowError if the bytes are not a SentencePiece model, or if its end of sequence is not at id 1 as in T5.
  """

  def __init__(self, model: bytes, *, name: str = "spiece.model"):
    self.model = model
    try:
      if not model:
        raise ValueError("no bytes")  # SentencePiece takes an empty model for "load later"
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError) as error:
      raise WinnowError(f"{name} is not a SentencePiece model: download it again.") from error
    if self._processor.eos_id() != EOS_ID:
      raise WinnowError(
        f"{name} is not a T5 vocabulary: its end of sequence is at id {self._processor.eos_id()}, not {EOS_ID}."
      )
    if self._has_sentinels():
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=_with_sentinels_as_controls(model))

  def __reduce__(self):
    return Vocabulary, (self.model,)

  def __len__(self) -> int:
    return self._processor.get_piece_size()

  def describe(self) -> dict[str, Any]:
    """Returns what decides ids besides the model's bytes, for a fingerprint.

    Empty unless the model has sentinels among its pieces.
    """
    return {"sentinels_in_texts": "text"} if self._has_sentinels() else {}

  def encode(self, texts: list[str], *, num_threads: int | None = None) -> Tokens:
    """Tokenises texts without adding an end of sequence; by default on all cores that this process may use.

    SentencePiece takes over 200 bytes a character while it works. So a text of more than a million characters is cut at
    spaces, which no piece crosses, or after a million characters where it has no space.
    """
    num_threads = num_threads or usable_cores()
    parts = [list(_parts(text)) for text in texts]
    ids, lengths = [], []
    for slice_ in _slices([part for text_parts in parts for part in text_parts]):
      for sequence in self._processor.encode(slice_, num_threads=num_threads):
        ids.append(np.array(sequence, np.int32))
        lengths.append(len(sequence))
    ends = np.cumsum([0, *lengths])
    offsets = ends[np.cumsum([0, *map(len, parts)])].astype(np.int64)
    return Tokens(np.concatenate(ids) if ids else np.zeros(0, np.int32), offsets)

  def answer_id(self, answer: str) -> int:
    """Returns the id of the single piece that the model decodes to `answer` ('yes' or '▁yes').

    Raises WinnowError if the answer takes several pieces, or one that the vocabulary does not know.
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
    """Returns the ids of `<extra_id_0>` to `<extra_id_99>`: int32 [100], descending.

    T5's SentencePiece models do not know them: the embedding table has them right behind the pieces. mT5's models, and
    those that T5X calls "100extra", have them as their last pieces.
    """
    first = len(self) - 1 if self._has_sentinels() else len(self) + NUM_SENTINELS - 1
    return np.arange(first, first - NUM_SENTINELS, -1, dtype=np.int32)

  def _has_sentinels(self) -> bool:
    return self._processor.id_to_piece(len(self) - 1).removeprefix("▁") == "<extra_id_0>"


def usable_cores() -> int:
  """Returns the number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_sentinels_as_controls(model: bytes) -> bytes:
  """Returns the model with its sentinels as control pieces, which SentencePiece matches in no text; ids stay."""
  from sentencepiece import sentencepiece_model_pb2

  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  for piece in proto.pieces:
    if _SENTINEL.fullmatch(piece.piece):
      piece.type = piece.CONTROL
  return proto.SerializeToString()


def _parts(text: str):
  """Cuts a text into parts of at most `_LONGEST_CHARACTERS`, at spaces where it has them."""
  start = 0
  while len(text) - start > _LONGEST_CHARACTERS:
    space = text.rfind(" ", start + 1, start + _LONGEST_CHARACTERS)
    stop = start + _LONGEST_CHARACTERS if space < 0 else space
    yield text[start:stop]
    start = stop
  yield text[start:]


def _slices(texts: list[str]):
  """Cuts the list into slices of about `_SLICE_CHARACTERS`; a slice holds at least one text."""
  start = characters = 0
  for i, text in enumerate(texts):
    characters += len(text)
    if characters >= _SLICE_CHARACTERS:
      yield texts[start : i + 1]
      start, characters = i + 1, 0
  if start < len(texts):
    yield texts[start:]
