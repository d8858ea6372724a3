"""Verification: an output is read back and compared with the scores that selected it.

Each output shard is read back, and each of its documents is added to the tally of its input shard: the number of
documents, and the sum of their 128-bit hashes. The same tallies are computed from the scores, and from the input if it
still exists. They cancel out only if the output holds each selected document exactly once, unchanged, and no other
document. Only tallies cross a shuffle.
"""

import dataclasses
import hashlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import orjson
import pyarrow as pa

from curation.errors import WinnowError
from curation.selection import hashing, search
from pipelines.corpus import blocks, stripes
from pipelines.corpus.readers import reading
from pipelines.files import fingerprints, storage, temporary_files
from pipelines.output import cascades, manifests, tfds_metadata, writing
from pipelines.output.formats.format import SCHEMA
from pipelines.output.formats.registry import FORMATS
from pipelines.selection import ranks, thresholds
from pipelines.store import score_files
from pipelines.worker import progress, reshuffle

_WORK = "verify-"
_READING, _RECOMPUTING = "reading the output back", "recomputing the selection"  # as users see them
# Fields of a manifest that do not follow from the scores alone.
_NOT_KNOWN = ("shards", "made_with", "versions", "command", cascades.FIELD)
_MODULUS = 1 << 128


@dataclasses.dataclass(frozen=True)
class VerificationConfig:
  """The claims of an output's manifest. `texts`: the input still exists, so texts can be compared with it."""

  sampling: writing.SamplingConfig
  manifest: dict[str, Any]
  shards: tuple[blocks.Shard, ...]
  texts: bool
  progress_address: progress.Address | None = None

  @property
  def floor(self) -> int:
    """The smallest selected rank; raises ValueError if the manifest has none."""
    rank = self.manifest["threshold"]["rank"]
    if not re.fullmatch("[0-9a-f]{32}", rank):
      raise ValueError(f"its threshold's rank is {rank!r}")
    return int(rank, 16)

  @property
  def num_shards(self) -> int:
    return len(self.manifest["shards"])


class Tally(NamedTuple):
  """A number of documents of one input shard, and the sum of their hashes modulo 2^128."""

  documents: int
  digest: int

  def __neg__(self) -> "Tally":
    return Tally(-self.documents, -self.digest % _MODULUS)


def add_tallies(tallies: Iterable[Tally]) -> Tally:
  """Returns the sum of tallies."""
  documents = digest = 0
  for tally in tallies:
    documents, digest = documents + tally.documents, (digest + tally.digest) % _MODULUS
  return Tally(documents, digest)


def digests(table: pa.Table, *, texts: bool) -> list[int]:
  """Hashes each document of a table as in `SCHEMA`: its source and score, or with `texts` all of it."""
  names = SCHEMA.names if texts else ["source", "score"]
  rows = zip(*(table[name].to_pylist() for name in names), strict=True)
  return [int.from_bytes(hashlib.blake2b(orjson.dumps(row), digest_size=16).digest(), "little") for row in rows]


def work_folder(output: str) -> str:
  """Returns a new folder for the files of one verification, in the output unless this user cannot write there."""
  folder, name = storage.join(output, writing.WORK_FOLDER), f"{_WORK}{uuid.uuid4().hex}"
  if storage.is_writable(folder):
    return storage.join(folder, name)
  return storage.join(tempfile.gettempdir(), f"winnow-{name}")


def sweep(output: str) -> None:
  """Removes files of killed verifications: those that have written nothing for a day."""
  folder = storage.join(output, writing.WORK_FOLDER)
  written: dict[str, float] = {}
  for path, seconds in storage.list_times(storage.join(storage.escape(folder), f"{_WORK}*", "**")).items():
    name = path.removeprefix(folder).strip("/").partition("/")[0]
    written[name] = max(seconds, written.get(name, 0.0))
  for name, seconds in written.items():
    if time.time() - seconds > temporary_files.ABANDONED_SECONDS and storage.is_writable(folder):
      storage.delete_folder(storage.join(folder, name))


