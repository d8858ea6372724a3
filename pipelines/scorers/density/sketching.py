"""One RACE sketch of a whole store of embeddings: partial sketches by group, merged slice by slice (paper 3.2).

A runner flushes what a combiner holds at the end of each bundle, and an accumulator of 80 MB must not travel so often.
So a worker counts a fixed group of blocks into one partial sketch, which it writes to a durable file. Only the path of
that file crosses the shuffle, once for each slice of rows, and a CombineFn adds up one slice of all partial sketches at
a time. The result is one file, which each process of the scoring workers loads once. Beside it lie the kernel, chosen
from a sample of the documents, and figures of how well the density distinguishes documents.

STORE/sketch/kernel.json          the sketch's configuration, first writer wins
             work/                partial sketches and merged slices, until the store is complete
             sketch.safetensors   the counts
             diagnostics.json     how well the density distinguishes documents
"""

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from curation.coverage import race
from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import blocks, fixed_width
from pipelines.files import damage, fingerprints, row_bits, sealed_arrays, storage
from pipelines.scorers import work_files
from pipelines.scorers.density.scorer import Density
from pipelines.scoring import stored_blocks
from pipelines.scoring.preparation import PreparationConfig
from pipelines.store import score_files
from pipelines.store.groups import COARSE, Group, GroupPlan, GroupSizes
from pipelines.worker import logs, memory, prefetch, progress

# As users see them.
SKETCHING, CHECKING = "building the density sketch", "checking the density sketch"
FOLDER = "sketch"  # in the store of densities
SKETCH_FILE, KERNEL_FILE, DIAGNOSTICS_FILE = "sketch.safetensors", "kernel.json", "diagnostics.json"
_SLICE_COUNTERS = 1 << 19
SAMPLED, _HELD_OUT = 5_000, 1_000
SAMPLE_PURPOSE = "sketch sample"  # of the hashes by which documents are sampled
_BATCH_ROWS = 1 << 18
_OTHER_HASHES = (
  "{} was made with other hashes than here: go on with the versions of Winnow and SciPy that it was begun with, the "
  "same on all workers, or delete {} and run the command again"
)
# A process counts one group at a time, whose sketch uses all cores: its threads share one sketch of 80 MB.
_TURN = threading.Lock()


@dataclasses.dataclass(frozen=True)
class SketchConfig(PreparationConfig):
  """A store of embeddings, and the store of densities that is made from it."""

  scorer: Density
  # A partial sketch takes 80 MB however few documents it counts: counting a group takes a core longer than writing it.
  groups: GroupSizes = COARSE

  @property
  def embeddings(self) -> stored_blocks.StoredEmbeddings:
    return self.scorer.embeddings

  def path(self, name: str) -> str:
    return storage.join(self.store.path(FOLDER), name)

  def work_path(self, what: Any) -> str:
    return storage.join(self.store.path(FOLDER), "work", f"{fingerprints.fingerprint(what)}.safetensors")


class RowsOf(NamedTuple):
  """Some rows of the sketch in a file."""

  path: str
  start: int
  stop: int


class Chosen(NamedTuple):
  """The sketch's configuration, the checksum of its hashes, and the fingerprint of its embeddings."""

  config: race.SketchConfig
  hashes: str
  embeddings: str


class Sampled(NamedTuple):
  """Documents with the smallest hashes: their hashes uint64 [N], numbers of shards int64 [N], and rows int64 [N]."""

  hashes: np.ndarray
  shards: np.ndarray
  rows: np.ndarray

  def smallest(self, count: int) -> "Sampled":
    order_N = np.argsort(self.hashes, kind="stable")[:count]
    return Sampled(*(column[order_N] for column in self))


def stages(config: SketchConfig, count: progress.Count | None) -> list[progress.Stage]:
  """Returns the stages of building the sketch as users see them; none if it exists."""
  if storage.exists(config.path(SKETCH_FILE)):
    return []
  return [
    progress.Stage(SKETCHING, count, config.scorer.speed),
    progress.Stage(CHECKING, progress.Count(0, is_exact=False)),
  ]


