"""The check of figures: any figure that does not add up prevents the manifest."""

import dataclasses
import types

import pytest

from curation.errors import WinnowError
from curation.selection import search, selection
from pipelines.output import manifests, writing

SUMMARY = {
  "scored": 30,
  "num_tokens": 600,
  "shards": [
    {"shard": "a", "read": 12, "scored": 10, "bad": 2},
    {"shard": "b", "read": 20, "scored": 20, "bad": 0},
  ],
}
SELECTED = {"a": 2, "b": 4}
WRITTEN = [writing.OutputShard(0, 5, 100, ""), writing.OutputShard(1, 1, 20, "")]


def check(*, rate="0.2", num_tokens=None, summary=SUMMARY, documents=6, tokens=100, selected=SELECTED, written=WRITTEN):
  request = selection.SelectionRequest("ask_llm", rate=rate, num_tokens=num_tokens)
  plan = writing.Plan(search.Selected(documents, tokens, 0), 2, "engine")
  config = types.SimpleNamespace(request=request, rejected=False)
  manifests.check_figures(config, plan, summary, selected=selected, written_shards=written)


def test_figures_that_add_up_pass():
  check()
  check(rate=None, num_tokens=100)


@pytest.mark.parametrize(
  ("figures", "words"),
  [
    ({"documents": 5}, "do not add up"),
    ({"rate": "0.3"}, "'asked for': 9"),
    ({"selected": {"a": 2, "b": 3}}, "'in the runs': 5"),
    ({"written": WRITTEN[:1]}, "'in the output shards': 5"),
    ({"written": [dataclasses.replace(shard, documents=3) for shard in (*WRITTEN, *WRITTEN)]}, "12"),
    ({"selected": {"a": 11, "b": -5}}, "the figures of a"),
    ({"summary": SUMMARY | {"shards": [{"shard": "a", "read": 13, "scored": 10, "bad": 2}]}}, "the figures of a"),
    ({"rate": None, "num_tokens": 99}, "more than --num_tokens=99"),
  ],
)
def test_figures_that_do_not_add_up_prevent_the_manifest(figures, words):
  """Checks invariant 3. Kills the mutants that compare only totals, or trust the plan."""
  with pytest.raises(WinnowError, match=words):
    check(**figures)
