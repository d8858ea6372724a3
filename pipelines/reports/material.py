"""The sources of a report: the complete score stores of one corpus in a folder, and outputs drawn from them."""

import argparse
import dataclasses
import functools
import uuid
from typing import Any, NamedTuple

import apache_beam as beam

from curation.errors import WinnowError
from curation.selection import selection
from pipelines.corpus import blocks, inputs
from pipelines.files import fingerprints, storage
from pipelines.jobs import find_stores
from pipelines.output import folders, manifests, writing
from pipelines.output.formats.registry import FORMATS
from pipelines.runners import launch
from pipelines.scorers.t5.ask_llm import AskLlm
from pipelines.selection import limits, ranks
from pipelines.store import kinds
from pipelines.store.score_store import ScoreStore
from pipelines.worker import reshuffle


class Output(NamedTuple):
  """A complete output, with what identifies its documents by the scores of the store from which it was drawn."""

  name: str
  folder: str
  manifest: dict[str, Any]
  request: selection.SelectionRequest
  floor: int
  rejected: bool
  store: ScoreStore
  limits: ranks.Limits = ranks.unlimited
  ceiling: float | None = None
  """The score from which documents are above a percentile range, once its limits are settled; None if none are."""

  def first_files(self) -> list[str]:
    """Returns the paths of its shards, in order; each is a random part of it."""
    (name, kind), count = (self.manifest[field] for field in ("dataset", "output_format")), len(self.manifest["shards"])
    return [storage.join(self.folder, FORMATS[kind].file_name(name, index, count)) for index in range(count)]


@dataclasses.dataclass(frozen=True)
class Sources:
  """The stores and outputs of a report, whose files are read once: the passes ask for these for each window of rows.

  `scorers`: stores by name, raters first, the smallest model first. `others`: further stores that outputs were drawn
  from. `left_out`: sentences about stores that the report leaves out. `stages`: scorers of `scorers` that were asked
  only about what an earlier stage had selected, and not about the whole corpus. `clusters`: a store of clusters of the
  corpus, if there is one.
  """

  scorers: dict[str, ScoreStore]
  raters: tuple[str, ...]
  outputs: tuple[Output, ...]
  others: tuple[ScoreStore, ...]
  left_out: tuple[str, ...]
  stages: frozenset[str] = frozenset()
  clusters: ScoreStore | None = None

  @functools.cached_property
  def stores(self) -> list[ScoreStore]:
    """All stores to read, those of `scorers` first and that of clusters last."""
    return [*self.scorers.values(), *self.others, *([self.clusters] if self.clusters else [])]

  @functools.cached_property
  def num_clusters(self) -> int:
    """The number of clusters; 0 without a store of clusters."""
    return fingerprints.field(self.clusters.request_path, "num_clusters") if self.clusters else 0

  @functools.cached_property
  def shards(self) -> tuple[blocks.Shard, ...]:
    """The shards of the corpus."""
    return self.stores[0].shards()

  @functools.cached_property
  def summaries(self) -> dict[str, dict[str, Any]]:
    """The ledgers of the scorers' stores, by name."""
    return {name: store.summary() for name, store in self.scorers.items()}

  def scorer_of(self, output: Output) -> str | None:
    """Returns the name of the scorer by whose scores an output was drawn; None for a random sample."""
    if output.request.sampler == "random":
      return None
    return next((name for name, store in self.scorers.items() if store.folder == output.store.folder), None)

  @functools.cached_property
  def counting(self) -> int | None:
    """The index of the first scorer that has counted the tokens of the whole corpus; None if none has."""
    counts = [None if name in self.stages else self.summaries[name]["num_tokens"] for name in self.scorers]
    return next((place for place, count in enumerate(counts) if count is not None), None)


