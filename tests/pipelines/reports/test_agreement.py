"""How far scorers agree: orders, overlaps of tops, and pairs, on arrays."""

import types

import numpy as np

from pipelines.reports import agreement
from pipelines.reports.figures import Figure

NAN = float("nan")


def sources_of(*names: str):
  return types.SimpleNamespace(scorers=dict.fromkeys(names))


def sample_of(*scores: object):
  return types.SimpleNamespace(scores_SN=np.array(scores, np.float32))


def test_scorers_that_agree_stand_beside_each_other():
  """Kills the mutants: the order of the table; similarity taken for distance; a missing tau that fails."""
  group = [0, 1, 0, 1, 0, 1]
  tau = [[name, *(0.9 if group[i] == other else -0.2 for other in group)] for i, name in enumerate("abcdef")]
  tau[5][1:] = [None] * 6
  for i in range(5):
    tau[i][6] = None
  found = agreement.order(Figure(["scorer", *"abcdef"], tau))
  assert sorted(found) == list(range(6))
  places = [found.index(scorer) for scorer in (0, 2, 4)]
  assert max(places) - min(places) == 2
  assert abs(found.index(1) - found.index(3)) == 1
  assert agreement.order(Figure(["scorer", "a"], [["a", 1.0]])) == [0]


def test_the_overlap_is_that_of_the_top_fifths():
  """Kills the mutants: the lowest fifth; the share of all documents; ties that make everything the top; a document that
  only one of two has scored."""
  up = np.arange(100.0)
  half = np.where((up >= 90) | (up < 10), up + 1000, up)
  stage = np.where(up < 50, NAN, up)
  figure = agreement.overlap(sources_of(*"abcde"), sample_of(up, -up, half, up > 5, stage))
  assert figure.rows[0] == ["a", 100, 0, 50, None, 100]
  assert figure.rows[3][1:] == [None] * 5
  assert figure.rows[4][1] == 100 and figure.rows[4][2] == 0


def test_pairs_are_counted_by_percentiles_and_drawn():
  up = np.arange(1400.0)
  (pair,) = agreement.pairs(sources_of("a", "b"), sample_of(up, -up))
  assert (pair.first, pair.second) == ("a", "b")
  assert pair.counts_GG[0, -1] == pair.counts_GG[-1, 0] == 100 and pair.counts_GG.sum() == 1400
  assert pair.counts_GG[0, 0] == 0
  (drawn,) = agreement.draw([agreement.Pair("<a>", "b", pair.counts_GG)])
  assert "&lt;a&gt;" in drawn and "<a>" not in drawn and 'role="img"' in drawn
  many = sources_of(*(f"s{n}" for n in range(12)))
  assert len(agreement.pairs(many, sample_of(*[up] * 12))) == 45


def test_cells_are_short():
  """Kills the mutants: a minus sign or a colour that is lost; chance that is coloured in overlaps."""
  rows = [["a", 1.0, -0.456], ["b", 0.001, None]]
  (first, second) = agreement.heat(Figure(["scorer", "a", "b"], rows), [1, 0])
  assert (first.number, first.name, second.name) == (1, "b", "a")
  assert first.cells == [("–", "none", 0), ("0", "more", 0)]
  assert second.cells == [("−.46", "less", 34), ("1", "more", 75)]
  names = ["sixteen_letters_", "ask_llm_flan_t5_xl_c4"]
  assert [agreement.HeatRow(1, name, []).short for name in names] == [names[0], "ask_llm…t5_xl_c4"]
  (row,) = agreement.heat(Figure(["scorer", "a"], [["a", 20.0]]), [0], percent=True)
  assert row.cells == [("20", "more", 0)]
