"""Density through the commands: one sketch, one set of scores and one sample, whoever counts and however often.

Twelve shards in all formats, dozens of blocks in several groups, bad records in the middle, with embeddings made
elsewhere: two well separated dense clusters, a loose one, and points of their own.
"""

import json
import pathlib

import corpora
import dividing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import content, logs, run_in

from curation.coverage import kernels
from curation.selection import hashing
from pipelines.scorers.density.preparation import SketchPreparation

BIG_ROWS, SMALL_ROWS, DIMENSIONS = 12_000, 1_000, 12
SKETCH = ["--bandwidth=0.5", "--hashes=2", "--sketch_rows=64", "--sketch_counters=1000"]


def make_embeddings(shard: str, rows: int) -> np.ndarray:
  """float32 [rows, D], not of length 1."""
  generator = np.random.default_rng(list(shard.encode()))
  centres = np.random.default_rng(1).standard_normal((3, DIMENSIONS))
  kind = generator.choice(4, rows, p=[0.6, 0.25, 0.1, 0.05])
  noise = generator.standard_normal((rows, DIMENSIONS)) * np.array([0.05, 0.05, 0.4, 0])[kind][:, None]
  own = generator.standard_normal((rows, DIMENSIONS))
  points = np.where((kind == 3)[:, None], own, centres[np.minimum(kind, 2)] + noise)
  return (points * generator.uniform(0.5, 20, (rows, 1))).astype(np.float32)


def rows_of(shard: str) -> int:
  return corpora.rows_of(shard, big_rows=BIG_ROWS, small_rows=SMALL_ROWS)


def units(points_ND: np.ndarray) -> np.ndarray:
  """As they are kept: float16 unit vectors."""
  return (points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def several_groups():
  with dividing.divided(SketchPreparation, group=5_000):
    yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("density")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
  (folder / "made").mkdir()
  for path in sorted((folder / "corpus").iterdir()):
    rows = rows_of(path.name)
    points_ND = make_embeddings(path.name, rows)
    if path.name == "a.jsonl":
      points_ND[700], points_ND[701, 3], points_ND[702, 0] = 0, np.nan, np.inf
    if path.name == "f.parquet":
      lists = [None if row == 5 else list(point) for row, point in enumerate(points_ND)]
      table = pa.table({"id": range(rows), "vector": pa.array(lists, pa.list_(pa.float64()))})
      pq.write_table(table, folder / "made" / "f.parquet", row_group_size=333)
    else:
      np.save(folder / "made" / f"{path.name}.npy", points_ND)
  return folder


def score_command(place: pathlib.Path, *flags: str) -> list[str]:
  reading = [f"--input={place}/corpus/*", f"--embeddings={place}/made/*", "--scores=scores"]
  return ["score", "--scorer=density", *reading, *SKETCH, *flags]


SAMPLE = ["sample", "--scores=scores", "--sampler=density", "--rate=0.2", "--output=out", "--num_shards=3"]


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  folder = place / "undisturbed"
  assert run_in(folder, score_command(place, "--direct_num_workers=1")) == 0
  assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) == 0
  return folder


def store(folder: pathlib.Path) -> pathlib.Path:
  return folder / "scores/density_made"


def scored(folder: pathlib.Path) -> dict[tuple[str, int], float]:
  found = {}
  for path in sorted((store(folder) / "shards").iterdir()):
    table = pq.read_table(path).to_pydict()
    found |= {(s, r): score for s, r, score in zip(table["shard"], table["row"], table["score"], strict=True)}
  return found


def embedded(folder: pathlib.Path, shard: str) -> tuple[np.ndarray, np.ndarray]:
  """Rows and embeddings of a shard, read from the store as its documentation says."""
  rows, points = [], []
  for path in sorted((folder / "scores/embeddings_made/blocks").glob(f"{shard}-*/*.parquet")):
    table = pq.read_table(path)
    good = table.filter(pa.compute.is_null(table["reason"]))
    rows += good["row"].to_pylist()
    points += [np.frombuffer(value, np.float16) for value in good["embedding"].to_pylist()]
  return np.array(rows), np.array(points, np.float32)


def test_embeddings_are_the_files_rows_as_unit_vectors(place, undisturbed):
  """Kills the mutants: good rows paired with the file's first rows; a Parquet batch's end lost."""
  for shard in ("a.jsonl", "f.parquet", "h.tfrecord-00001-of-00003"):
    rows, points_ND = embedded(undisturbed, shard)
    made_ND = make_embeddings(shard, rows_of(shard))[rows]
    np.testing.assert_allclose(points_ND, units(made_ND), atol=5e-4)  # one unit of float16
    assert len(rows) > SMALL_ROWS - 20


