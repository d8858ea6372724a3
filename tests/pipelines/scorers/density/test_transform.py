"""The density transform gives the bits of the command, in bundles of all sizes, and says what it cannot take."""

import itertools
import json
import os
import pathlib
import pickle
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options import pipeline_options
from apache_beam.testing import util
from apache_beam.transforms import window
from apache_beam.typehints import typehints
from hypothesis import given
from hypothesis import strategies as st

import pipelines.api as winnow
from curation.coverage import density, kernels, race
from pipelines import main
from pipelines.scorers.density import counting, sketching, transform

ROWS, SHARDS, BLOCK_ROWS = 120, 3, 9
GIVEN = {"bandwidth": 0.6, "hashes": 2, "sketch_rows": 30, "sketch_counters": 50}
KERNEL = kernels.Kernel("l2", 0.6, 2)


def vectors_of(shard: int, rows: int = ROWS) -> np.ndarray:
  """Clusters of several widths, not of length 1: float32 [rows, 6]."""
  generator = np.random.default_rng(shard)
  centres_KD = np.random.default_rng(9).standard_normal((4, 6))
  kind_N = generator.choice(4, rows, p=[0.2, 0.2, 0.2, 0.4])
  noise_ND = generator.standard_normal((rows, 6)) * np.array([0.02, 0.1, 0.4, 1])[kind_N][:, None]
  return ((centres_KD[kind_N] + noise_ND) * generator.uniform(0.5, 20, (rows, 1))).astype(np.float32)


def by_sketch(vectors_ND: np.ndarray, dtype: str = "float16") -> list[float]:
  """The densities of vectors under the settings GIVEN, without a pipeline."""
  points_ND = race.unit_vectors(vectors_ND).astype(dtype)
  sketch = race.Sketch(race.SketchConfig(vectors_ND.shape[1], KERNEL, rows=30, counters=50))
  sketch.add(points_ND)
  return sketch.density(points_ND).mean.astype(np.float32).tolist()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("corpus")
  for shard in range(SHARDS):
    lines = [json.dumps({"text": f"text {row}"}) for row in range(ROWS)]
    (folder / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
    np.save(folder / f"{shard}.npy", vectors_of(shard))
  return folder


def by_command(corpus: pathlib.Path, settings: dict[str, Any]) -> list[tuple[tuple[str, int], float]]:
  """What `winnow score` gives, with a flag for each setting."""
  flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]
  where = [f"--input={corpus}/*.jsonl", f"--embeddings={corpus}/*.npy", f"--scores={corpus}/scores", "--name=made"]
  command = ["score", "--scorer=density", *where, f"--block_rows={BLOCK_ROWS}", "--direct_num_workers=1", "--overwrite"]
  assert main.main([*command, *flags]) == 0
  rows = winnow.read_scores(corpus / "scores/made").to_table().to_pylist()
  assert len(rows) == ROWS * SHARDS
  return [((row["shard"], row["row"]), row["score"]) for row in rows]


def keyed() -> list[tuple[tuple[str, int], np.ndarray]]:
  return [((f"{shard}.jsonl", row), vector) for shard in range(SHARDS) for row, vector in enumerate(vectors_of(shard))]


def made(settings: dict[str, Any]) -> transform.Density:
  densities = winnow.Density(**settings)
  densities._block_rows = BLOCK_ROWS
  return densities


def test_densities_have_the_bits_of_the_command(corpus, monkeypatch):
  """Invariant 1, with the bandwidth chosen from a sample. Kills the mutants: a sample by other hashes, of all vectors,
  or in another order; vectors that are not rounded to float16."""
  monkeypatch.setattr(sketching, "SAMPLED", 100)
  monkeypatch.setattr(density, "_MOST_FOR_PAIRS", 40)  # every other one or so of the sample, in its order
  settings = {"sketch_rows": 40, "sketch_counters": 300}
  expected = by_command(corpus, settings)
  with beam.Pipeline("FnApiRunner") as pipeline:
    util.assert_that(pipeline | beam.Create(keyed()[::-1]) | made(settings), util.equal_to(expected))


