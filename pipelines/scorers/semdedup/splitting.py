"""Beam passes that split giant clusters (`giant_clusters`) before `comparing` compares documents.

If no cluster has more than --max_cluster_pairs pairs, there is nothing to do. Otherwise hashes pick a sample of all
giants, which is sorted by giant into a run for each group of blocks. One worker trains the centroids of a giant on its
ranges of all runs. The documents of each group are then assigned to pieces, and counted, which settles the sizes of the
pieces. No worker holds more of a giant than its sample. Only numbers of groups and of clusters cross Beam's shuffle.

STORE/split.json                              sizes of the pieces, and of which split; stays
STORE/compared/<fingerprint>/sampled/<group>.run  by giant: hash; record: embedding, float16
                             subcentroids/<cluster>.safetensors  as `centroid_files` has it
                             pieces/<centroids>-<group>  int32, of each document of the group that has a cluster

All but the first are checked before they are used, made again if they are damaged, and removed when the store is
complete.
Legend: N documents, D dimensions, G giants, P pieces.
"""

import dataclasses
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from curation.coverage import centroid_files, kmeans
from curation.errors import DamagedError, WinnowError
from pipelines.corpus import fixed_width
from pipelines.corpus.blocks import SkippedBlock
from pipelines.files import damage, fingerprints, sealed_arrays, storage
from pipelines.scorers import work_files
from pipelines.scorers.semdedup.layout import (
  ComparingConfig,
  Splitting,
  diagnostics_path,
  other_clusters_error,
)
from pipelines.scoring import steps, stored_blocks
from pipelines.sorted_runs import run_files, run_writer
from pipelines.store.groups import Group, Numbered
from pipelines.worker import logs, memory, prefetch, progress

# As users see them.
SAMPLING, TRAINING, ASSIGNING = "sampling giant clusters", "dividing giant clusters", "assigning pieces of clusters"
STAGES = (SAMPLING, TRAINING, ASSIGNING)
_RANGE_BYTES = 64 << 10
# A process trains or assigns one thing at a time, whose products use all cores.
_TURN = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Clustered:
  """The documents of a block that have a cluster, and the index of their shard."""

  place: int
  rows_N: np.ndarray
  embeddings_ND: np.ndarray
  clusters_N: np.ndarray
  cosines_N: np.ndarray


def read_group(config: ComparingConfig, group: Group) -> Iterator[Clustered]:
  """Yields the blocks of a group that have documents, from the stores of embeddings and of clusters."""
  about = config.scorer
  shards = config.shards
  for place, first, stop in group.parts:
    shard, wanted = shards[place], range(first, stop)
    both = (stored.read(shard, wanted.__contains__) for stored in (about.embeddings, about.clusters))
    for embedded, clustered in zip(*both, strict=True):
      if isinstance(embedded, SkippedBlock) or isinstance(clustered, SkippedBlock):
        continue
      rows_N = clustered.documents["row"].to_numpy()
      if not np.array_equal(rows_N, embedded.documents["row"].to_numpy()):
        raise WinnowError(
          f"block {embedded.index} of {shard.name} has other documents in {about.clusters.store.folder} than in "
          f"{about.embeddings.store.folder}: make the clusters again, with --overwrite"
        )
      if len(rows_N):
        embeddings_ND = fixed_width.array(embedded.documents["embedding"], about.embeddings.dtype)
        clusters_N, cosines_N = (clustered.documents[name].to_numpy() for name in ("cluster", "cosine"))
        yield Clustered(place, rows_N, embeddings_ND, clusters_N, cosines_N)


def plan_samples(config: ComparingConfig) -> list[Numbered]:
  """Returns the groups if some giant cluster has no centroids yet, else none."""
  splitting = Splitting.for_config(config)
  is_trained = all(_is_whole(splitting, cluster) for cluster in splitting.pieces.giants.tolist())
  return [] if is_trained else splitting.groups()


