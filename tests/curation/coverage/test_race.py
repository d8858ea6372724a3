"""RACE sketches: against counting by hand, against exact kernel sums, and the same to the last count however split."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy

from curation.coverage import kernels, race
from curation.errors import WinnowError

L2 = kernels.Kernel("l2", 0.8, 2)
KERNELS = [L2, kernels.Kernel("l1", 6.0, 2), kernels.Kernel("angular", hashes=7)]


def mixture(number: int, dimensions: int = 24, seed: int = 0) -> np.ndarray:
  """Unit vectors around eight centres, the first ones many, with some exact copies: float32 [N, D]."""
  generator = np.random.default_rng(seed)
  centres = generator.standard_normal((8, dimensions))
  centre_N = generator.choice(8, number, p=np.arange(8, 0, -1) / 36)
  points = centres[centre_N] + 0.4 * generator.standard_normal((number, dimensions))
  points[: number // 20] = points[0]
  return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def sketch_of(points_ND: np.ndarray, kernel: kernels.Kernel = L2, **sizes: int) -> race.Sketch:
  sizes = {"rows": 40, "counters": 500} | sizes
  sketch = race.Sketch(race.SketchConfig(points_ND.shape[1], kernel, **sizes))
  sketch.add(points_ND)
  return sketch


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_counts_are_those_counted_by_hand(kernel):
  """Kills: truncation in place of floor below 0, hashes of one row used in another, a product that loses high bits."""
  points_ND = mixture(90)
  sketch, by_hand = sketch_of(points_ND, kernel), np.zeros((40, 500), np.int64)
  hashes = sketch.hashes
  mean_N = np.zeros(90)
  projected_PN = hashes.project(points_ND)
  counters_RN = np.zeros((40, 90), int)
  negative = 0
  for row in range(40):
    for n in range(90):
      mixed = int(hashes._multipliers_RH[row, -1])
      for h in range(kernel.hashes):
        place = row * kernel.hashes + h
        bucket = projected_PN[place, n] * hashes._scale + hashes._offsets_P[place]
        code = int(projected_PN[place, n] >= 0) if kernel.name == "angular" else int(np.floor(bucket)) % 2**32
        negative += bucket < 0
        mixed += int(hashes._multipliers_RH[row, h]) * code
      counters_RN[row, n] = (mixed % 2**64 >> 32) * 500 >> 32
      by_hand[row, counters_RN[row, n]] += 1
  assert negative > 500
  np.testing.assert_array_equal(sketch.counts_RB, by_hand)
  np.testing.assert_array_equal(sketch.codes(points_ND), counters_RN)
  for row in range(40):
    mean_N += by_hand[row, counters_RN[row]] / 40
  density = sketch.density(points_ND)
  np.testing.assert_allclose(density.mean, mean_N, rtol=1e-12)
  spread = np.std([by_hand[row, counters_RN[row]] for row in range(40)], axis=0, ddof=1)
  np.testing.assert_allclose(density.standard_error, spread / np.sqrt(40), rtol=1e-9)


@pytest.mark.parametrize(("counters", "dtype"), [(1 << 16, np.uint16), (1 << 18, np.uint32)])
def test_points_are_counted_by_their_codes(counters, dtype):
  """Kills: codes that are cut to 16 bits, and a batch's codes in another's place."""
  points_ND = mixture(3_000)
  whole, counts_RB = sketch_of(points_ND, rows=3, counters=counters), np.zeros((3, counters), np.int32)
  codes_RN = whole.codes(points_ND)
  assert codes_RN.dtype == dtype and codes_RN.max() > 0.9 * counters and whole.num_points == 3_000
  np.testing.assert_array_equal(
    np.concatenate([whole.codes(points_ND[i : i + 1]) for i in range(9)], 1), codes_RN[:, :9]
  )
  race.count_codes(codes_RN, counts_RB)
  np.testing.assert_array_equal(counts_RB, whole.counts_RB)
  assert whole.codes(points_ND[:0]).shape == (3, 0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_projections_are_the_points_products(kernel):
  points_ND = mixture(30)
  hashes = race.Hashes(race.SketchConfig(24, kernel, rows=40, counters=500))
  expected_PN = hashes._projections_PD.astype(np.float64) @ points_ND.T.astype(np.float64) * hashes._units
  lengths_P = np.linalg.norm(hashes._projections_PD.astype(np.float64), axis=1)
  assert (np.abs(hashes.project(points_ND) - expected_PN) / lengths_P[:, None]).max() < 2  # rounding's is 0.3 as a rule


@pytest.mark.parametrize("kernel", [kernels.Kernel("l2", 0.1, 1), kernels.Kernel("l1", 3.0, 2)], ids=lambda k: k.name)
def test_projections_are_exact(kernel):
  """Whatever the order of their sums. Kills: one bit more of the points, or L1 in float32."""
  points_ND = mixture(64, 768)
  hashes = race.Hashes(race.SketchConfig(768, kernel))
  whole_ND = np.rint(points_ND.astype(np.float64) * hashes._units).astype(np.int64)
  exact_PN = hashes._projections_PD.astype(np.int64) @ whole_ND.T
  np.testing.assert_array_equal(hashes.project(points_ND), exact_PN.astype(np.float64))
  # Nor could another unit vector leave the numbers that are exact.
  lengths_P = np.linalg.norm(hashes._projections_PD.astype(np.float64), axis=1)
  limit = 2.0 ** (53 if kernel.name == "l1" else 24)
  assert limit / 2.5 < lengths_P.max() * (1.001 * hashes._units + np.sqrt(768)) <= limit


def test_another_machine_counts_alike():
  """OpenBLAS as for older processors sums in another order. Kills: projections that are not whole numbers."""
  program = """
