"""Real C4 with the golden Sentence-T5, through the commands: golden embeddings, and densities by brute force."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.coverage import kernels
from pipelines import main

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(shared, tmp_path_factory):
  """A shard of C4 beside one of the texts that golden embeddings are there for."""
  folder = tmp_path_factory.mktemp("golden_density")
  (folder / "input").mkdir()
  (folder / "input/c4.jsonl.gz").write_bytes((shared / "data/c4/c4_en_1445.jsonl.gz").read_bytes())
  texts = json.loads((shared / "golden/expected/sentence_t5_tiny_texts.json").read_text())
  (folder / "input/golden.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  for dtype, flags in (("float32", ["--block_rows=100"]), ("float16", ["--direct_num_workers=2"])):
    command = [
      "score",
      "--scorer=density",
      f"--input={folder / 'input/*'}",
      f"--model={shared / 'golden/sentence_t5_tiny'}",
      f"--scores={folder / dtype}",
      f"--embedding_dtype={dtype}",
      *flags,
    ]
    assert main.main(command) == 0
  return folder


def embedded(folder, dtype: str, shard: str) -> np.ndarray:
  paths = sorted((folder / dtype / "embeddings_sentence_t5_tiny/blocks").glob(f"{shard}-*/*.parquet"))
  columns = [pq.read_table(path)["embedding"].to_pylist() for path in paths]
  return np.array([np.frombuffer(value, dtype) for column in columns for value in column], np.float32)


def densities(folder, dtype: str, shard: str) -> np.ndarray:
  return pq.read_table(folder / dtype / f"density_sentence_t5_tiny/shards/{shard}.parquet")["score"].to_numpy()


def test_embeddings_are_the_golden_ones(shared, place):
  """Kills: eos left out of the mean, padding counted in, the dense layer transposed."""
  golden = np.load(shared / "golden/expected/sentence_t5_tiny.npz")["embeddings"]
  np.testing.assert_allclose(embedded(place, "float32", "golden.jsonl"), golden, atol=1e-5)
  np.testing.assert_allclose(embedded(place, "float16", "golden.jsonl"), golden, atol=5e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_densities_are_kernel_sums(place, dtype):
  """Against all pairs, with the kernel that was chosen from the data; kills: scores in another order than rows."""
  sketch = json.loads((place / dtype / "density_sentence_t5_tiny/sketch/kernel.json").read_text())["config"]
  kernel = kernels.Kernel(**sketch["kernel"])
  points = {shard: embedded(place, dtype, shard) for shard in ("c4.jsonl.gz", "golden.jsonl")}
  everything = np.concatenate(list(points.values()))
  for shard, points_ND in points.items():
    exact_N = kernel.sums(points_ND, everything)
    expected_N = exact_N + (len(everything) - exact_N) / sketch["counters"]
    found_N = densities(place, dtype, shard)
    assert len(found_N) == len(points_ND)
    assert np.median(np.abs(found_N / expected_N - 1)) < 0.15
    assert np.corrcoef(np.log(found_N), np.log(expected_N))[0, 1] > 0.8


def test_tokens_are_counted_as_with_every_t5(shared, place):
  with gzip.open(shared / "data/c4/c4_en_1445.jsonl.gz") as file:
    documents = sum(1 for _ in file)
  table = pq.read_table(place / "float32/density_sentence_t5_tiny/shards/c4.jsonl.gz.parquet")
  assert len(table) == documents
  assert pa.compute.sum(table["num_tokens"]).as_py() > 100 * documents
