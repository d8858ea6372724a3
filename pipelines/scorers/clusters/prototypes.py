"""SSL Prototypes (paper B.4)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.scorers.base import Own, engine_of
from pipelines.scoring import stored_blocks
from pipelines.scoring.protocol import OnBatch, Scores


@dataclasses.dataclass(frozen=True)
class Prototypes(Own):
  """SSL Prototypes (paper B.4): what is least like the centroid of its cluster is the best, -cosine."""

  reads: ClassVar[str] = "cosine"
  clusters: stored_blocks.StoredBlocks

  def engine(self) -> dict[str, Any]:
    return engine_of("clusters", self.clusters.store)

  def request(self) -> dict[str, Any]:
    return {"scorer": "prototypes", "clusters": self.clusters.store.fingerprint}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(-prepared, None, 0, 0)