import hashlib, numpy as np, test_race
points_ND = test_race.mixture(700, 768)
order = np.random.default_rng(0).permutation(700)
digest = hashlib.sha256()
for kernel in (test_race.kernels.Kernel("l2", 0.03, 1), test_race.kernels.Kernel("l1", 3.0, 2)):
  sketch = test_race.sketch_of(points_ND[order], kernel, rows=1_000, counters=2_000)
  digest.update(sketch.counts_RB)
  digest.update(sketch.density(points_ND).mean)
print(digest.hexdigest())
"""
  outputs = set()
  for settings in (
    {},
    {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1"},
    {"OPENBLAS_CORETYPE": "Prescott"},
  ):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])} | settings
    command = [sys.executable, "-c", program]
    outputs.add(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
  assert len(outputs) == 1


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.lists(st.integers(0, 3_000), max_size=6), st.integers(0, 9))
def test_splits_orders_and_merges_give_the_same_counts(borders, seed):
  """Kills: a batch that is left out or counted twice, counts that a merge forgets."""
  points_ND = mixture(3_000, 40)
  whole = sketch_of(points_ND)
  order = np.random.default_rng(seed).permutation(len(points_ND))
  parts = [sketch_of(part) for part in np.split(points_ND[order], sorted(borders))]
  merged = race.Sketch(whole.config)
  for i in np.random.default_rng(seed + 1).permutation(len(parts)):
    merged.merge(pickle.loads(pickle.dumps(parts[i])))
  np.testing.assert_array_equal(merged.counts_RB, whole.counts_RB)
  assert merged.num_points == whole.num_points == 3_000
  mean_N, error_N = whole.density(points_ND)
  alone = whole.density(points_ND[order[:700]])
  assert alone.mean.tobytes() == mean_N[order[:700]].tobytes()
  assert alone.standard_error.tobytes() == error_N[order[:700]].tobytes()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("counters", [200, 20_000])
def test_density_estimates_the_kernel_sum(kernel, counters):
  """The error is what the standard error says. Kills: a kernel that is not the hashes', copies counted once."""
  points_ND = mixture(2_000)
  exact_N = kernel.sums(points_ND, points_ND)
  expected_N = exact_N + (2_000 - exact_N) / counters
  errors, predicted = [], []
  for seed in range(8):  # errors of one sketch go together: all its points met the same hashes
    sketch = sketch_of(points_ND, kernel, rows=100, counters=counters, seed=seed)
    mean_N, error_N = sketch.density(points_ND)
    errors.append(mean_N - expected_N)
    predicted.append(error_N)
    corrected_N = sketch.without_collisions(mean_N)
    assert corrected_N.min() >= 1
    np.testing.assert_allclose(corrected_N - exact_N, errors[-1], atol=0.02 * exact_N.max())
  ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(predicted)))
  assert 0.7 < ratio < 1.2


