"""The plan of a cascade: the audit of a proxy, the certificate, and the scores of all that must be asked."""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from curation.errors import WinnowError
from curation.selection import cascade as arithmetic
from curation.selection import certificates, selection
from pipelines.corpus import inputs
from pipelines.files import fingerprints, storage
from pipelines.jobs import find_stores, plan_output, plan_store, planning
from pipelines.jobs.store_job import CertifyingJob, ScoringJob, SelectingJob, StoredJob
from pipelines.output import cascades, folders, writing
from pipelines.runners.workers import Workers
from pipelines.scorers.entry import TEXTS
from pipelines.scorers.registry import RANDOM, SCORERS
from pipelines.selection import cascade, survivors
from pipelines.store import documents, kinds
from pipelines.store.score_store import ScoreStore

FLAGS = ("recall", "confidence", "audit")
_REFUSED = {
  "num_tokens": "ends where a budget does, which depends on all scores",
  "percentile_range": "leaves the best out",
  "group_by": "needs the scores of all documents of a group",
  "rejected": "would lack the documents that the rater is not asked about",
}


class Plan(NamedTuple):
  """The job of the documents that are asked, and the flags with the amount that is selected of them."""

  job: ScoringJob
  selecting: CertifyingJob
  namespace: argparse.Namespace


def refuse_flags(namespaces: list[argparse.Namespace]) -> None:
  """Raises WinnowError for flags of a cascade that do not go together."""
  for namespace in namespaces:
    if namespace.proxy is None:
      for name in FLAGS:
        if name in namespace.given:
          raise WinnowError(f"--{name} is for a cascade; add --proxy=, or leave it out")
    elif len(namespaces) > 1:
      raise WinnowError(f"--proxy={namespace.proxy} does not go with stages: a cascade is two stages already")


def plan(namespace: argparse.Namespace, workers: Workers) -> Plan:
  """Plans the cascade that flags ask for, and checks all that can be checked before anything is written."""
  wanted_flags = _refuse_selection(namespace)
  promise = arithmetic.Promise(namespace.recall, namespace.confidence)
  proxy = _find_proxy(namespace, workers)
  num_documents = proxy.ledger().documents
  corpus = planning.identified_corpus(namespace, workers)
  request = fingerprints.read_json(proxy.request_path)
  documents.refuse_other_input(proxy, {key: request.get(key) for key in corpus.request()}, corpus.request())
  if wanted_flags.threshold is None:
    # Of all documents, so that the amount does not depend on how many are asked.
    asked_for = plan_output.selection_request(wanted_flags)
    search = asked_for.search(num_documents, None)
    assert search is not None
    wanted_flags.rate, wanted_flags.num_examples = None, search.amount
  wanted = plan_output.selection_request(wanted_flags)
  audited = _audited(namespace, num_documents, wanted, promise)
  stored = StoredJob(corpus, proxy, request)
  audit = survivors.Survivors(proxy, cascade.audit_request(namespace.seed, audited))
  # The audit serves every amount, and other amounts have other thresholds.
  base = namespace.name or plan_store.default_name(namespace, SCORERS[namespace.scorer])
  amount = "" if wanted.num_examples is None else f"_{wanted.num_examples}"
  audit_flags = argparse.Namespace(**vars(namespace) | {"name": f"{base}_audit_{audited}"})
  stage = planning.Stage(2, SelectingJob(audit, stored, 1))
  audit_job = plan_store.plan_named_scoring(audit_flags, workers, spare=True, stage=stage)
  asked = cascade.Asked(proxy, audit.request, audit_job.config.store, wanted, promise)
  selecting = CertifyingJob(asked, audit_job, 2, asked)
  rest_flags = argparse.Namespace(**vars(namespace) | {"name": f"{base}_cascade{amount}"})
  job = plan_store.plan_named_scoring(rest_flags, workers, spare=True, stage=planning.Stage(3, selecting))
  job.refuse_shared_folders()
  if not job.is_complete:
    storage.refuse_unwritable(proxy.folder)
  return Plan(job, selecting, wanted_flags)


def expected_share(plan: Plan) -> tuple[float, str] | None:
  """Estimates the share of the documents that is asked, by the audit alone, and says so; None without its scores."""
  asked = plan.selecting.asked
  if not plan.selecting.scoring.is_complete:
    return None
  certificate = asked.certify(cascade.add_audits([asked.read_audit(shard) for shard in plan.job.corpus.shards]))
  share = certificate.expected_share
  return share, f"about {share:.1%} of {certificate.documents:,} documents, by an audit of {certificate.audited:,}"


def lines(plan: Plan) -> Iterator[str]:
  """Yields what a settled cascade asks and promises, and what its audit shows."""
  record = plan.selecting.asked.record()
  certificate = certificates.Certificate.from_json(record["certificate"])
  low, high = certificate.audit_recall_interval
  yield cascade.summary(record)
  yield (
    f"of the audit's best, {certificate.audit_recall:.2%} are asked (between {low:.2%} and {high:.2%} at the same "
    f"confidence); {record['left_out']:,} documents were left out below the proxy's threshold"
  )