def sample_group(config: ComparingConfig, numbered: Numbered) -> int:
  """Writes a group's part of the samples of giant clusters; returns its number."""
  splitting = Splitting.for_config(config)
  memory.use_lean_arrow_pool()
  path = splitting.sampled_path(numbered.number)
  if work_files.is_whole_run(config.store, path):
    resumed = stored_blocks.documents_of(config.scorer.clusters, numbered.group)
    progress.report(config.progress_address, stage=SAMPLING, resumed=resumed)
    return numbered.number
  shards = config.shards
  with storage.create_file(path) as file, run_writer.RunWriter(num_shards=len(splitting.pieces.giants)) as writer:
    for block in prefetch.prefetch(read_group(config, numbered.group), ahead=1):
      shard = shards[block.place].name
      places, giants, hashes = splitting.pieces.sample(block.clusters_N, shard, block.rows_N)
      sample_ND = block.embeddings_ND[places].astype(np.float16)
      record_N = sample_ND.view(f"V{sample_ND.shape[1] * sample_ND.itemsize}")[:, 0]
      writer.add(giants.astype(np.uint32), hashes, run_files.to_records(record_N))
      progress.report(config.progress_address, stage=SAMPLING, documents=len(block.rows_N))
    writer.finish(file, {})
  return numbered.number


def plan_training(config: ComparingConfig) -> list[int]:
  """Returns the giant clusters."""
  return Splitting.for_config(config).pieces.giants.tolist()


def train_giant(config: ComparingConfig, cluster: int) -> int:
  """Trains the centroids of a giant's pieces on its sample, unless they are on record; returns the cluster."""
  splitting = Splitting.for_config(config)
  if _is_whole(splitting, cluster):
    return cluster
  memory.use_lean_arrow_pool()
  memory.return_large_arrays()
  giant = splitting.pieces.giants.tolist().index(cluster)
  with _TURN, io.BytesIO() as sample:
    with run_writer.opened(splitting.sampled_paths(), buffer_bytes=_RANGE_BYTES) as readers:
      count = run_files.write_records(run_writer.merge_shard(readers, giant), sample)
    sample_ND = np.frombuffer(sample.getvalue(), np.float16).reshape(count, -1)
    trained = kmeans.train(sample_ND, splitting.pieces.kmeans_config(cluster))
  made = centroid_files.CentroidFile(trained.centroids_KD, config.scorer.split_fingerprint(), trained.training)
  with storage.create_file(splitting.centroids_path(cluster)) as file:
    centroid_files.save(made, file)
  logs.info("giant_split", cluster=cluster, pieces=len(trained.centroids_KD), points=count)
  return cluster


def plan_assignments(config: ComparingConfig) -> list[Numbered]:
  """Returns the groups if there is a giant cluster, else none."""
  splitting = Splitting.for_config(config)
  return splitting.groups() if len(splitting.pieces.giants) else []


def assign_group(config: ComparingConfig, numbered: Numbered) -> int:
  """Writes the pieces that the documents of a group belong to; returns the group's number."""
  splitting = Splitting.for_config(config)
  with _TURN:
    files = _read_centroids(splitting)
    path = splitting.pieces_path(numbered.number, _fingerprint(files))
    if work_files.has_arrays(config.store, path):
      resumed = stored_blocks.documents_of(config.scorer.clusters, numbered.group)
      progress.report(config.progress_address, stage=ASSIGNING, resumed=resumed)
      return numbered.number
    memory.return_large_arrays()
    centroids = [kmeans.Centroids(file.centroids_KD) for file in files]
    parts = []
    for block in prefetch.prefetch(read_group(config, numbered.group), ahead=1):
      parts.append(splitting.pieces.assign(block.clusters_N, block.embeddings_ND, centroids))
      progress.report(config.progress_address, stage=ASSIGNING, documents=len(block.rows_N))
    sealed_arrays.write(path, np.concatenate([np.empty(0, np.int32), *parts]))
  return numbered.number


def plan_settling(config: ComparingConfig) -> list[str]:
  """Returns one element if the split has to be put on record, else none."""
  return ["split"] if len(Splitting.for_config(config).pieces.giants) else []


