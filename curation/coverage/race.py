"""RACE sketches estimate how dense a set of points is around any point, from R x B counters (paper, 3.2, Algorithm 2).

Every row of the sketch has its own locality-sensitive hash from points to B counters. A point adds 1 to one counter of
each row. The density of a point is the mean, over the rows, of the counters that it falls into. It estimates the kernel
sum over all points that were added, itself included (Coleman and Shrivastava 2020). Sketches of parts of a corpus add
up to the sketch of the whole, to the last count.

Points and projections are rounded to whole numbers of units, so few of them that float32 holds each sum of their
products exactly, whatever the order of its terms. So a point falls into the same counters whatever its neighbours are,
on every machine and device. Shape suffixes: N points, D dimensions, R rows, H hashes that are joined in a row, P = R *
H projections, B counters of a row, C chunks of rows.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from curation.coverage import kernels
from curation.errors import WinnowError
from curation.models import safetensors_files
from curation.models.vocabulary import usable_cores
from curation.selection import hashing

FORMAT_VERSION = 1
MAX_POINTS = 2**31 - 1
_MAX_NUMBERS = 1 << 28
_BATCH = 1_024
_CHUNKS = 16
# Unit of the projections' numbers, whose size is about 1: rounding is small beside their randomness.
_PROJECTION_UNIT = 2.0**-6
_SLACK = 1.001  # since unit vectors in float16 are slightly longer than 1
_LARGEST_CAUCHY = 1e9  # exceeded by 6 numbers in 10^10
# Rounding a point makes a projection inexact; buckets must be this many times wider than that standard deviation.
_BUCKET_IN_ERRORS = 8.0
_METADATA, _TENSOR = "winnow_sketch", "counts"
_MAX_HEADER_BYTES = 1 << 16
_ROWS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class SketchConfig:
  """Settings that decide which counters a point falls into. Only sketches of equal settings add up.

  `rows` and `counters` are R and B, [1,000 x 20,000] in the paper (B.2). `radius` is the length that no point exceeds.
  Raises WinnowError for values out of range.
  """

  dimensions: int
  kernel: kernels.Kernel
  rows: int = 1_000
  counters: int = 20_000
  radius: float = 1.0
  seed: int = 0

  def __post_init__(self):
    for name, low, high in (("dimensions", 1, 16_384), ("rows", 2, 100_000), ("counters", 1, 1 << 24)):
      value = getattr(self, name)
      if type(value) is not int or not low <= value <= high:
        raise WinnowError(f"a sketch's {name} must be a whole number from {low} to {high:,}, not {value!r}")
    if type(self.radius) is not float or not 0 < self.radius < np.inf:
      raise WinnowError(f"a sketch's radius must be a number above 0, not {self.radius!r}")
    if type(self.seed) is not int or not -(2**63) <= self.seed < 2**63:
      raise WinnowError(f"a sketch's seed must be a whole number of 64 bits, not {self.seed!r}")
    for what, size in (
      ("projections", self.rows * self.kernel.hashes * self.dimensions),
      ("counters", self.rows * self.counters),
    ):
      if size > _MAX_NUMBERS:
        raise WinnowError(f"a sketch's {what} would take {size:,} numbers, more than {_MAX_NUMBERS:,}: take fewer rows")

  def to_json(self) -> dict[str, Any]:
    """Returns the fields as JSON types."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: dict[str, Any]) -> "SketchConfig":
    """Reads what `to_json` wrote; raises TypeError, KeyError or WinnowError for other fields."""
    return cls(**{**fields, "kernel": kernels.Kernel(**fields["kernel"])})


class Density(NamedTuple):
  """The density around N points."""

  mean: np.ndarray
  """The mean count over the rows, Algorithm 2's score: estimates the kernel sum plus chance collisions; float64 [N]."""
  standard_error: np.ndarray
  """The standard error of that mean, the counts' standard deviation over the rows by the root of R: float64 [N]."""