def _refuse_selection(namespace: argparse.Namespace) -> argparse.Namespace:
  """Returns a copy of the flags. Raises WinnowError for scorers and selections that a cascade cannot serve."""
  entry = SCORERS[namespace.scorer]
  if entry.reads != TEXTS or entry.upstream is not None or entry.preparation is not None:
    raise WinnowError(
      f"--proxy is for a scorer of single documents, such as ask_llm, and the scores of --scorer={namespace.scorer} "
      "depend on other documents; leave it out"
    )
  if namespace.sampler == RANDOM:
    raise WinnowError("--proxy finds the best documents, and --sampler=random draws any; leave one of them out")
  for name, why in _REFUSED.items():
    if getattr(namespace, name) is not None:
      raise WinnowError(f"--{name} with --proxy {why}; take --rate, --num_examples or --threshold alone")
  if namespace.method not in (None, "top_k", "threshold"):
    raise WinnowError(f"--method={namespace.method} with --proxy is none of top_k and threshold; leave it out")
  return argparse.Namespace(**vars(namespace) | {"method": None if namespace.threshold is not None else "top_k"})


def _find_proxy(namespace: argparse.Namespace, workers: Workers) -> ScoreStore:
  """Returns the complete store of scores that --proxy names."""
  typed = namespace.proxy
  is_folder = "/" in typed or folders.is_store(inputs.absolute(typed))
  folder = inputs.absolute(typed).rstrip("/") if is_folder else storage.join(inputs.absolute(namespace.scores), typed)
  workers.refuse_local({"--proxy": folder})
  store = ScoreStore.at(folder)
  if store is None:
    known = find_stores.find_stores(namespace.scores).stores
    present = ", ".join(sorted(known)) or "none"
    where = f"no score store, and --scores={namespace.scores} has: {present}"
    raise WinnowError(f"--proxy={typed} is {where}; name one of these, or the folder of a store")
  if store.kind.shard_fields != (kinds.SCORE_FIELD,) or store.scorer == kinds.COUNT:
    raise WinnowError(f"--proxy={typed} is a store of {store.kind.contents}, which cannot rank documents; name scores")
  within = fingerprints.field(store.request_path, "within")
  if within is not None and within["selection"]["sampler"] == RANDOM:
    raise WinnowError(
      f"--proxy={typed} has scores of an audit, of what another cascade asked, or of a random sample; name scores of "
      "all documents"
    )
  if not store.is_complete:
    raise WinnowError(f"--proxy={typed}: {store.folder} is not complete; run its command again to finish it")
  return store


def _audited(
  namespace: argparse.Namespace, num_documents: int, wanted: selection.SelectionRequest, promise: arithmetic.Promise
) -> int:
  """Returns the size of the audit. Raises WinnowError if it is known to be too small, or more than there are."""
  audited = namespace.audit
  if audited is None:
    return arithmetic.default_audit(num_documents, wanted.num_examples, promise)
  if not 1 <= audited <= num_documents:
    raise WinnowError(
      f"--audit={audited} is not between 1 and the {num_documents:,} documents that the proxy has scored"
    )
  if wanted.num_examples is not None:
    certificates.refuse_small_audit(num_documents, wanted.num_examples, audited, promise)
  return audited


def asked_of(output: str, manifest: dict[str, Any], store: ScoreStore, scores: str | None) -> cascade.Asked:
  """Returns the cascade behind a complete output, whose scores are in `store`.

  Its proxy and audit are where they were, beside that store, or below `scores`. Raises WinnowError if they are gone.
  """
  claimed = manifest[cascades.FIELD]
  place = fingerprints.field(storage.join(output, writing.WORK_FOLDER, writing.SCORES_FILE), "proxy")
  beside = store.folder.rpartition("/")[0]
  places = [] if place is None else [writing.scores_folder(str(place), output)]
  found: list[ScoreStore] = []
  for role in ("proxy", "audit"):
    name, wanted = claimed[role]["name"], claimed[role]["fingerprint"]
    below = [beside, *([] if scores is None else [inputs.absolute(scores)])]
    stores = [ScoreStore.at(folder) for folder in (*places, *(storage.join(folder, name) for folder in below))]
    fitting = [s for s in stores if s is not None and s.is_complete and s.fingerprint_with_engine() == wanted]
    if not fitting:
      raise WinnowError(
        f"the cascade's {role}, the store {name}, is not beside {store.folder}, or not as it was; restore it there, or "
        "name its folder: --scores="
      )
    found.append(dataclasses.replace(fitting[0], removes_damaged=False))
  certificate = certificates.Certificate.from_json(claimed["certificate"])
  promise = arithmetic.Promise(certificate.recall, certificate.confidence)
  audit, wanted_request = (
    selection.SelectionRequest(**value) for value in (claimed["audit_request"], manifest["request"])
  )
  return cascade.Asked(found[0], audit, found[1], wanted_request, promise)


def sampling_asked(plan: Plan, jobs: list[Any]) -> list[Any]:
  """Returns the jobs of outputs, whose manifests will have the certificate."""
  asked = plan.selecting.asked
  return [dataclasses.replace(job, config=dataclasses.replace(job.config, asked=asked)) for job in jobs]
