"""Centroids of a whole store of embeddings, and the figures of the finished clusters.

Hashes pick the sample that centroids are trained on, so it does not depend on who reads it. A worker writes the part of
the sample in a fixed group of blocks to a durable file, and one worker reads these files and trains. Further iterations
over all documents are unrolled passes. In each, a worker assigns a group to the centroids in a file, and writes its
sums to a durable file. Only the paths of these files cross the shuffle. Sixteen files are merged at a time, then the
results. Sums are exact, so their order does not matter.

STORE/centroids/centroids.safetensors  the centroids, first writer wins
                diagnostics.json       sizes of the clusters, inertia, how centroids were trained; written last
                work/                  samples, sums and earlier centroids, until the store is complete
"""

import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from curation.coverage import centroid_files, cluster_diagnostics, kmeans
from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import blocks, fixed_width
from pipelines.files import damage, fingerprints, sealed_arrays, storage
from pipelines.runners import sharing
from pipelines.scorers import work_files
from pipelines.scorers.clusters import centroids
from pipelines.scorers.clusters.scorer import Cluster
from pipelines.scoring import stored_blocks
from pipelines.scoring.preparation import PreparationConfig
from pipelines.store import score_files
from pipelines.store.groups import COARSE, Group, GroupPlan, GroupSizes, Numbered
from pipelines.worker import logs, memory, prefetch, progress, reshuffle

SAMPLING, TRAINING = "sampling for clusters", "training cluster centroids"  # as users see them
FOLDER = "centroids"  # in the store of clusters
CENTROIDS_FILE, DIAGNOSTICS_FILE = "centroids.safetensors", "diagnostics.json"
_BATCH_ROWS = 1 << 18
_READ_SECOND = 200_000  # embeddings, by one core
# A process works on one group at a time, whose products use all cores: its threads share one set of sums.
_TURN = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ClusteringConfig(PreparationConfig):
  """A store of embeddings, and the store of clusters that is made from it."""

  scorer: Cluster
  # Sums take 8 * K * D bytes however few documents they cover, and a group's sample 1.5 KB a document.
  groups: GroupSizes = COARSE
  merged_at_once: int = 16

  @property
  def embeddings(self) -> stored_blocks.StoredEmbeddings:
    return self.scorer.embeddings

  @property
  def fingerprint(self) -> str:
    """The fingerprint of the centroids: it covers the request, and the embeddings as they were computed."""
    return fingerprints.fingerprint([self.store.method, self.embeddings.fingerprint_with_engine()])

  def path(self, name: str) -> str:
    return storage.join(self.store.path(FOLDER), name)

  def work_path(self, what: Any) -> str:
    name = fingerprints.fingerprint([self.fingerprint, what])
    return storage.join(self.store.path(FOLDER), "work", name)

  def centroids_path(self, iteration: int) -> str:
    """Returns the path of the centroids after so many iterations over all documents."""
    is_last = iteration == self.scorer.config.lloyd_iterations
    return self.path(CENTROIDS_FILE) if is_last else self.work_path(["centroids", iteration])


def stages(config: ClusteringConfig, count: progress.Count | None) -> list[progress.Stage]:
  """Returns the stages of training as users see them; none if it is done."""
  if storage.exists(config.path(CENTROIDS_FILE)):
    return []
  about, passes = config.scorer.config, range(1, config.scorer.config.lloyd_iterations + 1)
  of_all = 1.0 if count is None else min(1.0, about.clusters * about.points_per_cluster / max(1, count.documents))
  training = progress.PRODUCTS / about.clusters / about.iterations / of_all
  return [
    progress.Stage(SAMPLING, count, _READ_SECOND),
    progress.Stage(TRAINING, count, training),
    *(progress.Stage(_refining(config, number), count, config.scorer.speed) for number in passes),
  ]


def _refining(config: ClusteringConfig, iteration: int) -> str:
  return f"refining centroids, pass {iteration} of {config.scorer.config.lloyd_iterations}"


