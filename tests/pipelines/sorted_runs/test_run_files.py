"""Runs and their merge against a brute-force sort."""

import io
import itertools
import json
import pathlib
import struct
import subprocess
import sys
import textwrap

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import WinnowError
from pipelines.sorted_runs import merging, run_files, run_writer

# Few distinct hashes, so that ties are common, and those at the ends of the range.
HASHES = st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1]))


def arrays(records: list[tuple[int, int, bytes]]) -> dict:
  shard, hash_, record = zip(*records, strict=True) if records else [()] * 3
  return {
    "shard_N": np.array(shard, np.uint32),
    "hash_N": np.array(hash_, np.uint64),
    "record_N": pa.array(record, pa.large_binary()),
  }


def run_of(records: list[tuple[int, int, bytes]], num_shards: int, header: dict | None = None) -> io.BytesIO:
  file = io.BytesIO()
  run_writer.write_run(file, header=header or {}, num_shards=num_shards, **arrays(records))
  return file


def read_run(reader: run_files.RunReader) -> list[tuple[int, int, bytes]]:
  return [
    (shard, hash_, record)
    for shard in range(reader.num_shards)
    for hash_N, record_N in reader.batches(shard)
    for hash_, record in zip(hash_N.tolist(), record_N.to_pylist(), strict=True)
  ]


def sorted_records(records: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
  return sorted(records, key=lambda record: record[:2])  # Python's sort is stable


@settings(max_examples=300)
@given(st.lists(st.lists(st.lists(HASHES, max_size=4), max_size=5), max_size=5))
def test_a_merge_is_a_stable_sort_of_its_streams(lists):
  """Kills: a bound that is the max instead of the min; `side="right"` for every stream (reordered ties), `"left"` for
  every stream (lost records); a sort that is not stable."""
  streams, expected = [], []
  for stream, batches in enumerate(lists):
    hashes = sorted(itertools.chain(*batches))
    records = [f"{stream}.{place}".encode() for place in range(len(hashes))]
    expected += zip(hashes, records, strict=True)
    cuts = [0, *itertools.accumulate(map(len, batches))]
    streams.append(
      [
        (np.array(hashes[a:b], np.uint64), pa.array(records[a:b], pa.large_binary()))
        for a, b in itertools.pairwise(cuts)
      ]
    )
  merged = [
    (hash_, record)
    for hash_N, record_N in merging.merge_batches([iter(stream) for stream in streams])
    for hash_, record in zip(hash_N.tolist(), record_N.to_pylist(), strict=True)
  ]
  assert merged == sorted(expected, key=lambda pair: pair[0])


# Ties within and between calls are the rule here.
RECORDS = st.lists(st.tuples(st.sampled_from([0, 1, 3]), st.integers(0, 1), st.integers(0, 40)), max_size=40)


@settings(max_examples=150)
@given(
  drawn=RECORDS,
  adds=st.lists(st.integers(0, 9), min_size=1, max_size=12),
  run_ends=st.sets(st.integers(0, 11)),
  budget_bytes=st.sampled_from([0, 30, 100, 10_000]),
  batch_bytes=st.sampled_from([1, 25, 1000]),
  fan_in=st.integers(2, 4),
)
def test_output_depends_on_the_records_alone(drawn, adds, run_ends, budget_bytes, batch_bytes, fan_in):
  """Each shard is the stable sort of its records by hash, however they are spread over calls, runs, spills and batches.

  Kills: merged spills put before older ones, the rest of the buffer forgotten when there were spills, a record larger
  than the budget lost or put before the buffer, runs beyond the fan-in dropped, counts of another shard.
  """
  records = [(shard, hash_, b"%d:" % place + b"x" * size) for place, (shard, hash_, size) in enumerate(drawn)]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_files, "BATCH_BYTES", batch_bytes)
    patch.setattr(run_writer, "FAN_IN", fan_in)
    files, left = [], records
    while left or not files:
      with run_writer.RunWriter(num_shards=4, budget_bytes=budget_bytes) as writer:
        added = 0
        for call, size in enumerate(adds):
          writer.add(**arrays(left[:size]))
          added, left = added + len(left[:size]), left[size:]
          if call in run_ends:
            break
        if not added:  # the drawn sizes do not get on
          writer.add(**arrays(left))
          left = []
        files.append(io.BytesIO())
        writer.finish(files[-1], {"run": len(files)})
    readers = [run_files.RunReader(file) for file in files]
    assert [reader.header["run"] for reader in readers] == list(range(1, len(files) + 1))
    expected = sorted_records(records)
    for shard in range(4):
      output = io.BytesIO()
      of_shard = [record for at, _, record in expected if at == shard]
      assert run_files.write_records(run_writer.merge_shard(iter(readers), shard), output) == len(of_shard)
      assert output.getvalue() == b"".join(of_shard)
      assert sum(reader.counts[shard] for reader in readers) == len(of_shard)
    merged = io.BytesIO()
    run_writer.merge_runs(readers, merged, {"merged": True}, 4)
    assert read_run(run_files.RunReader(merged)) == expected


