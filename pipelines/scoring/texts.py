"""Scores of texts in memory or in a pipeline of one's own, by the scorers and the engine of the commands.

Nothing is written: there are no stores, no shards and no resuming.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.typehints import typehints, with_input_types
from apache_beam.utils import shared, windowed_value

from curation import blanks
from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import blocks, sources
from pipelines.scoring import bisection
from pipelines.scoring.description import Description, Scorer
from pipelines.store import kinds
from pipelines.worker import prefetch

_AHEAD = 2


def score_texts(description: Description, texts: Iterable[Any], *, shard: str | None = None) -> np.ndarray:
  """Scores texts in their order: float32 [N], with NaN for each text that cannot be scored.

  `texts` are strings, in a list, an Arrow, pandas or polars column, or anything else that can be iterated once. A text
  cannot be scored if it is missing, blank or not valid Unicode, if it makes the scorer fail, or if the model gives NaN.

  `shard` is the name of the shard whose rows, from 0 on, the texts are. It matters only to scorers that draw at random,
  such as perplexity: with it their masks are those of the command, and without it they draw by the text.

  The model stays loaded until a call with another description. Raises WinnowError for a scorer that does not give one
  score to each text, for what `Description.checked` refuses, and for an item that is no string.
  """
  maker = _BlockMaker.of(description)
  loaded = _load(description)

  def prepared() -> Iterator[tuple[blocks.Block, Any]]:
    first_row = 0
    for chunk in _chunks(texts):
      block = maker.block(chunk, first_row, shard)
      first_row += len(chunk)
      yield block, bisection.prepare(loaded, block, description.reads)

  parts = [np.empty(0, np.float32)]
  for block, ready in prefetch.prefetch(prepared(), ahead=_AHEAD):
    parts.append(_scores(loaded, block, ready, description.reads))
  return np.concatenate(parts)


class _BlockMaker(NamedTuple):
  """Makes blocks of texts with the column that a scorer reads."""

  keys: tuple[str, int] | None
  """The purpose and seed of the hashes that a scorer draws by; None if it draws nothing."""

  @classmethod
  def of(cls, description: Description) -> "_BlockMaker":
    """Raises WinnowError if the scorer needs more than texts, or gives them anything other than a score."""
    name = description.request()["scorer"]
    if kinds.kind_of(name).shard_fields != (kinds.SCORE_FIELD,):
      raise WinnowError(f"the scorer {name} gives texts no scores; take one that does, such as Ask-LLM or perplexity")
    if description.reads == "text":
      return cls(None)
    source = description.source(sources.Texts(blocks.Fields(), blocks.BLOCK_ROWS))
    if not isinstance(source, sources.KeyedTexts):
      raise WinnowError(
        f"the scorer {name} compares the documents of a whole corpus, so it has no scores for single texts; run winnow "
        f"score --scorer={name}, and read what it writes with read_scores"
      )
    return cls((source.purpose, source.seed))

  def block(self, texts: list[str | None], first_row: int, shard: str | None) -> blocks.Block:
    """Returns texts as rows from `first_row` on, of which only those that can be scored are documents."""
    column = _column(texts)
    rows = pa.array(np.arange(first_row, first_row + len(texts)))
    documents = pa.table({"row": rows, "text": column}).filter(_invert_nulls(blanks.are_blank(column)))
    if self.keys is not None:
      keyed = pa.StructArray.from_arrays(
        [documents["text"].combine_chunks(), pa.array(self._draw(documents, shard))], ["text", "key"]
      )
      documents = documents.append_column(sources.KEYED_TEXT, keyed)
    bad = blocks.BAD_SCHEMA.empty_table()
    return blocks.Block(0, first_row, len(texts), documents, bad, blocks.text_bytes(documents), checksum=0)

  def _draw(self, documents: pa.Table, shard: str | None) -> np.ndarray:
    """Returns the hash of each document, uint64 [N]: by its row in the shard, or else by its text."""
    assert self.keys is not None
    if shard is not None:
      return hashing.hash_documents(*self.keys, shard, documents["row"].to_numpy())
    keys = hashing.shard_keys(*self.keys, documents["text"].to_pylist())
    return hashing.hash_numbers(keys, np.zeros(len(documents), np.uint64))


def _scores(scorer: Scorer, block: blocks.Block, ready: Any, reads: str) -> np.ndarray:
  """Returns the scores of all rows of a block: float32 [N], NaN for rows without one."""
  scored, found = bisection.run(scorer, block, ready, reads)
  scores_N = np.full(block.num_rows, np.nan, np.float32)
  scores_N[scored.documents["row"].to_numpy() - block.first_row] = found.scores
  return scores_N


def _chunks(texts: Iterable[Any]) -> Iterator[list[str | None]]:
  """Yields texts in the numbers that make up blocks; None for a missing one. Raises WinnowError for other items."""
  if isinstance(texts, str | bytes):
    raise WinnowError("score takes many texts, and this is one; put it into a list: [text]")
  if isinstance(texts, pa.Array | pa.ChunkedArray):
    texts = _arrow_texts(texts)
  chunk: list[str | None] = []
  characters = number = 0
  for number, text in enumerate(texts):
    chunk.append(_checked(text, f"text {number}"))
    characters += len(chunk[-1] or "")
    if len(chunk) == blocks.BLOCK_ROWS or characters >= blocks.BLOCK_TEXT_BYTES:
      yield chunk
      chunk, characters = [], 0
  if chunk:
    yield chunk


def _arrow_texts(column: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
  """Yields an Arrow column's values, which are slow to get one by one."""
  for start in range(0, len(column), blocks.BLOCK_ROWS):
    yield from column.slice(start, blocks.BLOCK_ROWS).to_pylist()


