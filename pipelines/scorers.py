"""What `--scorer` can name: how each scorer is described, fingerprinted and loaded on a worker.

The launcher calls `checked()`, which makes sure of all that can be made sure of without computing, `request()`, the
scorer's part of the fingerprint, and `engine()`, what of `describe()` is known without a device; workers call `load()`.
A loaded scorer has four methods. `describe()`: how it computes, JSON-able. `warm_up()`: what must happen once before
the first document. `prepare(column)`: the host's work for one block, thread-safe, from the column of its documents that
the description's `reads` names. `run(prepared, on_batch)`: the block's scores; what takes long for a block calls
`on_batch` now and then with the documents that are done.

What embeds is described here too: its results are embeddings in place of scores, and go to a store of their own. What
runs a T5 over texts is in `pipelines.model_scorers`.
"""

import dataclasses
import threading
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from curation import giant_clusters, kmeans, minhash, semdedup
from pipelines import model_scorers
from pipelines.corpus import embedding_files, fixed_width
from pipelines.files import fingerprints, storage
from pipelines.scoring import stored_blocks
from pipelines.scoring.protocol import OnBatch, Scorer, Scores
from pipelines.store import kinds
from pipelines.store.score_store import ScoreStore
from pipelines.worker import memory, progress


class _Own:
  """A description that is its own scorer: nothing is loaded, and nothing must happen first."""

  speed = 200_000.0
  """Documents a second that one core is expected to do."""

  def checked(self) -> Self:
    return self

  def engine(self) -> dict[str, Any]:
    return {}

  def load(self) -> Self:
    return self

  def describe(self) -> dict[str, Any]:
    return self.engine()

  def warm_up(self) -> None:
    """Needs nothing."""


@dataclasses.dataclass(frozen=True)
class MadeElsewhere(_Own):
  """Keeps embeddings that come with the documents, as unit vectors."""

  reads: ClassVar[str] = kinds.EMBEDDING
  files: dict[str, embedding_files.EmbeddingFile]
  embedding_dtype: str

  def request(self) -> dict[str, Any]:
    files = {shard: about.identity() for shard, about in self.files.items()}
    return {"scorer": kinds.EMBED, "embeddings": files, "embedding_dtype": self.embedding_dtype}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, "float32")

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    from curation import race

    return Scores(race.unit_vectors(prepared).astype(self.embedding_dtype), None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Density:
  """RACE's estimate of the kernel sum around each document's embedding (paper 3.2, Algorithm 2)."""

  reads: ClassVar[str] = kinds.EMBEDDING
  sketch_path: str
  embeddings: stored_blocks.StoredEmbeddings
  kernel: str
  bandwidth: float | None
  """None: chosen from the data, and so `hashes`."""
  hashes: int | None
  rows: int
  counters: int
  seed: int
  correct_collisions: bool

  def checked(self) -> "Density":
    """Raises WinnowError for a sketch that cannot be, whatever the data."""
    from curation import kernels, race

    stand_in = 1.0 if self.bandwidth is None and self.kernel != "angular" else self.bandwidth
    race.SketchConfig(
      1,
      kernels.Kernel(self.kernel, stand_in, 1 if self.hashes is None else self.hashes),
      self.rows,
      self.counters,
      seed=self.seed,
    )
    return self

  def engine(self) -> dict[str, Any]:
    return _engine_of("embeddings", self.embeddings.store)

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "density",
      "embeddings": self.embeddings.store.fingerprint,
      "kernel": self.kernel,
      "bandwidth": self.bandwidth,
      "hashes": self.hashes,
      "sketch_rows": self.rows,
      "sketch_counters": self.counters,
      "sketch_seed": self.seed,
      "correct_collisions": self.correct_collisions,
    }

  @property
  def speed(self) -> float:
    """Documents a second that one core is expected to do."""
    return progress.PRODUCTS / self.rows / (self.hashes or 8)

  def load(self) -> Scorer:
    return _DensityScorer(self)


