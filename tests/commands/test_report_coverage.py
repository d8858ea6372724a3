"""`winnow report` on a corpus with stores of clusters: how much each output covers."""

import collections

import numpy as np
import pyarrow.parquet as pq
import pytest
import reported
import scipy.stats
from reported import documents_of, make, read, scores_of
from running import run_in

from pipelines.reports import passes

OUTPUTS = ("best", "sparse")


def test_coverage_is_that_of_the_clusters(tmp_path, monkeypatch):
  """Against the store's own files, in windows of a few rows. Kills the mutants: clusters of the corpus for an output's;
  rows of one store looked up in another; the store of fewer clusters."""
  reported.build(tmp_path, OUTPUTS)
  given = [f"--input={tmp_path}/corpus/*.jsonl", f"--embeddings={tmp_path}/corpus/*.npy", "--max_bad_fraction=0.1"]
  given += ["--block_rows=64", "--direct_num_workers=1"]
  for name, number, scorer in (("few_clusters", 3, "prototypes"), ("clusters", 6, "semdedup")):
    clustering = [f"--scorer={scorer}", f"--name=by_{name}", f"--clusters=scores/{name}", f"--num_clusters={number}"]
    assert run_in(tmp_path, ["score", *clustering, "--scores=scores", *given]) == 0
  monkeypatch.setattr(passes, "_WINDOW_ROWS", 7)
  assert make(tmp_path, OUTPUTS) == 0
  files = sorted((tmp_path / "scores/clusters/shards").glob("*.parquet"))
  cluster = {
    f"{row['shard']}#{row['row']}": row["cluster"] for file in files for row in pq.read_table(file).to_pylist()
  }
  large = scores_of(tmp_path, "large")
  everything = [document["score"] for document in large.values()]
  rows = {row["documents of"]: row for row in read(tmp_path, "coverage")}
  sets = {"corpus": set(large)} | {name: documents_of(tmp_path, name) for name in OUTPUTS}
  assert list(rows) == list(sets)
  for name, documents in sets.items():
    counts = np.array(list(collections.Counter(cluster[source] for source in documents).values()))
    assert float(rows[name]["effective clusters"]) == pytest.approx(np.exp(scipy.stats.entropy(counts)))
    percentiles = scipy.stats.percentileofscore(everything, [large[source]["score"] for source in documents], "mean")
    assert float(rows[name]["mean percentile by large"]) == pytest.approx(percentiles.mean())
  page = (tmp_path / "page/report.html").read_text()
  assert "any other document of the cluster" in " ".join(page.split())  # the paper's Figure 9
  assert "few_clusters holds clusters" in page and ">Quality against coverage</title>" in page
