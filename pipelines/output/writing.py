"""The steps of a sampling pass as plain functions: plan, select, write runs, merge them into output shards."""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import DamagedError, WinnowError
from curation.selection import hashing, search, selection
from pipelines.corpus import blocks, stripes
from pipelines.corpus.readers import reading
from pipelines.files import damage, fingerprints, storage
from pipelines.output.formats.registry import DEFAULT, FORMATS
from pipelines.selection import cascade, limits, ranks
from pipelines.sorted_runs import merging, run_files, run_writer
from pipelines.store import block_files, score_files, score_store
from pipelines.store.score_store import ScoreStore
from pipelines.worker import logs, prefetch, progress

OUTPUT_SHARD_BYTES = 200 << 20
# Every output shard reads from every run, and there are at least as many runs as input shards. Without a limit,
# requests to an object store would grow with the square of the corpus.
MOST_OUTPUT_SHARDS = 1_024
WORK_FOLDER = ".winnow"
SCORES_FILE = "scores.json"  # in the work folder: the place of the store from which the output was drawn
RUNS_FOLDER = "runs"


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """The sample to draw from a complete store, and its output. `num_shards` None: about 200 MB each, but at most 1,024.

  `fingerprint` is that of the whole request. Before the output is complete, files are written to a folder named by it
  and by the engine of the scores. So files of another run that still writes are never used by mistake.
  """

  store: ScoreStore
  request: selection.SelectionRequest
  fields: blocks.Fields
  block_rows: int
  output: str
  name: str
  fingerprint: str
  num_shards: int | None = None
  output_format: str = DEFAULT
  rejected: bool = False
  """Whether to write the documents that the request rejects instead of those that it selects."""
  progress_address: progress.Address | None = None
  asked: cascade.Asked | None = None
  """The cascade that chose the documents of the store; None if there was none."""
  work: str | None = None
  """The folder for files from before the output is complete; None: a folder in the output."""

  @property
  def stages(self) -> tuple[str, str]:
    """The titles for users of collecting documents from the input, and of writing them to output shards."""
    what = "rejected documents" if self.rejected else "the sample"
    return f"collecting {what}", f"writing {what}"

  @property
  def selected_counter(self) -> str:
    """Returns the name of the documents that are written, in Beam's metrics."""
    return "documents_rejected" if self.rejected else "documents_selected"

  @property
  def work_folder(self) -> str:
    return storage.join(self.output, WORK_FOLDER) if self.work is None else self.work

  @property
  def limits(self) -> limits.Limits | None:
    folder = storage.join(self.work_folder, RUNS_FOLDER)
    return limits.make_limits(self.store, self.request, self.output, folder, self.fingerprint)

  def within(self, shard: blocks.Shard) -> ranks.Within:
    """Reads which documents of a shard are within the limits."""
    return None if self.limits is None else self.limits.within(shard)

  def runs_folder(self, engine: str) -> str:
    """Returns the folder of run files from the scores of an engine."""
    return storage.join(self.work_folder, RUNS_FOLDER, fingerprints.fingerprint([self.fingerprint, engine])[:16])

  def run_path(self, stripe: stripes.Stripe, engine: str) -> str:
    """Returns the path of a stripe's run file."""
    return storage.join(self.runs_folder(engine), f"{stripe.file_name}.run")

  def shard_record_path(self, index: int, engine: str) -> str:
    """Returns the path of the record that an output shard is done."""
    return storage.join(self.runs_folder(engine), f"{index:05d}.json")

  def shard_path(self, index: int, num_shards: int) -> str:
    """Returns the path of an output shard."""
    return storage.join(self.output, FORMATS[self.output_format].file_name(self.name, index, num_shards))


def scores_place(store: str, output: str) -> str:
  """Returns the place of an output's scores for `SCORES_FILE`, relative if both are on one disk or in one bucket."""
  (store_volume, path), (output_volume, start) = _volume(store), _volume(output)
  if store_volume != output_volume:
    return store
  place = os.path.relpath(path, start)
  if not store_volume and os.path.realpath(os.path.join(os.path.realpath(start), place)) != os.path.realpath(path):
    return os.path.relpath(os.path.realpath(path), os.path.realpath(start))  # the output is reached through a link
  return place


