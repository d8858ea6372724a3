"""Block files and their compaction: every row once, or an error that says what is wrong."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import WinnowError
from pipelines import storage, stores

SIZES = (4, 0, 3, 5)  # rows of the blocks; the second one is all that a shard could hold and is empty


@pytest.fixture
def store(tmp_path) -> stores.ScoreStore:
  return stores.ScoreStore(str(tmp_path / "store"))


def write_blocks(store, *, bad=(2, 6), tokens=True, sizes=SIZES) -> int:
  row = 0
  for index, size in enumerate(sizes):
    rows = range(row, row + size)
    table = pa.table(
      {
        "row": rows,
        "score": [None if r in bad else -float(r) for r in rows],
        "num_tokens": [None if r in bad or not tokens else r for r in rows],
        "reason": ["empty_text" if r in bad else None for r in rows],
        "text": ["  " if r in bad else None for r in rows],
      },
      schema=stores.BLOCK_SCHEMA,
    )
    stores.write_block(store, "s", index, table=table, text_bytes=10 * size)
    row += size
  return row


def test_a_shard_holds_each_scored_row_and_its_dead_letter_the_others(store):
  rows = write_blocks(store)
  summary = stores.compact_shard(store, "s", num_blocks=len(SIZES), num_rows=rows)
  assert (summary.read, summary.scored, summary.bad, summary.num_tokens, summary.text_bytes) == (12, 10, 2, 58, 120)
  assert summary.reasons == {"empty_text": 2}
  assert summary.first_bad == ["s row 2 (empty_text)", "s row 6 (empty_text)"]
  with stores.open_scores(store, "s") as scores:
    assert [scores.metadata.row_group(i).num_rows for i in range(scores.num_row_groups)] == [3, 0, 2, 5]
    table = scores.read().to_pydict()
  assert table["row"] == [row for row in range(12) if row not in (2, 6)]
  assert table["score"] == [-float(row) for row in table["row"]]
  assert set(table["shard"]) == {"s"}
  with open(store.dead_letter_path("s")) as file:
    assert [json.loads(line)["row"] for line in file] == [2, 6]
  assert stores.read_summary(store, "s") == summary
  assert store.finished_blocks("s") == frozenset()
  assert store.finished_shards() == {"s"}


def test_without_token_counts_there_is_no_sum(store):
  rows = write_blocks(store, tokens=False)
  assert stores.compact_shard(store, "s", num_blocks=len(SIZES), num_rows=rows).num_tokens is None


def test_a_block_that_is_missing_or_damaged_is_named_and_nothing_is_compacted(store):
  rows = write_blocks(store)
  path = store.block_path("s", 2)
  whole = storage.read_bytes(path)
  damaged = bytearray(whole)
  damaged[len(whole) // 4] ^= 0xFF
  for content in (whole[:-9], bytes(damaged), None):
    storage.delete([path])
    if content is not None:
      storage.create(path, content)
    with pytest.raises(WinnowError, match=r"00000002\.parquet is missing or damaged"):
      stores.compact_shard(store, "s", num_blocks=len(SIZES), num_rows=rows)
    assert store.finished_shards() == frozenset()


def test_rows_that_do_not_add_up_are_refused(store):
  """Kills the mutants that trust the count of blocks, or the rows of a block, without looking."""
  rows = write_blocks(store)
  with pytest.raises(WinnowError, match="has 13 rows, its blocks 12"):
    stores.compact_shard(store, "s", num_blocks=len(SIZES), num_rows=rows + 1)
  shifted = pq.read_table(store.block_path("s", 3))
  stores.write_block(store, "t", 0, table=shifted, text_bytes=0)
  with pytest.raises(WinnowError, match="do not continue at row 0"):
    stores.compact_shard(store, "t", num_blocks=1, num_rows=5)


def test_starting_over_is_safe_to_interrupt(store, monkeypatch):
  """Kills the mutant that removes request.json first: scores of the old request would pass for the new one's."""
  from pipelines import requests, storage

  rows = write_blocks(store)
  requests.claim(store.request_path, {"seed": 0}, owner="the store")
  stores.compact_shard(store, "s", num_blocks=len(SIZES), num_rows=rows)
  delete_folder, removed = storage.delete_folder, []

  def interrupted(folder: str) -> None:
    if len(removed) == 2:
      raise KeyboardInterrupt
    removed.append(folder)
    delete_folder(folder)

  monkeypatch.setattr(storage, "delete_folder", interrupted)
  with pytest.raises(KeyboardInterrupt):
    store.clear()
  assert requests.holds(store.request_path, {"seed": 0})
  monkeypatch.undo()
  store.clear()
  assert storage.match(store.folder + "/**") == []


def test_a_store_without_a_summary_is_not_complete(store):
  with pytest.raises(WinnowError, match="incomplete"):
    store.ledger()
