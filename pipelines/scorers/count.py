"""Counts documents, for random sampling without scores (paper B.1)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.scoring.description import OnBatch, Own, Scores
from pipelines.store import kinds


@dataclasses.dataclass(frozen=True)
class Count(Own):
  """A pass that only finds out which documents there are, for random sampling without scores (paper B.1)."""

  reads: ClassVar[str] = "text"

  @property
  def speed(self) -> float:
    return 40_000.0

  def request(self) -> dict[str, Any]:
    return {"scorer": kinds.COUNT}

  def prepare(self, texts: pa.ChunkedArray) -> int:
    return len(texts)

  def run(self, prepared: int, on_batch: OnBatch | None = None) -> Scores:
    return Scores(np.zeros(prepared, np.float32), None, 0, 0)