class _DensityScorer:
  """One sketch for all threads of a process, which uses all cores for one block at a time."""

  def __init__(self, about: Density):
    from curation import race

    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    with storage.open_input(about.sketch_path) as file:
      self._sketch = race.SketchFile(file, about.sketch_path).load()

  def describe(self) -> dict[str, Any]:
    sketch = {"config": self._sketch.config.to_json(), "num_points": self._sketch.num_points}
    return self._about.engine() | {"sketch": sketch | {"hashes": self._sketch.hashes.checksum()}}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, self._about.embeddings.dtype)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    with self._turn:
      mean_N = self._sketch.density(prepared).mean
    if self._about.correct_collisions:
      mean_N = self._sketch.without_collisions(mean_N)
    return Scores(mean_N.astype(np.float32), None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The cluster of each document's embedding, and the cosine to its centroid (paper B.3, B.4)."""

  reads: ClassVar[str] = kinds.EMBEDDING
  centroids_path: str
  embeddings: stored_blocks.StoredEmbeddings
  config: kmeans.KMeansConfig

  def checked(self) -> "Cluster":
    """Raises WinnowError for more clusters than documents, where it is known how many there are."""
    if summary := self.embeddings.store.readable_summary():
      self.config.check_points(summary["scored"])
    return self

  def engine(self) -> dict[str, Any]:
    return _engine_of("embeddings", self.embeddings.store)

  def request(self) -> dict[str, Any]:
    return {
      "scorer": kinds.CLUSTER,
      "embeddings": self.embeddings.store.fingerprint,
      "num_clusters": self.config.clusters,
      "kmeans_sample": self.config.points_per_cluster,
      "kmeans_iterations": self.config.iterations,
      "lloyd_iterations": self.config.lloyd_iterations,
      "kmeans_seed": self.config.seed,
    }

  @property
  def speed(self) -> float:
    """Documents a second that one core is expected to do."""
    return progress.PRODUCTS / self.config.clusters

  def load(self) -> Scorer:
    return _ClusterScorer(self)


class _ClusterScorer:
  """Centroids for all threads of a process, whose products use all cores for one block at a time."""

  _RECORD = np.dtype([("cluster", np.int32), ("cosine", np.float32)])

  def __init__(self, about: Cluster):
    from pipelines import clustering  # which describes its work by what is described here

    memory.return_large_arrays()
    self._about, self._turn = about, threading.Lock()
    self._held = clustering.load_centroids(about.centroids_path)

  def describe(self) -> dict[str, Any]:
    return self._about.engine() | {"centroids": self._held.file.checksum}

  def warm_up(self) -> None:
    """Needs nothing."""

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return fixed_width.array(column, self._about.embeddings.dtype)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    found_N = np.empty(len(prepared), self._RECORD)
    with self._turn:
      found_N["cluster"], found_N["cosine"] = self._held.centroids.assign(prepared)
    return Scores(found_N, None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Prototypes(_Own):
  """SSL Prototypes (paper B.4): what is least like the centroid of its cluster is the best, -cosine."""

  reads: ClassVar[str] = "cosine"
  clusters: stored_blocks.StoredBlocks

  def engine(self) -> dict[str, Any]:
    return _engine_of("clusters", self.clusters.store)

  def request(self) -> dict[str, Any]:
    return {"scorer": "prototypes", "clusters": self.clusters.store.fingerprint}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(-prepared, None, 0, 0)


@dataclasses.dataclass(frozen=True)
class SemDeDup(_Own):
  """SemDeDup (paper B.3): what repeats a document that is ranked before it in its cluster is the worst, -cosine."""

  reads: ClassVar[str] = "largest_cosine"
  clusters: stored_blocks.StoredBlocks
  embeddings: stored_blocks.StoredEmbeddings
  keep: semdedup.Keep
  config: kmeans.KMeansConfig
  """How the clusters were found, and giant ones are split."""
  max_cluster_pairs: int
  split_path: str

  @property
  def seed(self) -> int:
    return self.config.seed

  def checked(self) -> "SemDeDup":
    """Raises WinnowError for a limit that cannot be."""
    giant_clusters.check_limit(self.max_cluster_pairs)
    return self

  def engine(self) -> dict[str, Any]:
    return _engine_of("clusters", self.clusters.store)

  def request(self) -> dict[str, Any]:
    return {
      "scorer": "semdedup",
      "clusters": self.clusters.store.fingerprint,
      "keep": self.keep,
      "seed": self.seed,
      "max_cluster_pairs": self.max_cluster_pairs,
    }

  def split_fingerprint(self) -> str:
    """Whose a split is: of what was asked for, and of clusters as they were computed."""
    return fingerprints.fingerprint([self.request(), self.clusters.store.fingerprint_with_engine()])

  def split(self) -> dict[str, Any] | None:
    """What is on record of how giant clusters were split (`splitting.settle`); None where there is nothing."""
    found = fingerprints.read_sealed(self.split_path)
    return found if found is not None and found.get("fingerprint") == self.split_fingerprint() else None

  def describe(self) -> dict[str, Any]:
    split = self.split()
    return self.engine() | ({} if split is None else {"split": split["figures"] | {"centroids": split["centroids"]}})

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(semdedup.to_scores(prepared), None, 0, 0)


@dataclasses.dataclass(frozen=True)
class Signatures(_Own):
  """MinHash signatures of texts (Broder 1997), which are the same everywhere."""

  reads: ClassVar[str] = "text"
  speed = 40_000.0
  hashes: int

  def request(self) -> dict[str, Any]:
    return {"scorer": kinds.SIGN, "hashes": self.hashes, "signature_version": minhash.SIGNATURE_VERSION}

  def warm_up(self) -> None:
    minhash.signatures(pa.array([""]), self.hashes)  # brings the compiler

  def prepare(self, texts: pa.ChunkedArray) -> np.ndarray:
    return minhash.signatures(texts, self.hashes)

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(prepared, None, 0, 0)


@dataclasses.dataclass(frozen=True)
class MinHash(_Own):
  """1 for a document that repeats no earlier one, 0 for its near-copies, and for theirs."""

  reads: ClassVar[str] = "repeats"
  signatures: stored_blocks.StoredBlocks
  config: minhash.MinHashConfig

  def engine(self) -> dict[str, Any]:
    return _engine_of("signatures", self.signatures.store)

  def request(self) -> dict[str, Any]:
    return {"scorer": "minhash", "signatures": self.signatures.store.fingerprint, **dataclasses.asdict(self.config)}

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(1 - prepared.astype(np.float32), None, 0, 0)


def _engine_of(name: str, store: ScoreStore) -> dict[str, Any]:
  """What is known, once there is a store to read from, of how scores of what is in it are computed."""
  return {name: store.fingerprint_with_engine()} if storage.exists(store.engine_path) else {}


@dataclasses.dataclass(frozen=True)
class Count(_Own):
  """Scores nothing: finds out which documents there are, for random sampling without a score store (paper B.1)."""

  reads: ClassVar[str] = "text"
  speed = 40_000.0

  def request(self) -> dict[str, Any]:
    return {"scorer": kinds.COUNT}

  def prepare(self, texts: pa.ChunkedArray) -> int:
    return len(texts)

  def run(self, prepared: int, on_batch: OnBatch | None = None) -> Scores:
    return Scores(np.zeros(prepared, np.float32), None, 0, 0)


OF_STORED = (Density, Cluster, Prototypes, SemDeDup, MinHash)
"""Those that read another store in place of texts."""
Description = (
  model_scorers.OfModel | MadeElsewhere | Density | Cluster | Prototypes | SemDeDup | Signatures | MinHash | Count
)
