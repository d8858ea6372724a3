"""MinHash as a scorer of the registry."""

import argparse
import time
from typing import TYPE_CHECKING

from pipelines.registry.flag import Flag
from pipelines.scorers.entry import SCORING, Cost, Entry, Stored

if TYPE_CHECKING:
  from curation.coverage.minhash import MinHashConfig
  from pipelines.scorers.minhash.preparation import JoinPreparation
  from pipelines.scorers.minhash.scorer import MinHash, Signatures

_MEASURED_SECONDS = 0.5


def describe(namespace: argparse.Namespace, stored: Stored) -> "MinHash":
  from pipelines.scorers.minhash.scorer import MinHash

  assert stored.upstream is not None
  return MinHash(stored.upstream, _config(namespace))


def signatures(namespace: argparse.Namespace) -> "tuple[str, Signatures]":
  """Returns the name of the store of signatures, and what fills it."""
  from pipelines.scorers.minhash.scorer import Signatures

  hashes = _config(namespace).hashes
  return f"signatures_{hashes}", Signatures(hashes)


def preparation() -> "type[JoinPreparation]":
  from pipelines.scorers.minhash.preparation import JoinPreparation

  return JoinPreparation


def _config(namespace: argparse.Namespace) -> "MinHashConfig":
  from curation.coverage import minhash

  return minhash.MinHashConfig(namespace.similarity, namespace.minhash_bands, namespace.minhash_rows)


def cost(namespace: argparse.Namespace, documents: float, texts: list[str]) -> Cost:
  """Measures signatures of the texts here."""
  hours = documents / _speed(texts, _config(namespace).hashes) / 3600
  return Cost("signatures", "reading not counted", core_hours=hours)


def _speed(texts: list[str], hashes: int) -> float:
  """Computes signatures for half a second; returns documents a second, of one core."""
  import pyarrow as pa

  from curation.coverage import minhash

  column = pa.array(texts, pa.large_string())
  minhash.signatures(column[:1], hashes)  # so that compiling is not measured
  started, rounds = time.perf_counter(), 0
  while time.perf_counter() - started < _MEASURED_SECONDS:
    minhash.signatures(column, hashes)
    rounds += 1
  return rounds * len(texts) / (time.perf_counter() - started)


ENTRY = Entry(
  name="minhash",
  describe=describe,
  upstream=signatures,
  unit="1: first of its kind, 0: near-copy",
  suggested_amount="--threshold=1",  # all that repeat no document before them
  preparation=preparation,
  cost=cost,
  flags=(
    Flag(
      "similarity",
      "MinHash",
      SCORING,
      "the least Jaccard similarity of five-word shingles at which two documents are near-copies, in (0, 1]",
      type=float,
      default=0.8,
    ),
    Flag(
      "minhash_bands",
      "MinHash",
      SCORING,
      "the number of bands per signature; two documents are compared if all hashes of at least one band agree",
      type=int,
      default=16,
    ),
    Flag("minhash_rows", "MinHash", SCORING, "the number of hashes per band", type=int, default=8),
  ),
)