def test_the_density_is_the_kernel_sum_and_the_books_balance(place, undisturbed):
  """Kills the mutants: a group that is counted twice, or left out; a block's last documents not counted."""
  summary = json.loads((store(undisturbed) / "summary.json").read_text())
  reasons = summary["reasons"]
  assert (reasons["embedding_is_zero"], reasons["embedding_is_not_finite"]) == (1, 3)
  assert summary["read"] + summary["blank"] == BIG_ROWS + 11 * SMALL_ROWS + 3
  assert summary["read"] == summary["scored"] + summary["bad"]
  dead = [json.loads(x) for x in (store(undisturbed) / "dead_letter/a.jsonl.jsonl").read_text().splitlines()]
  assert [(d["row"], d["reason"]) for d in dead if 700 <= d["row"] <= 702] == [
    (700, "embedding_is_zero"),
    (701, "embedding_is_not_finite"),
    (702, "embedding_is_not_finite"),
  ]
  assert all(d["text"] for d in dead if 700 <= d["row"] <= 702)
  scores = scored(undisturbed)
  assert len(scores) == summary["scored"]
  everything = np.concatenate([embedded(undisturbed, path.name)[1] for path in sorted((place / "corpus").iterdir())])
  rows, points_ND = embedded(undisturbed, "c.json.gz")
  exact_N = kernels.Kernel("l2", 0.5, 2).sums(points_ND[:300], everything)
  found_N = np.array([scores["c.json.gz", row] for row in rows[:300].tolist()])
  expected_N = exact_N + (len(everything) - exact_N) / 1000  # what 1,000 counters add by chance
  assert np.median(np.abs(found_N / expected_N - 1)) < 0.1
  assert np.corrcoef(np.log(found_N), np.log(expected_N))[0, 1] > 0.97


def test_the_sample_is_the_largest_keys(undisturbed):
  """Kills the mutants: p proportional to S, as the printed Algorithm 2 has it; another hash for other shards."""
  import tensorflow_datasets as tfds

  scores = scored(undisturbed)
  keys = {}
  for shard in sorted({shard for shard, _ in scores}):
    rows = [row for name, row in scores if name == shard]
    uniform = (hashing.hash_documents("ips", 0, shard, np.array(rows)) >> np.uint64(12)).astype(float) + 0.5
    gumbel = -np.log(-np.log(uniform / 2.0**52))
    keys |= {(shard, row): g - np.log(scores[shard, row]) for row, g in zip(rows, gumbel, strict=True)}
  wanted = sorted(keys, key=keys.__getitem__, reverse=True)[: int(0.2 * len(keys) + 0.5)]
  drawn = tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train")
  assert {f"{s}#{r}" for s, r in wanted} == {example["source"].decode() for example in tfds.as_numpy(drawn)}


@pytest.mark.local_runner
def test_two_processes_and_other_blocks_give_the_same(place, undisturbed):
  """Kills the mutants: partial sketches named by the worker, or merged with one of them twice."""
  folder = place / "two"
  assert run_in(folder, score_command(place, "--direct_num_workers=2")) == 0
  for stage in ("embedding", "building the density sketch", "scoring (density)"):
    counts = logs(store(folder))[-1]["documents_by_process"][stage]
    assert len(counts) == 2, stage
  assert content(folder / "scores") == content(undisturbed / "scores")

  folder = place / "other_blocks"
  assert run_in(folder, score_command(place, "--block_rows=1001", "--direct_num_workers=1")) == 0
  sketches = [(store(x) / "sketch/sketch.safetensors").read_bytes() for x in (folder, undisturbed)]
  assert sketches[0] == sketches[1]
  assert scored(folder) == scored(undisturbed)


def test_embeddings_serve_another_density(place, undisturbed):
  """Kills the mutant that embeds again for another bandwidth. The warnings tell that it weighs everything alike."""
  flags = score_command(place, "--name=wide", "--bandwidth=50", "--direct_num_workers=1")
  before = {path: path.stat().st_mtime_ns for path in (undisturbed / "scores/embeddings_made").rglob("*.parquet")}
  assert run_in(undisturbed, flags) == 0
  assert {path: path.stat().st_mtime_ns for path in before} == before
  counters = logs(undisturbed / "scores/wide")[-1]["counters"]
  assert "embed_documents_read" not in counters and counters["documents_scored"] > BIG_ROWS