def check_launch(config: VerificationConfig) -> None:
  """Checks all that needs no pass over the documents: fingerprints, sums, and missing or extra files.

  Raises WinnowError for the first difference.
  """
  manifest, sampling = config.manifest, config.sampling
  counts = manifest["counts"]
  selected = sum(shard["selected"] for shard in manifest["inputs"])
  _expect(counts["selected"], selected, "the inputs' selected do not add up")
  _expect(counts["selected"], sum(s["documents"] for s in manifest["shards"]), "the shards' documents do not add up")
  if manifest["tokens"]["selected"] is not None:
    tokens = sum(shard["tokens_selected"] for shard in manifest["inputs"])
    _expect(manifest["tokens"]["selected"], tokens, "the inputs' tokens do not add up")
  _expect([s["name"] for s in manifest["inputs"]], [shard.name for shard in config.shards], "the inputs differ")
  known = manifests.derived_fields(sampling, config.floor)
  claimed = {name: value for name, value in manifest.items() if name not in _NOT_KNOWN}
  if difference := fingerprints.first_difference(_without({"selected", "tokens_selected"}, claimed), known):
    field, in_manifest, by_scores = difference
    raise WinnowError(
      f"{manifests.MANIFEST_FILE}: {field} is {in_manifest}, but {by_scores} by {sampling.store.folder}"
    )
  names = [storage.base_name(sampling.shard_path(index, config.num_shards)) for index in range(config.num_shards)]
  _expect([shard["file"] for shard in manifest["shards"]], names, "the names of the shards differ")
  prefix = f"{sampling.name}-{tfds_metadata.SPLIT}"  # files with other names are not shards
  present = {name for name in storage.list_names(sampling.output) if name.startswith(prefix)}
  if extra := sorted(present - set(names)):
    path = storage.join(sampling.output, extra[0])
    raise WinnowError(f"{path} is not among the shards of {manifests.MANIFEST_FILE}")
  if FORMATS[sampling.output_format].is_tfds:
    for name, content in manifests.dataset_metadata(sampling, manifest).items():
      path = storage.join(sampling.output, name)
      if not storage.exists(path) or storage.read_bytes(path) != content:
        raise WinnowError(f"{path} is missing, or differs from what {manifests.MANIFEST_FILE} says about the dataset")


def stages(config: VerificationConfig) -> list[progress.Stage]:
  """Returns the stages of a verification, as users see them."""
  counts = config.manifest["counts"]
  selected, scored = (progress.Count(counts[name], is_exact=True) for name in ("selected", "scored"))
  return [
    progress.Stage(thresholds.SELECTING, scored, thresholds.SPEED),
    progress.Stage(_READING, selected, 30_000),
    progress.Stage(_RECOMPUTING, scored, 30_000),
  ]


def _without(names: set[str], value: Any) -> Any:
  """Returns a JSON value without the fields of these names."""
  if isinstance(value, dict):
    return {name: _without(names, inner) for name, inner in value.items() if name not in names}
  return [_without(names, item) for item in value] if isinstance(value, list) else value


def _expect(claimed: object, actual: object, message: str) -> None:
  if claimed != actual:
    raise WinnowError(f"{manifests.MANIFEST_FILE}: {message}: {claimed!r} is claimed, but {actual!r} found"[:600])


def check_output_shard(config: VerificationConfig, index: int) -> Iterator[tuple[str, Tally]]:
  """Reads one output shard back and yields its tallies by input shard.

  Raises WinnowError for a wrong checksum or count, and for a document in the wrong place.
  """
  sampling, claimed = config.sampling, config.manifest["shards"][index]
  path = sampling.shard_path(index, config.num_shards)
  if not storage.exists(path):
    raise WinnowError(f"{path} is missing")
  for field, actual in (("bytes", storage.size(path)), ("checksum", storage.checksum(path))):
    if claimed[field] != actual:
      raise WinnowError(f"{path}: {field} is {actual}, but {claimed[field]} in {manifests.MANIFEST_FILE}")
  documents, last = 0, np.uint64(0)
  tallies: dict[str, Tally] = {}
  for table in FORMATS[sampling.output_format].read(path):
    if not len(table):
      continue
    sources = table["source"].to_pylist()
    hash_N = np.empty(len(table), np.uint64)
    digest_N = digests(table, texts=config.texts)
    for shard, places in _by_shard(path, sources).items():
      rows_N = np.array([int(sources[place].rpartition("#")[2]) for place in places])
      hash_N[places] = hashing.hash_documents("place", sampling.request.seed, shard, rows_N)
      tally = Tally(len(places), sum(digest_N[place] for place in places))
      tallies[shard] = add_tallies([tallies.get(shard, Tally(0, 0)), tally])
    if (wrong := np.flatnonzero(hash_N % np.uint64(config.num_shards) != index)).size:
      raise WinnowError(f"{path}: {sources[wrong[0]]} belongs in another shard")
    if hash_N[0] < last or (wrong := np.flatnonzero(hash_N[1:] < hash_N[:-1])).size:
      raise WinnowError(f"{path}: {sources[wrong[0] + 1] if hash_N[0] >= last else sources[0]} is out of order")
    documents, last = documents + len(table), hash_N[-1]
    progress.report(config.progress_address, stage=_READING, documents=len(table))
  if documents != claimed["documents"]:
    count = f"{claimed['documents']:,}"
    raise WinnowError(f"{path} holds {documents:,} documents, but {count} by {manifests.MANIFEST_FILE}")
  yield from tallies.items()


