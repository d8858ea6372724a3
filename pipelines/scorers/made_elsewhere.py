"""Embeddings that come with the documents, made elsewhere."""

import argparse
import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.corpus import embedding_files, fixed_width, sources
from pipelines.scoring.description import OnBatch, Own, Scores
from pipelines.store import kinds


@dataclasses.dataclass(frozen=True)
class MadeElsewhere(Own):
  """Keeps embeddings that come with the documents, as unit vectors."""

  reads: ClassVar[str] = kinds.EMBEDDING
  files: dict[str, embedding_files.EmbeddingFile]
  embedding_dtype: str

  def request(self) -> dict[str, Any]:
    files = {shard: about.identity() for shard, about in self.files.items()}
    return {"scorer": kinds.EMBED, "embeddings": files, "embedding_dtype": self.embedding_dtype}

  def source(self, texts: sources.Texts) -> sources.TextsWithEmbeddings:
    return sources.TextsWithEmbeddings(texts, self.files)

  def made_with(self, namespace: argparse.Namespace) -> dict[str, str]:
    return {"embeddings": namespace.embeddings}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, "float32")

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    from curation.coverage import race

    return Scores(race.unit_vectors(prepared).astype(self.embedding_dtype), None, 0, 0)
