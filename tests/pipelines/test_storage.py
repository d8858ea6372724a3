"""Files that are whole or not there, on local disk and on an object store (an emulator's)."""

import os
import threading

import corpora
import pytest

from curation.errors import WinnowError
from pipelines import main, storage


@pytest.fixture(scope="module")
def bucket():
  from gcp_storage_emulator import server

  emulator = server.create_server("localhost", 0, in_memory=True, default_bucket="winnow")
  emulator.start()
  before = os.environ.get("STORAGE_EMULATOR_HOST")
  os.environ["STORAGE_EMULATOR_HOST"] = f"http://localhost:{emulator._api._httpd.server_address[1]}"
  storage._gcs_client.cache_clear()
  yield "gs://winnow"
  emulator.stop()
  storage._gcs_client.cache_clear()
  del os.environ["STORAGE_EMULATOR_HOST"]
  if before:
    os.environ["STORAGE_EMULATOR_HOST"] = before


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
  return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_the_first_writer_wins(folder):
  """Kills the mutant that opens the final name for writing: a second writer would replace what readers rely on."""
  path = storage.join(folder, "a", "file")
  storage.create(path, b"first")
  storage.create(path, b"second")
  assert storage.read_bytes(path) == b"first"


def test_a_writer_that_fails_leaves_nothing(folder):
  path = storage.join(folder, "file")
  with pytest.raises(RuntimeError, match="half"), storage.create_file(path) as file:
    file.write(b"one half")
    file.flush()
    assert not storage.exists(path)
    raise RuntimeError("half-way")
  assert not storage.exists(path)
  assert storage.list_folder(folder) == {}
  if storage.is_local(folder):
    assert os.listdir(folder) == []


def test_many_writers_at_once_leave_one_whole_file(folder):
  path = storage.join(folder, "file")
  contents = [bytes([number]) * 100_000 for number in range(8)]
  threads = [threading.Thread(target=storage.create, args=(path, content)) for content in contents]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert storage.read_bytes(path) in contents
  assert list(storage.list_folder(folder)) == ["file"]


def test_listing_deleting_and_checksums(folder):
  for name in ("a.x", "b.x", "deeper/c.x"):
    storage.create(storage.join(folder, name), name.encode())
  assert storage.list_folder(folder) == {"a.x": 3, "b.x": 3}
  assert [storage.base_name(path) for path, _ in storage.match(storage.join(folder, "*.x"))] == ["a.x", "b.x"]
  assert storage.list_folder(storage.join(folder, "none")) == {}
  assert storage.match(storage.join(folder, "none", "*")) == []
  # CRC32C of b"a.x", as any tool computes it; the object store's own must be the same.
  assert storage.checksum(storage.join(folder, "a.x")) == "crc32c:" + f"{CRC_OF_A:08x}"
  storage.delete([storage.join(folder, "a.x"), storage.join(folder, "gone.x")])
  assert storage.list_folder(folder) == {"b.x": 3}
  storage.delete_folder(folder)
  storage.delete_folder(folder)
  assert storage.match(storage.join(folder, "**")) == []


# They hold the command line or the input's path, which differ here.
NAMES_PATHS = ("input.json", "manifest.json", "dataset_info.json")
CRC_OF_A = 0x93153783


def test_a_missing_file_is_file_not_found(folder):
  with pytest.raises(FileNotFoundError):
    storage.read_bytes(storage.join(folder, "nothing"))


def test_a_swept_temporary_file_is_written_by_nobody(tmp_path):
  """A run that ends sweeps what killed writers left; a live writer notices, and says so."""
  path = str(tmp_path / "file")
  with pytest.raises(WinnowError, match="run it again"), storage.create_file(path) as file:
    file.write(b"data")
    storage.sweep_temporary_files(str(tmp_path))
  (tmp_path / ".old.123.tmp").write_bytes(b"left by a killed writer")
  assert storage.list_folder(str(tmp_path)) == {}
  storage.sweep_temporary_files(str(tmp_path))
  assert os.listdir(tmp_path) == []


def test_an_unknown_scheme_is_refused_in_a_sentence():
  with pytest.raises(WinnowError, match="nosuch://"):
    storage.match("nosuch://bucket/*")


def test_a_whole_run_on_an_object_store(bucket, tmp_path, monkeypatch):
  """Corpus, model, scores and output on gs://; the output has the bytes of a run on local disk."""
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  corpus = corpora.write_corpus(tmp_path / "corpus", big_rows=300, small_rows=60)
  model = corpora.write_model(tmp_path / "model")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  for name in ("corpus", "model"):
    for path in (tmp_path / name).iterdir():
      storage.create(f"{bucket}/{name}/{path.name}", path.read_bytes())

  def run(root: str, corpus_folder: str, model_folder: str) -> None:
    flags = [f"--scores={root}/scores", "--name=tiny", "--direct_num_workers=1"]
    reading = [f"--input={corpus_folder}/*", f"--model={model_folder}", "--max_bad_fraction=0.5"]
    shape = ["--max_input_tokens=32", f"--prompt_file={tmp_path / 'prompt.txt'}", "--block_rows=50"]
    assert main.main(["score", *flags, *reading, *shape]) == 0
    selecting = ["--sampler=ask_llm", "--rate=0.5", "--num_shards=3", f"--output={root}/out"]
    assert main.main(["sample", *flags, *selecting]) == 0

  run(f"{bucket}/run", f"{bucket}/corpus", f"{bucket}/model")
  run(str(tmp_path / "run"), str(tmp_path / "corpus"), model)
  assert len(corpus.texts) > 500
  for path in (tmp_path / "run").rglob("*"):
    name = path.relative_to(tmp_path)
    if path.is_file() and "log" not in path.parts and path.name not in NAMES_PATHS:
      assert storage.read_bytes(f"{bucket}/{name}") == path.read_bytes(), name
  assert storage.exists(f"{bucket}/run/out/manifest.json")
