"""Block files and their compaction: every row exactly once, or an error that says what is wrong."""

import dataclasses
import errno
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import DamagedError, WinnowError
from pipelines.corpus import blocks
from pipelines.files import damage, fingerprints, storage
from pipelines.store import block_files, clearing, score_files, sealing
from pipelines.store.score_store import ScoreStore

S, T = (blocks.Shard(name, f"/{name}", "jsonl", "", 100, "crc32c:00000000") for name in "st")
REQUEST = {"model": "a", "inputs": [S.identity()]}
MADE = ("sketch/", "split.json")
SIZES = (4, 0, 3, 5)  # rows of the blocks; the second one is all that a shard could hold and is empty


@pytest.fixture
def store(tmp_path) -> ScoreStore:
  return ScoreStore.for_request(str(tmp_path / "store"), REQUEST)


def write_blocks(store, shard=S, *, bad=(2, 6), tokens=True, sizes=SIZES) -> int:
  row = 0
  for index, size in enumerate(sizes):
    rows = range(row, row + size)
    table = pa.table(
      {
        "row": rows,
        "score": [None if r in bad else -float(r) for r in rows],
        "num_tokens": [None if r in bad or not tokens else r for r in rows],
        "domain": [None if r in bad else f"{r % 3}.org" for r in rows],
        "reason": ["empty_text" if r in bad else None for r in rows],
        "text": ["  " if r in bad else None for r in rows],
      },
      schema=block_files.BLOCK_SCHEMA,
    )
    block = block_files.BlockFile(table, 10 * size, index)
    block_files.write_block(store, shard, index, block, engine=store.engine())
    row += size
  return row


def test_a_shard_holds_each_scored_row_and_its_dead_letter_the_others(store):
  rows = write_blocks(store)
  summary = block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  assert (summary.read, summary.scored, summary.bad, summary.num_tokens, summary.text_bytes) == (12, 10, 2, 58, 120)
  assert summary.reasons == {"empty_text": 2}
  assert summary.first_bad == ["s row 2 (empty_text)", "s row 6 (empty_text)"]
  with score_files.ScoreFile(store, S) as scores:
    assert [len(scores.block(index)) for index in range(len(SIZES))] == [3, 0, 2, 5]
    assert [len(batch) for batch in scores.batches(4)] == [4, 4, 2]
  table = pq.read_table(store.scores_path(S)).to_pydict()
  assert table["row"] == [row for row in range(12) if row not in (2, 6)]
  assert table["score"] == [-float(row) for row in table["row"]]
  assert set(table["shard"]) == {"s"}
  with open(store.dead_letter_path(S)) as file:
    assert [json.loads(line)["row"] for line in file] == [2, 6]
  assert score_files.read_summary(store, S) == summary
  assert store.finished_blocks(S, store.engine()) == frozenset()
  assert store.finished([T, S]) == [S]


def test_without_token_counts_there_is_no_sum(store):
  rows = write_blocks(store, tokens=False)
  assert block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows).num_tokens is None


def test_a_block_that_is_missing_or_damaged_is_named_and_nothing_is_compacted(store):
  rows = write_blocks(store)
  path = store.block_path(S, 2, store.engine())
  whole = storage.read_bytes(path)
  scores = pq.read_metadata(path).row_group(0).column(1)
  damaged = bytearray(whole)
  damaged[scores.data_page_offset + scores.total_compressed_size - 1] ^= 0xFF
  for content in (whole[:-9], bytes(damaged), None):
    storage.delete([path])
    if content is not None:
      storage.create(path, content)
    with pytest.raises(WinnowError, match=r"00000002\.parquet is missing or damaged"):
      block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
    assert store.finished([S]) == []


def test_rows_that_do_not_add_up_are_refused(store):
  """Kills the mutants that trust the number of blocks, or of rows in a block, without a check."""
  rows = write_blocks(store)
  with pytest.raises(WinnowError, match="has 13 rows, but its blocks have 12"):
    block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows + 1)
  shifted = pq.read_table(store.block_path(S, 3, store.engine()))
  block_files.write_block(store, T, 0, block_files.BlockFile(shifted, 0, 0), engine=store.engine())
  with pytest.raises(WinnowError, match="do not continue at row 0"):
    block_files.compact_shard(store, T, num_blocks=1, num_rows=5)


