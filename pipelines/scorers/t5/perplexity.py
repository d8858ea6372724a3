"""Perplexity under a T5 (paper B.5)."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.corpus import sources
from pipelines.scorers.t5.base import T5Description
from pipelines.scoring.description import Scorer

if TYPE_CHECKING:
  from curation.models.engine import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity(T5Description):
  """Perplexity (paper B.5): -(mean negative log-likelihood per token) under a T5's own pre-training objective."""

  SCORER: ClassVar[str] = "perplexity"
  PURPOSE: ClassVar[str] = "mask"  # of the hashes that are documents' keys
  reads: ClassVar[str] = sources.KEYED_TEXT
  objective: str = "span_corruption"
  mask_seed: int = 0
  max_input_tokens: int = 512

  def source(self, texts: sources.Texts) -> sources.KeyedTexts:
    """Returns texts with keys: a document's mask is a function of the seed and the document."""
    return sources.KeyedTexts(texts, self.PURPOSE, self.mask_seed)

  def request(self) -> dict[str, Any]:
    return {**super().request(), "objective": self.objective, "mask_seed": self.mask_seed}

  def _check(self, folder: pathlib.Path) -> None:
    from curation.scorers import perplexity

    perplexity.check_request(
      *self._checked_config(folder),
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation.scorers import perplexity

    scorer = perplexity.PerplexityScorer(
      self._checkpoint(folder),
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )
    return _Keyed(scorer)

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation.scorers import perplexity

    return perplexity.work(
      *self._checked_config(folder),
      texts,
      objective=self.objective,
      max_input_tokens=self.max_input_tokens,
      batch_tokens=batch_tokens,
    )


class _Keyed:
  """A loaded scorer for columns of texts and their keys; texts without a corpus have the key 0."""

  def __init__(self, scorer: Any):
    self._scorer = scorer
    self.describe, self.warm_up, self.run = scorer.describe, scorer.warm_up, scorer.run

  def prepare(self, column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    if not pa.types.is_struct(column.type):
      return self._scorer.prepare(array, np.zeros(len(array), np.uint64))
    return self._scorer.prepare(array.field("text"), array.field("key").to_numpy())