def _checked(text: Any, what: str) -> str | None:
  """Returns a text, or None for what tables hold in place of a missing one: None, NaN, or the NA of pandas."""
  if isinstance(text, str):
    return text
  if text is None or (isinstance(text, float) and np.isnan(text)) or type(text).__name__ == "NAType":
    return None
  raise WinnowError(f"{what} is of the type {type(text).__name__}; give strings, and None for a missing one")


def _column(texts: list[str | None]) -> pa.Array:
  """Returns texts as an Arrow column, in which a string that is no valid Unicode is null."""
  try:
    return pa.array(texts, pa.string())
  except UnicodeEncodeError:  # a surrogate without its other half, which no file could hold either
    return pa.array([text if text is not None and _is_valid(text) else None for text in texts], pa.string())


def _is_valid(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _invert_nulls(are_blank: pa.Array) -> pa.Array:
  """Tells which texts are there and not blank; `are_blank` is null for a missing one."""
  return pc.invert(are_blank.fill_null(True))


class _Kept(NamedTuple):
  description: Description
  stamp: Any
  scorer: Scorer


_lock = threading.Lock()
_kept: list[_Kept] = []  # at most one: there may be no room for two models


def _load(description: Description) -> Scorer:
  """Returns the scorer of a description, from the call before if it was the same and its files have not changed.

  Checking a model reads its files, which takes seconds for a large one, so that is done once.
  """
  with _lock:
    if not _kept or _kept[0].description != description or _kept[0].stamp != description.stamp():
      _kept.clear()
      checked = description.checked()
      _kept.append(_Kept(description, description.stamp(), checked.load()))
    return _kept[0].scorer


@with_input_types(str | tuple[Any, str | None] | None)
class ScoreTexts(beam.PTransform):
  """PCollection[str] -> PCollection[tuple[str, float]], or PCollection[tuple[K, str]] -> PCollection[tuple[K, float]].

  A text without a key is its own key. Every element has one score, NaN where `score_texts` gives NaN, in the window and
  with the timestamp of its text. Texts are scored together as far as a bundle has them, up to 4,096 at a time; a score
  does not depend on that. A process loads the model once, for all its threads.

  Raises WinnowError as `score_texts` does, before the pipeline runs.
  """

  def __init__(self, description: Description):
    super().__init__()
    _BlockMaker.of(description)
    self._description = description.checked()

  def expand(self, texts: beam.PCollection) -> beam.PCollection:
    element: Any = texts.element_type
    keyed = isinstance(element, typehints.TupleConstraint)
    key = element.tuple_types[0] if keyed else str if element is str else Any
    fn = _ScoreFn(self._description)
    return texts | "ScoreBatches" >> beam.ParDo(fn).with_output_types(typehints.Tuple[key, float])


class _ScoreFn(beam.DoFn):
  """Scores what a bundle holds, a block at a time."""

  def __init__(self, description: Description):
    self._description, self._maker = description, _BlockMaker.of(description)
    self._shared = shared.Shared()

  def setup(self) -> None:
    self._scorer = self._shared.acquire(self._load)

  def start_bundle(self) -> None:
    self._elements: list[tuple[Any, Any, Any]] = []
    self._texts: list[str | None] = []
    self._characters = 0

  def process(
    self, element: Any, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
  ) -> Iterator[windowed_value.WindowedValue]:
    key, text = element if isinstance(element, tuple) else (element, element)
    self._elements.append((key, timestamp, window))
    self._texts.append(_checked(text, f"the text of {key!r}"))
    self._characters += len(self._texts[-1] or "")
    if len(self._texts) == blocks.BLOCK_ROWS or self._characters >= blocks.BLOCK_TEXT_BYTES:
      yield from self._flush()

  def finish_bundle(self) -> Iterator[windowed_value.WindowedValue]:
    yield from self._flush()

  def _flush(self) -> Iterator[windowed_value.WindowedValue]:
    elements, texts = self._elements, self._texts
    self.start_bundle()
    if texts:
      block, reads = self._maker.block(texts, 0, None), self._description.reads
      scores_N = _scores(self._scorer, block, bisection.prepare(self._scorer, block, reads), reads)
      for (key, timestamp, window), score in zip(elements, scores_N.tolist(), strict=True):
        yield windowed_value.WindowedValue((key, score), timestamp, (window,))

  def _load(self) -> Scorer:
    scorer = self._description.load()
    scorer.warm_up()
    return scorer
