"""Quality against coverage and against length, on arrays."""

import math
import types

import numpy as np
import pyarrow as pa
import pytest

from pipelines.reports import coverage, passes


def sources_of(*names: str, raters: tuple[str, ...] = (), outputs: tuple[str, ...] = ()):
  named = tuple(types.SimpleNamespace(name=name) for name in outputs)
  return types.SimpleNamespace(scorers=dict.fromkeys(names), raters=raters, outputs=named, clusters=None)


def sample_of(*scores: object, kept: object = (), domains: list | None = None, tokens: object = None) -> passes.Sample:
  scores_SN = np.array(scores, np.float32)
  kept_ON = np.array(kept, bool) if len(kept) else np.zeros((0, scores_SN.shape[1]), bool)
  table = pa.table({"domain": pa.chunked_array([pa.array(domains or [None] * scores_SN.shape[1], pa.string())])})
  return passes.Sample(table, scores_SN, kept_ON, None if tokens is None else np.array(tokens, np.int32))


def test_the_effective_number_is_that_of_equal_shares():
  assert coverage.effective_number(np.array([7, 7, 0, 7])) == pytest.approx(3)
  assert coverage.effective_number(np.array([5, 0])) == pytest.approx(1)
  assert coverage.effective_number(np.array([1, 3])) == pytest.approx(
    math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
  )
  assert coverage.effective_number(np.zeros(3, np.int64)) == 0 == coverage.effective_number(np.zeros(0, np.int64))


def test_without_clusters_domains_are_covered():
  """Kills the mutants: the smallest rater for the largest; percentiles in the output; a missing score that counts."""
  sources = sources_of("small", "large", raters=("small", "large"), outputs=("best",))
  scores = [1.0, 2.0, 3.0, float("nan")]
  sample = sample_of(scores[::-1], scores, kept=[[0, 1, 1, 1]], domains=["a", "b", "b", None])
  figure = coverage.figure(sources, sample, None)
  assert figure.header == ["documents of", "mean percentile by large", coverage.DOMAINS]
  assert figure.rows[0][:2] == ["corpus", pytest.approx(50)] and figure.rows[1][:2] == ["best", pytest.approx(400 / 6)]
  assert [row[2] for row in figure.rows] == [pytest.approx(1.8898815748), pytest.approx(1)]
  drawn = coverage.draw(figure)
  assert drawn is not None and ">corpus</text>" in drawn and ">1</text>" in drawn and drawn.count("<circle") == 2


def test_without_raters_or_outputs_there_is_no_chart():
  assert coverage.draw(coverage.figure(sources_of("density"), sample_of([1.0, 2.0]), None)) is None
  sources = sources_of("rater", raters=("rater",))
  assert coverage.draw(coverage.figure(sources, sample_of([1.0, 2.0], domains=["a", "b"]), None)) is None
  # Domains are missing too, so nothing tells how much is covered.
  assert coverage.figure(sources, sample_of([1.0, 2.0]), None).rows == []


def test_scores_by_length_are_those_of_octaves():
  """Kills the mutants: bins by documents; a median of percentiles in place of scores; a bin of a few documents."""
  tokens = np.concatenate([np.full(20, 4), np.full(20, 7), np.full(30, 8), np.full(9, 16)])
  scores = np.concatenate([np.full(40, 5.0), np.arange(30) / 100, np.full(9, -1.0)])
  sources = sources_of("s", "constant")
  figure = coverage.by_length(sources, sample_of(scores, scores * 0, tokens=tokens))
  rows = [row for row in figure.rows if row[0] == "s"]
  assert [row[1:5] for row in rows] == [[4, 8, 40, 5.0], [8, 16, 30, pytest.approx(0.14)]]
  assert rows[0][5:] == [pytest.approx(100 * (39 + 20) / 79)] * 3
  assert [row[5:] for row in figure.rows if row[0] == "constant"] == [[50, 50, 50]] * 2
  drawn = coverage.draw_by_length(sources, figure)
  assert [drawing.title for drawing in drawn] == ["s", "constant"] and "lowest, 30," in drawn[0].svg
  assert coverage.by_length(sources, sample_of(scores, scores)).rows == []