def plan_groups(config: ClusteringConfig) -> list[Numbered]:
  """Returns the groups of a complete store of embeddings, which follow from its documents alone.

  Returns no groups once centroids are on record. Raises WinnowError if there are fewer documents than clusters.
  """
  if _is_whole(config, config.path(CENTROIDS_FILE)):
    return []
  config.scorer.config.check_points(config.embeddings.documents())
  store = config.embeddings.store
  return GroupPlan.for_store(store, config.groups).groups()


def read_group(config: ClusteringConfig, group: Group) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Yields the shard's name, rows int64 [N] and embeddings [N, D] of each block of a group."""
  shards = config.shards
  for place, first, stop in group.parts:
    shard, wanted = shards[place], range(first, stop)
    for block in config.embeddings.read(shard, wanted.__contains__):
      if isinstance(block, blocks.Block) and len(block.documents):
        embeddings_ND = fixed_width.array(block.documents["embedding"], config.embeddings.dtype)
        yield shard.name, block.documents["row"].to_numpy(), embeddings_ND


def write_sample(config: ClusteringConfig, numbered: Numbered, documents: int) -> tuple[int, str]:
  """Writes a group's part of the sample, float16 [N, D] in order; returns the group's number and the path."""
  path = _sample_path(config, numbered.group)
  if work_files.has_arrays(config.store, path, 1):
    resumed = stored_blocks.documents_of(config.embeddings, numbered.group)
    progress.report(config.progress_address, stage=SAMPLING, resumed=resumed)
    return numbered.number, path
  about, parts = config.scorer.config, []
  limit = np.uint64(about.sample_limit(documents))
  with progress.working(config.progress_address, SAMPLING):
    for shard, rows_N, embeddings_ND in prefetch.prefetch(read_group(config, numbered.group), ahead=2):
      is_sampled_N = hashing.hash_documents("kmeans sample", about.seed, shard, rows_N) <= limit
      parts.append(embeddings_ND[is_sampled_N].astype(np.float16))
      progress.report(config.progress_address, stage=SAMPLING, documents=len(rows_N))
  sealed_arrays.write(path, np.concatenate(parts) if parts else np.empty((0, 0), np.float16))
  return numbered.number, path


def train(config: ClusteringConfig, samples: list[tuple[int, str]]) -> str:
  """Trains centroids on the sample, unless they are on record; returns their path."""
  path = config.centroids_path(0)
  if _is_whole(config, config.path(CENTROIDS_FILE)) or _is_whole(config, path):
    return path
  memory.return_large_arrays()
  parts = [part_ND for _, path in sorted(samples) for part_ND in sealed_arrays.read(path, 1) if len(part_ND)]
  config.embeddings.refuse_none(parts)
  sample_ND = np.empty((sum(map(len, parts)), parts[0].shape[1]), np.float16)
  place = len(sample_ND)
  while parts:  # each is freed as soon as it is copied
    part_ND = parts.pop()
    sample_ND[place - len(part_ND) : place] = part_ND
    place -= len(part_ND)
  with progress.working(config.progress_address, TRAINING):
    trained = kmeans.train(sample_ND, config.scorer.config)
  _write_centroids(config, path, trained.centroids_KD, trained.training)
  logs.info("centroids_trained", path=path, points=len(sample_ND), inertia=trained.training["inertia"][-1:])
  return path


def sum_group(config: ClusteringConfig, numbered: Numbered, centroids_path: str, *, iteration: int) -> tuple[int, str]:
  """Assigns a group to centroids and writes its sums, unless they exist; returns a key to merge by, and a path."""
  held = centroids.load_centroids(centroids_path)
  path = _sums_path(config, numbered.group, centroids_path)
  report = functools.partial(progress.report, config.progress_address, stage=_refining(config, iteration))
  if work_files.has_arrays(config.store, path, 3):
    report(resumed=stored_blocks.documents_of(config.embeddings, numbered.group))
  else:
    memory.return_large_arrays()
    with _TURN, progress.working(config.progress_address, _refining(config, iteration)):
      sums = kmeans.Sums.empty(*held.file.centroids_KD.shape)
      for _, _, embeddings_ND in prefetch.prefetch(read_group(config, numbered.group), ahead=2):
        sums.add(embeddings_ND, held.centroids.assign(embeddings_ND))
        report(documents=len(embeddings_ND))
      sealed_arrays.write(path, *vars(sums).values())
  return numbered.number // config.merged_at_once, path


