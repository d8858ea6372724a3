"""The threshold as Beam passes, against sorting, on several shards with many ties."""

import collections

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import util

from curation.selection import selection
from pipelines.corpus import blocks
from pipelines.files import storage
from pipelines.selection import ranks, thresholds
from pipelines.store import block_files, score_store
from pipelines.store.score_store import ScoreStore

ROWS = {"a": 5_000, "b": 0, "c": 7_001, "d": 1}
SHARDS = {blocks.Shard(name, "", "jsonl", "", 0): rows for name, rows in ROWS.items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ScoreStore:
  """A store with few distinct scores, so that the threshold falls among equal ones."""
  generator = np.random.default_rng(0)
  store = ScoreStore.for_request(str(tmp_path_factory.mktemp("store")), {})
  for shard, rows in SHARDS.items():
    for index, start in enumerate(range(0, rows, 1000)):
      size = min(1000, rows - start)
      table = pa.table(
        {
          "row": np.arange(start, start + size),
          "score": np.round(generator.standard_normal(size), 1),
          "num_tokens": generator.integers(0, 50, size),
          "domain": pa.nulls(size, pa.string()),
          "reason": pa.nulls(size, pa.string()),
          "text": pa.nulls(size, pa.string()),
        },
      ).cast(block_files.BLOCK_SCHEMA)
      block_files.write_block(store, shard, index, block_files.BlockFile(table, size, 0), engine=store.engine())
    block_files.compact_shard(store, shard, num_blocks=-(-rows // 1000), num_rows=rows)
  return store


def by_sorting(store, request) -> thresholds.Selected:
  ranked = []
  for shard in SHARDS:
    for part in ranks.read(store, shard, request):
      numbers = (part.keys.astype(object) << 64) | part.ties.astype(object)
      ranked += zip(numbers.tolist(), part.num_tokens.tolist(), strict=True)
  ranked.sort(reverse=True)
  if request.threshold is not None:
    least = int(selection.order_key(np.array([request.threshold]))[0]) << 64
    taken = [entry for entry in ranked if entry[0] >= least]
  elif request.num_tokens is not None:
    fits = np.cumsum([tokens for _, tokens in ranked]) <= request.num_tokens
    taken = ranked[: int(fits.sum())]
  else:
    taken = ranked[: request.search(len(ranked), None).remaining]
  return thresholds.Selected(len(taken), sum(tokens for _, tokens in taken), taken[-1][0])


@pytest.mark.parametrize(
  "request_",
  [
    selection.SelectionRequest("ask_llm", rate="0.3"),
    selection.SelectionRequest("ask_llm", rate="1"),
    selection.SelectionRequest("ask_llm", "bottom_k", num_examples=1),
    selection.SelectionRequest("ask_llm", seed=3, num_tokens=100_000),
    selection.SelectionRequest("ask_llm", "threshold", threshold=0.5),
    selection.SelectionRequest("random", seed=7, num_examples=5_000),
  ],
  ids=lambda request: f"{request.sampler}-{request.method}",
)
def test_the_passes_find_what_a_sort_finds(store, request_):
  """Kills the mutants: a pass that uses the first bits again; a last batch of a shard that is left out."""
  ledger = score_store.Ledger(sum(SHARDS.values()), None if request_.num_tokens is None else 1 << 40, 0)
  expected = by_sorting(store, request_)
  with beam.Pipeline("FnApiRunner") as pipeline:
    shards = pipeline | "Shards" >> beam.Create(list(SHARDS)) | beam.Reshuffle()
    ledgers = pipeline | "Ledger" >> beam.Create([ledger])
    found = shards | thresholds.FindThreshold(store, request_, ledgers)
    util.assert_that(found, util.equal_to([expected]))


@pytest.mark.parametrize("sampler", ["ask_llm", "random"])
def test_smaller_samples_lie_within_larger_ones(store, sampler):
  """Checks invariant 2 with many equal scores. Kills the mutant whose hashes depend on the rate."""
  drawn = []
  for rate in ("0.1", "0.2", "0.4"):
    request = selection.SelectionRequest(sampler, seed=5, rate=rate)
    floor = by_sorting(store, request).floor
    drawn.append(
      {
        (shard.name, row)
        for shard in SHARDS
        for part in ranks.read(store, shard, request)
        for row in part.rows[selection.is_selected(floor, part.keys, part.ties)].tolist()
      }
    )
  assert [len(documents) for documents in drawn] == [1200, 2400, 4801]
  assert drawn[0] < drawn[1] < drawn[2]


def test_counts_add_up_in_any_order():
  parts = [thresholds.Selected(2, 10, 7), thresholds.Selected(1, 5, 3), thresholds.Selected(4, 1, 9)]
  assert thresholds.add_selected(parts) == thresholds.add_selected(reversed(parts)) == (7, 16, 3)
  merged = thresholds.add_selected([thresholds.add_selected(parts[:1]), thresholds.add_selected(parts[1:])])
  assert merged == (7, 16, 3)
  assert thresholds.add_selected([]).documents == 0


@pytest.mark.parametrize(
  "request_",
  [
    selection.SelectionRequest("ask_llm", "threshold", threshold=0.5),
    selection.SelectionRequest("ask_llm", rate="0.3"),
    selection.SelectionRequest("ask_llm", num_tokens=1000),
  ],
  ids=lambda request: request.method,
)
def test_each_pass_opens_each_score_file_once(store, monkeypatch, request_):
  """Passes after the end of the search open none, and a given threshold needs no search. Kills the mutants: a file that
  is opened for each block; always eight passes."""
  opened: collections.Counter = collections.Counter()
  searches = []
  open_input, refine = storage.open_input, selection.refine

  def counted(path: str, **how):
    opened[path] += 1
    return open_input(path, **how)

  def refined(search, histogram):
    searches.append(search.done)
    return refine(search, histogram)

  monkeypatch.setattr(storage, "open_input", counted)
  monkeypatch.setattr(selection, "refine", refined)
  with beam.Pipeline("FnApiRunner") as pipeline:
    shards = pipeline | "Shards" >> beam.Create(list(SHARDS)) | beam.Reshuffle()
    ledgers = pipeline | "Ledger" >> beam.Create([score_store.Ledger(sum(SHARDS.values()), 1 << 40, 0)])
    _ = shards | thresholds.FindThreshold(store, request_, ledgers)
  assert len(searches) == (selection.NUM_PASSES if request_.threshold is None else 0)
  passes = searches.count(False)
  if request_.rate is not None:
    assert 0 < passes < selection.NUM_PASSES
  assert opened == {store.scores_path(shard): passes + 1 for shard in SHARDS}
