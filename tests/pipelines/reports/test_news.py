"""The summary on top of a report, in figures and in sentences, on counts."""

import types

import numpy as np

from curation.selection import metrics, selection
from pipelines.reports import material, news, passes

SCORES = np.array([0, 1, 1, 1], np.float32)


def make_figure(*, scorer: str, counting: int | None, score: float | None, ceiling: float | None = None):
  """Returns the summary of a corpus of four documents of ten tokens, one of them a copy, and an output of two."""
  summary = {"num_tokens": None if counting is None else 40}
  store = types.SimpleNamespace(scorer=scorer, folder="scores/name", summary=lambda: summary)
  threshold = {"rank": "00"} if score is None else {"rank": "00", "score": score}
  request = selection.SelectionRequest(scorer, rate="0.5")
  output = types.SimpleNamespace(
    name="kept", store=store, request=request, manifest={"threshold": threshold}, ceiling=ceiling
  )
  sources = material.Sources({"name": store}, raters=(), outputs=(output,), others=(), left_out=())
  assert sources.counting == counting
  edges_E = metrics.bin_edges(0, 1, 48)
  kept = SCORES[[1, 2]]
  counts = passes.Counts(
    documents_S=np.array([4]),
    ranks_S2Q=np.zeros((1, 2, 0), np.int64),
    documents_C=np.array([4, 2]),
    scores_CSB=np.stack([[metrics.histogram(scores_N, edges_E)] for scores_N in (SCORES, kept)]),
    lengths_CB=np.zeros((2, 1), np.int64),
    tokens_C=np.array([40, 10]),
    domains_CD=np.array([[1] * 4 + [0] * 8, [2] + [0] * 11]),
    clusters_CK=np.zeros((2, 0), np.int64),
  )
  questions = types.SimpleNamespace(score_edges_SE=edges_E[None])
  sample = types.SimpleNamespace(scores_SN=SCORES[None])
  return sources, news.figure(sources, sample, questions, counts)


def test_the_news_of_an_output_are_counted_and_said():
  """Kills the mutants: first documents counted as copies; a mean of all tokens."""
  sources, figure = make_figure(scorer="minhash", counting=0, score=1.0)
  (row,) = figure.rows
  assert row == ["kept", 50, 25, 10, 5, "name", 1, 25, None, None, 25, 0, 100, 100]
  (card,) = news.cards(sources, figure)
  assert [said for said, _ in card.figures] == [
    "50.0%, 25.0%",
    "10 → 5",
    "score = 1",
    "25.0% → 0.0%",
    "100.0% → 100.0%",
  ]


def test_both_ends_of_a_range_are_said():
  """Kills: the unit of another scorer; a percentile of the wrong end."""
  sources, figure = make_figure(scorer="ask_llm", counting=0, score=0.5, ceiling=1.0)
  assert figure.rows[0][5:10] == ["name", 0.5, 25, 1, 25]
  figure.rows[0][9] = 75.0
  (card,) = news.cards(sources, figure)
  assert card.figures[2] == ("log P = 0.5, 1", "are the ends of the range by name, at percentiles 25 and 75.")


def test_what_is_not_known_is_left_out():
  """Kills the mutants: 0 tokens where none were counted; copies by scores of another scorer; None as a threshold."""
  sources, figure = make_figure(scorer="density", counting=None, score=None)
  (card,) = news.cards(sources, figure)
  assert card.figures[0][0] == "50.0%" and len(card.figures) == 2
  assert figure.rows[0][2:5] == [None] * 3 and figure.rows[0][6:12] == [None] * 6


def test_percentages_keep_their_digits():
  assert [news.percent(value) for value in (100.0, 6.25, 1.0, 0.25, 0.0123, 0.0)] == [
    *("100.0%", "6.2%", "1.0%", "0.25%", "0.012%", "0.0%"),
  ]
