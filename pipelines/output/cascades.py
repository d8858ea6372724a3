"""The cascade behind an output: its part of the manifest, and the check that the scores still give the same."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from curation.errors import WinnowError
from pipelines.corpus import blocks, stripes
from pipelines.files import fingerprints, storage
from pipelines.selection import cascade, thresholds
from pipelines.store import score_files
from pipelines.store.score_store import ScoreStore
from pipelines.worker import progress, reshuffle

FIELD = "cascade"  # of a manifest


def manifest_field(asked: cascade.Asked, record: dict[str, Any]) -> dict[str, Any]:
  """Returns the manifest's part of a cascade: its record, and the stores and the audit that it rests on."""
  stores = {"proxy": asked.store, "audit": asked.audited}
  named = {
    name: {"name": storage.base_name(store.folder), "fingerprint": store.fingerprint_with_engine()}
    for name, store in stores.items()
  }
  return record | named | {"audit_request": dataclasses.asdict(asked.request)}


def check(claimed: dict[str, Any], asked: cascade.Asked, certified: cascade.Certified, read: int) -> None:
  """Compares a manifest's part of a cascade with what the scores give; raises WinnowError for the first difference."""
  known = manifest_field(asked, cascade.describe(certified, read))
  if difference := fingerprints.first_difference(claimed, fingerprints.as_read(known)):
    field, in_manifest, by_scores = difference
    raise WinnowError(f"the cascade's {field} is {in_manifest} in the manifest, but {by_scores} by its scores")


def check_shard(
  asked: cascade.Asked, store: ScoreStore, shard: blocks.Shard, certified: cascade.Certified, audit_floor: int
) -> None:
  """Raises WinnowError unless a store has exactly the documents of a shard that the cascade asks about."""
  is_asked_N = asked.rows(shard, certified.floor, audit_floor)
  with score_files.ScoreFile(store, shard) as scores:
    strangers = [
      int(row) for batch in scores.batches(1 << 18) for row in batch["row"].to_numpy() if not is_asked_N[row]
    ]
    read = scores.summary.read
  if strangers:
    raise WinnowError(f"{store.folder} has {shard.name}#{strangers[0]}, about which the cascade does not ask")
  if read != (number := int(np.count_nonzero(is_asked_N))):
    raise WinnowError(f"{store.folder} has {read:,} documents of {shard.name}, and the cascade asks about {number:,}")


class Check(beam.PTransform):
  """Pipeline -> PCollection[None]: the pipeline fails with the first difference.

  `claimed` is the manifest's part of the cascade, and `store` has the scores of all that was asked.
  """

  def __init__(
    self,
    claimed: dict[str, Any],
    asked: cascade.Asked,
    store: ScoreStore,
    shards: Sequence[blocks.Shard],
    address: progress.Address | None,
  ):
    super().__init__()
    self._claimed, self._asked, self._store = claimed, asked, store
    self._shards, self._address = list(shards), address

  def expand(self, root: beam.Pipeline) -> beam.PCollection[None]:
    claimed, asked, store = self._claimed, self._asked, self._store
    ledger = root | "Ledger" >> reshuffle.One(asked.store.ledger())
    certified = ledger | "Certify" >> cascade.Certify(asked, self._shards, self._address)
    audit = ledger | "FindAudit" >> thresholds.FindThreshold(asked.store, asked.request, self._shards)
    _ = certified | "CheckCertificate" >> beam.Map(
      lambda certified: check(claimed, asked, certified, store.summary()["read"])
    )
    return (
      ledger
      | "Shards" >> stripes.Spread(self._shards)
      | "CheckShards"
      >> beam.Map(
        lambda shard, certified, audit: check_shard(asked, store, shard, certified, audit[1].floor),
        certified=beam.pvalue.AsSingleton(certified),
        audit=beam.pvalue.AsSingleton(audit),
      )
    )
