"""Refusal of a wrong field before anything is written, and of a shard without a good row, by its name."""

import gzip
import json
import pathlib

import pytest
from reader_files import FORMATS, write
from running import content, logs, run_in

GOOD = [{"content": {"body": f"the river {row}", "lang": "en"}, "id": row} for row in range(300)]
FLAT = [{"body": f"the river {row}", "id": str(row)} for row in range(300)]
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def count(folder: pathlib.Path, *flags: str) -> int:
  """Counts the documents of corpus/, in small blocks, and draws half of them."""
  command = [
    "sample",
    "--sampler=random",
    f"--input={folder}/corpus/*",
    "--rate=0.5",
    "--output=out",
    "--block_rows=40",
  ]
  return run_in(folder, [*command, *flags])


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_field_is_refused_before_anything_is_written(tmp_path, capsys, name):
  """Kills the mutants: a check that reads the whole corpus; a sentence without the existing fields, or without the
  flag."""
  (tmp_path / "corpus").mkdir()
  for number in range(3):
    write(tmp_path / "corpus", f"{number}.{name}", FLAT)
  before = content(tmp_path)
  assert count(tmp_path) == 2
  message = capsys.readouterr().err
  assert "body, id" in message and "--text_field" in message and f"{tmp_path}/corpus/0.{name}" in message
  assert content(tmp_path) == before
  assert count(tmp_path, "--text_field=body", "--direct_num_workers=1") == 0


def test_an_estimate_says_the_same_of_a_wrong_field(tmp_path, capsys):
  (tmp_path / "corpus").mkdir()
  for number in range(20):
    write(tmp_path / "corpus", f"{number:02}.jsonl.gz", GOOD)
  command = ["score", "--scorer=minhash", f"--input={tmp_path}/corpus/*", "--scores=scores"]
  messages = []
  for flags in (["--estimate"], [], ["--text_field=content"]):
    assert run_in(tmp_path, [*command, *flags]) == 2
    messages.append(capsys.readouterr().err)
  where = (
    f"{tmp_path}/corpus/00.jsonl.gz has the fields content.body, content.lang, id; name the one that holds the text"
  )
  assert messages[0] == messages[1]
  assert f"none of the first 4,800 documents of 16 shards has a text in the field 'text': {where}" in messages[0]
  assert f"has a text in the field 'content': {where}" in messages[2]
  assert not (tmp_path / "scores").exists()
  assert run_in(tmp_path, [*command, "--text_field=content.body", "--estimate"]) == 0
  assert "documents" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("kind", "workers"), [("first", 1), pytest.param("last", 2, marks=pytest.mark.long), ("other field", 1)]
)
def test_a_shard_without_a_document_among_others_is_refused_by_name(tmp_path, capsys, kind, workers):
  """Eleven shards with fewer than 1% bad rows. Kills the mutants: a limit only on the share of all rows; a wrong field
  reported for one bad file; a refusal that loses scores.
  """
  (tmp_path / "corpus").mkdir()
  for number in range(8):
    write(tmp_path / "corpus", f"{number}.jsonl", [{"text": f"the stone {number}.{row}"} for row in range(300)])
  name = "0.jsonl" if kind == "first" else "8.jsonl"
  bad = 3 if kind != "other field" else 2
  rows = "no JSON\n" * 3 if kind != "other field" else '{"content": "a"}\n{"content": "b"}\n'
  (tmp_path / f"corpus/{name}").write_text(rows)
  (tmp_path / "corpus/empty.jsonl").write_text("")
  (tmp_path / "corpus/blank.jsonl").write_text("\n \r\n\n")
  assert count(tmp_path, f"--direct_num_workers={workers}") == 1
  message = capsys.readouterr().err
  reason = "missing_text" if kind == "other field" else "invalid_json"
  assert (
    f"1 of {len(list((tmp_path / 'corpus').iterdir()))} shards hold only bad rows: {name} ({reason} {bad});" in message
  )
  assert "--max_bad_fraction=1" in message
  assert not (tmp_path / "out/manifest.json").exists()
  assert count(tmp_path, f"--direct_num_workers={workers}", "--max_bad_fraction=1") == 0
  manifest = json.loads((tmp_path / "out/manifest.json").read_text())
  scored = 300 * (7 if kind == "first" else 8)
  counts = {"read": scored + bad, "scored": scored, "bad": bad, "blank": 3}
  assert {field: manifest["counts"][field] for field in counts} == counts


