"""All formats and compressions against plain readers of the same records; truncated files; memory."""

import dataclasses
import gzip
import json
import os
import pathlib
import struct

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from reader_files import (
  FORMATS,
  RECORDS,
  bad,
  documents,
  example,
  frame,
  jsonl,
  masked_crc,
  numbered,
  places,
  put,
  read,
  shard_of,
  write,
)

from curation.errors import WinnowError
from pipelines.corpus.blocks import Block, Fields, Shard
from pipelines.corpus.readers import reading, zstd_stream


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_documents_and_blocks(tmp_path, suffix):
  """Kills: a reader that drops a record across the border of a piece, a frame, a member or a row group."""
  blocks = read(write(tmp_path, f"c4.{suffix}"), block_rows=100, block_text_bytes=9000)
  assert documents(blocks) == numbered(RECORDS)
  assert bad(blocks) == []
  expected, first, size = [], 0, 0
  for row, record in enumerate(RECORDS):
    size += len(record["text"].encode())
    if row + 1 - first == 100 or size >= 9000 or row + 1 == len(RECORDS):
      expected.append((first, row + 1 - first, size))
      first, size = row + 1, 0
  assert [(block.first_row, block.num_rows, block.text_bytes) for block in blocks] == expected
  assert len({rows for _, rows, _ in expected}) > 2  # both rules have drawn borders


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("every", [2, 3, 1000])
def test_skipping_moves_no_border(tmp_path, suffix, every):
  """Kills: counting the bytes of JSON, escapes included, against the text limit of a skipped block."""
  shard = write(tmp_path, f"c4.{suffix}")
  for limit in (3000, 1 << 20):
    whole = read(shard, block_rows=64, block_text_bytes=limit)
    some = read(shard, block_rows=64, block_text_bytes=limit, want=lambda index: index % every == 1)
    assert places(some) == places(whole)
    assert [block for block in some if isinstance(block, Block)] == [b for b in whole if b.index % every == 1]


def test_real_c4_equals_gzip_and_json(shared):
  path = shared / "data" / "c4" / "c4_en_1445.jsonl.gz"
  blocks = read(shard_of(path), block_rows=1000)
  with gzip.open(path, "rt", encoding="utf-8") as lines:
    records = [json.loads(line) for line in lines]
  assert len(records) == 1445
  assert documents(blocks) == [
    {"row": row, **{name: record[name] for name in ("text", "url", "timestamp")}} for row, record in enumerate(records)
  ]
  assert places(blocks) == [(0, 0, 1000), (1, 1000, 445)]


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_a_truncated_file_gives_its_first_blocks_and_then_says_where(tmp_path, suffix):
  """Kills: a reader that takes the end of a broken stream for the end of the file, or loses the blocks before it."""
  whole_shard = write(tmp_path, f"whole.{suffix}")
  whole = read(whole_shard, block_rows=10)
  data = pathlib.Path(whole_shard.path).read_bytes()
  for size in (len(data) - 1, len(data) * 3 // 4, 5):
    shard = put(tmp_path / f"cut.{suffix}", data[:size])
    blocks = []
    with pytest.raises(WinnowError, match=rf"cut\.{suffix}.* row \d+") as raised:
      for block in reading.read_blocks(shard, Fields(), block_rows=10, piece_bytes=1000):
        blocks.append(block)
    row = int(str(raised.value).split(" row ")[1].split(":")[0])
    assert blocks == whole[: len(blocks)]
    assert len(blocks) == row // 10
    if suffix not in ("parquet", "array_record") and size > 5:  # these two cannot be opened without their ends
      assert row > len(RECORDS) * 0.4  # zstd unpacks nothing less than 128 KiB


@pytest.mark.parametrize(
  ("name", "damage"),
  [
    ("garbage.jsonl.gz", lambda data: gzip.compress(data) + b"garbage behind the end"),
    ("plain.jsonl.gz", lambda data: data),
    ("nothing.jsonl.gz", lambda data: b""),
    ("checksum.jsonl.gz", lambda data: gzip.compress(data)[:-5] + b"\0" + gzip.compress(data)[-4:]),
    ("cut_member.jsonl.gz", lambda data: gzip.compress(data) + gzip.compress(data)[:40]),
    ("garbage.jsonl.zst", lambda data: zstandard.compress(data) + b"garbage behind the end"),
    ("cut_frame.jsonl.zst", lambda data: zstandard.compress(data) * 2 + zstandard.compress(data)[:40]),
    ("plain.jsonl.zst", lambda data: data),
    ("nothing.jsonl.zst", lambda data: b""),
    ("other.parquet", lambda data: data),
    ("nothing.parquet", lambda data: b""),
    ("other.tfrecord", lambda data: data),
    ("length.tfrecord", lambda data: frame(example(text=[b"a"])) + struct.pack("<QI", 9, 1) + data),
    ("huge.tfrecord", lambda data: struct.pack("<QI", 1 << 40, masked_crc(struct.pack("<Q", 1 << 40))) + data),
    ("other.array_record", lambda data: data),
  ],
)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, name, damage):
  shard = put(tmp_path / name, damage(jsonl(RECORDS[:50])))
  with pytest.raises(WinnowError, match=rf"^\S*{name} cannot be read beyond row \d+: [^\n]*; replace the file$"):
    read(shard)