def test_batches_are_bounded():
  records = [(0, place, bytes(100_000)) for place in range(20)] + [(0, 20, bytes(1_000_000)), (0, 21, b"")]
  sizes = [record_N.nbytes for _, record_N in run_files.RunReader(run_of(records, 1)).batches(0)]
  assert len(sizes) == 12
  assert sorted(sizes)[-2] <= run_files.BATCH_BYTES and max(sizes) < 1_000_100


def test_deep_merges_of_spills(tmp_path):
  """Makes more spills than two levels of merging hold, in a folder of the caller, which is empty afterwards."""
  records = [(place % 2, place * 7919 % 101, b"%d" % place) for place in range(1_100)]
  with run_writer.RunWriter(num_shards=2, budget_bytes=0, temporary_folder=str(tmp_path)) as writer:
    for record in records:
      writer.add(**arrays([record]))
    file = io.BytesIO()
    writer.finish(file, {})
  assert read_run(run_files.RunReader(file)) == sorted_records(records)
  assert not list(tmp_path.iterdir())


def test_nothing_added():
  file = io.BytesIO()
  with run_writer.RunWriter(num_shards=3) as writer:
    writer.add(**arrays([]))
    writer.finish(file, {"documents": 0})
  reader = run_files.RunReader(file)
  assert reader.header == {"documents": 0, "num_shards": 3}
  assert reader.counts == [0, 0, 0] and read_run(reader) == []
  assert list(run_writer.merge_shard([reader, reader], 1)) == []
  assert list(run_writer.merge_shard([], 0)) == []


def test_ranges_of_one_reader_are_read_in_turns(monkeypatch):
  monkeypatch.setattr(run_files, "BATCH_BYTES", 1)
  records = [(shard, hash_, b"%d.%d" % (shard, hash_)) for shard in range(2) for hash_ in range(5)]
  reader = run_files.RunReader(run_of(records, 2))
  pairs = list(zip(reader.batches(0), reader.batches(1), strict=True))
  assert [record_N.to_pylist() for pair in pairs for _, record_N in pair] == [
    [b"%d.%d" % (shard, hash_)] for hash_ in range(5) for shard in range(2)
  ]


def test_binary_and_sliced_records(tmp_path):
  """The offsets of a slice do not start at 0; `binary` has other offsets than `large_binary`."""
  record_N = pa.array([b"no", b"b", b"a", b"no"])[1:3]
  path = tmp_path / "a.run"
  with path.open("wb") as file, run_writer.RunWriter(num_shards=1) as writer:
    writer.add(np.zeros(2, np.uint32), np.array([2, 1], np.uint64), record_N)
    writer.finish(file, {})
  with path.open("rb") as file:
    assert read_run(run_files.RunReader(file)) == [(0, 1, b"a"), (0, 2, b"b")]


def test_an_output_shard_out_of_range_is_refused():
  with pytest.raises(ValueError, match="output shard 3"):
    run_of([(3, 0, b"")], 3)


def test_runs_for_other_shard_numbers_are_not_merged():
  readers = [run_files.RunReader(run_of([(1, 1, b"a")], 2)), run_files.RunReader(run_of([(1, 1, b"a")], 3))]
  with pytest.raises(WinnowError, match="3 output shards, not 2"):
    run_writer.merge_runs(readers, io.BytesIO(), {}, 2)


