"""The density of vectors in a pipeline of one's own, by the sketch and the kernel of `winnow score --scorer=density`.

Vectors travel in blocks, and the sketch in slices of rows (`counting`). No file is written. Shape suffixes: N vectors,
D dimensions, R rows.
"""

import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.transforms import window
from apache_beam.typehints import typehints, with_input_types
from apache_beam.utils import shared, timestamp, windowed_value

from curation.coverage import race
from curation.errors import WinnowError
from pipelines.scorers.density import counting, scorer, sketching
from pipelines.selection import keys
from pipelines.worker import memory

_BLOCK_ROWS, _BLOCK_BYTES = 1_024, 4 << 20
_DTYPES = ("float16", "float32")
# A sketch uses all cores for one block at a time.
_TURN = threading.Lock()


@with_input_types(tuple[Any, np.ndarray])
class Density(beam.PTransform):
  """PCollection[tuple[K, np.ndarray]] -> PCollection[tuple[K, float]]: the density around each vector, float32 [D].

  The density is RACE's estimate of the kernel sum over all vectors, itself included: the mean, over the rows of a
  sketch, of the counters that the vector falls into (paper, 3.2, Algorithm 2; Coleman and Shrivastava 2020). Vectors
  are scaled to length 1 and rounded to `embedding_dtype` first. Settings are called as the flags of `winnow score
  --scorer=density`, with the same defaults, and a density has the bits of the command's score: counts are whole
  numbers, so it does not depend on order, bundles or workers.

  What is None is chosen from the 5,000 vectors whose keys have the smallest hashes. So keys are strings, bytes,
  integers from 0 on, or pairs (shard, row) of a string and an integer, with which the choice is the command's. If
  `bandwidth` is given (for the angular kernel: `hashes`), nothing is chosen, and keys may be anything.

  A worker holds one sketch, 4 * sketch_rows * sketch_counters bytes (80 MB), its hashes, and some blocks of at most
  4 MB. Each vector has one density, with its timestamp. Raises WinnowError for settings that cannot be, and for
  unbounded or windowed input. The pipeline fails, and names the key, for a vector that is not float32 [D], not finite,
  zero, or of another length than others, and for two vectors of one key in the sample.
  """

  def __init__(
    self,
    *,
    kernel: str = "l2",
    bandwidth: float | None = None,
    hashes: int | None = None,
    sketch_rows: int = 1_000,
    sketch_counters: int = 20_000,
    sketch_seed: int = 0,
    correct_collisions: bool = False,
    embedding_dtype: str = "float16",
  ):
    super().__init__()
    bandwidth = float(bandwidth) if isinstance(bandwidth, int) else bandwidth
    scorer.refuse_impossible(kernel, bandwidth, hashes, sketch_rows, sketch_counters, sketch_seed)
    if embedding_dtype not in _DTYPES:
      raise WinnowError(f"embedding_dtype={embedding_dtype!r} is none of {', '.join(_DTYPES)}")
    self._settings = _Settings(kernel, bandwidth, hashes, sketch_rows, sketch_counters, sketch_seed)
    self._correct_collisions, self._dtype = correct_collisions, embedding_dtype
    self._block_rows = _BLOCK_ROWS

  def expand(self, vectors: beam.PCollection) -> beam.PCollection:
    if not vectors.is_bounded or not isinstance(vectors.windowing.windowfn, window.GlobalWindows):
      raise WinnowError("Density compares a whole PCollection, which must be bounded and in the global window")
    element: Any = vectors.element_type
    key = element.tuple_types[0] if isinstance(element, typehints.TupleConstraint) else Any
    settings = self._settings
    blocks = vectors | "Pack" >> beam.ParDo(_PackFn(settings, self._dtype, self._block_rows)).with_output_types(Any)
    looks = blocks | "Look" >> beam.Map(_look).with_output_types(Any)
    looked = looks | "MergeLooks" >> beam.CombineGlobally(_merge)
    samples: Any = []
    if settings.is_open:
      sample = beam.FlatMap(_sample, beam.pvalue.AsSingleton(looked), settings.choice)
      samples = beam.pvalue.AsList(blocks | "Sample" >> sample)
    chosen = beam.pvalue.AsSingleton(looked | "Choose" >> beam.Map(_choose, settings, samples).with_output_types(Any))
    slices = (
      blocks
      | "HashCodes" >> beam.ParDo(_CodesFn(), chosen).with_output_types(tuple[tuple[int, int], Any])
      | "Count" >> beam.CombinePerKey(counting.CountFn(settings.counters))
    )
    score = beam.ParDo(_ScoreFn(self._correct_collisions), chosen, beam.pvalue.AsIter(slices))
    return blocks | "Score" >> score.with_output_types(typehints.Tuple[key, float])


