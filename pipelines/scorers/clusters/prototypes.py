"""SSL Prototypes (paper B.4)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Own, Scores


@dataclasses.dataclass(frozen=True)
class Prototypes(OverStore, Own):
  """SSL Prototypes (paper B.4): documents least similar to their cluster's centroid are the best, by -cosine."""

  STORED: ClassVar[str] = "clusters"
  reads: ClassVar[str] = "cosine"
  clusters: stored_blocks.StoredBlocks

  def request(self) -> dict[str, Any]:
    return {"scorer": "prototypes", "clusters": self.clusters.store.fingerprint}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(-prepared, None, 0, 0)
