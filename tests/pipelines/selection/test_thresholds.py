"""The threshold as Beam passes, against sorting, on several shards with many ties."""

import collections

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing import util

from curation.selection import search, selection
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


def by_sorting(store, request) -> search.Selected:
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
    taken = ranked[: request.search(len(ranked), None).amount]
  return search.Selected(len(taken), sum(tokens for _, tokens in taken), taken[-1][0])


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
    found = pipeline | "Ledger" >> beam.Create([ledger]) | thresholds.FindThreshold(store, request_, list(SHARDS))
    util.assert_that(found, util.equal_to([(ledger, expected)]))


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
  """A search is three passes, and a threshold that is given takes one. Kills the mutants: a file that is opened for
  each block; a search for a threshold that is known.
  """
  opened: collections.Counter = collections.Counter()
  open_input = storage.open_input

  def counted(path: str, **how):
    opened[path] += 1
    return open_input(path, **how)

  monkeypatch.setattr(storage, "open_input", counted)
  with beam.Pipeline("FnApiRunner") as pipeline:
    ledgers = pipeline | "Ledger" >> beam.Create([score_store.Ledger(sum(SHARDS.values()), 1 << 40, 0)])
    _ = ledgers | thresholds.FindThreshold(store, request_, list(SHARDS))
  passes = 3 if request_.threshold is None else 1
  assert opened == {store.scores_path(shard): passes for shard in SHARDS}


def test_little_crosses_a_shuffle(monkeypatch):
  """Kills the mutants: a sample of a fixed share, and a last pass that gathers all documents above the threshold."""
  size, sizes = 100_000, collections.defaultdict(list)
  add = search.concatenate

  def watched(parts):
    added = add(parts)
    sizes[len(parts)].append(len(added.keys))
    return added

  monkeypatch.setattr(search, "MOST_EDGES", 100)
  monkeypatch.setattr(search, "concatenate", watched)
  keys_N = np.random.default_rng(0).integers(0, 1 << 63, size).astype(np.uint64)
  ranked = search.Ranked(keys_N, selection.tie_hashes(0, "shard", np.arange(size)))
  with beam.Pipeline("FnApiRunner") as pipeline:
    items = pipeline | beam.Create([(size, slice(start, start + 5_000)) for start in range(0, size, 5_000)])
    found = thresholds.find(items, lambda size: selection.Search(size // 5, size), lambda rows, _: [ranked.take(rows)])
    util.assert_that(found, lambda found: None if found[0][1].documents == size // 5 else 1 / 0)
  assert 0 < max(added for parts in sizes.values() for added in parts) < 20 * size // 100