def scores_folder(place: str, output: str) -> str:
  """Returns the folder of the store for a result of `scores_place`."""
  volume, path = _volume(output)
  if "://" in place:
    return place
  if not volume and os.path.isdir(folder := os.path.normpath(os.path.join(os.path.realpath(path), place))):
    return folder
  return volume + os.path.normpath(os.path.join(path, place))


def _volume(folder: str) -> tuple[str, str]:
  """Returns a disk ('') or a bucket ('gs://bucket'), and the absolute path in it."""
  if storage.is_local(folder):
    return "", os.path.abspath(folder)
  scheme, _, rest = folder.partition("://")
  bucket, _, path = rest.partition("/")
  return f"{scheme}://{bucket}", f"/{path}"


def count_folder(output: str) -> str:
  """Returns the folder in which a random sample without a score store counts its input."""
  return storage.join(output, WORK_FOLDER, "count")


class Plan(NamedTuple):
  """The selected documents, the number of output shards, and the fingerprint of the engine of the scores."""

  selected: search.Selected
  num_shards: int
  engine: str


class RunCounts(NamedTuple):
  """The counts of the selected documents of one stripe."""

  shard: str
  selected: int
  num_tokens: int


@dataclasses.dataclass(frozen=True, order=True)
class OutputShard:
  """One finished output shard."""

  index: int
  documents: int
  bytes: int
  checksum: str


def plan_output(selected: search.Selected, ledger: score_store.Ledger, config: SamplingConfig) -> Plan:
  """Decides the number of output shards, and claims the output for these scores.

  Raises WinnowError if nothing is selected, or if the output belongs to the scores of another engine.
  """
  engine = fingerprints.read_json(config.store.engine_path)
  fingerprints.claim(
    storage.join(config.work_folder, fingerprints.ENGINE_FILE), engine, owner=f"the output {config.output}"
  )
  if config.rejected:
    num_tokens = 0 if ledger.num_tokens is None else ledger.num_tokens - selected.num_tokens
    selected = search.Selected(ledger.documents - selected.documents, num_tokens, selected.floor)
  if not selected.documents:
    advice = "leave --rejected out" if config.rejected else "lower --threshold, or raise --num_tokens"
    raise WinnowError(f"the request {'rejects' if config.rejected else 'selects'} no document; {advice}")
  text_bytes = ledger.text_bytes * selected.documents / ledger.documents
  num_shards = config.num_shards or min(max(1, math.ceil(text_bytes / OUTPUT_SHARD_BYTES)), MOST_OUTPUT_SHARDS)
  return Plan(selected, num_shards, fingerprints.fingerprint(engine))


def select_documents(
  config: SamplingConfig, shard: str, block: blocks.Block, scores: pa.Table, within: ranks.Within, *, floor: int
) -> tuple[pa.Table, int]:
  """Returns the selected documents of one block with `source` and `score`, and the number of their tokens.

  Joins by position; raises WinnowError unless every scored row is a good row of the block.
  """
  ranked = ranks.rank_rows(config.request, shard, scores, within)
  document_rows_N = block.documents["row"].to_numpy()
  place_N = np.searchsorted(document_rows_N, ranked.rows)
  if not np.array_equal(document_rows_N[np.minimum(place_N, len(document_rows_N) - 1)], ranked.rows):
    raise WinnowError(f"{shard}, block {block.index}: its rows are not those that were scored; score the input again")
  wanted_N = ranked.are_wanted(floor, rejected=config.rejected)
  documents = block.documents.take(pa.array(place_N[wanted_N]))
  sources = pc.binary_join_element_wise(shard, documents["row"].cast(pa.string()), "#")
  table = documents.append_column("source", sources).append_column("score", scores["score"].filter(pa.array(wanted_N)))
  return table, 0 if ranked.num_tokens is None else int(ranked.num_tokens[wanted_N].sum(dtype=np.int64))