def find(namespace: argparse.Namespace) -> Sources:
  """Finds the sources that flags name.

  Raises WinnowError if there are none, or if the stores are of several corpora and no output decides which.
  """
  found = find_stores.stores_in(namespace.scores)
  complete, left_out = {}, [f"{name} cannot be read ({reason})" for name, reason in found.unreadable.items()]
  clustered = {name: store for name, store in sorted(found.stores.items()) if store.scorer == kinds.CLUSTER}
  for name, store in sorted(found.stores.items()):
    if name in clustered:
      continue
    if store.keeps_blocks:
      left_out.append(f"{name} holds {store.kind.plural}")
    elif not store.is_complete:
      left_out.append(f"{name} is not complete")
    else:
      complete[name] = dataclasses.replace(store, removes_damaged=False)
  outputs = _find_outputs(namespace)
  corpora: dict[str, list[str]] = {}
  for name, store in complete.items():
    corpora.setdefault(_corpus(store), []).append(name)
  wanted = {_corpus(output.store) for output in outputs} or set(corpora)
  if len(wanted) > 1:
    stores = " | ".join(", ".join(names) for names in corpora.values())
    subject = "the outputs are" if outputs else f"--scores={namespace.scores} has stores"
    raise WinnowError(
      f"{subject} of several corpora ({stores}); name outputs of one of them, or keep the stores of each corpus in a "
      "folder of their own"
    )
  named = corpora.get(next(iter(wanted), ""), [])
  if not named:
    reasons = f" ({'; '.join(left_out)})" if left_out else ""
    raise WinnowError(f"--scores={namespace.scores} has no complete store of scores{reasons}; run winnow score first")
  left_out += [f"{name} is of another corpus" for name in complete if name not in named]
  if scored := [
    name for name in named if complete[name].scorer != kinds.COUNT
  ]:  # otherwise the report is about outputs only
    left_out += [f"{name} holds a count and no scores" for name in named if name not in scored]
    named = scored
  sizes = {name: _model_bytes(complete[name]) for name in named}
  raters = sorted((name for name in named if complete[name].scorer == AskLlm.SCORER), key=lambda n: (sizes[n], n))
  ordered = [*raters, *(name for name in named if name not in raters)]
  # Stores of all documents come before those of an earlier stage's selection, since the first store defines the corpus.
  stages = [name for name in ordered if fingerprints.field(complete[name].request_path, "within") is not None]
  ordered.sort(key=lambda name: name in stages)
  scorers = {name: complete[name] for name in ordered}
  others = {output.store.folder: output.store for output in outputs if output.store not in scorers.values()}
  # Without a store of all documents, the first store of a stage stands for the corpus.
  of_stages = frozenset(stages) - {ordered[0]}
  clusters = _find_clusters(clustered, _corpus(complete[ordered[0]]))
  left_out += [f"{name} holds clusters" for name in clustered if name != clusters]
  of_clusters = dataclasses.replace(clustered[clusters], removes_damaged=False) if clusters else None
  return Sources(
    scorers, tuple(raters), tuple(outputs), tuple(others.values()), tuple(left_out), of_stages, of_clusters
  )


def _find_clusters(stores: dict[str, ScoreStore], corpus: str) -> str | None:
  """Returns the name of the complete store with the most clusters of a whole corpus; names break ties."""
  found = {}
  for name, store in stores.items():
    request = fingerprints.read_json(store.request_path)
    number = request.get("num_clusters")
    if store.is_complete and _corpus(store) == corpus and request.get("within") is None and type(number) is int:
      found[name] = number
  return min(found, key=lambda name: (-found[name], name), default=None)


def _corpus(store: ScoreStore) -> str:
  request = fingerprints.read_json(store.request_path)
  return fingerprints.fingerprint([request.get("inputs"), request.get("fields")])


def _model_bytes(store: ScoreStore) -> int:
  """Returns the bytes of the files of a store's model; 0 if it has none."""
  files = fingerprints.field(store.request_path, "model")
  entries = [entry for entry in files.values() if isinstance(entry, dict)] if isinstance(files, dict) else []
  return sum(entry["bytes"] for entry in entries if type(entry.get("bytes")) is int)


