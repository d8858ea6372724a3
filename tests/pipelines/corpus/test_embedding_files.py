"""External embeddings: rows and shapes are checked, and errors are one sentence."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import WinnowError
from pipelines import main
from pipelines.corpus import embedding_files
from pipelines.corpus.blocks import Shard

POINTS = np.random.default_rng(0).standard_normal((2_500, 6)).astype(np.float32)
SHARD = Shard("a.jsonl", "a.jsonl", "jsonl", "", 1)


def write(path: pathlib.Path, kind: str) -> str:
  if kind == "npy64":
    np.save(path / "x.npy", POINTS.astype(np.float64))
  elif kind == "npy16":
    np.save(path / "x.npy", POINTS.astype(np.float16))
  else:
    lists = {
      "list": pa.array(list(POINTS), pa.list_(pa.float32())),
      "large": pa.array([row.astype(np.float64) for row in POINTS], pa.large_list(pa.float64())),
      "fixed": pa.FixedSizeListArray.from_arrays(pa.array(POINTS.ravel()), 6),
    }[kind]
    table = pa.table({"scores": pa.array([[1.0]] * len(POINTS)), "embedding": lists, "id": range(len(POINTS))})
    pq.write_table(table, path / "x.parquet", row_group_size=700)
  return f"{path}/x.*"


@pytest.mark.parametrize("kind", ["npy64", "npy16", "list", "large", "fixed"])
def test_rows_are_read_in_any_runs(tmp_path, kind):
  """Kills: a batch whose end is lost; skipped rows that are counted wrongly."""
  about = embedding_files.find(write(tmp_path, kind), [SHARD])["a.jsonl"]
  assert (about.rows, about.dimensions) == (2_500, 6)
  expected = POINTS.astype(np.float16).astype(np.float32) if kind == "npy16" else POINTS
  with embedding_files.opened(about) as rows:
    for start, stop in ((0, 1), (1, 1_500), (1_800, 1_801), (2_000, 2_000), (2_100, 2_500)):
      np.testing.assert_array_equal(rows(start, stop), expected[start:stop])


def wrong(path: pathlib.Path, how: str) -> str:
  x = path / "x.npy"
  if how == "pickle":
    np.save(x, np.array([{}, {}], object), allow_pickle=True)
  elif how == "flat":
    np.save(x, POINTS[0])
  elif how == "fortran":
    np.save(x, np.asfortranarray(POINTS))
  elif how == "integers":
    np.save(x, POINTS.astype(np.int64))
  elif how == "cut":
    np.save(x, POINTS)
    x.write_bytes(x.read_bytes()[:-1])
  elif how == "huge":
    np.save(x, POINTS)
    x.write_bytes(x.read_bytes().replace(b"(2500, 6)", b"(9**9, 6)"))
  elif how == "none":
    x.write_bytes(b"no array at all")
  elif how == "text":
    (path / "x.txt").write_text("1 2 3")
  elif how == "columns":
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), path / "x.parquet")
  elif how == "two columns":
    lists = pa.array([[1.0]])
    pq.write_table(pa.table({"first": lists, "second": lists}), path / "x.parquet")
  return f"{path}/x.*"


@pytest.mark.parametrize(
  ("how", "message"),
  [
    ("pickle", "holds object"),
    ("flat", r"not floats \[N, D\]"),
    ("fortran", "Fortran order"),
    ("integers", "holds int64"),
    ("cut", "its size is not what its header says"),
    ("huge", "holds no embeddings, or is damaged"),
    ("none", "holds no embeddings, or is damaged"),
    ("text", r"neither \.npy nor \.parquet"),
    ("columns", "its columns are id, text"),
    ("two columns", "does not have one column of lists"),
    ("nothing", "matches 0 files, but the input has 1 shards"),
  ],
)
def test_what_is_no_embedding_file_is_refused(tmp_path, how, message):
  with pytest.raises(WinnowError, match=message):
    embedding_files.find(wrong(tmp_path, how), [SHARD])


def test_lists_of_other_lengths_are_told_by_their_row(tmp_path):
  """Kills: a short list that is filled up from the next one."""
  lists = [list(row) for row in POINTS]
  lists[1_234] = lists[1_234][:3]
  pq.write_table(pa.table({"embedding": lists}), tmp_path / "x.parquet")
  about = embedding_files.find(f"{tmp_path}/x.parquet", [SHARD])["a.jsonl"]
  with embedding_files.opened(about) as rows, pytest.raises(WinnowError, match="row 1234 has 3 numbers"):
    rows(0, 2_500)


def test_a_first_row_without_an_embedding_and_a_file_without_rows_are_taken(tmp_path):
  """Kills: dimensions that are taken only from the first row."""
  lists = pa.array([None, *POINTS], pa.list_(pa.float32()))
  pq.write_table(pa.table({"embedding": lists}), tmp_path / "x.parquet")
  pq.write_table(pa.table({"embedding": lists[:0]}), tmp_path / "y.parquet")
  found = embedding_files.find(f"{tmp_path}/*.parquet", [SHARD, Shard("b.jsonl", "b.jsonl", "jsonl", "", 1)])
  assert [(about.rows, about.dimensions) for about in found.values()] == [(2_501, 6), (0, 6)]
  with embedding_files.opened(found["a.jsonl"]) as rows:
    assert np.isnan(rows(0, 1)).all()
    np.testing.assert_array_equal(rows(1, 2_501), POINTS)
  with embedding_files.opened(found["b.jsonl"]) as rows:
    assert rows(0, 0).shape == (0, 6)


def test_files_are_paired_by_name_and_unlike_numbering_is_refused(tmp_path):
  """Kills: e_10 that is paired with the third shard, c.00002; files of other folders that are sorted by their
  folders."""
  shards = [Shard(f"c.{i:05d}.jsonl", "", "jsonl", "", 1) for i in range(11)]
  for i in range(11):
    np.save(tmp_path / f"e_{i}.npy", POINTS[: i + 1])
  with pytest.raises(WinnowError, match="sort differently"):
    embedding_files.find(f"{tmp_path}/*.npy", shards)
  same = [Shard(f"c_{i}.jsonl", "", "jsonl", "", 1) for i in range(11)]
  found = embedding_files.find(f"{tmp_path}/*.npy", same)
  assert {shard: about.rows for shard, about in found.items()} == {f"c_{i}.jsonl": i + 1 for i in range(11)}


def corpus(folder: pathlib.Path, *rows: int) -> str:
  for shard, count in enumerate(rows):
    (folder / f"{shard}.jsonl").write_text("".join(json.dumps({"text": f"text {row}"}) + "\n" for row in range(count)))
  return f"{folder}/*.jsonl"


def embed(folder: pathlib.Path, *rows: int, **flags) -> int:
  given = [f"--{name}={value}" for name, value in flags.items()]
  where = [f"--input={corpus(folder, *rows)}", f"--scores={folder}/scores", f"--embeddings={folder}/*.npy"]
  return main.main(["embed", *where, "--block_rows=100", "--direct_num_workers=1", *given])


@pytest.mark.parametrize(("rows", "said"), [(299, "has 299 rows"), (301, "has 301 rows"), (3_000, "has 3,000 rows")])
def test_other_numbers_of_rows_end_the_run(tmp_path, capsys, rows, said):
  """Kills: unnoticed rows beyond the end of the shard."""
  np.save(tmp_path / "0.npy", np.ones((200, 4), np.float32))
  np.save(tmp_path / "1.npy", np.ones((rows, 4), np.float32))
  assert embed(tmp_path, 200, 300) == 1
  message = capsys.readouterr().err
  assert "1.npy" in message and said in message and "300" in message and "give a file with a row for each" in message


def test_files_that_do_not_belong_together_are_refused_before_anything_is_written(tmp_path, capsys):
  np.save(tmp_path / "0.npy", np.ones((20, 4), np.float32))
  assert embed(tmp_path, 20, 20) == 2
  assert "matches 1 files, but the input has 2 shards" in capsys.readouterr().err
  np.save(tmp_path / "1.npy", np.ones((20, 5), np.float32))
  assert embed(tmp_path, 20, 20) == 2
  assert "has 4 dimensions and" in capsys.readouterr().err
  assert embed(tmp_path, 20, 20, model="m") == 2
  assert "give one of --model=" in capsys.readouterr().err
  assert embed(tmp_path, 20, 20, dtype="float32") == 2
  assert "--dtype is for --model" in capsys.readouterr().err
  assert not (tmp_path / "scores").exists()