@pytest.mark.local_runner
def test_two_processes_give_the_bits_of_the_command_for_all_settings(corpus, tmp_path):
  """Invariant 1, over dozens of blocks of several shards. Kills: codes of one process that are lost or counted twice, a
  sketch that only the launcher has, and a setting that does not arrive."""
  settings = {"kernel": "angular", "sketch_rows": 20, "sketch_counters": 70, "sketch_seed": 5}
  settings |= {"embedding_dtype": "float32", "correct_collisions": True}

  def noted(pair):
    (tmp_path / f"{os.getpid()}-{pair[0][0]}-{pair[0][1]}").touch()
    return pair

  options = pipeline_options.PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
  expected = by_command(corpus, settings)
  with beam.Pipeline("FnApiRunner", options=options) as pipeline:
    densities = pipeline | beam.Create(keyed()) | beam.Reshuffle() | made(settings) | "Note" >> beam.Map(noted)
    util.assert_that(densities, util.equal_to(expected))
  names = [path.name for path in tmp_path.iterdir()]
  processes = {name.partition("-")[0] for name in names}
  assert len(names) == ROWS * SHARDS and len(processes) == 2 and str(os.getpid()) not in processes


@pytest.mark.local_runner
def test_bundles_of_one_vector_give_the_same_bits(tmp_path):
  """Kills: a bundle's last vectors left out, and a sketch of one bundle that is taken for the whole."""

  class NoteBundles(beam.DoFn):
    def start_bundle(self):
      self._held = 0

    def process(self, pair):
      self._held += 1
      yield pair

    def finish_bundle(self):
      if self._held:
        (tmp_path / f"{self._held}-{len(list(tmp_path.iterdir()))}-{os.urandom(4).hex()}").touch()

  vectors_ND = vectors_of(0, 12)
  options = pipeline_options.PipelineOptions(["--direct_running_mode=multi_threading", "--direct_num_workers=12"])
  with beam.Pipeline("FnApiRunner", options=options) as pipeline:
    pairs = pipeline | beam.Create([*enumerate(vectors_ND)]) | beam.Reshuffle() | beam.ParDo(NoteBundles())
    util.assert_that(pairs | winnow.Density(**GIVEN), util.equal_to([*enumerate(by_sketch(vectors_ND))]))
  held = [int(path.name.partition("-")[0]) for path in tmp_path.iterdir()]
  assert sum(held) == 12 and held.count(1) > 8


@pytest.mark.parametrize("block_rows", [1, 7, 1_024])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_blocks_do_not_change_a_density(block_rows, dtype):
  """Kills: a vector that is counted by its place in a block."""
  vectors_ND = vectors_of(1, 100)
  densities = winnow.Density(**GIVEN, embedding_dtype=dtype)
  densities._block_rows = block_rows
  with beam.Pipeline("FnApiRunner") as pipeline:
    found = pipeline | beam.Create([*enumerate(vectors_ND)]) | densities
    util.assert_that(found, util.equal_to([*enumerate(by_sketch(vectors_ND, dtype))]))


@pytest.mark.parametrize(
  "keys",
  [["a", "b", "c"], [b"a", b"b", b"c"], [0, 1, 2], [("a", 0), ("a", 1), ("b", 0)]],
  ids=["str", "bytes", "int", "tuple"],
)
def test_keys_of_all_kinds_choose_a_bandwidth(keys):
  """Kills: a sample that only (shard, row) can be in."""
  vectors_ND = np.array([[1, 0], [1, 0.01], [-1, 0.5]], np.float32)
  with beam.Pipeline("FnApiRunner") as pipeline:
    found = pipeline | beam.Create([*zip(keys, vectors_ND, strict=True)]) | winnow.Density(sketch_rows=20)
    keyed_so = found | beam.Map(lambda pair: (pair[0], pair[1] > 1))
    util.assert_that(keyed_so, util.equal_to([*zip(keys, [True, True, False], strict=True)]))