def long_window(data: bytes, window_log: int) -> bytes:
  """Returns a frame that requests the window of `zstd --long=WINDOW_LOG`, as for a file of that size."""
  compressor = zstandard.ZstdCompressor().compressobj()  # which does not know the size of what comes
  found = bytearray(compressor.compress(data) + compressor.flush())
  found[5] = (window_log - 10) << 3
  assert zstandard.get_frame_parameters(bytes(found)).window_size == 1 << window_log
  return bytes(found)


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_zstd_with_a_long_window_is_read(tmp_path, window_log):
  """Mixes frames of several windows and a skippable one. Kills the mutant with the window limit of Arrow."""
  data = jsonl(RECORDS)
  skipped = bytes.fromhex("502a4d18 04000000") + b"skip"
  shard = put(tmp_path / "a.jsonl.zst", zstandard.compress(data) + skipped + long_window(data, window_log) + skipped)
  assert documents(read(shard)) == numbered(RECORDS * 2)


@pytest.mark.parametrize(
  ("head", "message"),
  [
    (
      b"",
      r"beyond row 0: its zstd stream needs 2,048 MiB of memory for its window, more than --max_zstd_window=2047; ",
    ),
    (zstandard.compress(jsonl(RECORDS)), r"beyond row 999: .* more than --max_zstd_window=2047; "),
  ],
)
def test_zstd_with_too_long_a_window_is_refused_with_the_flag(tmp_path, head, message):
  shard = put(tmp_path / "a.jsonl.zst", head + long_window(jsonl(RECORDS), 31))
  with pytest.raises(WinnowError, match=rf"a\.jsonl\.zst cannot be read {message}allow as much, or compress"):
    read(dataclasses.replace(shard, max_window=2047 << 20))
  # The descriptor of the frame asks for more than zstd supports.
  longer = put(tmp_path / "b.jsonl.zst", bytes.fromhex("28b52ffd 00 b0") + bytes(20))
  with pytest.raises(
    WinnowError, match=r"needs a window of more than 2,048 MiB, which zstd itself does not read; replace"
  ):
    read(longer)