def write_run(config: SamplingConfig, stripe: stripes.Stripe, plan: Plan) -> Iterator[tuple[int, RunCounts | None]]:
  """Writes the selected documents of a stripe to its run file, sorted by (output shard, hash).

  Yields (documents read, None) for each block and at last (0, the counts), which the header of the run keeps for a
  resumed run.
  """
  path, shard, store = config.run_path(stripe, plan.engine), stripe.shard, config.store
  if not damage.is_whole(config.output, path, run_writer.check):
    num_tokens = documents = 0
    within = config.within(shard)
    with (
      block_files.removing_damaged(store, shard),
      score_files.ScoreFile(store, shard) as scores,
      storage.create_file(path) as file,
      run_writer.RunWriter(num_shards=plan.num_shards) as writer,
    ):
      read = reading.read_blocks(stripe.shard, config.fields, block_rows=config.block_rows, want=stripe.holds)
      for block in prefetch.prefetch(read, ahead=1):
        if isinstance(block, blocks.SkippedBlock):
          continue
        scores.refuse_other_documents(shard, block)
        scored = scores.block(block.index)
        selected, tokens = select_documents(config, shard.name, block, scored, within, floor=plan.selected.floor)
        hash_N = hashing.hash_documents("place", config.request.seed, shard.name, selected["row"].to_numpy())
        shard_N = (hash_N % np.uint64(plan.num_shards)).astype(np.uint32)
        writer.add(shard_N, hash_N, FORMATS[config.output_format].encode(selected))
        documents += len(hash_N)
        num_tokens += tokens
        yield block.num_rows - block.not_read, None
      writer.finish(file, {"documents": documents, "num_tokens": num_tokens})
    logs.info("run_done", shard=shard.name, stripe=stripe.file_name, selected=documents)
  else:
    rows = enumerate(score_files.read_summary(store, shard).block_rows)
    resumed = sum(num_rows for index, num_rows in rows if stripe.holds(index))
    progress.report(config.progress_address, stage=config.stages[0], resumed=resumed)
  yield 0, run_counts(config, stripe, plan)


def run_counts(config: SamplingConfig, stripe: stripes.Stripe, plan: Plan) -> RunCounts:
  """Reads the counts of a stripe's run file, which is on record."""
  path = config.run_path(stripe, plan.engine)
  with storage.open_input(path) as file:
    header = run_files.RunReader(file, path).header
  return RunCounts(stripe.shard.name, header["documents"], header["num_tokens"])


def write_shard(config: SamplingConfig, index: int, plan: Plan, all_stripes: Iterable[stripes.Stripe]) -> OutputShard:
  """Merges the ranges of one output shard from all runs into its file, in the order of the documents' hashes.

  A record beside the runs marks the shard as done. A file without a record may belong to another run, so it is
  compared.
  """
  path, record = config.shard_path(index, plan.num_shards), config.shard_record_path(index, plan.engine)
  is_on_record = storage.exists(record)  # checked first, since another run may write it meanwhile
  done = fingerprints.read_sealed(record) if is_on_record else None
  if is_on_record and done is None:
    damage.remove(config.output, record, DamagedError(f"{record} is damaged"))
  elif done is not None and storage.exists(path):
    if storage.checksum(path) == done["checksum"]:
      progress.report(config.progress_address, stage=config.stages[1], resumed=done["documents"])
      return OutputShard(**done)
    damage.remove(config.output, path, DamagedError(f"{path} does not fit the checksum in {record}"))
  documents = 0

  def counted(readers: Iterator[run_files.RunReader]) -> Iterator[run_files.RunReader]:
    nonlocal documents
    for reader in readers:
      documents += reader.counts[index]
      yield reader

  def reported(batches: Iterator[merging.Batch]) -> Iterator[merging.Batch]:
    for batch in batches:
      yield batch
      progress.report(config.progress_address, stage=config.stages[1], documents=len(batch[0]))

  try:
    with (
      run_writer.opened(config.run_path(stripe, plan.engine) for stripe in all_stripes) as readers,
      storage.create_file(path, must_agree=True) as file,
    ):
      written = FORMATS[config.output_format].write(reported(run_writer.merge_shard(counted(readers), index)), file)
      if written != documents:
        raise WinnowError(f"{path}: {written:,} of {documents:,} documents were written; run the command again")
  except FileNotFoundError as error:
    raise WinnowError(
      f"{error.filename or error} has vanished: another run has ended or started over there; run this command again"
    ) from error
  shard = OutputShard(index, documents, storage.size(path), storage.checksum(path))
  storage.create(record, fingerprints.sealed(dataclasses.asdict(shard)))
  logs.info("output_shard_done", path=path, documents=documents, bytes=shard.bytes)
  return shard


def read_shard_record(config: SamplingConfig, index: int, plan: Plan) -> OutputShard:
  """Reads the record of an output shard that another part has written. Raises DamagedError."""
  record = config.shard_record_path(index, plan.engine)
  done = fingerprints.read_sealed(record)
  if done is None:
    raise DamagedError(f"{record} is damaged, or has vanished; run the same command again")
  return OutputShard(**done)