class _Settings(NamedTuple):
  """What a sketch is asked to be; None: chosen from the vectors."""

  kernel: str
  bandwidth: float | None
  hashes: int | None
  rows: int
  counters: int
  seed: int

  @property
  def choice(self) -> str:
    """The setting that is chosen if it is None."""
    return "hashes" if self.kernel == "angular" else "bandwidth"

  @property
  def is_open(self) -> bool:
    return getattr(self, self.choice) is None


class _Block(NamedTuple):
  """Some vectors of a bundle, as they are counted: N keys, timestamps int64 [N] in microseconds, vectors [N, D]."""

  keys: list[Any]
  micros: np.ndarray
  points: np.ndarray
  hashes: np.ndarray
  """The hashes by which vectors are sampled, uint64 [N]; empty if none are."""


class _Looked(NamedTuple):
  """What some vectors have in common: their length, the key of one of them, and their smallest hashes, uint64 [N]."""

  dimensions: int
  key: Any
  hashes: np.ndarray


class _Chosen(NamedTuple):
  """The sketch's configuration, the checksum of its hashes, and a name for this run of the pipeline."""

  config: race.SketchConfig
  hashes: str
  run: str


class _PackFn(beam.DoFn):
  """Makes blocks of the vectors of a bundle."""

  def __init__(self, settings: _Settings, dtype: str, block_rows: int):
    self._settings, self._dtype, self._block_rows = settings, dtype, block_rows

  def start_bundle(self) -> None:
    self._keys: list[Any] = []
    self._micros: list[int] = []
    self._vectors: list[np.ndarray] = []

  def process(self, pair: tuple[Any, np.ndarray], time: Any = beam.DoFn.TimestampParam) -> Iterator[_Block]:
    key, vector = pair
    if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.ndim != 1 or not len(vector):
      what = f"{vector.dtype} {list(vector.shape)}" if isinstance(vector, np.ndarray) else type(vector).__name__
      raise WinnowError(f"the vector of {key!r} is {what}; give a NumPy array of one dimension, float32 [D]")
    if self._vectors and len(vector) != len(self._vectors[0]):
      raise _other_length(self._keys[0], len(self._vectors[0]), key, len(vector))
    self._keys.append(key)
    self._micros.append(time.micros)
    self._vectors.append(vector)
    if len(self._keys) == self._block_rows or len(self._keys) * vector.nbytes >= _BLOCK_BYTES:
      yield self._flush()

  def finish_bundle(self) -> Iterator[windowed_value.WindowedValue]:
    if self._keys:
      yield windowed_value.WindowedValue(self._flush(), window.MIN_TIMESTAMP, (window.GlobalWindow(),))

  def _flush(self) -> _Block:
    named, micros_N, vectors_ND = self._keys, np.array(self._micros, np.int64), np.stack(self._vectors)
    self.start_bundle()
    _refuse_any(~np.isfinite(vectors_ND).all(axis=1), named, "has a number that is NaN or infinite")
    _refuse_any(np.logical_not(vectors_ND.any(axis=1)), named, "is 0, so it has no direction")
    settings, hashes_N = self._settings, np.empty(0, np.uint64)
    if settings.is_open:
      what_for = f"without {settings.choice}, Density cannot sample vectors"
      hashes_N = keys.hash_keys(sketching.SAMPLE_PURPOSE, settings.seed, named, what_for)
    return _Block(named, micros_N, race.unit_vectors(vectors_ND).astype(self._dtype), hashes_N)


def _refuse_any(is_bad_N: np.ndarray, named: list[Any], what: str) -> None:
  if is_bad_N.any():
    raise WinnowError(f"the vector of {named[int(np.argmax(is_bad_N))]!r} {what}; leave it out")


def _other_length(key: Any, length: int, other: Any, other_length: int) -> WinnowError:
  return WinnowError(
    f"the vector of {key!r} has {length} numbers and that of {other!r} {other_length}: give vectors of one model"
  )


def _look(block: _Block) -> _Looked:
  return _Looked(block.points.shape[1], block.keys[0], _smallest(block.hashes))


def _smallest(hashes_N: np.ndarray) -> np.ndarray:
  """Returns the hashes of a sample, and one more, in order."""
  return np.sort(hashes_N)[: sketching.SAMPLED + 1]