def plan_groups(config: SketchConfig) -> list[Group]:
  """Returns the groups of a complete store of embeddings, which follow from its documents alone.

  Returns no groups once the sketch is on record.
  """
  if _is_whole_sketch(config, config.path(SKETCH_FILE)):
    return []
  if (documents := config.embeddings.documents()) > race.MAX_POINTS:
    raise WinnowError(f"a sketch holds at most {race.MAX_POINTS:,} documents, and there are {documents:,}")
  store = config.embeddings.store
  return [group for _, group in GroupPlan.for_store(store, config.groups).groups()]


def sketch_group(config: SketchConfig, group: Group, chosen: Chosen) -> str:
  """Counts a group into its partial sketch, unless that is on record; returns its path."""
  shards, path = config.shards, group_path(config, group, chosen)
  if _is_whole_sketch(config, path):
    progress.report(
      config.progress_address, stage=SKETCHING, resumed=stored_blocks.documents_of(config.embeddings, group)
    )
    return path

  def embeddings() -> Iterator[np.ndarray]:
    for shard, first, stop in group.parts:
      wanted = range(first, stop)
      for block in config.embeddings.read(shards[shard], wanted.__contains__):
        if isinstance(block, blocks.Block):
          yield fixed_width.array(block.documents["embedding"], config.embeddings.dtype)

  memory.return_large_arrays()
  with _TURN, progress.working(config.progress_address, SKETCHING):
    sketch = race.Sketch(chosen.config)
    if sketch.hashes.checksum() != chosen.hashes:
      raise WinnowError(_OTHER_HASHES.format(config.path(KERNEL_FILE), config.store.path(FOLDER)))
    for embeddings_ND in prefetch.prefetch(embeddings(), ahead=2):
      sketch.add(embeddings_ND)
      progress.report(config.progress_address, stage=SKETCHING, documents=len(embeddings_ND))
    with storage.create_file(path, must_agree=True) as file:
      race.save(sketch, file)
  logs.info("group_done", path=path, documents=sketch.num_points)
  return path


def group_path(config: SketchConfig, group: Group, chosen: Chosen) -> str:
  """Returns the path of a group's partial sketch."""
  parts = [(config.shards[shard].identity(), first, stop) for shard, first, stop in group.parts]
  return config.work_path([parts, chosen.config.to_json(), chosen.hashes, chosen.embeddings])


def slice_path(config: SketchConfig, rows: tuple[int, int], chosen: Chosen) -> str:
  """Returns the path of merged rows of all partial sketches."""
  return config.work_path([rows, chosen.config.to_json(), chosen.hashes, chosen.embeddings])


def points_path(config: SketchConfig, shard: int) -> str:
  """Returns the path of a shard's part of the sample."""
  embeddings = config.embeddings.fingerprint_with_engine()
  return config.work_path(["sample", config.shards[shard].identity(), embeddings, config.scorer.seed])


def _is_whole_sketch(config: SketchConfig, path: str) -> bool:
  """Tells whether a sketch, or a partial one, is on record."""

  def check(path: str) -> None:
    with storage.open_input(path, buffer_bytes=4 << 20) as file:
      race.SketchFile(file, path).check()

  return damage.is_whole(config.store.folder, path, check)