def _by_shard(path: str, sources: list[str]) -> dict[str, list[int]]:
  places: dict[str, list[int]] = {}
  for place, source in enumerate(sources):
    shard, mark, row = source.rpartition("#")
    if not mark or not (row.isascii() and row.isdigit()) or len(row) > 18:
      raise WinnowError(f"{path}: {source!r} is not the source of a document, SHARD#ROW")
    places.setdefault(shard, []).append(place)
  return places


def selected_tables(config: VerificationConfig, stripe: stripes.Stripe) -> Iterator[pa.Table]:
  """Yields the selected documents of a stripe, complete if texts are compared, else only `source` and `score`."""
  sampling, shard = config.sampling, stripe.shard
  within = sampling.within(shard)
  with score_files.ScoreFile(sampling.store, shard) as scores:
    if config.texts:
      read = reading.read_blocks(shard, sampling.fields, block_rows=sampling.block_rows, want=stripe.holds)
      for block in read:
        if isinstance(block, blocks.Block):
          scores.refuse_other_documents(shard, block)
          scored = scores.block(block.index)
          yield writing.select_documents(sampling, shard.name, block, scored, within, floor=config.floor)[0]
          progress.report(config.progress_address, stage=_RECOMPUTING, documents=block.num_rows)
      return
    for index in filter(stripe.holds, range(len(scores.summary.block_rows))):
      table = scores.block(index)
      ranked = ranks.rank_rows(sampling.request, shard.name, table, within)
      above = table.filter(pa.array(ranked.are_wanted(config.floor, rejected=sampling.rejected)))
      sources = [f"{shard.name}#{row}" for row in above["row"].to_pylist()]
      yield pa.table({"source": pa.array(sources, pa.string()), "score": above["score"]})
      progress.report(config.progress_address, stage=_RECOMPUTING, documents=len(table))


def recompute(config: VerificationConfig, stripe: stripes.Stripe) -> Iterator[tuple[str, Tally]]:
  """Yields tallies of a stripe by the scores; the first stripe of a shard also checks the manifest's figures for it."""
  if stripe.index == 0:
    check_input_shard(config, stripe.shard)
  for table in selected_tables(config, stripe):
    digest_N = digests(table, texts=config.texts)
    yield stripe.shard.name, Tally(len(digest_N), sum(digest_N) % _MODULUS)


def check_input_shard(config: VerificationConfig, shard: blocks.Shard) -> None:
  """Compares the manifest's figures for one input shard with its scores, which are read completely."""
  sampling = config.sampling
  with score_files.ScoreFile(sampling.store, shard) as scores:
    summary = scores.check()
  (claimed,) = [entry for entry in config.manifest["inputs"] if entry["name"] == shard.name]
  actual: dict[str, Any] = {name: getattr(summary, name) for name in manifests.COUNTS}
  request, rejected = sampling.request, sampling.rejected
  selected = thresholds.count_selected(sampling.store, shard, request, config.floor, sampling.within, rejected=rejected)
  actual |= {"selected": selected.documents}
  if claimed["tokens_selected"] is not None:
    actual |= {"tokens_selected": selected.num_tokens}
  for name, value in actual.items():
    if claimed[name] != value:
      in_manifest = f"{claimed[name]:,} in {manifests.MANIFEST_FILE}"
      raise WinnowError(f"{shard.name}: {name} is {value:,} by its scores, but {in_manifest}")