def _find_outputs(namespace: argparse.Namespace) -> list[Output]:
  found_folders: list[str] = []
  for pattern in filter(None, (namespace.output or "").split(",")):
    path = storage.join(inputs.absolute(pattern), manifests.MANIFEST_FILE)
    # The name of a folder may look like a glob.
    paths = [path] if storage.exists(path) else [path for path, _ in storage.find(path)]
    if not paths:
      raise WinnowError(f"--output={pattern} {folders.instead_of_output(inputs.absolute(pattern))}")
    found_folders += [path.rpartition("/")[0] for path in paths]
  found_folders = list(dict.fromkeys(found_folders))
  names = [storage.base_name(folder) for folder in found_folders]
  return [
    _output(folder, name if names.count(name) == 1 else folder, namespace.scores)
    for folder, name in zip(found_folders, names, strict=True)
  ]


def _output(folder: str, name: str, scores: str) -> Output:
  with manifests.naming_manifest(folder):
    manifest = manifests.read(folder)
    try:
      store = find_stores.store_of(folder, manifest, scores)
    except WinnowError:
      # A random sample without --scores has counted its documents into a store beside it.
      store = find_stores.store_of(folder, manifest, None)
    _check(manifest)
    request = selection.SelectionRequest(**manifest["request"])
    floor = int(manifest["threshold"]["rank"], 16)
    return Output(name, folder, manifest, request, floor, bool(manifest["rejected"]), store)


def _check(manifest: dict[str, Any]) -> None:
  """Raises errors for `naming_manifest` unless the fields that a report uses later are valid."""
  if manifest["output_format"] not in FORMATS:
    raise ValueError(f"the format {manifest['output_format']!r} is unknown")
  for counts in (manifest["counts"], *manifest["inputs"]):
    if not all(type(counts[name]) is int for name in ("read", "scored", "bad", "selected")):
      raise ValueError("a count is not a number")
  tokens = [*(manifest["tokens"][name] for name in ("scored", "selected"))]
  tokens += [entry["tokens_selected"] for entry in manifest["inputs"]]
  if not all(count is None or type(count) is int for count in tokens):
    raise ValueError("a count of tokens is not a number")
  if not all(isinstance(manifest[name], list) and manifest[name] for name in ("shards", "inputs", "command")):
    raise ValueError("it has no shards, inputs or command")
  if not all(isinstance(entry["name"], str) for entry in manifest["inputs"]):
    raise ValueError("an input has no name")
  if not isinstance(manifest["split"], str) or not isinstance(manifest["versions"], dict):
    raise ValueError("it has no split or versions")
  if not isinstance(manifest["scores"]["request"]["scorer"], str):
    raise ValueError("it has no scorer")


def settle_limits(sources: Sources, launcher: launch.Launcher, work: str) -> Sources:
  """Recomputes, by Beam passes, which documents were within the limits of outputs with limits; files go to `work`."""
  settled = []
  for output in sources.outputs:
    output_limits = limits.make_limits(output.store, output.request, work, work, output.manifest["fingerprint"])
    if output_limits is not None:

      def define(root: beam.Pipeline, output_limits: limits.Limits = output_limits) -> None:
        _ = (
          root
          | "Ledger" >> reshuffle.One(output_limits.store.ledger())
          | output_limits.settle(output_limits.store.shards())
        )

      launcher.run(define, f"winnow-report-{uuid.uuid4().hex[:8]}")
      ceiling = output_limits.score() if isinstance(output_limits, limits.Ceiling) else None
      output = output._replace(limits=output_limits.within, ceiling=ceiling)
    settled.append(output)
  return dataclasses.replace(sources, outputs=tuple(settled))


def work_folder(report: str) -> str:
  """Returns a new folder for the files of one report."""
  return storage.join(report, f"{writing.WORK_FOLDER}-{uuid.uuid4().hex}")