def merge_sums(config: ClusteringConfig, paths: Iterable[str]) -> str:
  """Adds up the sums in some files, and writes them to another unless that is on record; returns its path."""
  paths = sorted(paths)
  path = _merged_path(config, paths)
  if not work_files.has_arrays(config.store, path, 3):
    sealed_arrays.write(path, *vars(_merged(paths)).values())
  return path


def move_centroids(config: ClusteringConfig, iteration: int, before: str, paths: list[str]) -> str:
  """Moves centroids to the means of their clusters, unless the result is on record; returns its path."""
  path = config.centroids_path(iteration)
  if _is_whole(config, config.path(CENTROIDS_FILE)) or _is_whole(config, path):
    return path
  file, sums = centroids.load_centroids(before).file, _merged(paths)
  told = [*file.training.get("lloyd_inertia", []), sums.inertia]
  _write_centroids(config, path, sums.centroids(file.centroids_KD), file.training | {"lloyd_inertia": told})
  logs.info("centroids_moved", path=path, iteration=iteration, inertia=sums.inertia)
  return path


def _write_centroids(config: ClusteringConfig, path: str, centroids_KD: np.ndarray, training: dict[str, Any]) -> None:
  with storage.create_file(path) as file:
    centroid_files.save(centroid_files.CentroidFile(centroids_KD, config.fingerprint, training), file)


def _merged(paths: list[str]) -> kmeans.Sums:
  total = kmeans.Sums(*sealed_arrays.read(paths[0], 3))
  for path in paths[1:]:
    total.merge(kmeans.Sums(*sealed_arrays.read(path, 3)))
  return total


def _sample_path(config: ClusteringConfig, group: Group) -> str:
  return config.work_path(["sample", _identity(config, group)])


def _sums_path(config: ClusteringConfig, group: Group, centroids_path: str) -> str:
  return config.work_path(["sums", _identity(config, group), centroids.load_centroids(centroids_path).file.checksum])


def _merged_path(config: ClusteringConfig, paths: list[str]) -> str:
  return config.work_path(["merged", [storage.base_name(path) for path in paths]])


def _centroids_to_come(config: ClusteringConfig, iteration: int) -> str:
  """Returns the path of the centroids after so many iterations, or of the last ones if they are on record."""
  last = config.path(CENTROIDS_FILE)
  return last if storage.exists(last) else config.centroids_path(iteration)


def _identity(config: ClusteringConfig, group: Group) -> list[Any]:
  shards = config.shards
  return [(shards[shard].identity(), first, stop) for shard, first, stop in group.parts]


def _is_whole(config: ClusteringConfig, path: str) -> bool:
  """Tells whether centroids are on record. Raises WinnowError if they belong to another request."""

  def check(path: str) -> None:
    if centroids.read(path).fingerprint != config.fingerprint:
      raise WinnowError(
        f"{path} has the centroids of something else; delete {config.store.path(FOLDER)} and run the command again"
      )

  return damage.is_whole(config.store.folder, path, check)


def tally_shard(config: ClusteringConfig, shard: blocks.Shard) -> np.ndarray:
  """Counts the documents and sums the cosines of each cluster in one shard: float64 [2, K]."""
  total_2K = np.zeros((2, config.scorer.config.clusters))
  with score_files.ScoreFile(config.store, shard) as file:
    for batch in file.batches(_BATCH_ROWS):
      total_2K += cluster_diagnostics.tally(
        batch["cluster"].to_numpy(), batch["cosine"].to_numpy(), config.scorer.config.clusters
      )
  return total_2K


def add_tallies(many: Iterable[Any]) -> Any:
  """Adds up tallies; no tallies give 0. It is a combiner's function, so it also gets its own results."""
  return sum(many)