def test_starting_over_is_safe_to_interrupt(store, monkeypatch):
  """Kills the mutant that removes request.json first: scores of the old request would pass for those of the new one."""
  rows = write_blocks(store)
  fingerprints.claim(store.request_path, REQUEST, owner="the store")
  block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  delete_folder, removed = storage.delete_folder, []

  def interrupted(folder: str) -> None:
    if len(removed) == 2:
      raise KeyboardInterrupt
    removed.append(folder)
    delete_folder(folder)

  monkeypatch.setattr(storage, "delete_folder", interrupted)
  with pytest.raises(KeyboardInterrupt):
    clearing.clear(store, MADE)
  assert fingerprints.holds(store.request_path, store.fingerprint)
  monkeypatch.undo()
  clearing.clear(store, MADE)
  assert storage.match(store.folder + "/**") == []


def test_a_store_without_a_summary_is_not_complete(store):
  with pytest.raises(WinnowError, match="incomplete"):
    store.ledger()


def test_scores_of_another_request_are_never_taken(store):
  """A run of another model still writes to the folder. Kills the mutants: blocks that are found only by the name of the
  shard; a footer that is not compared; a summary that is complete for every request."""
  other = ScoreStore.for_request(store.folder, REQUEST | {"model": "b"})
  rows = write_blocks(other)
  assert store.finished_blocks(S, store.engine()) == frozenset()
  block_files.compact_shard(other, S, num_blocks=len(SIZES), num_rows=rows)
  ledger = {"fingerprint": other.fingerprint, "engine": other.engine(), **sealing.add_up([])}
  storage.create(other.summary_path, fingerprints.sealed(ledger))
  assert other.is_complete and not store.is_complete
  write_blocks(store)
  with pytest.raises(WinnowError, match="a run of another request has written there too"):
    block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  with pytest.raises(WinnowError, match="scores of another request"):
    score_files.read_summary(store, S)
  with pytest.raises(WinnowError, match="belongs to another request"):
    store.ledger()
  clearing.clear_others(store, [S], MADE, keep_engine=True)
  assert not other.has_scores
  assert store.finished_blocks(S, store.engine()) == {0, 1, 2, 3}
  assert block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows).scored == 10


def test_where_an_input_file_changes_the_scores_of_the_others_stay(store):
  """Kills the mutant that starts over: the replacement of a broken file would cost the whole store."""
  fingerprints.claim(store.request_path, REQUEST, owner="the store")
  storage.create(store.engine_path, fingerprints.to_json({"method": store.method}))
  for shard in (S, T):
    block_files.compact_shard(store, shard, num_blocks=len(SIZES), num_rows=write_blocks(store, shard))
  replaced = dataclasses.replace(T, checksum="crc32c:11111111")
  now = ScoreStore.for_request(store.folder, REQUEST | {"inputs": [S.identity(), replaced.identity()]})
  clearing.clear_others(now, [S, replaced], MADE, keep_engine=True)
  assert now.finished([S, replaced]) == [S]
  assert score_files.read_summary(now, S).scored == 10
  assert storage.exists(now.dead_letter_path(S)) and not storage.exists(now.dead_letter_path(T))
  assert storage.exists(now.engine_path) and not storage.exists(now.request_path)