def test_keys_may_be_anything_and_double_where_nothing_is_chosen():
  """Kills: a key that is needed for no sample."""
  keys, vectors_ND = [None, (1, (2, "x")), -4, -4], vectors_of(2, 4)
  with beam.Pipeline("FnApiRunner") as pipeline:
    found = pipeline | beam.Create([*zip(keys, vectors_ND, strict=True)]) | winnow.Density(**GIVEN)
    util.assert_that(found, util.equal_to([*zip(keys, by_sketch(vectors_ND), strict=True)]))


def test_no_vectors_have_no_densities():
  """Kills: a bandwidth that must be chosen from nothing."""
  with beam.Pipeline("FnApiRunner") as pipeline:
    created = pipeline | beam.Create([]).with_output_types(tuple[str, np.ndarray])
    util.assert_that(created | winnow.Density(), util.is_empty())


def test_densities_have_the_keys_type_and_the_timestamps_of_their_vectors():
  """Kills the mutant whose blocks give all densities the time of the last one."""
  with beam.Pipeline("FnApiRunner") as pipeline:
    created = pipeline | beam.Create([*enumerate(vectors_of(0, 9))])
    stamped = created | beam.Map(lambda pair: window.TimestampedValue(pair, pair[0] + 0.25))
    times = (
      stamped | winnow.Density(**GIVEN) | beam.Map(lambda pair, time=beam.DoFn.TimestampParam: (pair[0], float(time)))
    )
    util.assert_that(times, util.equal_to([(number, number + 0.25) for number in range(9)]))
  typed = beam.Pipeline("FnApiRunner") | beam.Create([]).with_output_types(tuple[int, np.ndarray])
  assert (typed | winnow.Density()).element_type == typehints.normalize(tuple[int, float])


ONE, OTHER = np.array([1, 2], np.float32), np.array([2, 1], np.float32)
CLOSED = transform._Settings("l2", 0.6, 2, 30, 50, 0)
OPEN = transform._Settings("l2", None, None, 30, 50, 0)


def packed(pairs: list[tuple[Any, Any]], settings: transform._Settings) -> list[transform._Block]:
  """The blocks of a bundle."""
  fn = transform._PackFn(settings, "float16", BLOCK_ROWS)
  fn.start_bundle()
  full = [block for pair in pairs for block in fn.process(pair, window.MIN_TIMESTAMP)]
  return [*full, *(value.value for value in fn.finish_bundle())]


@pytest.mark.parametrize(
  "vector, told",
  [
    ([1.0, 2.0], "the vector of 'b' is list; give a NumPy array"),
    (ONE.astype(float), r"the vector of 'b' is float64 \[2\]; give a NumPy array of one dimension, float32"),
    (ONE[None], r"the vector of 'b' is float32 \[1, 2\]; give"),
    (ONE[:0], r"the vector of 'b' is float32 \[0\]; give"),
    (ONE * np.float32(np.nan), "the vector of 'b' has a number that is NaN or infinite; leave it out"),
    (ONE * np.float32(np.inf), "the vector of 'b' has a number that is NaN or infinite; leave it out"),
    (ONE * 0, "the vector of 'b' is 0, so it has no direction; leave it out"),
    (ONE[:1], "the vector of 'a' has 2 numbers and that of 'b' 1: give vectors of one model"),
  ],
)
def test_vectors_that_have_no_density_are_refused_by_their_key(vector, told):
  """Kills: a document that is dropped, and an error of NumPy that does not say which vector."""
  with pytest.raises(winnow.WinnowError, match=told):
    packed([("a", ONE), ("b", vector), ("c", ONE)], CLOSED)