def test_a_bomb_takes_little_memory_at_a_time(tmp_path):
  """256 MiB of one letter in 8 KiB. Kills the mutant that unpacks all the data that it has read at once."""
  data = zstandard.compress(b"x" * (256 << 20), 3)
  pieces = zstd_stream.decompress([data], piece_bytes=1 << 20, max_window=1 << 31)
  sizes = [len(piece) for piece in pieces]
  assert sum(sizes) == 256 << 20
  assert max(sizes) <= 1 << 27


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(WinnowError, match=r"cannot open .*a\.jsonl: No such file"):
    read(Shard("a.jsonl", str(tmp_path / "a.jsonl"), "jsonl", "", 0))


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_many_members_or_frames_are_one_stream(tmp_path, suffix, compress):
  """Kills: a reader that stops after the first member, or splits a line that spans two members."""
  data = jsonl(RECORDS)
  parts = [data[at : at + 10_001] for at in range(0, len(data), 10_001)]
  members = [compress(part) for part in [*parts, b""]]
  padding = b"\0" * 512 if suffix == "gz" else b""  # what tape archives append
  shard = put(tmp_path / f"a.jsonl.{suffix}", b"".join(members) + padding)
  assert documents(read(shard)) == numbered(RECORDS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_are_closed(tmp_path, suffix):
  """After the last block, after a block in the middle, and after a failure."""
  shard = write(tmp_path, f"a.{suffix}")
  broken = put(tmp_path / f"b.{suffix}", pathlib.Path(shard.path).read_bytes()[: shard.size // 2])

  def opened() -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))]

  blocks = reading.read_blocks(shard, Fields(), block_rows=10, piece_bytes=1000)
  next(blocks)
  assert set(opened()) == {shard.path}
  blocks.close()
  assert opened() == []
  read(shard)
  assert opened() == []
  if suffix != "jsonl":  # plain lines cannot be broken off
    with pytest.raises(WinnowError):
      read(broken)
    assert opened() == []


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("gs://b/c4-train.00000-of-01024.json.gz", ("jsonl", "gzip")),
    ("A.JSONL", ("jsonl", "")),
    ("a.jsonl.zst", ("jsonl", "zstd")),
    ("part-0.snappy.parquet", ("parquet", "")),
    ("c4-train.tfrecord-00000-of-00016", ("tfrecord", "")),
    ("c4-train.tfrecord-00000-of-00016.gz", ("tfrecord", "gzip")),
    ("a.tfrecord", ("tfrecord", "")),
    ("a.tfrecords.gz", ("tfrecord", "gzip")),
    ("c4-train.array_record-00000-of-00016", ("array_record", "")),
  ],
)
def test_format_of(name, expected):
  assert reading.format_of(name) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.parquet.gz", "jsonl", "a.jsonl.bz2", "x.jsonl/readme", "a.tfrecord-old"])
def test_format_of_other_names(name):
  with pytest.raises(WinnowError, match=rf"format of {name} .*\.jsonl"):
    reading.format_of(name)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_memory_is_that_of_a_few_blocks(tmp_path, suffix):
  """Kills: a reader that keeps blocks, reads the whole file, or holds a Parquet row group of 240 MB."""
  line = json.dumps({"text": os.urandom(1500).hex(), "url": "u"}).encode() + b"\n"
  path = tmp_path / f"a.{suffix}"
  if suffix == "parquet":
    texts = pa.array([os.urandom(1500).hex() for _ in range(80_000)])
    pq.write_table(pa.table({"text": texts}), path, row_group_size=80_000, compression="none", use_dictionary=False)
    del texts
    pa.default_memory_pool().release_unused()  # else what writing leaves behind hides what reading takes
  else:
    opener = gzip.open if suffix.endswith("gz") else open
    with opener(path, "wb", *([1] if suffix.endswith("gz") else [])) as file:
      for _ in range(100):
        file.write(line * 1000)
  process = psutil.Process()
  before = process.memory_info().rss
  peak = rows = 0
  for block in reading.read_blocks(shard_of(path), Fields(), want=lambda index: index % 2 == 0):
    rows += block.num_rows
    peak = max(peak, process.memory_info().rss - before)
  assert rows == (80_000 if suffix == "parquet" else 100_000)
  assert peak < 120 << 20


def test_a_glob_in_the_folder_where_one_stands_finds_its_files(tmp_path, monkeypatch):
  """The README gives such a glob. Kills the mutant that leaves a name without a folder to Beam, which finds nothing."""
  from pipelines.corpus import inputs

  for name in ("c4-train.00000.json", "c4-train.00001.json"):
    (tmp_path / name).write_text('{"text": "a"}\n')
  monkeypatch.chdir(tmp_path)
  found = inputs.find_shards("c4-train.*.json")
  assert [shard.path for shard in found] == [str(tmp_path / shard.name) for shard in found]
  assert len(found) == 2
