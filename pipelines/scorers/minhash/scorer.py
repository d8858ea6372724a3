"""MinHash signatures, and the near-copies found by them (Broder 1997)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from curation.coverage import minhash
from pipelines.scoring import stored_blocks
from pipelines.scoring.description import OnBatch, OverStore, Own, Scores
from pipelines.store import kinds


@dataclasses.dataclass(frozen=True)
class Signatures(Own):
  """MinHash signatures of texts (Broder 1997), which are the same everywhere."""

  reads: ClassVar[str] = "text"
  hashes: int

  @property
  def speed(self) -> float:
    return 40_000.0

  def request(self) -> dict[str, Any]:
    return {"scorer": kinds.SIGN, "hashes": self.hashes, "signature_version": minhash.SIGNATURE_VERSION}

  def warm_up(self) -> None:
    minhash.signatures(pa.array([""]), self.hashes)  # loads or compiles the loops

  def prepare(self, texts: pa.ChunkedArray) -> np.ndarray:
    return minhash.signatures(texts, self.hashes)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(prepared, None, 0, 0)


@dataclasses.dataclass(frozen=True)
class MinHash(OverStore, Own):
  """Scores 1 for documents that repeat no earlier one, and 0 for near-copies and for near-copies of those."""

  STORED: ClassVar[str] = "signatures"
  reads: ClassVar[str] = "repeats"
  signatures: stored_blocks.StoredBlocks
  config: minhash.MinHashConfig

  def request(self) -> dict[str, Any]:
    return {"scorer": "minhash", "signatures": self.signatures.store.fingerprint, **dataclasses.asdict(self.config)}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(1 - prepared.astype(np.float32), None, 0, 0)