def test_damage_in_a_score_file_is_told_by_its_name(store):
  """Kills the mutant that opens the file and trusts its content."""
  rows = write_blocks(store)
  block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  path = store.scores_path(S)
  whole = storage.read_bytes(path)
  scores_of_first_block = pq.read_metadata(path).row_group(0).column(2)
  damaged = bytearray(whole)
  damaged[scores_of_first_block.data_page_offset + scores_of_first_block.total_compressed_size - 1] ^= 0xFF
  storage.delete([path])
  storage.create(path, bytes(damaged))
  with score_files.ScoreFile(store, S) as scores, pytest.raises(WinnowError, match=r"s\.parquet is missing or damaged"):
    list(scores.batches(100))
  for content in (whole[:-9], b"", None):
    storage.delete([path])
    if content is not None:
      storage.create(path, content)
    with pytest.raises(WinnowError, match=r"s\.parquet is missing or damaged"):
      score_files.ScoreFile(store, S)


def write_damaged(path: str, how: str) -> None:
  data = storage.read_bytes(path)
  storage.delete([path])
  if how == "cut":
    storage.create(path, data[:-9])
  elif how == "empty":
    storage.create(path, b"")


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_block_that_is_damaged_is_removed_and_made_again(store, how):
  """Kills the mutants: a file that counts as a block by its name; damage that is not reported."""
  write_blocks(store)
  path = store.block_path(S, 2, store.engine())
  write_damaged(path, how)
  assert block_files.intact_blocks(store, S, store.engine(), lambda index: index != 1).keys() == {0, 3}
  assert not storage.exists(path)
  (record,) = damage.records(store.folder)
  assert fingerprints.read_json(record)["path"] == path
  assert block_files.intact_blocks(store, S, store.engine(), lambda index: True).keys() == {0, 1, 3}
  assert len(damage.records(store.folder)) == 1


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
@pytest.mark.parametrize("what", ["scores", "dead_letter"])
def test_a_shard_that_is_damaged_is_removed_and_its_store_incomplete(store, how, what):
  """Kills the mutants: a shard that counts as intact if its file opens; a dead letter that is not compared."""
  rows = write_blocks(store)
  summary = block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  assert block_files.intact_shard(store, S) == summary
  path = store.scores_path(S) if what == "scores" else store.dead_letter_path(S)
  write_damaged(path, how)
  assert block_files.intact_shard(store, S) is None
  assert store.finished([S]) == [] and not storage.exists(store.dead_letter_path(S))
  assert len(damage.records(store.folder)) == 1


@pytest.mark.parametrize("what", ["block", "shard"])
def test_any_flipped_bit_is_found(store, what):
  """Kills the mutants: a seal that leaves out the footer; a seal that is not compared where files are relied on."""
  rows = write_blocks(store)
  path = store.block_path(S, 3, store.engine())
  if what == "shard":
    block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
    path = store.scores_path(S)

  def read():
    if what == "block":
      table, *about = block_files.read_block(path)
      return table.to_pylist(), about
    with score_files.ScoreFile(store, S) as scores:
      return scores.check(), [scores.block(index).to_pylist() for index in range(len(SIZES))]

  whole = storage.read_bytes(path)
  read()
  for place in range(len(whole)):
    flipped = bytearray(whole)
    flipped[place] ^= 1 << place % 8
    with open(path, "wb") as file:
      file.write(flipped)
    with pytest.raises(DamagedError):
      read()
  for place in range(0, len(whole), 7):
    with open(path, "wb") as file:
      file.write(whole[:place])
    with pytest.raises(DamagedError):
      read()


def test_who_reads_scores_alone_takes_no_damaged_ones(store):
  """Readers of scores do not check the seal, which takes a read of the whole file. Kills the mutants: a footer, or
  names of columns, that are trusted."""
  block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=write_blocks(store))
  path = store.scores_path(S)

  def read():
    with score_files.ScoreFile(store, S) as scores:
      blocks_ = [scores.block(index).to_pylist() for index in range(len(SIZES))]
      return scores.summary, blocks_, [batch.to_pylist() for batch in scores.batches(4, domains=True)]

  whole, good, found = storage.read_bytes(path), read(), 0
  for place in range(len(whole)):
    flipped = bytearray(whole)
    flipped[place] ^= 1 << place % 8
    with open(path, "wb") as file:
      file.write(flipped)
    try:
      assert read() == good
    except DamagedError:
      found += 1
  assert found > len(whole) / 3