def test_vectors_of_different_lengths_are_refused_wherever_they_are():
  """Kills: lengths that are compared within a bundle alone."""
  told = "the vector of '.' has . numbers and that of '.' .: give vectors of one model"
  with pytest.raises(Exception, match=told), beam.Pipeline("FnApiRunner") as pipeline:
    densities = winnow.Density(**GIVEN)
    densities._block_rows = 1
    _ = pipeline | beam.Create([("a", ONE), ("b", ONE[:1])]) | densities


@pytest.mark.parametrize(
  "keys, settings, told",
  [
    (
      ["a", "b", "b"],
      OPEN,
      "two vectors have the key 'b'; give each vector a key of its own, or give bandwidth, which",
    ),
    ([-1, -2], OPEN, "without bandwidth, Density cannot sample vectors by the key -1: take strings, bytes, integers"),
    ([None], OPEN._replace(kernel="angular"), "without hashes, Density cannot sample vectors by the key None: take"),
  ],
)
def test_keys_that_give_no_sample_are_refused(keys, settings, told):
  """Kills: a sample whose order depends on the runner, and one that holds a million vectors of one key."""
  with pytest.raises(winnow.WinnowError, match=told):
    blocks = packed([(key, vector) for key, vector in zip(keys, [ONE, OTHER, ONE], strict=False)], settings)
    looked = transform._merge(map(transform._look, blocks))
    list(transform._sample(blocks[0], looked, "bandwidth"))


def test_a_kernel_that_cannot_be_is_refused_by_the_name_of_its_flag():
  """Kills: advice to type --overwrite, which a transform does not have."""
  (block,) = packed([("a", ONE), ("b", ONE)], OPEN)
  looked = transform._merge([transform._look(block)])
  with pytest.raises(winnow.WinnowError, match=r"sampled embeddings differ, so --bandwidth cannot be chosen: give it$"):
    transform._choose(looked, OPEN, [*transform._sample(block, looked, "bandwidth")])
  with pytest.raises(winnow.WinnowError, match=r"--bandwidth=1e-09 is too small .* or more$"):
    transform._choose(looked, CLOSED._replace(bandwidth=1e-9), [])


@pytest.mark.parametrize(
  "settings, told",
  [
    ({"kernel": "cosine"}, "--kernel=cosine is none of l2, l1, angular"),
    ({"bandwidth": 0}, "--bandwidth=0.0 is not a number above 0"),
    ({"kernel": "angular", "bandwidth": 1}, "has no --bandwidth"),
    ({"hashes": 65}, "--hashes=65 is not between 1 and 64"),
    ({"sketch_rows": 1}, "rows must be a whole number from 2"),
    ({"sketch_counters": 0}, "counters must be a whole number from 1"),
    ({"sketch_seed": "1"}, "seed must be a whole number"),
    ({"embedding_dtype": "float64"}, "embedding_dtype='float64' is none of float16, float32"),
  ],
)
def test_settings_that_cannot_be_are_refused_before_the_pipeline_runs(settings, told):
  with pytest.raises(winnow.WinnowError, match=told):
    winnow.Density(**settings)


def test_windows_are_refused():
  """Kills: a density in one window that counts the vectors of another."""
  created = beam.Pipeline("FnApiRunner") | beam.Create([("a", ONE)]) | beam.WindowInto(window.FixedWindows(1))
  with pytest.raises(winnow.WinnowError, match="in the global window"):
    _ = created | winnow.Density()


CONFIG = race.SketchConfig(6, KERNEL, rows=30, counters=50)


