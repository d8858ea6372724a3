"""Input on s3://, against moto's server."""

import json

import buckets
import corpora
import pytest
from running import content, run_in

from pipelines.files import storage

pytestmark = pytest.mark.long


@pytest.fixture
def s3(monkeypatch):
  with buckets.emulated_s3(monkeypatch) as endpoint:
    yield endpoint


@pytest.mark.local_runner
def test_input_on_s3_gives_what_local_files_give(s3, tmp_path):
  """A file of each format, two workers. Kills the mutants: a path that loses its bucket; a status that looks without
  the flags of the run."""
  corpora.write_corpus(tmp_path / "corpus", big_rows=600, small_rows=100)
  kept = {"big.jsonl.gz", "b.json", "d.jsonl.zst", "g.parquet", "h.tfrecord-00000-of-00003"}
  for path in (tmp_path / "corpus").iterdir():  # through Beam each file takes a second
    if path.name not in kept:
      path.unlink()
  flags = [f"--s3_endpoint_url={s3}", "--direct_num_workers=2"]
  assert run_in(tmp_path, ["status", "s3://winnow/scores", *flags]) == 2  # and sets the endpoint for this process
  for path in (tmp_path / "corpus").iterdir():
    storage.create(f"s3://winnow/corpus/{path.name}", path.read_bytes())
  for name, corpus in (("there", "s3://winnow/corpus"), ("here", f"{tmp_path}/corpus")):
    drawing = ["sample", "--sampler=random", f"--input={corpus}/*", "--rate=0.3", "--output=out", "--num_shards=2"]
    assert run_in(tmp_path / name, [*drawing, "--block_rows=100", "--max_bad_fraction=0.1", *flags]) == 0
  there, here = content(tmp_path / "there/out"), content(tmp_path / "here/out")
  assert {entry["checksum"][:3] for entry in json.loads(there["manifest.json"])["inputs"]} == {"s3:"}  # no download
  names = [name for name in here if name.startswith((".winnow/count/dead_letter", "out-train"))]
  assert len(names) == len(kept) + 2 and all(there[name] == here[name] for name in names)
  assert run_in(tmp_path / "there", ["verify", "out", *flags]) == 0


@pytest.mark.local_runner
def test_a_corpus_that_moved_to_s3_is_sampled_there_unless_a_text_is_another(s3, tmp_path, capsys):
  """S3 knows files by other marks than disks do. Kills the mutants: a corpus that cannot move; one whose files need
  only have the same names."""
  corpora.write_corpus(tmp_path / "corpus", big_rows=60, small_rows=200)
  for path in (tmp_path / "corpus").iterdir():  # through Beam each file takes a second
    if path.name not in ("a.jsonl", "e.jsonl.gz", "f.parquet"):
      path.unlink()
  corpora.write_model(tmp_path / "model")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  flags = [f"--s3_endpoint_url={s3}", "--direct_num_workers=1"]
  asking = [f"--model={tmp_path}/model", f"--prompt_file={tmp_path}/prompt.txt", "--max_input_tokens=32"]
  where = [f"--input={tmp_path}/corpus/*", "--scores=scores", "--name=tiny", "--block_rows=100"]
  assert run_in(tmp_path, ["score", *where, *asking, "--max_bad_fraction=0.1", *flags]) == 0
  for path in (tmp_path / "corpus").iterdir():
    storage.create(f"s3://winnow/moved/{path.name}", path.read_bytes())
  sample = ["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.5", "--num_shards=2"]
  assert run_in(tmp_path, [*sample, "--input=s3://winnow/moved/*", "--output=there", *flags]) == 0
  assert run_in(tmp_path, [*sample, "--output=here", *flags]) == 0
  for index in range(2):
    there, here = (tmp_path / f"{n}/{n}-train.tfrecord-{index:05d}-of-00002" for n in ("there", "here"))
    assert there.read_bytes() == here.read_bytes()
  name = "s3://winnow/moved/a.jsonl"
  before, text = storage.version(name), storage.read_bytes(name)
  storage.delete([name])
  with pytest.raises(FileNotFoundError):
    storage.version(name)
  storage.create(name, text.replace(b"river", b"rover"))
  assert storage.version(name) != before
  capsys.readouterr()
  assert run_in(tmp_path, [*sample, "--input=s3://winnow/moved/*", "--output=changed", *flags]) == 1
  assert "a.jsonl, block 0: its documents are not those that were scored" in capsys.readouterr().err