def test_strange_files_are_no_blocks_and_no_shards(store):
  write_blocks(store)
  for name in ("notes.txt", "1.parquet", "00000009.parquet.crc"):
    storage.create(storage.join(store.block_folder(S, store.engine()), name), b"")
  storage.create(storage.join(store.shards_folder, "u.parquet"), b"")
  assert store.finished_blocks(S, store.engine()) == {0, 1, 2, 3}
  assert store.finished([S, T]) == []


def test_scores_of_another_engine_are_never_taken(store):
  """Kills the mutants: blocks that are found whatever engine made them; a seal that compares only the request."""
  storage.create(store.engine_path, b'{"version": 1}')
  rows = write_blocks(store)
  old = block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=rows)
  write_blocks(store, T)
  storage.delete([store.engine_path])
  storage.create(store.engine_path, b'{"version": 2}')
  assert store.finished_blocks(T, store.engine()) == frozenset()
  with pytest.raises(WinnowError, match="the scores of s are not by the engine in"):
    sealing.seal(store, [old], [], max_bad_fraction=1.0, work=())
  clearing.clear_others(store, [S], MADE, keep_engine=True)
  assert not store.has_scores


def test_what_cannot_be_read_just_now_is_not_removed(store, monkeypatch):
  """Kills the mutant that takes a failing disk or network for a foreign file: scores would be lost by accident."""
  fingerprints.claim(store.request_path, REQUEST, owner="the store")
  storage.create(store.engine_path, fingerprints.to_json({"method": store.method}))
  block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=write_blocks(store))
  open_input = storage.open_input

  def failing(path: str, **keywords):
    if path == store.scores_path(S):
      raise OSError(errno.EIO, "Input/output error", path)
    return open_input(path, **keywords)

  monkeypatch.setattr(storage, "open_input", failing)
  with pytest.raises(storage.AccessError, match="Input/output error"):
    clearing.clear_others(store, [S], MADE, keep_engine=True)
  monkeypatch.undo()
  assert score_files.read_summary(store, S).scored == 10


def test_a_shard_that_seems_shorter_is_damaged(store, monkeypatch):
  """A flipped bit outside of the pages may shorten it. Kills the mutant that reads the remaining rows."""
  block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=write_blocks(store))
  with score_files.ScoreFile(store, S) as scores:
    assert sum(batch.num_rows for batch in scores.batches(4, domains=True)) == 10
    monkeypatch.setattr(scores._parquet, "iter_batches", lambda rows, columns: iter([]))
    with pytest.raises(DamagedError, match="it has 0 of 10 rows"):
      list(scores.batches(4, domains=True))


def test_a_ledger_in_which_a_bit_was_turned_is_none(store):
  """Kills the mutants: a summary that is trusted; a summary of which only the sums are compared."""
  summary = block_files.compact_shard(store, S, num_blocks=len(SIZES), num_rows=write_blocks(store))
  ledger = {"fingerprint": store.fingerprint, "engine": store.engine(), **sealing.add_up([summary])}
  storage.create(store.summary_path, fingerprints.sealed(ledger))
  assert store.is_complete and store.summary() == ledger
  whole = storage.read_bytes(store.summary_path)
  for place in range(len(whole)):
    flipped = bytearray(whole)
    flipped[place] ^= 1 << place % 8
    with open(store.summary_path, "wb") as file:
      file.write(flipped)
    assert store.readable_summary() in (None, ledger)
    assert not store.is_complete or whole[place : place + 1].isspace()


@pytest.mark.parametrize("error", [ConnectionError("reset"), TimeoutError("timed out"), OSError(5, "error")])
def test_what_cannot_be_read_is_not_taken_for_damaged(store, monkeypatch, error):
  """Kills the mutant that removes a finished block because a network failed."""
  write_blocks(store)
  path = store.block_path(S, 0, store.engine())

  def failing(path):
    raise error

  monkeypatch.setattr(storage, "read_bytes", failing)
  with pytest.raises(storage.AccessError, match="cannot read"):
    block_files.read_block(path)