def refuse_difference(config: VerificationConfig, shard_name: str, difference: Tally) -> None:
  """Raises WinnowError that names a document unless the tallies of an input shard cancel out."""
  if difference == Tally(0, 0):
    return
  shards = [shard for shard in config.shards if shard.name == shard_name]
  if not shards:
    raise WinnowError(f"the output holds documents of {shard_name}, which is not one of its inputs")
  expected: dict[str, int] = {}
  for table in selected_tables(config, stripes.Stripe(shards[0], 0, 1)):
    expected |= zip(table["source"].to_pylist(), digests(table, texts=config.texts), strict=True)
  seen = set()
  for index in range(config.num_shards):
    path = config.sampling.shard_path(index, config.num_shards)
    for table in FORMATS[config.sampling.output_format].read(path):
      for source, digest in zip(table["source"].to_pylist(), digests(table, texts=config.texts), strict=True):
        if source.rpartition("#")[0] != shard_name:
          continue
        if source in seen:
          raise WinnowError(f"{path}: {source} is there twice")
        seen.add(source)
        if source not in expected:
          raise WinnowError(f"{path}: {source} is there, but the scores do not select it")
        if expected[source] != digest:
          what = "its score, text, url or timestamp" if config.texts else "its score"
          raise WinnowError(f"{path}: {source} is not as it was: {what} differs")
  missing = next(source for source in expected if source not in seen)
  raise WinnowError(f"{missing} is selected by the scores, but in none of the output's shards")


def check_threshold(selected: search.Selected, config: VerificationConfig) -> None:
  """Compares a recomputed threshold with that of the manifest."""
  manifest, documents, num_tokens = config.manifest, selected.documents, selected.num_tokens
  if config.sampling.rejected:
    documents = manifest["counts"]["scored"] - documents
    num_tokens = (manifest["tokens"]["scored"] or 0) - num_tokens
  _expect(manifest["threshold"]["rank"], f"{selected.floor:032x}", "the threshold differs")
  _expect(manifest["counts"]["selected"], documents, "the threshold selects another number of documents")
  if manifest["tokens"]["selected"] is not None:
    _expect(manifest["tokens"]["selected"], num_tokens, "the threshold selects another number of tokens")


def _working(
  config: VerificationConfig, stage: str, tallies: Iterator[tuple[str, Tally]]
) -> Iterator[tuple[str, Tally]]:
  with progress.working(config.progress_address, stage):
    yield from tallies


class Verify(beam.PTransform):
  """Pipeline -> PCollection[None]: the pipeline fails with the first difference."""

  def __init__(self, config: VerificationConfig, all_stripes: list[stripes.Stripe]):
    super().__init__()
    self._config, self._stripes = config, all_stripes

  def expand(self, root: beam.Pipeline) -> beam.PCollection[None]:
    config, sampling = self._config, self._config.sampling
    ledger = root | "Ledger" >> reshuffle.One(sampling.store.ledger())
    known = ledger
    if sampling.limits is not None:
      ledger = ledger | "Limits" >> sampling.limits.settle(config.shards)
    _ = (
      ledger
      | "FindThreshold"
      >> thresholds.FindThreshold(
        sampling.store, sampling.request, config.shards, sampling.within, address=config.progress_address
      )
      | "CheckThreshold" >> beam.MapTuple(lambda _, selected: check_threshold(selected, config))
    )
    if sampling.asked is not None:
      claimed = config.manifest[cascades.FIELD]
      check_cascade = cascades.Check(
        claimed, sampling.asked, sampling.store, config.shards, address=config.progress_address
      )
      _ = root | "Cascade" >> check_cascade
    in_output = (
      known
      | "OutputShards" >> stripes.Spread(range(config.num_shards))
      | "ReadBack" >> beam.FlatMap(lambda index: _working(config, _READING, check_output_shard(config, index)))
    )
    wanted = (
      ledger  # with its limits settled, which are read
      | "Stripes" >> stripes.Spread(self._stripes)
      | "Recompute" >> beam.FlatMap(lambda stripe: _working(config, _RECOMPUTING, recompute(config, stripe)))
      | "Negate" >> beam.MapTuple(lambda shard, tally: (shard, -tally))
    )
    return (
      (in_output, wanted)
      | "Flatten" >> beam.Flatten()
      | "AddTallies" >> beam.CombinePerKey(add_tallies)
      | "Compare" >> beam.MapTuple(lambda shard, tally: refuse_difference(config, shard, tally))
    )
