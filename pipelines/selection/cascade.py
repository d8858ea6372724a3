"""The documents that a cascade asks a rater about: an audit, and all that the audit's threshold on a proxy leaves.

The arithmetic and its proof are in `curation.selection.cascade`. What is asked is written down as the survivors of a
stage are, in the store of the proxy, together with the certificate. Only the audit's numbers cross a shuffle.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from curation.errors import WinnowError
from curation.selection import cascade, certificates, hashing, selection
from pipelines.corpus import blocks, stripes
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.runners import sharing
from pipelines.selection import ranks, survivors, thresholds
from pipelines.store import score_files
from pipelines.store.score_store import Ledger, ScoreStore
from pipelines.worker import adding, progress

CERTIFYING = "certifying the cascade's threshold"  # as users see it
_WEAK = 0.9  # the share asked from which a cascade saves little
_NONE = cascade.Audit(*(np.zeros(0, np.uint64) for _ in cascade.Audit._fields))


class Certified(NamedTuple):
  """A certificate, and the rank by proxy score from which on all documents are asked: τ, or less."""

  certificate: certificates.Certificate
  floor: int


def audit_request(seed: int, audited: int) -> selection.SelectionRequest:
  """Returns the request of an audit, whose hash is no other sample's.

  A proxy may have been trained on a random sample with the same seed, and an audit must not depend on the proxy.
  """
  return selection.SelectionRequest(
    "random", seed=int(hashing.shard_keys("audit", seed, [""])[0]), num_examples=audited
  )


@dataclasses.dataclass(frozen=True)
class Asked(survivors.Survivors):
  """The documents that a cascade asks about. `store` is the proxy's, and `request` that of the audit."""

  audited: ScoreStore
  """The rater's scores of the audit."""
  wanted: selection.SelectionRequest
  """What is selected of all documents by the rater's scores: `num_examples` or `threshold`."""
  promise: cascade.Promise

  @property
  def fingerprint(self) -> str:
    """The fingerprint of what is asked: of the proxy's and the audit's requests, the selection and the promise."""
    terms = [dataclasses.asdict(term) for term in (self.request, self.wanted, self.promise)]
    return fingerprints.fingerprint([self.store.fingerprint, self.audited.fingerprint, *terms])

  def engine(self) -> dict[str, Any]:
    """Returns the fingerprint of the scores behind the threshold, engines included, once they are recorded."""
    stores = (self.store, self.audited)
    if not all(storage.exists(store.engine_path) for store in stores):
      return {}
    return {"within": fingerprints.fingerprint([store.fingerprint_with_engine() for store in stores])}

  @property
  def scored_before(self) -> ScoreStore:
    """The audit, about which the rater has been asked."""
    return self.audited

  @property
  def folder(self) -> str:
    """The folder of the bits and the certificate, by selection and engines."""
    name = fingerprints.fingerprint([self.fingerprint, self.store.engine(), self.audited.engine()])[:16]
    return storage.join(self.store.path(survivors.FOLDER), name)

  @property
  def limits(self) -> None:
    """No limits: those of an audit would make it no uniform sample."""
    return None

  @property
  def proxied(self) -> selection.SelectionRequest:
    """The request that ranks documents by proxy score, and takes as many as are wanted in all."""
    amount: dict[str, Any] = {"rate": "1"}
    if self.wanted.num_examples is not None:
      amount = {"num_examples": self.wanted.num_examples}
    return selection.SelectionRequest(self.store.scorer, seed=self.wanted.seed, **amount)

  def read_audit(self, shard: blocks.Shard) -> cascade.Audit:
    """Reads the audited documents of a shard that the rater could score, with their proxy scores."""
    parts = list(ranks.read(self.audited, shard, self.wanted, check_seal=True))
    if not sum(len(part.rows) for part in parts):
      return _NONE
    rows, keys, ties = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "keys", "ties"))
    proxy_keys, found = np.zeros(len(rows), np.uint64), 0
    for part in ranks.read(self.store, shard, self.proxied):
      is_here = np.isin(rows, part.rows, assume_unique=True)
      proxy_keys[is_here] = part.keys[np.searchsorted(part.rows, rows[is_here])]
      found += int(is_here.sum())
    if found != len(rows):
      raise WinnowError(
        f"{self.audited.folder} has {len(rows):,} documents of {shard.name}, and {self.store.folder} only {found:,} of "
        "them; they belong to different corpora: use another --name"
      )
    return cascade.Audit(keys, proxy_keys, ties)

  def certify(self, audit: cascade.Audit) -> certificates.Certificate:
    """Computes the certificate from the whole audit."""
    wanted = certificates.Wanted(self.wanted.num_examples, self.wanted.floor)
    assert self.request.num_examples is not None
    return certificates.certify(
      audit,
      documents=self.store.ledger().documents,
      audited=self.request.num_examples,
      wanted=wanted,
      promise=self.promise,
    )

  def rows(self, shard: blocks.Shard, floor: int, audit_floor: int) -> np.ndarray:
    """Tells which rows of a shard are asked: bool [N]."""
    is_asked_N = np.zeros(score_files.read_summary(self.store, shard).num_rows, bool)
    for request, least in ((self.proxied, floor), (self.request, audit_floor)):
      for part in ranks.read(self.store, shard, request, check_seal=True):
        is_asked_N[part.rows[part.are_wanted(least)]] = True
    return is_asked_N

  def ask_shard(self, shard: blocks.Shard, floor: int, audit_floor: int) -> int:
    """Writes down which rows of a shard are asked; returns their number."""
    path = self.rows_path(shard)
    if not damage.is_whole(self.store.folder, path, lambda path: sealed_arrays.read(path, 1)):
      sealed_arrays.write(path, np.packbits(self.rows(shard, floor, audit_floor)))
    return row_bits.count(self.kept(shard))

  def settle_asked(self, certified: Certified, asked: int) -> Ledger:
    """Writes down the certificate and how many documents are asked, and says so."""
    record = describe(certified, asked)
    storage.create(self.path, fingerprints.sealed({"documents": asked, **record}), must_agree=True)
    print(f"winnow: {summary(record)}", file=sys.stderr, flush=True)
    return self.store.ledger()

  def record(self) -> dict[str, Any]:
    """Reads the certificate and what is asked, once they are settled: see `describe`."""
    value = fingerprints.read_sealed(self.path)
    if value is None:
      raise WinnowError(f"{self.path} is missing or damaged; run the same command again to remake it")
    return {name: value[name] for name in value if name != "documents"}


