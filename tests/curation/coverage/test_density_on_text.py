"""Accuracy of sketches of real embeddings: C4's texts, embedded by the shipped embedder."""

import gzip
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from curation.coverage import density, race
from curation.demo import embedder as demo_embedder
from curation.scorers import sentence_t5

pytestmark = pytest.mark.long  # real data
SEEDS = range(12)


@pytest.fixture(scope="module")
def points_ND(shared) -> np.ndarray:
  with gzip.open(shared / "data/c4/c4_en_1445.jsonl.gz") as file:
    texts = [json.loads(line)["text"] for line in itertools.islice(file, 600)]
  embedder = sentence_t5.SentenceT5Embedder(sentence_t5.load(demo_embedder.folder()))
  return embedder.run(embedder.prepare(pa.array(texts))).embeddings


def errors(points_ND: np.ndarray, rows: int) -> tuple[float, float, float]:
  """Error over predicted, relative error (root mean squares), rank correlation, each over several sketches.

  With 100 rows the first is 1.2, with 50 it is 1.3: counts are skewed, and few rows seldom hold a large one.
  """
  kernel = density.choose_kernel(points_ND)
  exact_N = kernel.sums(points_ND, points_ND)
  over, relative, ranks = [], [], []
  for seed in SEEDS:
    config = race.SketchConfig(points_ND.shape[1], kernel, rows=rows, seed=seed)
    sketch = race.Sketch(config)
    sketch.add(points_ND)
    result = sketch.density(points_ND)
    expected_N = exact_N + (len(points_ND) - exact_N) / config.counters
    over.append(np.mean(((result.mean - expected_N) / result.standard_error) ** 2))
    relative.append(np.mean((result.mean / expected_N - 1) ** 2))
    ranks.append(np.corrcoef(*(np.argsort(np.argsort(x)) for x in (result.mean, exact_N)))[0, 1])
  return np.sqrt(np.mean(over)), np.sqrt(np.mean(relative)), float(np.mean(ranks))


def test_errors_are_as_predicted_and_fall_with_the_root_of_the_rows(points_ND):
  """Kills: rows that share projections, whose errors do not fall; a standard error without the root of R."""
  few, many = errors(points_ND, 225), errors(points_ND, 900)
  assert few[0] < 1.2 and many[0] < 1.2
  assert 0.4 < many[1] / few[1] < 0.6
  assert many[2] > 0.99 > few[2] > 0.97


def test_the_default_weighs_texts_apart(points_ND):
  """Kills: a default with one hash, or a bandwidth at which all texts are neighbours or none are."""
  kernel = density.choose_kernel(points_ND)
  result = density.diagnose(kernel, 1_000, 20_000, 0, points_ND[300:], points_ND[:300], len(points_ND))
  assert density.warnings(result) == []
  assert result["rank_correlation"] > 0.9
  assert result["weights_variation"] > 0.1