def write_diagnostics(config: ClusteringConfig, tally_2K: np.ndarray) -> dict[str, Any]:
  """Writes the figures of the clusters into the store, and returns them."""
  training = centroids.read(config.path(CENTROIDS_FILE)).training
  found = cluster_diagnostics.diagnose(tally_2K[0].astype(np.int64), tally_2K[1], training)
  storage.create(config.path(DIAGNOSTICS_FILE), fingerprints.to_json(found))
  return found


class Train(beam.PTransform):
  """PCollection of one element (the embeddings are complete) -> PCollection[str] (the centroids' path)."""

  def __init__(self, config: ClusteringConfig):
    super().__init__()
    self._config = config
    self._do = functools.partial(sharing.do, is_over=lambda: config.store.is_complete, address=config.progress_address)

  def expand(self, ledger: beam.PCollection):
    config = self._config
    groups = sharing.spread(ledger, "Groups", lambda _: plan_groups(config))
    documents = beam.pvalue.AsSingleton(ledger | "Documents" >> beam.Map(lambda _: config.embeddings.documents()))
    samples = groups | "WriteSamples" >> self._do(
      beam.Map(lambda group, documents: write_sample(config, group, documents), documents=documents),
      made=lambda groups: [_sample_path(config, numbered.group) for numbered in groups],
      result=lambda numbered: (numbered.number, _sample_path(config, numbered.group)),
    )
    path = sharing.placed(ledger, lambda _: 0, "PlaceTraining") | "TrainCentroids" >> self._do(
      beam.Map(lambda _, samples: train(config, samples), samples=beam.pvalue.AsList(samples)),
      made=lambda _: [_centroids_to_come(config, 0)],
      result=lambda _: config.centroids_path(0),
    )
    for iteration in range(1, config.scorer.config.lloyd_iterations + 1):
      path = self._iterate(groups, path, iteration)
    return path

  def _iterate(self, groups: beam.PCollection, path: beam.PCollection, iteration: int):
    config, before = self._config, beam.pvalue.AsSingleton(path)
    sums = groups | f"Assign{iteration}" >> self._do(
      beam.Map(lambda group, before: sum_group(config, group, before, iteration=iteration), before=before),
      before,
      made=lambda groups, before: [_sums_path(config, numbered.group, before) for numbered in groups],
      result=lambda numbered, before: (
        numbered.number // config.merged_at_once,
        _sums_path(config, numbered.group, before),
      ),
    )
    together = sums | f"GroupSums{iteration}" >> beam.GroupByKey()
    merged = sharing.placed(together, lambda numbered: numbered[0], f"PlaceSums{iteration}") | (
      f"MergeSums{iteration}"
      >> self._do(
        beam.MapTuple(lambda _, paths: merge_sums(config, paths)),
        made=lambda together: [_merged_path(config, sorted(paths)) for _, paths in together],
        result=lambda numbered: _merged_path(config, sorted(numbered[1])),
      )
    )
    return sharing.placed(path, lambda _: 0, f"PlaceMove{iteration}") | f"Move{iteration}" >> self._do(
      beam.Map(
        lambda before, paths: move_centroids(config, iteration, before, paths), paths=beam.pvalue.AsList(merged)
      ),
      made=lambda _: [_centroids_to_come(config, iteration)],
      result=lambda _: config.centroids_path(iteration),
    )


class Diagnose(beam.PTransform):
  """PCollection[Ledger] (one element: the clusters are complete) -> the same, once their figures are written."""

  def __init__(self, config: ClusteringConfig):
    super().__init__()
    self._config = config

  def expand(self, ledger: beam.PCollection):
    config = self._config
    tally = (
      ledger
      | "Shards" >> beam.FlatMap(lambda _: config.shards)
      | "SpreadShards" >> reshuffle.Reshuffle()
      | "TallyShards" >> beam.Map(lambda shard: (0, tally_shard(config, shard))).with_output_types(tuple[int, Any])
      | "AddTallies" >> beam.CombinePerKey(add_tallies)
    )

    def write(ledger: Any, tally: tuple[int, np.ndarray]) -> Any:
      write_diagnostics(config, tally[1])
      return ledger

    return ledger | "WriteDiagnostics" >> beam.Map(write, tally=beam.pvalue.AsSingleton(tally))