@given(cuts=st.lists(st.integers(0, 400), max_size=12), order=st.randoms(use_true_random=False), compact=st.booleans())
def test_counting_gives_the_whole_sketch_however_it_is_split(cuts, order, compact):
  """Kills: codes that are counted twice as they become counts, and an accumulator changed after it was handed on."""
  points_ND = race.unit_vectors(vectors_of(0, 400))
  sketch = race.Sketch(CONFIG)
  codes_RN = sketch.codes(points_ND)
  sketch.add(points_ND)
  combine, borders = counting.CountFn(CONFIG.counters), sorted([0, 400, *cuts])
  parts = [codes_RN[:, a:b] for a, b in itertools.pairwise(borders)]
  order.shuffle(parts)
  accumulators = [combine.create_accumulator()]
  for part_RN in parts:
    if order.random() < 0.4:
      accumulators.append(combine.create_accumulator())
    accumulators[-1] = combine.add_input(accumulators[-1], part_RN)
  if compact:
    accumulators = [pickle.loads(pickle.dumps(combine.compact(accumulator))) for accumulator in accumulators]
  for _ in range(2):  # the accumulators are as they were
    counted, counts_RB = (
      combine.extract_output(combine.merge_accumulators(iter(accumulators))),
      np.zeros_like(sketch.counts_RB),
    )
    counting.add_counts(counted, counts_RB)
    assert counted.num_points == 400
    np.testing.assert_array_equal(counts_RB, sketch.counts_RB)


def test_what_travels_is_no_larger_than_vectors_or_than_the_sketch():
  """Kills: 80 MB that are shipped for a handful of vectors, and codes that grow with the corpus."""
  config = race.SketchConfig(8, kernels.Kernel("l2", 0.5, 1), rows=40, counters=20_000)
  codes_RN = race.Sketch(config).codes(race.unit_vectors(np.random.default_rng(0).standard_normal((1_024, 8))))
  (start, stop), *_ = sketching.slices_of(config)
  combine, total, sizes = counting.CountFn(config.counters), counting.CountFn(20_000).create_accumulator(), []
  for _ in range(60):
    total = combine.add_input(total, codes_RN[start:stop])
    sizes.append(len(pickle.dumps(combine.compact(total))))
  rows = stop - start
  assert sizes[0] < rows * 1_024 * 2 + 1_000
  assert rows * 20_000 * 4 < max(sizes) < rows * 20_000 * 4 + 1_000 and sizes[-1] == max(sizes)
  alone = combine.compact(combine.add_input(combine.create_accumulator(), codes_RN[start:stop, :1]))
  assert len(pickle.dumps(alone)) < 500


def test_more_points_than_a_sketch_holds_are_refused(monkeypatch):
  """Kills: counts that overflow."""
  monkeypatch.setattr(race, "MAX_POINTS", 3)
  combine = counting.CountFn(50)
  total = combine.add_input(combine.create_accumulator(), np.zeros((2, 3), np.uint16))
  with pytest.raises(winnow.WinnowError, match="holds at most 3 vectors"):
    combine.merge_accumulators([total, combine.add_input(combine.create_accumulator(), np.zeros((2, 1), np.uint16))])


def test_a_process_loads_the_sketch_once_for_each_run():
  """Kills: 80 MB that are decoded for every block, and the sketch of an earlier run of the same pipeline."""
  (block,) = packed([("a", vectors_of(0, 1)[0])], CLOSED)
  fn, loads = transform._ScoreFn(False), []

  class Slices:
    def __init__(self, count: int):
      self._count = count

    def __iter__(self):
      loads.append(self._count)
      yield (0, 30), counting.Counted(self._count, [], np.full((30, 50), self._count, np.int32))

  for count in (3, 5):
    chosen = transform._choose(transform._look(block), CLOSED, [])
    assert chosen is not None
    for _ in range(4):
      (value,) = fn.process(block, chosen, Slices(count))
      assert value.value == ("a", float(count))
  assert loads == [3, 5]


def test_a_bundle_is_not_held_in_memory_whole():
  """Kills: blocks that grow with the bundle, or with the vectors' length."""
  for dimensions, expected in ((6, 1_024), (4_096, 256)):
    fn = transform._PackFn(CLOSED, "float16", 1_024)
    fn.start_bundle()
    vector, time = np.ones(dimensions, np.float32), window.MIN_TIMESTAMP
    sizes = [len(block.keys) for number in range(1_100) for block in fn.process((number, vector), time)]
    assert sizes == [expected] * (1_100 // expected)
    assert [len(value.value.keys) for value in fn.finish_bundle()] == [1_100 % expected]
