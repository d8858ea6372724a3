"""Embeddings by Sentence-T5 (paper B.2)."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.base import T5Description
from pipelines.scoring.description import Scorer, Scores
from pipelines.store import kinds

if TYPE_CHECKING:
  from curation.models.engine import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceT5(T5Description):
  """Embeds with Sentence-T5 (paper B.2)."""

  SCORER: ClassVar[str] = kinds.EMBED
  embedding_dtype: str

  def request(self) -> dict[str, Any]:
    return {**super().request(), "embedding_dtype": self.embedding_dtype}

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    from curation.scorers import sentence_t5

    return sentence_t5.model_files(folder, model_files.local_vocabulary(self.vocabulary))

  def _head(self, folder: pathlib.Path) -> None:
    """Returns None: an encoder has no head."""

  def _check(self, folder: pathlib.Path) -> None:
    from curation.scorers import sentence_t5

    sentence_t5.check(
      folder,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
      vocabulary=model_files.local_vocabulary(self.vocabulary),
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation.scorers import sentence_t5

    model = sentence_t5.load(
      folder,
      self.dtype,
      max_input_tokens=self.max_input_tokens,
      vocabulary=model_files.local_vocabulary(self.vocabulary),
    )
    embedder = sentence_t5.SentenceT5Embedder(
      model,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )
    return _Embedder(embedder, self.embedding_dtype)

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation.scorers import sentence_t5

    return sentence_t5.work(
      folder,
      texts,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=batch_tokens,
      vocabulary=model_files.local_vocabulary(self.vocabulary),
    )


class _Embedder:
  """A loaded embedder whose results are kept in another dtype."""

  def __init__(self, embedder: Any, dtype: str):
    self._embedder, self._dtype = embedder, dtype
    self.describe, self.warm_up, self.prepare = embedder.describe, embedder.warm_up, embedder.prepare

  def run(self, prepared: Any, on_batch: Any = None) -> Scores:
    found = self._embedder.run(prepared, on_batch)
    embeddings = found.embeddings.astype(self._dtype)
    return Scores(embeddings, found.num_tokens, found.useful_tokens, found.computed_tokens)


def describe(namespace: argparse.Namespace) -> SentenceT5:
  return SentenceT5(
    model=namespace.model,
    embedding_dtype=namespace.embedding_dtype,
    max_input_tokens=namespace.max_input_tokens,
    batch_tokens=namespace.batch_tokens,
    dtype=namespace.dtype,
    devices_per_model=namespace.devices_per_model,
    vocabulary=namespace.vocabulary,
  )