def slices_of(config: race.SketchConfig) -> Iterator[tuple[int, int]]:
  """Yields ranges of rows of about 2 MB."""
  step = max(1, _SLICE_COUNTERS // config.counters)
  for start in range(0, config.rows, step):
    yield start, min(start + step, config.rows)


class MergeRowsFn(beam.CombineFn):
  """Adds up the same rows of several sketches: RowsOf -> int32 [rows, B]. An accumulator is such counts, or None."""

  def create_accumulator(self) -> np.ndarray | None:
    return None

  def add_input(self, counts_RB: np.ndarray | None, rows: RowsOf) -> np.ndarray | None:
    return self.merge_accumulators([counts_RB, read_rows(rows)])

  def merge_accumulators(self, many: Iterable[np.ndarray | None]) -> np.ndarray | None:
    total_RB = None
    for counts_RB in many:
      if total_RB is None:
        total_RB = counts_RB
      elif counts_RB is not None:
        total_RB += counts_RB
    return total_RB

  def extract_output(self, counts_RB: np.ndarray | None) -> np.ndarray | None:
    return counts_RB


def read_rows(rows: RowsOf) -> np.ndarray:
  """Reads counts of some rows: int32 [stop - start, B]."""
  with storage.open_input(rows.path, buffer_bytes=4 << 20) as file:
    return race.SketchFile(file, rows.path).rows(rows.start, rows.stop)


def write_slice(
  config: SketchConfig, rows: tuple[int, int], counts_RB: np.ndarray, chosen: Chosen
) -> tuple[tuple[int, int], str]:
  """Writes merged rows; returns their range and their path."""
  path = slice_path(config, rows, chosen)
  if not work_files.has_arrays(config.store, path, 1):
    sealed_arrays.write(path, counts_RB)
  return rows, path


def assemble(config: SketchConfig, slices: list[tuple[tuple[int, int], str]], chosen: Chosen, num_points: int) -> str:
  """Puts merged rows together into the sketch, unless it is on record; returns its path."""
  path = config.path(SKETCH_FILE)
  if not storage.exists(path):
    sketch = race.Sketch(chosen.config, num_points=num_points)
    for (start, stop), slice_path in slices:
      (sketch.counts_RB[start:stop],) = sealed_arrays.read(slice_path, 1)
    with storage.create_file(path, must_agree=True) as file:
      race.save(sketch, file)
  return path


def load_sketch(config: SketchConfig, chosen: Chosen, num_points: int) -> race.Sketch:
  """Loads the finished sketch. Raises WinnowError if it is damaged, or of other embeddings."""
  path = config.path(SKETCH_FILE)
  with storage.open_input(path, buffer_bytes=4 << 20) as file:
    sketch_file = race.SketchFile(file, path)
    if (sketch_file.config, sketch_file.num_points) != (chosen.config, num_points):
      raise WinnowError(f"{path} is the sketch of something else; delete {config.store.path(FOLDER)} and run again")
    return sketch_file.load()


def sample_rows(config: SketchConfig, shard: int) -> Iterator[Sampled]:
  """Yields, for each batch of a shard's embedded documents, those with the smallest hashes."""
  about, survivors = config.shards[shard], config.embeddings.survivors
  kept = None if survivors is None else survivors.kept(about)
  with score_files.ScoreFile(config.embeddings.store, about) as file:
    for batch in file.batches(_BATCH_ROWS):
      rows_N = batch["row"].to_numpy()
      rows_N = rows_N if kept is None else rows_N[row_bits.look_up(kept, rows_N)]
      hashes_N = hashing.hash_documents(SAMPLE_PURPOSE, config.scorer.seed, about.name, rows_N)
      yield Sampled(hashes_N, np.full(len(rows_N), shard), rows_N).smallest(SAMPLED)


def merge_sampled(many: Iterable[Sampled]) -> Sampled:
  """Returns the documents with the smallest hashes. It is a combiner's function, so it also gets its own results."""
  total = Sampled(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
  for sampled in many:
    total = Sampled(*(np.concatenate(pair) for pair in zip(total, sampled, strict=True))).smallest(SAMPLED)
  return total


def by_shard(sampled: Sampled) -> Iterator[tuple[int, Sampled]]:
  for shard in np.unique(sampled.shards):
    yield int(shard), Sampled(*(column[sampled.shards == shard] for column in sampled))


def write_points(config: SketchConfig, shard: int, sampled: Sampled) -> str:
  """Writes hashes and embeddings of some documents of a shard; returns the path.

  The sample is in files and not in elements: it is 8 MB or more, and several stages have it as a side input.
  """
  about, embeddings = config.shards[shard], config.embeddings
  path = points_path(config, shard)
  if work_files.has_arrays(config.store, path, 2):
    return path
  summary = score_files.read_summary(embeddings.store, about)
  starts = np.cumsum([0, *summary.block_rows])
  blocks_N = np.searchsorted(starts, sampled.rows, side="right") - 1
  hashes, points = [], []
  for index in np.unique(blocks_N):
    documents = embeddings.block(about, summary, int(index)).documents
    here_N = np.flatnonzero(blocks_N == index)
    places_N = np.searchsorted(documents["row"].to_numpy(), sampled.rows[here_N])
    hashes.append(sampled.hashes[here_N])
    points.append(fixed_width.array(documents["embedding"], embeddings.dtype)[places_N])
  sealed_arrays.write(path, np.concatenate(hashes), np.concatenate(points))
  return path


def read_points(config: SketchConfig, paths: list[str]) -> np.ndarray:
  """Reads the sample in the order of its hashes: float32 [N, D]."""
  config.embeddings.refuse_none(paths)
  hashes, points = zip(*(sealed_arrays.read(path, 2) for path in paths), strict=True)
  return np.concatenate(points)[np.argsort(np.concatenate(hashes))].astype(np.float32)


def choose(config: SketchConfig, sample: list[str]) -> Chosen:
  """Chooses from the sample what the request leaves open in the configuration; the first writer decides for all."""
  from curation.coverage import density  # imported here, because its libraries take a while to load

  scorer, sample_ND = config.scorer, read_points(config, sample)
  try:
    kernel = density.choose_kernel(sample_ND, name=scorer.kernel, hashes=scorer.hashes, bandwidth=scorer.bandwidth)
    sketch = race.SketchConfig(sample_ND.shape[1], kernel, scorer.rows, scorer.counters, seed=scorer.seed)
    hashes = race.Hashes(sketch).checksum()
  except WinnowError as error:  # the folder is claimed by now
    raise WinnowError(f"{error}, with --overwrite") from error
  embeddings = config.embeddings.fingerprint_with_engine()
  path = config.path(KERNEL_FILE)
  found = {"config": sketch.to_json(), "hashes": hashes, "embeddings": embeddings}
  storage.create(path, fingerprints.to_json(found))
  kept = fingerprints.read_json_or_none(path)
  if not isinstance(kept, dict) or kept.get("embeddings") != embeddings:
    raise WinnowError(
      f"{path} is damaged, or of other embeddings; delete {config.store.path(FOLDER)} and run the command again"
    )
  if kept["config"] == found["config"] and kept["hashes"] != found["hashes"]:
    raise WinnowError(_OTHER_HASHES.format(path, config.store.path(FOLDER)))
  return Chosen(race.SketchConfig.from_json(kept["config"]), kept["hashes"], embeddings)


def diagnose(config: SketchConfig, chosen: Chosen, num_points: int, sample: list[str]) -> dict[str, Any]:
  """Writes how well the density distinguishes documents: the finished sketch, and a sample against exact sums."""
  from curation.coverage import density

  points_ND, about = read_points(config, sample), chosen.config
  held_out = min(_HELD_OUT, len(points_ND) // 5)
  with progress.working(config.progress_address, CHECKING):
    found = {"sketch": density.resolution(load_sketch(config, chosen, num_points), points_ND)}
    if held_out > 1:
      held_out_MD, sample_ND = points_ND[:held_out], points_ND[held_out:]
      found["sample"] = density.diagnose(
        about.kernel, about.rows, about.counters, about.seed, sample_ND, held_out_MD, num_points
      )
  storage.create(config.path(DIAGNOSTICS_FILE), fingerprints.to_json(found))
  return found