def test_errors_fall_with_the_root_of_the_rows():
  """Kills: rows that share hashes, whose errors do not average out."""
  points_ND = mixture(1_500)
  exact_N = L2.sums(points_ND, points_ND)
  errors = {}
  for rows in (50, 200, 800):
    sketch = sketch_of(points_ND, rows=rows, counters=1 << 18)
    errors[rows] = np.sqrt(np.mean((sketch.density(points_ND).mean - exact_N) ** 2))
  assert errors[50] / errors[200] == pytest.approx(2, rel=0.35)
  assert errors[200] / errors[800] == pytest.approx(2, rel=0.35)


def test_another_seed_gives_other_hashes():
  config = race.SketchConfig(24, L2, rows=40, counters=500)
  sums = {race.Hashes(dataclasses.replace(config, seed=seed)).checksum() for seed in range(3)}
  assert len(sums) == 3 and race.Hashes(config).checksum() in sums


def test_sketches_of_other_hashes_do_not_merge():
  points_ND = mixture(50)
  sketch = sketch_of(points_ND)
  others = {
    "kernel": dataclasses.replace(sketch.config, kernel=kernels.Kernel("l2", 0.9, 2)),
    "rows": dataclasses.replace(sketch.config, rows=39),
    "counters": dataclasses.replace(sketch.config, counters=501),
    "seed": dataclasses.replace(sketch.config, seed=1),
    "radius": dataclasses.replace(sketch.config, radius=2.0),
    "dimensions": dataclasses.replace(sketch.config, dimensions=25),
  }
  assert set(others) == {field.name for field in dataclasses.fields(race.SketchConfig)}
  for field, config in others.items():
    before = sketch.counts_RB.copy()
    with pytest.raises(WinnowError, match=f"different {field}"):
      sketch.merge(race.Sketch(config))
    np.testing.assert_array_equal(sketch.counts_RB, before)


def test_what_would_overflow_is_refused():
  sketch = sketch_of(mixture(10))
  full = race.Sketch(sketch.config, sketch.counts_RB, race.MAX_POINTS - 4)
  with pytest.raises(WinnowError, match=r"at most 2,147,483,647 points"):
    full.add(mixture(5))
  with pytest.raises(WinnowError, match=r"at most 2,147,483,647 points"):
    full.merge(sketch)
  with pytest.raises(WinnowError, match=r"--bandwidth=1e-05 is too small .* take \S+ or more"):
    sketch_of(mixture(5), kernels.Kernel("l2", 1e-5))


def test_a_point_that_is_too_long_is_refused_before_any_is_counted():
  """Kills: a check batch by batch, after which the sketch does not add up."""
  points_ND = mixture(1_500)
  sketch = sketch_of(points_ND)
  before = sketch.counts_RB.copy()
  for value in (2.0, np.nan):
    points_ND[1_400] *= value
    with pytest.raises(WinnowError, match=r"an embedding has length (2|nan), and the sketch is for 1 at most"):
      sketch.add(points_ND)
    np.testing.assert_array_equal(sketch.counts_RB, before)
    assert sketch.num_points == 1_500


def test_points_of_another_width_are_refused():
  with pytest.raises(ValueError, match=r"\[N, 24\]"):
    sketch_of(mixture(6)).add(mixture(6)[:, :23])


