"""What crosses a shuffle or goes into a side input is small, however wide embeddings are; measured by the benchmark."""

import importlib.util
import json
import pathlib
import sys

import corpora
import numpy as np
import pytest
from running import run_in

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
ROWS, DIMENSIONS = 3_500, 768


@pytest.fixture
def crossed(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  specification = importlib.util.spec_from_file_location("bench_shuffle", BENCHMARKS / "bench_shuffle.py")
  assert specification is not None and specification.loader is not None
  module = importlib.util.module_from_spec(specification)
  specification.loader.exec_module(module)
  yield module.Crossed()
  sys.modules.pop("common", None)


def test_no_element_and_no_side_input_is_over_a_megabyte(crossed, tmp_path):
  """Kills the mutant in which the sample that a kernel is chosen from, 5,000 embeddings, is one element: 8 MB."""
  for shard in range(2):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(ROWS, shard)]
    (tmp_path / f"{shard}.jsonl").write_text("\n".join(lines))
    made = np.random.default_rng(shard).standard_normal((ROWS, DIMENSIONS)).astype(np.float16)
    np.save(tmp_path / f"{shard}.npy", made)
  sketch = ["--sketch_rows=10", "--sketch_counters=100", f"--embeddings={tmp_path}/*.npy", "--scorer=density"]
  where = [f"--input={tmp_path}/*.jsonl", "--scores=scores", "--direct_num_workers=1"]
  with crossed.watching():
    assert run_in(tmp_path / "run", ["curate", *where, *sketch, "--rate=0.2", "--output=out"]) == 0
  assert crossed.bytes["shuffle"] > 1_000 and crossed.bytes["side input"] > 1_000
  assert 0 < max(crossed.largest.values()) < 1_000_000
