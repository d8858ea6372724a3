"""The manifest of an output: its request, its figures by input file and by shard, and the check that they add up."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from curation.errors import WinnowError
from curation.selection import selection
from pipelines.files import fingerprints, storage
from pipelines.output import cascades, folders, tfds_metadata, writing
from pipelines.output.formats.registry import FORMATS
from pipelines.selection import thresholds
from pipelines.store import score_store

MANIFEST_FILE = folders.MANIFEST_FILE
FORMAT = 3
COUNTS = ("read", "scored", "bad", "blank")
"""The counts of a store that a manifest repeats: read = scored + bad, and blank lines are not read."""


@dataclasses.dataclass(frozen=True)
class Context:
  """Facts for the manifest: versions, and the command without runner flags, which makes the same output again."""

  command: tuple[str, ...]
  versions: dict[str, str]


def publish(
  plan: writing.Plan,
  *,
  config: writing.SamplingConfig,
  context: Context,
  written_runs: list[writing.RunCounts],
  written_shards: list[writing.OutputShard],
) -> dict[str, Any]:
  """Checks that all figures add up, writes TFDS's metadata and at last the manifest, and removes the runs.

  Raises WinnowError if another run has written metadata or a manifest of other shards.
  """
  written_shards = sorted(written_shards)
  manifest = make_manifest(config, context, plan, written_runs, written_shards)
  if FORMATS[config.output_format].is_tfds:
    for name, content in dataset_metadata(config, manifest).items():
      storage.create(storage.join(config.output, name), content, must_agree=True)
  path = storage.join(config.output, MANIFEST_FILE)
  storage.create(path, fingerprints.to_json(manifest))
  if any(fingerprints.read_json(path)[key] != manifest[key] for key in ("fingerprint", "shards")):
    raise WinnowError(f"{path} belongs to another run; make sure that it has ended, and start over with --overwrite")
  clean_up(config.output)
  return manifest


def dataset_metadata(config: writing.SamplingConfig, manifest: dict[str, Any]) -> dict[str, bytes]:
  """Returns the files, by their names, that make the output a TFDS dataset."""
  counts = manifest["counts"]
  with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
    tfds_metadata.write_dataset_metadata(
      folder,
      name=config.name,
      shard_lengths=[shard["documents"] for shard in manifest["shards"]],
      num_bytes=sum(shard["bytes"] for shard in manifest["shards"]),
      description=f"{counts['selected']:,} of {counts['scored']:,} documents, "
      f"{'rejected' if config.rejected else 'drawn'} by Winnow with --sampler={config.request.sampler}; "
      f"{MANIFEST_FILE} says how.",
    )
    return {name: storage.read_bytes(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def is_complete(config: writing.SamplingConfig) -> bool:
  """Tells whether the output of a request is complete."""
  return fingerprints.field(storage.join(config.output, MANIFEST_FILE), "fingerprint") == config.fingerprint


def read(output: str) -> dict[str, Any]:
  """Reads the manifest of a complete output; raises WinnowError if there is none, or if it is damaged."""
  path = storage.join(output, MANIFEST_FILE)
  if not storage.exists(path):
    raise WinnowError(f"{output} {folders.instead_of_output(output)}")
  manifest = fingerprints.read_json(path)
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    raise WinnowError(f"{path} is not a manifest of format {FORMAT}, which this version reads")
  name = manifest.get("dataset")
  if not isinstance(name, str) or tfds_metadata.dataset_name(name) != name:  # it becomes a part of paths
    raise WinnowError(
      f"{path} names the dataset {name!r}, which is not a valid name; restore it, or run its command again"
    )
  return manifest


@contextlib.contextmanager
def naming_manifest(output: str) -> Iterator[None]:
  """Turns errors of reading the fields of a damaged manifest into a WinnowError that names it."""
  try:
    yield
  except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
    path = storage.join(output, MANIFEST_FILE)
    cause = f"{type(error).__name__}: {error}"
    raise WinnowError(f"{path} is damaged ({cause}); restore it, or run its command again") from error


def clean_up(output: str) -> None:
  """Removes files that a complete output no longer needs."""
  storage.delete_folder(storage.join(output, writing.WORK_FOLDER, writing.RUNS_FOLDER))


def make_manifest(
  config: writing.SamplingConfig,
  context: Context,
  plan: writing.Plan,
  written_runs: list[writing.RunCounts],
  written_shards: list[writing.OutputShard],
) -> dict[str, Any]:
  """Builds the manifest; raises WinnowError that names the figures that do not add up."""
  summary = config.store.summary()
  selected, tokens = _by_shard(written_runs)
  try:
    check_figures(config, plan, summary, selected=selected, written_shards=written_shards)
  except WinnowError as error:
    place = _differing_shard(config, plan, selected)
    raise WinnowError(
      f"{error}{place}; delete {config.runs_folder(plan.engine)}, run again, and report a bug if this stays"
    ) from error
  manifest = derived_fields(config, plan.selected.floor)
  counts_tokens = summary["num_tokens"] is not None
  manifest["counts"]["selected"] = plan.selected.documents
  manifest["tokens"]["selected"] = plan.selected.num_tokens if counts_tokens else None
  for entry in manifest["inputs"]:
    entry["selected"] = selected.get(entry["name"], 0)
    entry["tokens_selected"] = tokens.get(entry["name"], 0) if counts_tokens else None
  manifest["shards"] = [
    {
      "file": storage.base_name(config.shard_path(shard.index, plan.num_shards)),
      "documents": shard.documents,
      "bytes": shard.bytes,
      "checksum": shard.checksum,
    }
    for shard in written_shards
  ]
  made_with = fingerprints.field(storage.join(config.store.folder, score_store.INPUT_FILE), score_store.MADE_WITH)
  if config.asked is not None:
    manifest[cascades.FIELD] = cascades.manifest_field(config.asked, config.asked.record())
  return manifest | {
    "made_with": made_with or {},
    "versions": context.versions,
    "command": list(context.command),
  }


def derived_fields(config: writing.SamplingConfig, floor: int) -> dict[str, Any]:
  """Returns the part of a manifest that depends only on the scores, the request and the threshold."""
  summary = config.store.summary()
  request = fingerprints.read_json(config.store.request_path)
  inputs = {entry["name"]: entry for entry in request.pop("inputs")}
  return {
    "format": FORMAT,
    "fingerprint": config.fingerprint,
    "dataset": config.name,
    "split": tfds_metadata.SPLIT,
    "output_format": config.output_format,
    "rejected": config.rejected,
    "request": dataclasses.asdict(config.request),
    "threshold": _threshold(config.request, floor),
    "counts": {**{name: summary[name] for name in COUNTS}, "bad_reasons": summary["reasons"]},
    "tokens": {"scored": summary["num_tokens"]},
    "inputs": [inputs[shard["shard"]] | {name: shard[name] for name in COUNTS} for shard in summary["shards"]],
    "scores": {
      "fingerprint": config.store.fingerprint_with_engine(),
      "request": request,
      "engine": fingerprints.read_json(config.store.engine_path),
    },
  }


def check_figures(
  config: writing.SamplingConfig,
  plan: writing.Plan,
  summary: dict[str, Any],
  *,
  selected: dict[str, int],
  written_shards: list[writing.OutputShard],
) -> None:
  """Raises WinnowError unless every document is accounted for, from the input to the output shards."""
  for shard in summary["shards"]:
    if shard["read"] != shard["scored"] + shard["bad"] or selected.get(shard["shard"], 0) > shard["scored"]:
      raise WinnowError(
        f"the figures of {shard['shard']} do not add up: {shard['read']} read, {shard['scored']} scored, "
        f"{shard['bad']} bad, {selected.get(shard['shard'], 0)} selected"
      )
  search = config.request.search(summary["scored"], summary["num_tokens"])
  figures = {
    "above the threshold": plan.selected.documents,
    "in the runs": sum(selected.values()),
    "in the output shards": sum(shard.documents for shard in written_shards),
  }
  if search is not None and search.by_count:
    figures["asked for"] = summary["scored"] - search.amount if config.rejected else search.amount
  if len(set(figures.values())) != 1:
    raise WinnowError(f"the figures do not add up: documents {figures}")
  budget, num_tokens = config.request.num_tokens, plan.selected.num_tokens
  if budget is not None and num_tokens > budget and not config.rejected:
    raise WinnowError(f"{num_tokens} tokens are selected, more than --num_tokens={budget}")


def _differing_shard(config: writing.SamplingConfig, plan: writing.Plan, selected: dict[str, int]) -> str:
  """Names the first input shard whose runs hold another number of documents than its scores select."""
  for shard in config.store.shards():
    floor, rejected = plan.selected.floor, config.rejected
    counted = thresholds.count_selected(config.store, shard, config.request, floor, config.within, rejected=rejected)
    wanted = counted.documents
    if wanted != selected.get(shard.name, 0):
      return f": {wanted:,} of {shard.name} are selected, but its runs hold {selected.get(shard.name, 0):,}"
  return ""


def _by_shard(written_runs: list[writing.RunCounts]) -> tuple[dict[str, int], dict[str, int]]:
  selected: dict[str, int] = {}
  tokens: dict[str, int] = {}
  for run in written_runs:
    selected[run.shard] = selected.get(run.shard, 0) + run.selected
    tokens[run.shard] = tokens.get(run.shard, 0) + run.num_tokens
  return selected, tokens


def _threshold(request: selection.SelectionRequest, floor: int) -> dict[str, Any]:
  """Returns the rank of the last selected document, and its score if only scores decide."""
  threshold: dict[str, Any] = {"rank": f"{floor:032x}"}
  if request.sampler != "random" and request.method != "ips":
    key = selection.from_order_key(floor >> 64)
    threshold["score"] = -key if request.method == "bottom_k" else key
  return threshold