def test_unit_vectors_have_length_one_whatever_their_size():
  """Kills: squares that overflow, and zeros that become NaN."""
  points_ND = mixture(5) * np.float32([[1], [1e30], [1e-30], [0], [7]])
  points_ND[4, 2] = np.inf
  units_ND = race.unit_vectors(points_ND)
  np.testing.assert_allclose(units_ND[:3], mixture(5)[:3], atol=1e-6)
  assert not units_ND[3].any()
  assert not np.isfinite(units_ND[4]).all()


def test_a_sketch_comes_back_from_its_file(tmp_path):
  sketch = sketch_of(mixture(500), KERNELS[1])
  save(sketch, tmp_path / "sketch.safetensors")
  loaded = load(tmp_path / "sketch.safetensors")
  assert (loaded.config, loaded.num_points) == (sketch.config, 500)
  np.testing.assert_array_equal(loaded.counts_RB, sketch.counts_RB)
  with (tmp_path / "sketch.safetensors").open("rb") as file:
    np.testing.assert_array_equal(race.SketchFile(file, "s").rows(7, 12), sketch.counts_RB[7:12])
  tensors = safetensors.numpy.load_file(tmp_path / "sketch.safetensors")  # anybody can read it
  np.testing.assert_array_equal(tensors["counts"], sketch.counts_RB)
  loaded.merge(sketch)
  assert loaded.num_points == 1_000


def save(sketch, path):
  with path.open("wb") as file:
    race.save(sketch, file)


def load(path):
  with path.open("rb") as file:
    return race.SketchFile(file, str(path)).load()


def damaged(tensors, metadata, how):
  if how == "version":
    metadata["version"] = 99
  elif how == "seed":
    metadata["config"]["seed"] = 7
  elif how == "rows":
    metadata["config"]["rows"] = 41
  elif how == "too many rows":
    metadata["config"]["rows"] = 10**9
  elif how == "huge hashes":
    metadata["config"] |= {"dimensions": 16_384, "kernel": {"name": "l2", "bandwidth": 0.8, "hashes": 64}}
    metadata["config"] |= {"rows": 100_000, "counters": 1}
  elif how == "half a hash":
    metadata["config"]["kernel"]["hashes"] = 1.5
  elif how == "no hashes":
    del metadata["hashes"]
  elif how == "points":
    metadata["num_points"] = 499
  elif how == "negative":
    tensors["counts"][3, :2] += np.array([-1_000, 1_000], np.int32)
  elif how == "kernel":
    metadata["config"]["kernel"] = {"name": "l2", "bandwidth": "wide"}
  elif how == "field":
    metadata["config"]["more"] = 1
  elif how == "dtype":
    tensors["counts"] = tensors["counts"].astype(np.int64)
  return tensors, metadata


@pytest.mark.parametrize(
  "how",
  [
    "version",
    "seed",
    "rows",
    "too many rows",
    "points",
    "negative",
    "kernel",
    "field",
    "dtype",
    "cut",
    "empty",
    "longer",
    "huge hashes",
    "half a hash",
    "no hashes",
  ],
)
def test_files_that_are_no_sketch_are_refused(tmp_path, how):
  path = tmp_path / "sketch.safetensors"
  sketch = sketch_of(mixture(500))
  save(sketch, path)
  if how == "longer":
    path.write_bytes(path.read_bytes() + b"\0")
  elif how == "cut":
    path.write_bytes(path.read_bytes()[:-5])
  elif how == "empty":
    path.write_bytes(b"")
  else:
    metadata = {
      "version": race.FORMAT_VERSION,
      "config": sketch.config.to_json(),
      "num_points": 500,
      "hashes": sketch.hashes.checksum(),
    }
    tensors, metadata = damaged({"counts": sketch.counts_RB.copy()}, metadata, how)
    safetensors.numpy.save_file(tensors, path, {"winnow_sketch": json.dumps(metadata)})
  with pytest.raises(WinnowError, match=r"sketch.safetensors .* make it anew"):
    load(path)