def _merge(many: Iterable[_Looked | None]) -> _Looked | None:
  """Merges what was looked at; None for no vectors. It is a combiner's function, so it also gets its own results."""
  total: _Looked | None = None
  for looked in many:
    if total is None or looked is None:
      total = total or looked
    elif looked.dimensions != total.dimensions:
      raise _other_length(total.key, total.dimensions, looked.key, looked.dimensions)
    else:
      total = total._replace(hashes=_smallest(np.concatenate([total.hashes, looked.hashes])))
  return total


def _sample(block: _Block, looked: _Looked | None, choice: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields hashes and vectors of those that are in the sample.

  Raises WinnowError if two vectors of the sample have the same key: then it would have no order, and no bound.
  """
  assert looked is not None
  hashes_N = looked.hashes
  is_double_N = np.isin(block.hashes, hashes_N[1:][hashes_N[1:] == hashes_N[:-1]])
  if is_double_N.any():
    key = block.keys[int(np.argmax(is_double_N))]
    raise WinnowError(
      f"two vectors have the key {key!r}; give each vector a key of its own, or give {choice}, which is chosen by a "
      "sample of the keys"
    )
  is_sampled_N = block.hashes <= hashes_N[: sketching.SAMPLED][-1]
  if is_sampled_N.any():
    yield block.hashes[is_sampled_N], block.points[is_sampled_N]


def _choose(looked: _Looked | None, settings: _Settings, samples: list) -> _Chosen | None:
  """Chooses from the sample, in the order of its hashes, what the settings leave open; None for no vectors."""
  from curation.coverage import density  # imported here, because its libraries take a while to load

  if looked is None:
    return None
  sample_ND = np.empty((0, looked.dimensions), np.float32)
  if samples:
    hashes, points = zip(*samples, strict=True)
    sample_ND = np.concatenate(points)[np.argsort(np.concatenate(hashes))].astype(np.float32)
  kernel = density.choose_kernel(sample_ND, settings.kernel, settings.hashes, settings.bandwidth)
  config = race.SketchConfig(looked.dimensions, kernel, settings.rows, settings.counters, seed=settings.seed)
  return _Chosen(config, race.Hashes(config).checksum(), uuid.uuid4().hex)


def _make_sketch(chosen: _Chosen) -> race.Sketch:
  """Returns an empty sketch. Raises WinnowError if this machine makes other hashes than the one that chose."""
  memory.return_large_arrays()
  sketch = race.Sketch(chosen.config)
  if sketch.hashes.checksum() != chosen.hashes:
    raise WinnowError("workers make different hashes: give all of them the same versions of Winnow and SciPy")
  return sketch


class _CodesFn(beam.DoFn):
  """Gives the hash codes of blocks, [R, N], by slices of the sketch's rows."""

  def __init__(self):
    self._shared = shared.Shared()

  def process(self, block: _Block, chosen: _Chosen) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    self._sketch = self._shared.acquire(lambda: _make_sketch(chosen), chosen.run)
    with _TURN:
      codes_RN = self._sketch.codes(block.points)
    for start, stop in sketching.slices_of(chosen.config):
      yield (start, stop), codes_RN[start:stop]


class _ScoreFn(beam.DoFn):
  """Looks the vectors of blocks up in the sketch, which a process loads once."""

  def __init__(self, correct_collisions: bool):
    self._correct_collisions, self._shared = correct_collisions, shared.Shared()

  def process(
    self, block: _Block, chosen: _Chosen, slices: Iterable[tuple[tuple[int, int], counting.Counted]]
  ) -> Iterator[windowed_value.WindowedValue]:
    sketch = self._sketch = self._shared.acquire(lambda: _load(chosen, slices), chosen.run)
    with _TURN:
      mean_N = sketch.density(block.points).mean
    if self._correct_collisions:
      mean_N = sketch.without_collisions(mean_N)
    densities = mean_N.astype(np.float32).tolist()
    for key, micros, density in zip(block.keys, block.micros.tolist(), densities, strict=True):
      yield windowed_value.WindowedValue((key, density), timestamp.Timestamp(micros=micros), (window.GlobalWindow(),))


def _load(chosen: _Chosen, slices: Iterable[tuple[tuple[int, int], counting.Counted]]) -> race.Sketch:
  """Puts the sketch together."""
  sketch = _make_sketch(chosen)
  for (start, stop), counted in slices:
    counting.add_counts(counted, sketch.counts_RB[start:stop])
    sketch.num_points = counted.num_points
  return sketch
