"""Runs whose corpus, stores and outputs lie on an object store, an emulator's."""

import json
import os
import signal
import subprocess
import sys
import time

import corpora
import processes
import psutil
import pytest
import tiny_t5

from pipelines import main
from pipelines.files import storage
from pipelines.scoring import recording

NAMES_PATHS = ("input.json", "manifest.json", "dataset_info.json")


@pytest.mark.long
def test_a_whole_run_on_an_object_store(bucket, tmp_path, monkeypatch):
  """Corpus, models, scores and outputs are on gs://; all files have the bytes of a run on a local disk."""
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  corpus = corpora.write_corpus(tmp_path / "corpus", big_rows=300, small_rows=60)
  corpora.write_model(tmp_path / "model")
  tiny_t5.make_sentence_t5(tmp_path / "embedder")
  (tmp_path / "corpus.txt").write_text(corpora.PROMPT)
  for name in ("corpus", "model", "embedder"):
    for path in (tmp_path / name).rglob("*"):
      if path.is_file():
        storage.create(f"{bucket}/{path.relative_to(tmp_path)}", path.read_bytes())
  storage.create(f"{bucket}/corpus.txt", corpora.PROMPT.encode())

  def run(place: str, root: str) -> None:
    scores = [f"--scores={root}/scores", "--direct_num_workers=1"]
    reading = [f"--input={place}/corpus/*", "--max_bad_fraction=0.5", "--block_rows=100"]
    asking = ["--name=tiny", f"--model={place}/model", "--max_input_tokens=32", f"--prompt_file={place}/corpus.txt"]
    assert main.main(["score", *scores, *reading, *asking]) == 0
    weighing = ["--scorer=density", f"--model={place}/embedder", "--sketch_rows=20", "--sketch_counters=500"]
    assert main.main(["score", *scores, *reading, *weighing]) == 0
    for sampler in ("ask_llm", "density"):
      selecting = [f"--sampler={sampler}", "--rate=0.5", "--num_shards=3", f"--output={root}/{sampler}"]
      assert main.main(["sample", *scores, *selecting]) == 0

  run(bucket, f"{bucket}/run")
  run(str(tmp_path), str(tmp_path / "run"))
  assert len(corpus.texts) > 500
  compared = 0
  for path in (tmp_path / "run").rglob("*"):
    name = path.relative_to(tmp_path)
    if path.is_file() and "log" not in path.parts and path.name not in NAMES_PATHS:
      assert storage.read_bytes(f"{bucket}/{name}") == path.read_bytes(), name
      compared += 1
  assert compared > 60
  assert storage.exists(f"{bucket}/run/ask_llm/manifest.json")
  assert storage.exists(f"{bucket}/run/scores/density_embedder/sketch/sketch.safetensors")


@pytest.mark.long
def test_a_run_on_an_object_store_that_is_killed_goes_on(bucket, tmp_path, monkeypatch):
  """Two worker processes are killed with their launcher."""
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  corpora.write_corpus(tmp_path / "corpus", big_rows=8_000, small_rows=200)
  corpora.write_model(tmp_path / "model")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  for path in (tmp_path / "corpus").iterdir():
    storage.create(f"{bucket}/killed/corpus/{path.name}", path.read_bytes())

  def command(place: str, *flags: str) -> list[str]:
    asking = [f"--model={tmp_path}/model", f"--prompt_file={tmp_path}/prompt.txt", "--max_input_tokens=32"]
    where = [f"--input={place}/corpus/*", f"--scores={place}/scores", "--name=tiny", "--block_rows=500"]
    return ["score", *where, *asking, "--no_auth", *flags]

  there = command(f"{bucket}/killed", "--direct_num_workers=2")
  process = subprocess.Popen([sys.executable, "-m", "pipelines.main", *there], start_new_session=True)
  blocks = f"{bucket}/killed/scores/tiny/blocks/*/*.parquet"
  while process.poll() is None and len(storage.match(blocks)) < 5:
    time.sleep(0.05)
  assert process.poll() is None
  tree = processes.children(process.pid)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  psutil.wait_procs(tree, timeout=20)
  assert main.main([*there, "--direct_num_workers=1"]) == 0
  logs = [json.loads(storage.read_bytes(path)) for path, _ in storage.match(f"{bucket}/killed/scores/tiny/log/*")]
  assert [log["this_run"]["documents_scored_before"] > 0 for log in logs] == [True]
  assert main.main(command(str(tmp_path), "--direct_num_workers=1")) == 0
  ours = [path for path in (tmp_path / "scores/tiny").rglob("*") if path.is_file() and "log" not in path.parts]
  assert len(ours) > 12
  for path in ours:
    if path.name not in NAMES_PATHS:
      name = path.relative_to(tmp_path)
      assert storage.read_bytes(f"{bucket}/killed/{name}") == path.read_bytes(), name


def test_a_run_on_an_object_store_goes_on_where_it_was(bucket, tmp_path, monkeypatch):
  """Kills the mutant that looks for finished blocks on a disk."""
  corpora.write_model(tmp_path / "model")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  for shard in range(2):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(60, shard)]
    storage.create(f"{bucket}/begun/corpus/{shard}.jsonl", "\n".join(lines).encode())
  asking = [f"--model={tmp_path}/model", f"--prompt_file={tmp_path}/prompt.txt", "--max_input_tokens=32"]
  where = [f"--input={bucket}/begun/corpus/*", f"--scores={bucket}/begun/scores", "--name=tiny", "--block_rows=20"]
  record, written = recording.record, []

  def killed_at_last(*arguments):
    if len(written) == 4:
      raise KeyboardInterrupt
    written.append(record(*arguments))
    return written[-1]

  with monkeypatch.context() as patch:
    patch.setattr(recording, "record", killed_at_last)
    assert main.main(["score", *where, *asking, "--no_auth"]) != 0
  assert main.main(["score", *where, *asking, "--no_auth"]) == 0
  logs = [json.loads(storage.read_bytes(path)) for path, _ in storage.match(f"{bucket}/begun/scores/tiny/log/*")]
  (log,) = [log for log in logs if "counters" in log]  # an interrupted run has none
  assert (log["this_run"]["documents_scored"], log["counters"]["documents_scored"]) == (40, 120)