def describe(certified: Certified, asked: int) -> dict[str, Any]:
  """Returns a cascade as its manifest has it: the certificate, and the numbers of documents asked and left out."""
  certificate = certified.certificate
  return {
    "certificate": certificate.to_json(),
    "asked_from": f"{certified.floor:032x}",
    "asked": asked,
    "left_out": certificate.documents - asked,
  }


def summary(record: dict[str, Any]) -> str:
  """Says what a cascade asks and promises, in a sentence for a terminal."""
  certificate = certificates.Certificate.from_json(record["certificate"])
  share = record["asked"] / certificate.documents
  wanted = f"the {certificate.wanted:,} best" if certificate.wanted is not None else "the documents above the threshold"
  text = (
    f"the cascade asks about {record['asked']:,} of {certificate.documents:,} documents ({share:.1%}), "
    f"{certificate.audited:,} of them an audit, and keeps at least {float(certificate.recall):.4g} of {wanted} with a "
    f"confidence of {float(certificate.confidence):.4g}"
  )
  weak = "; the proxy is too weak to save much: score all without --proxy, or use another"
  return text if share < _WEAK else text + weak


def add_audits(audits: list[cascade.Audit]) -> cascade.Audit:
  """Returns the audited documents of all parts."""
  return cascade.Audit(*map(np.concatenate, zip(_NONE, *audits, strict=True)))


class Certify(beam.PTransform):
  """PCollection of one element, once the audit is scored -> PCollection[Certified] (one)."""

  def __init__(self, asked: Asked, shards: Sequence[blocks.Shard], address: progress.Address | None = None):
    super().__init__()
    self._asked, self._shards, self._address = asked, list(shards), address

  def expand(self, element: beam.PCollection) -> beam.PCollection[Certified]:
    asked, address = self._asked, self._address

    def read(shard: blocks.Shard) -> tuple[None, cascade.Audit]:
      with progress.working(address, CERTIFYING):
        return None, asked.read_audit(shard)

    audit = element | "Shards" >> stripes.Spread(self._shards) | "ReadAudit" >> beam.Map(read)
    certified = (
      audit | "AddAudits" >> adding.AddUp(add_audits) | "Certify" >> beam.Map(lambda added: asked.certify(added[1]))
    )
    if asked.wanted.num_examples is None:
      return certified | "FromThreshold" >> beam.Map(lambda certificate: Certified(certificate, certificate.floor))
    # As many documents must be asked as are wanted, even if the proxy is better than that.
    enough = (
      element
      | "Ledger" >> beam.Map(lambda _: asked.store.ledger())
      | "FindEnough" >> thresholds.FindThreshold(asked.store, asked.proxied, self._shards, address=address)
      | "Enough" >> beam.MapTuple(lambda _, selected: selected.floor)
    )
    return certified | "From" >> beam.Map(
      lambda certificate, floor: Certified(certificate, min(floor, certificate.floor)),
      floor=beam.pvalue.AsSingleton(enough),
    )


class Settle(beam.PTransform):
  """PCollection of one element, once the audit is scored -> PCollection[Ledger]: writes down what is asked."""

  def __init__(self, asked: Asked, shards: Sequence[blocks.Shard], address: progress.Address | None = None):
    super().__init__()
    self._asked, self._shards, self._address = asked, list(shards), address

  def expand(self, element: beam.PCollection) -> beam.PCollection[Ledger]:
    asked, address = self._asked, self._address
    certified = element | "Certify" >> Certify(asked, self._shards, address)
    audit_floor = (
      element
      | "Ledger" >> beam.Map(lambda _: asked.store.ledger())
      | "FindAudit" >> thresholds.FindThreshold(asked.store, asked.request, self._shards, address=address)
      | "AuditFrom" >> beam.MapTuple(lambda _, selected: selected.floor)
    )

    def ask(shard: blocks.Shard, certified: Certified, audit_floor: int) -> int:
      with progress.working(address, CERTIFYING):
        return asked.ask_shard(shard, certified.floor, audit_floor)

    shards = element | "Shards" >> stripes.Spread(self._shards)
    kept = sharing.placed(shards, self._shards.index, "PlaceShards") | "AskShards" >> sharing.do(
      beam.Map(
        ask,
        certified=beam.pvalue.AsSingleton(certified),
        audit_floor=beam.pvalue.AsSingleton(audit_floor),
      ),
      made=lambda shards: [asked.rows_path(shard) for shard in shards],
      result=lambda shard: row_bits.count(asked.kept(shard)),
      is_over=lambda: asked.are_settled,
      address=address,
    )
    return certified | "Settle" >> beam.Map(
      lambda certified, kept: asked.settle_asked(certified, sum(kept)), kept=beam.pvalue.AsIter(kept)
    )