def test_a_field_that_is_missing_at_first_is_no_wrong_one(tmp_path):
  """Kills the mutant that reads only one block of a shard: here texts begin with row 3,000."""
  (tmp_path / "corpus").mkdir()
  lines = [json.dumps({"id": row} | ({"text": f"the river {row}"} if row >= 3_000 else {})) for row in range(3_300)]
  (tmp_path / "corpus/a.jsonl").write_text("\n".join(lines))
  assert count(tmp_path, "--max_bad_fraction=0.95", "--direct_num_workers=1") == 0


def test_a_corpus_of_another_format_is_refused_before_anything_is_written(tmp_path, capsys):
  (tmp_path / "corpus").mkdir()
  for number in range(3):
    (tmp_path / f"corpus/{number}.jsonl").write_text("id,text\n1,a stone\n2,a river\n" if number else "\n")
  assert count(tmp_path) == 2
  message = (
    f"all of the first 6 documents of 3 shards are bad, such as {tmp_path}/corpus/1.jsonl row 0 (invalid_json); check"
  )
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_a_corpus_without_a_document_is_refused_all_the_same(tmp_path, capsys):
  (tmp_path / "corpus").mkdir()
  (tmp_path / "corpus/a.jsonl").write_text("\n\n")
  assert count(tmp_path, "--direct_num_workers=1") == 1
  assert "the input holds no documents" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_gzip_file_with_zeros_behind_it_is_read(tmp_path, workers):
  """Tapes and block devices leave such files. Kills the mutant whose count of documents ends in a traceback."""
  (tmp_path / "corpus").mkdir()
  for number in range(3):
    rows = "".join(json.dumps({"text": f"the stone {number}.{row}"}) + "\n" for row in range(200))
    (tmp_path / f"corpus/{number}.jsonl.gz").write_bytes(gzip.compress(rows.encode()) + bytes(512))
  assert count(tmp_path, f"--direct_num_workers={workers}") == 0


def test_fields_are_named_to_a_depth_and_a_length(tmp_path, capsys):
  """Kills the mutants: a name for each of a thousand nested objects; a document as the name of a field."""
  (tmp_path / "corpus").mkdir()
  deep = '{"a":' * 900 + "1" + "}" * 900
  (tmp_path / "corpus/a.jsonl").write_text(f'{deep}\n{{"{"x" * 5000}": 1}}\n')
  assert count(tmp_path) == 2
  message = capsys.readouterr().err
  assert "--text_field" in message and "a.a.a" in message and "x" * 60 in message
  assert len(message) < 1_000


@pytest.mark.local_runner
def test_blank_lines_pass_no_stage(tmp_path):
  """Kills the mutant that counts the rows of a block: twice the documents of a file with a blank line after each."""
  (tmp_path / "corpus").mkdir()
  for number in range(2):
    rows = "".join(json.dumps({"text": f"the stone {number}.{row}"}) + "\n\n" for row in range(100))
    (tmp_path / f"corpus/{number}.jsonl").write_text(rows)
  assert count(tmp_path, "--direct_num_workers=1") == 0
  counts = {stage: sum(of.values()) for stage, of in logs(tmp_path / "out")[-1]["documents_by_process"].items()}
  assert counts["counting documents"] == counts["collecting the sample"] == 200


@pytest.mark.parametrize("name", FORMATS)
def test_a_pointer_of_git_lfs_is_refused_before_anything_is_written(tmp_path, capsys, name):
  """The pointer is the last of twenty shards. Kills the mutant that checks only some: the others are scored for
  nothing."""
  (tmp_path / "corpus").mkdir()
  for number in range(19):
    write(tmp_path / "corpus", f"{number:02}.jsonl", [{"text": f"the stone {number}.{row}"} for row in range(30)])
  (tmp_path / f"corpus/19.{name}").write_text(LFS_POINTER)
  before = content(tmp_path)
  minhash = ["score", "--scorer=minhash", f"--input={tmp_path}/corpus/*", "--scores=scores"]
  for run in (count, lambda folder: run_in(folder, minhash), lambda folder: run_in(folder, [*minhash, "--estimate"])):
    assert run(tmp_path) == 2
    assert f"corpus/19.{name} is a Git LFS pointer in place of the file: run git lfs pull" in capsys.readouterr().err
  assert content(tmp_path) == before


def test_a_pointer_of_git_lfs_may_be_left_out(tmp_path):
  (tmp_path / "corpus").mkdir()
  write(tmp_path / "corpus", "a.jsonl", [{"text": f"the stone {row}"} for row in range(30)])
  (tmp_path / "corpus/b.jsonl").write_text(LFS_POINTER)
  assert count(tmp_path, "--direct_num_workers=1", "--max_bad_fraction=1") == 0