class Hashes:
  """The hashes of a sketch's rows, which depend on its configuration alone.

  They take 3 MB per 1,000 projections of 768 dimensions. Projections are 2-stable for L2 and angles, and 1-stable for
  L1 (Datar et al. 2004, section 3.1), whose largest numbers need float64. Raises WinnowError if the bandwidth is too
  small for the precision that rounding leaves of a point.
  """

  def __init__(self, config: SketchConfig):
    import scipy.special  # slow to import

    self.config, kernel = config, config.kernel
    is_l1 = kernel.name == "l1"
    self._dtype: type[np.floating] = np.float64 if is_l1 else np.float32
    bits = 53 if is_l1 else 24
    projections, dimensions = config.rows * kernel.hashes, config.dimensions
    self._projections_PD = np.empty((projections, dimensions), self._dtype)
    for start in range(0, projections, _BATCH):
      stop = min(start + _BATCH, projections)
      uniform_PD = hashing.uniforms("race projection", config.seed, start * dimensions, stop * dimensions)
      if is_l1:
        drawn_PD = np.clip(np.tan(np.pi * (uniform_PD - 0.5)), -_LARGEST_CAUCHY, _LARGEST_CAUCHY)
      else:
        drawn_PD = scipy.special.ndtri(uniform_PD)
      self._projections_PD[start:stop] = np.rint(drawn_PD / _PROJECTION_UNIT).reshape(-1, dimensions)
    lengths_P = np.sqrt(np.einsum("pd,pd->p", self._projections_PD, self._projections_PD, dtype=np.float64))
    # The sums of |products| are at most the product of the lengths (Cauchy and Schwarz), rounding included.
    largest = 2.0**bits / lengths_P.max() - np.sqrt(dimensions)
    self._units = 2.0 ** np.floor(np.log2(max(largest, 1.0) / (_SLACK * config.radius)))  # of a point's numbers, in 1
    self._scale = self._dtype(_PROJECTION_UNIT / self._units / (kernel.bandwidth or 1.0))
    error = np.median(lengths_P) * _PROJECTION_UNIT / self._units / np.sqrt(12)
    if kernel.bandwidth is not None and kernel.bandwidth < _BUCKET_IN_ERRORS * error:
      raise WinnowError(
        f"--bandwidth={kernel.bandwidth:g} is too small for embeddings of length {config.radius:g}: take "
        f"{_BUCKET_IN_ERRORS * error:.2g} or more"
      )
    self._offsets_P = hashing.uniforms("race offset", config.seed, 0, projections).astype(self._dtype)
    numbers = np.arange(config.rows * (kernel.hashes + 1))
    self._multipliers_RH = hashing.hash_documents("race multiplier", config.seed, "", numbers).reshape(config.rows, -1)

  def checksum(self) -> str:
    """Returns a checksum by which machines and versions can tell whether they make the same hashes."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (self._projections_PD, self._offsets_P, self._multipliers_RH, np.array([self._units])):
      digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()

  def check(self, points_ND: np.ndarray) -> None:
    """Raises WinnowError for points that are longer than the radius or not finite."""
    longest = np.sqrt(np.max([0, *(_squares(part_ND).max() for part_ND in _parts(points_ND))]))  # NaN if any is
    if not longest <= _SLACK * self.config.radius:
      raise WinnowError(
        f"an embedding has length {longest:g}, and the sketch is for {self.config.radius:g} at most: give unit vectors"
      )

  def project(self, points_ND: np.ndarray) -> np.ndarray:
    """Computes projections in whole units, exactly: float32 (L1: float64) [P, N]."""
    whole_ND = points_ND * self._dtype(self._units)
    return self._projections_PD @ np.rint(whole_ND, out=whole_ND).T

  def arguments(self, chunk: slice) -> tuple[Any, ...]:
    """Returns the arguments of the compiled loops besides projections, for a chunk of rows."""
    joined = self.config.kernel.hashes
    offsets_P = self._offsets_P[chunk.start * joined : chunk.stop * joined]
    signs = self.config.kernel.name == "angular"
    return self._scale, offsets_P, self._multipliers_RH[chunk], np.uint64(self.config.counters), signs


class Sketch:
  """Counts of `num_points` points: int32 [R, B]. Not thread-safe; each call uses all cores itself."""

  def __init__(self, config: SketchConfig, counts_RB: np.ndarray | None = None, num_points: int = 0):
    self.config, self.num_points = config, num_points
    shape = config.rows, config.counters
    self.counts_RB = np.zeros(shape, np.int32) if counts_RB is None else counts_RB
    if self.counts_RB.shape != shape or self.counts_RB.dtype != np.int32:
      raise ValueError(f"counts must be int32 {shape}, not {self.counts_RB.dtype} {self.counts_RB.shape}")
    self._hashes: Hashes | None = None

  @property
  def hashes(self) -> Hashes:
    """The hashes of the rows, made on first use."""
    if self._hashes is None:
      self._hashes = Hashes(self.config)
    return self._hashes

  def add(self, points_ND: np.ndarray) -> None:
    """Counts points, float [N, D], in place.

    Raises WinnowError beyond 2^31 - 1 points, and for points that are not finite or longer than the radius; it has then
    counted none.
    """
    if self.num_points + len(points_ND) > MAX_POINTS:
      raise WinnowError(f"a sketch holds at most {MAX_POINTS:,} points: take one for each part of the corpus")

    from curation.coverage import race_loops

    def count(projected_PN: np.ndarray, chunk: slice) -> None:
      race_loops.count(projected_PN, *self.hashes.arguments(chunk), self.counts_RB[chunk])

    for _ in self._batches(points_ND, count):
      pass
    self.num_points += len(points_ND)

  def codes(self, points_ND: np.ndarray) -> np.ndarray:
    """Returns the hash codes of points, float [N, D], and counts none: uint16 [R, N], uint32 if B is above 65,536.

    A code is the number of the counter that a point falls into. `count_codes` counts points by their codes. Raises
    WinnowError for points that are not finite or longer than the radius.
    """
    from curation.coverage import race_loops

    dtype = code_type(self.config.counters)

    def find(projected_PN: np.ndarray, chunk: slice) -> np.ndarray:
      codes_RN = np.empty((chunk.stop - chunk.start, projected_PN.shape[1]), dtype)
      race_loops.find_codes(projected_PN, *self.hashes.arguments(chunk), codes_RN)
      return codes_RN

    parts = [np.concatenate(codes_C) for codes_C in self._batches(points_ND, find)]
    return np.concatenate(parts, axis=1) if parts else np.empty((self.config.rows, 0), dtype)

  def density(self, points_ND: np.ndarray) -> Density:
    """Returns the density around points, float [N, D], whether they were added or not."""
    from curation.coverage import race_loops

    def look_up(projected_PN: np.ndarray, chunk: slice) -> np.ndarray:
      sums_2N = np.zeros((2, projected_PN.shape[1]))
      race_loops.look_up(projected_PN, *self.hashes.arguments(chunk), self.counts_RB[chunk], sums_2N)
      return sums_2N

    # Chunks are added in one order, so that the last bits do not depend on the number of cores.
    parts = [np.sum(sums_C, axis=0) for sums_C in self._batches(points_ND, look_up)]
    sums_N, squares_N = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
    rows = self.config.rows
    mean_N = sums_N / rows
    variance_N = np.maximum(squares_N / rows - mean_N**2, 0) * rows / (rows - 1)
    return Density(mean_N, np.sqrt(variance_N / rows))

  def without_collisions(self, mean_N: np.ndarray) -> np.ndarray:
    """Removes chance collisions, 1/B of all other points, from the mean counts of points that were added; at least 1.

    E[mean] = S + (N - S) / B for a kernel sum S over N points (Coleman and Shrivastava 2020, Theorem 1's rehashing).
    """
    counters = self.config.counters
    if counters == 1:
      return np.ones_like(mean_N)
    return np.maximum((mean_N - self.num_points / counters) / (1 - 1 / counters), 1.0)

  def merge(self, other: "Sketch") -> None:
    """Adds another sketch's counts, in place. Raises WinnowError unless both were made with the same hashes."""
    for field in dataclasses.fields(SketchConfig):
      ours, theirs = getattr(self.config, field.name), getattr(other.config, field.name)
      if ours != theirs:
        raise WinnowError(f"sketches of different {field.name}, {theirs} and {ours}, do not add up: take one setting")
    if self.num_points + other.num_points > MAX_POINTS:
      raise WinnowError(f"a sketch holds at most {MAX_POINTS:,} points: take one for each part of the corpus")
    self.counts_RB += other.counts_RB
    self.num_points += other.num_points

  def _batches(self, points_ND: np.ndarray, work):
    """Yields the results of `work` for each batch, one per chunk of rows; chunks run in parallel."""
    points_ND = np.asarray(points_ND)
    if points_ND.ndim != 2 or points_ND.shape[1] != self.config.dimensions:
      raise ValueError(f"points must be [N, {self.config.dimensions}], not {list(points_ND.shape)}")
    self.hashes.check(points_ND)
    rows, joined = self.config.rows, self.config.kernel.hashes
    borders = [rows * i // _CHUNKS for i in range(_CHUNKS + 1)]
    chunks = [slice(a, b) for a, b in itertools.pairwise(borders) if b > a]
    with concurrent.futures.ThreadPoolExecutor(usable_cores(), "winnow-race") as pool:
      for part_ND in _parts(points_ND):
        projected_PN = self.hashes.project(part_ND)
        parts = [projected_PN[chunk.start * joined : chunk.stop * joined] for chunk in chunks]
        yield list(pool.map(work, parts, chunks))


def code_type(counters: int) -> type[np.unsignedinteger]:
  """Returns the type of the codes of a sketch with B counters a row."""
  return np.uint16 if counters <= 1 << 16 else np.uint32


def count_codes(codes_RN: np.ndarray, counts_RB: np.ndarray) -> None:
  """Counts points by their `Sketch.codes`, of all rows or of some, into the counts of these rows, int32, in place."""
  from curation.coverage import race_loops

  race_loops.count_codes(codes_RN, counts_RB)


def _parts(points_ND: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the points in float32, batch by batch, since a block in float16 takes half the memory."""
  for start in range(0, len(points_ND), _BATCH):
    yield points_ND[start : start + _BATCH].astype(np.float32, copy=False)


def _squares(points_ND: np.ndarray) -> np.ndarray:
  """Computes the squared lengths of points: [N]."""
  return np.einsum("nd,nd->n", points_ND, points_ND)


def unit_vectors(points_ND: np.ndarray) -> np.ndarray:
  """Scales points to length 1: float32 [N, D]. Zeros stay zeros, and points that are not finite stay so."""
  points_ND = np.asarray(points_ND, np.float32)
  # Dividing by the largest number first keeps squares from overflowing.
  largest_N1 = np.abs(points_ND).max(axis=1, keepdims=True, initial=0)
  with np.errstate(invalid="ignore"):
    scaled_ND = points_ND / np.where(largest_N1 > 0, largest_N1, 1)
    return scaled_ND / np.maximum(np.linalg.norm(scaled_ND, axis=1, keepdims=True), 1)


def save(sketch: Sketch, file: IO[bytes]) -> None:
  """Writes a sketch into a binary file: a safetensors file of 4 * R * B bytes and a header."""
  content = {
    "version": FORMAT_VERSION,
    "config": sketch.config.to_json(),
    "num_points": sketch.num_points,
    "hashes": sketch.hashes.checksum(),
  }
  safetensors_files.write_array(file, sketch.counts_RB, name=_TENSOR, key=_METADATA, content=content)


class SketchFile:
  """A sketch in a seekable binary file: `config`, `num_points` and `hashes` from its header, and rows on demand.

  Raises a DamagedError that names `path` for a file that is damaged or not a sketch, before it allocates memory.
  """

  def __init__(self, file: BinaryIO, path: str):
    self._file, self._path = file, path
    with self._refusing():
      header = safetensors_files.read_header(file, _MAX_HEADER_BYTES)
    with self._refusing(WinnowError):  # an invalid configuration raises it
      content = header.content(_METADATA, FORMAT_VERSION)
      self.config = SketchConfig.from_json(content["config"])
      self.num_points: int = content["num_points"]
      self.hashes: str = content["hashes"]
      self._start = header.start
      shape = self.config.rows, self.config.counters
      if header.entries != {_TENSOR: safetensors_files.Entry("I32", shape, 0, 4 * math.prod(shape))}:
        raise ValueError("its header is not a sketch's")
      if type(self.num_points) is not int or not 0 <= self.num_points <= MAX_POINTS:
        raise ValueError(f"its number of points is {self.num_points!r}")

  def rows(self, start: int, stop: int) -> np.ndarray:
    """Reads the counts of some rows, each of which must add up to the number of points: int32 [stop - start, B]."""
    with self._refusing():
      row_bytes = 4 * self.config.counters
      self._file.seek(self._start + start * row_bytes)
      counts_RB = np.frombuffer(self._read((stop - start) * row_bytes), "<i4").reshape(stop - start, -1)
      if not (counts_RB >= 0).all() or not (counts_RB.sum(axis=1, dtype=np.int64) == self.num_points).all():
        raise ValueError(f"its rows do not add up to its {self.num_points:,} points")
    return counts_RB.astype(np.int32)

  def check(self) -> None:
    """Reads all rows, each of which must add up to the number of points, so that no damaged counter goes unseen."""
    for start in range(0, self.config.rows, _ROWS_AT_ONCE):
      self.rows(start, min(start + _ROWS_AT_ONCE, self.config.rows))

  def load(self) -> Sketch:
    """Reads the whole sketch; raises DamagedError also if this version makes other hashes from its seed."""
    config = self.config
    counts_RB = np.empty((config.rows, config.counters), np.int32)
    for start in range(0, config.rows, _ROWS_AT_ONCE):
      stop = min(start + _ROWS_AT_ONCE, config.rows)
      counts_RB[start:stop] = self.rows(start, stop)
    sketch = Sketch(config, counts_RB, self.num_points)
    with self._refusing(WinnowError):  # hashes may raise it
      if sketch.hashes.checksum() != self.hashes:
        raise ValueError("this version makes other hashes from its seed")
    return sketch

  def _read(self, size: int) -> bytes:
    data = self._file.read(size)
    if len(data) != size:
      raise ValueError("it breaks off")
    return data

  def _refusing(self, *others: type[Exception]) -> contextlib.AbstractContextManager[None]:
    return safetensors_files.refusing(self._path, "is not a sketch, or damaged", *others)