def settle(config: ComparingConfig, what: str) -> str:
  """Counts the documents of all pieces, and puts the split on record, unless it is there.

  Raises WinnowError if the store has scores by another split, which happens if another machine had to train again.
  """
  splitting = Splitting.for_config(config)
  pieces, centroids = splitting.pieces, _fingerprint(_read_centroids(splitting))
  split = fingerprints.field(config.store.engine_path, "split")
  if isinstance(split, dict) and split.get("centroids") != centroids:
    storage.delete([splitting.centroids_path(cluster) for cluster in pieces.giants.tolist()])
    raise WinnowError(
      f"{config.store.folder} has scores by another split of giant clusters than is found here: go on where they were "
      f"made, choose another --name, or delete {config.store.folder} to start over"
    )
  if _is_settled(splitting, centroids):
    return what
  sizes_P = np.zeros(pieces.starts[-1], np.int64)
  for number, _ in splitting.groups():
    (pieces_N,) = sealed_arrays.read(splitting.pieces_path(number, centroids), 1)
    sizes_P += np.bincount(pieces_N, minlength=len(sizes_P))
  if not np.array_equal(np.add.reduceat(sizes_P, pieces.starts[:-1]), pieces.sizes_K):
    raise other_clusters_error(diagnostics_path(config))
  giants = pieces.giants.tolist()
  clusters = [{"cluster": giant, "pieces": sizes_P[pieces.cluster_pieces(giant)].tolist()} for giant in giants]
  figures = pieces.figures(sizes_P)
  told = {"fingerprint": config.scorer.split_fingerprint(), "centroids": centroids, "figures": figures}
  storage.create(config.scorer.split_path, fingerprints.sealed(told | {"clusters": clusters}), must_agree=True)
  logs.info("clusters_split", **figures)
  return what


def steps_of(config: ComparingConfig) -> list[steps.Step]:
  """Returns the steps of splitting giant clusters, in order."""

  def made(path: Callable[[Splitting, Any], str]) -> steps.Made:
    def paths(items: Sequence[Any]) -> list[str]:
      splitting = Splitting.for_config(config)
      return [path(splitting, item) for item in items]

    return paths

  def pieces_paths(groups: Sequence[Numbered]) -> list[str]:
    splitting = Splitting.for_config(config)
    centroids = _fingerprint(_read_centroids(splitting))
    return [splitting.pieces_path(number, centroids) for number, _ in groups]

  return [
    steps.Step(
      "SampleGiants",
      SAMPLING,
      lambda: plan_samples(config),
      lambda group: sample_group(config, group),
      made(lambda splitting, group: splitting.sampled_path(group.number)),
    ),
    steps.Step(
      "TrainGiants",
      TRAINING,
      lambda: plan_training(config),
      lambda giant: train_giant(config, giant),
      made(lambda splitting, giant: splitting.centroids_path(giant)),
    ),
    steps.Step(
      "AssignPieces",
      ASSIGNING,
      lambda: plan_assignments(config),
      lambda group: assign_group(config, group),
      pieces_paths,
    ),
    steps.Step(
      "SettlePieces",
      ASSIGNING,
      lambda: plan_settling(config),
      lambda what: settle(config, what),
      lambda _: [config.scorer.split_path],
    ),
  ]


def _is_settled(splitting: Splitting, centroids: str) -> bool:
  """Tells whether the split by these centroids is on record."""

  def check(path: str) -> None:
    settled = splitting.settled()
    if settled is None or settled.centroids != centroids:
      raise DamagedError(f"{path} is damaged, or of another split")

  return damage.is_whole(splitting.config.store.folder, splitting.config.scorer.split_path, check)


def _read_centroids(splitting: Splitting) -> list[centroid_files.CentroidFile]:
  """Reads the centroids of the pieces of each giant cluster."""
  return [_read_file(splitting.centroids_path(cluster)) for cluster in splitting.pieces.giants.tolist()]


def _read_file(path: str) -> centroid_files.CentroidFile:
  with storage.open_input(path) as file:
    return centroid_files.load(file, path)


def _fingerprint(files: list[centroid_files.CentroidFile]) -> str:
  return fingerprints.fingerprint([file.checksum for file in files])


def _is_whole(splitting: Splitting, cluster: int) -> bool:
  """Tells whether the centroids of a giant's pieces are on record."""
  pieces, wanted = splitting.pieces.cluster_pieces(cluster), splitting.config.scorer.split_fingerprint()

  def check(path: str) -> None:
    found = _read_file(path)
    if found.fingerprint != wanted or len(found.centroids_KD) != pieces.stop - pieces.start:
      raise DamagedError(f"{path} has the centroids of something else")

  return damage.is_whole(splitting.config.store.folder, splitting.centroids_path(cluster), check)