def test_the_file_is_as_documented():
  data = run_of([(1, 5, b"abc")], 2, {"documents": 1}).getvalue()
  header_bytes = int.from_bytes(data[8:12], "little")
  header = data[12 : 12 + header_bytes]
  table = struct.unpack_from("<5Q3I", data, 12 + header_bytes)
  body = 12 + header_bytes + 52
  assert data[:8] == b"WINNOWR2" and json.loads(header) == {"documents": 1, "num_shards": 2}
  checksums = 0, google_crc32c.value(data[body:]), google_crc32c.value(data[: body - 4])
  assert table == (body, body, len(data), 0, 1, *checksums)
  assert pa.ipc.open_stream(data[body:]).read_all().to_pydict() == {"hash": [5], "record": [b"abc"]}


def with_bytes(data: bytes, position: int, new: bytes) -> bytes:
  return data[:position] + new + data[position + len(new) :]


def stream_of(schema: pa.Schema, *columns: list) -> bytes:
  sink = io.BytesIO()
  with pa.ipc.new_stream(sink, schema) as writer:
    writer.write_batch(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
  return sink.getvalue()


def corrupt_runs() -> dict[str, bytes]:
  data = run_of([(0, 5, b"abc"), (1, 7, b"de"), (1, 9, b"f")], 2).getvalue()
  header_bytes = int.from_bytes(data[8:12], "little")
  table = 12 + header_bytes
  body = table + 52
  text = b'{"num_shards": 1}'

  def around(stream: bytes, count: int, header: bytes = text) -> bytes:
    start = 12 + len(header) + 32
    head = b"WINNOWR2" + struct.pack("<I", len(header)) + header
    head += struct.pack("<3QI", start, start + len(stream), count, google_crc32c.value(stream))
    return head + struct.pack("<I", google_crc32c.value(head)) + stream

  def in_table(place: int, value: int) -> bytes:
    """Returns a run whose table is wrong but fits its checksum."""
    head = with_bytes(data, place, struct.pack("<Q", value))[: body - 4]
    return head + struct.pack("<I", google_crc32c.value(head)) + data[body:]

  schema = run_files._SCHEMAS[0]
  nullable = pa.schema([pa.field("hash", pa.uint64()), pa.field("record", pa.large_binary())])
  good = stream_of(schema, [1, 2], [b"a", b"b"])
  run_files.RunReader(io.BytesIO(around(good, 2)))  # what follows is refused for what is wrong in it
  return {
    "empty": b"",
    "cut in the magic": data[:5],
    "another file": b"PAR1" + data[4:],
    "header longer than the file": with_bytes(data, 8, struct.pack("<I", len(data))),
    "header of 4 GiB": with_bytes(data, 8, b"\xff\xff\xff\xff"),
    "header is no JSON": with_bytes(data, 12, b"x"),
    "header is no UTF-8": with_bytes(data, 12, b"\xff"),
    "header is a list": around(good, 2, b"[1234567]"),
    "header nested too deep": around(good, 2, b"[" * 100_000),
    "no number of shards": around(good, 2, b'{"shards": 1}'),
    "a fraction of a shard": around(good, 2, b'{"num_shards": 1.0}'),
    "a negative number of shards": around(good, 2, b'{"num_shards": -1}'),
    "more shards than bytes": around(good, 2, b'{"num_shards": 1000000000000000}'),
    "cut in the table": data[: table + 4],
    "cut in a range": data[:-9],
    "something appended": data + b"x",
    "offset before the body": in_table(table, 0),
    "offset outside": in_table(table + 8, 2**63),
    "offsets descend": in_table(table + 8, body - 1),
    "range too short": in_table(table + 8, body + 50),
    "range without its batches": in_table(table + 8, body),
    "a table that does not fit its checksum": with_bytes(data, table + 24, b"\x02"),
    "a record that does not fit its range's checksum": data.replace(b"abc", b"abd"),
    "fewer records than counted": around(good, 3),
    "more records than counted": around(good, 1),
    "hashes descend": around(stream_of(schema, [2, 1], [b"a", b"b"]), 2),
    "a missing record": around(stream_of(nullable, [1, 2], [None, b"b"]), 2),
    "other columns": around(stream_of(pa.schema([("hash", pa.uint64())]), [1, 2]), 2),
    "a body of 2^62 bytes": around(with_long_body(good), 2),
  }


def with_long_body(stream: bytes) -> bytes:
  """Changes `bodyLength` of the last batch, which is the only int64 of its value in the metadata."""
  reader = pa.ipc.MessageReader.open_stream(stream)
  reader.read_next_message()
  body = reader.read_next_message().body.size
  place = stream.rindex(struct.pack("<q", body), 0, len(stream) - body)
  return with_bytes(stream, place, struct.pack("<q", 1 << 62))


@pytest.mark.parametrize("what", corrupt_runs())
def test_a_corrupt_run_is_refused_in_one_sentence(what, tmp_path):
  path = tmp_path / "b.run"
  path.write_bytes(corrupt_runs()[what])
  with path.open("rb") as file, pytest.raises(WinnowError) as error:
    read_run(run_files.RunReader(file))
  message = str(error.value)
  assert str(path) in message and "delete it" in message and "\n" not in message


class CarefulFile(io.BytesIO):
  """A file that refuses reads beyond its size."""

  def read(self, size: int | None = -1, /) -> bytes:
    assert size is not None and 0 <= size <= max(len(self.getvalue()), 12)
    return super().read(size)


@pytest.mark.parametrize("what", corrupt_runs())
def test_no_read_asks_for_more_than_the_file_holds(what):
  """Kills: a window or a header whose length is trusted."""
  with pytest.raises(WinnowError):
    read_run(run_files.RunReader(CarefulFile(corrupt_runs()[what])))


FUZZED = run_of([(place % 3, place, b"record %d" % place * place) for place in range(12)], 3).getvalue()


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(FUZZED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_refused_or_harmless(damage):
  """Flipped bytes give WinnowError or exactly the records, never another error or a crash.

  Kills the mutants: a range, or the table, whose checksum is not compared."""
  data = bytearray(FUZZED)
  for position, value in damage:
    data[position] = value
  try:
    reader = run_files.RunReader(io.BytesIO(bytes(data)))
    records = read_run(reader)
  except WinnowError:
    return
  assert records == read_run(run_files.RunReader(io.BytesIO(FUZZED)))


def test_memory_does_not_grow_with_what_is_written():
  """Two runs of 80 MB, then 200 runs merged at once, stay within 100 MB above the idle process.

  About 60 are measured, half of them free memory that the allocators keep. Kills: spills that are kept in memory, a
  merge that reads whole ranges, 200 runs read side by side.
  """
  code = """
    import resource, sys, tempfile
    import numpy as np, pandas, pyarrow as pa
    from pipelines.sorted_runs import run_files, run_writer

    def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    def write(megabytes, rng):
      file = tempfile.TemporaryFile()
      with run_writer.RunWriter(num_shards=2, budget_bytes=8 << 20) as writer:
        for _ in range(megabytes):
          hash_N = rng.integers(0, 2**64, 250, dtype=np.uint64)
          records = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4000), 250, [None, pa.py_buffer(bytes(10**6))])
          writer.add((hash_N % np.uint64(2)).astype(np.uint32), hash_N, records.cast(pa.large_binary()))
        writer.finish(file, {})
      return file

    rng = np.random.default_rng(0)
    write(1, rng)
    idle = peak()
    large = [write(80, rng) for _ in range(2)]
    many = [write(1, rng) for _ in range(200)]
    written = 0
    for files in large, many:
      for shard in range(2):
        with tempfile.TemporaryFile() as output:
          merged = run_writer.merge_shard([run_files.RunReader(file) for file in files], shard)
          written += run_files.write_records(merged, output)
    assert written == 250 * (2 * 80 + 200), written
    print(peak() - idle)
  """
  folder = pathlib.Path(run_writer.__file__).parents[2]
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) <= 100
