"""One corpus in all formats, scored and sampled in several ways: stores and outputs have the same bytes.

Twelve shards, one of them a gzip of 20,000 rows that several workers share, bad records in the middle, 61 blocks.
"""

import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import corpora
import numpy as np
import processes
import pyarrow.parquet as pq
import pytest
from running import content, logs, run_in

from pipelines.corpus import stripes

BIG_ROWS, SMALL_ROWS = 20_000, 150
RATE = "0.3"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="module")
def corpus(place) -> corpora.Corpus:
  (place / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(place / "model")
  corpus = corpora.write_corpus(place / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
  big = place / "corpus/big.jsonl.gz"
  big.write_bytes(gzip.compress(gzip.decompress(big.read_bytes()), 0))  # above 2 MiB, so that it is divided
  return corpus


def score_command(place: pathlib.Path, corpus: corpora.Corpus) -> list[str]:
  return [
    "score",
    f"--input={corpus.pattern}",
    f"--model={place / 'model'}",
    f"--prompt_file={place / 'prompt.txt'}",
    "--max_input_tokens=32",
    "--scores=scores",
    "--name=tiny",
    "--block_rows=400",
  ]


def sample_command(*flags: str) -> list[str]:
  return [
    "sample",
    "--scores=scores",
    "--sampler=ask_llm",
    "--name=tiny",
    f"--rate={RATE}",
    "--output=out",
    "--num_shards=5",
    *flags,
  ]


@pytest.fixture(scope="module")
def undisturbed(place, corpus) -> pathlib.Path:
  """One process, nothing happens to it."""
  folder = place / "undisturbed"
  assert run_in(folder, [*score_command(place, corpus), "--direct_num_workers=1"]) == 0
  assert run_in(folder, [*sample_command(), "--direct_num_workers=1"]) == 0
  return folder


def assert_same(folder: pathlib.Path, undisturbed: pathlib.Path) -> None:
  ours, theirs = content(folder), content(undisturbed)
  assert sorted(ours) == sorted(theirs)
  for name in theirs:
    assert ours[name] == theirs[name], name


def scored_rows(folder: pathlib.Path) -> dict[tuple[str, int], tuple[float, int]]:
  rows = {}
  for path in (folder / "scores/tiny/shards").iterdir():
    table = pq.read_table(path).to_pydict()
    rows |= {
      (shard, row): (score, tokens)
      for shard, row, score, tokens in zip(*(table[c] for c in ("shard", "row", "score", "num_tokens")), strict=True)
    }
  return rows


def test_every_document_is_accounted_for(undisturbed, corpus):
  """Invariant 3. Kills the mutants: rows counted over good rows only; bad rows dropped without a dead letter; blank
  lines that are read, or not told.
  """
  rows = scored_rows(undisturbed)
  assert rows.keys() == corpus.texts.keys()
  dead = [
    json.loads(line)
    for path in (undisturbed / "scores/tiny/dead_letter").iterdir()
    for line in path.read_text().splitlines()
  ]
  assert len(dead) == corpus.bad
  assert not {(entry["shard"], entry["row"]) for entry in dead} & rows.keys()
  assert {"invalid_json", "missing_text", "text_not_a_string", "empty_text", "invalid_utf8", "not_an_object"} <= {
    entry["reason"] for entry in dead
  }
  summary = json.loads((undisturbed / "scores/tiny/summary.json").read_text())
  total = BIG_ROWS + SMALL_ROWS * len(corpora.SMALL) + 3 - corpus.blank
  counts = {"read": total, "scored": len(rows), "bad": corpus.bad, "blank": corpus.blank}
  assert corpus.blank == 7
  assert {name: summary[name] for name in counts} == counts
  assert sum(len(shard["block_rows"]) for shard in summary["shards"]) >= 50
  manifest = json.loads((undisturbed / "out/manifest.json").read_text())
  assert {name: manifest["counts"][name] for name in counts} == counts
  assert sum(entry["blank"] for entry in manifest["inputs"]) == corpus.blank
  assert sum(entry["selected"] for entry in manifest["inputs"]) == manifest["counts"]["selected"]
  assert sum(entry["documents"] for entry in manifest["shards"]) == manifest["counts"]["selected"]


def test_the_sample_is_the_exact_top_of_the_scores_with_its_texts(undisturbed, corpus):
  """Invariant 2, against a plain sort. Kills the mutants: score joined one row off; k rounded down."""
  import tensorflow_datasets as tfds

  rows = scored_rows(undisturbed)
  k = int(len(rows) * 3 / 10 + 0.5)
  scores = np.array([score for score, _ in rows.values()])
  kth = np.sort(scores)[-k]
  drawn = tfds.as_numpy(tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train"))
  found = {}
  for example in drawn:
    shard, row = example["source"].decode().rsplit("#", 1)
    found[shard, int(row)] = example
  assert len(found) == k
  assert sum(score > kth for score in scores) <= k <= sum(score >= kth for score in scores)
  for key, example in found.items():
    assert example["text"].decode() == corpus.texts[key]
    assert example["score"] == np.float32(rows[key][0]) >= np.float32(kth)


@pytest.mark.local_runner
def test_two_worker_processes_give_the_same_bytes_and_both_work(place, corpus, undisturbed):
  """Kills the mutants: batches padded to their own longest row; output order by arrival; one worker doing all."""
  folder = place / "two_workers"
  assert run_in(folder, [*score_command(place, corpus), "--direct_num_workers=2"]) == 0
  assert run_in(folder, [*sample_command(), "--direct_num_workers=2"]) == 0
  assert_same(folder, undisturbed)
  for part, stage in (("scores/tiny", "scoring (ask_llm)"), ("out", "collecting the sample")):
    documents = logs(folder / part)[-1]["documents_by_process"][stage]
    assert len(documents) == 2


def test_retried_bundles_in_another_order_give_the_same_bytes(place, corpus, undisturbed, monkeypatch):
  """Every bundle runs twice, stripes are others and come backwards. Kills the mutant that counts a block each time."""
  divide = stripes.divide
  monkeypatch.setattr(stripes, "divide", lambda shards, parallelism: reversed(list(divide(shards, 7))))
  folder = place / "other_bundles"
  flags = ["--direct_num_workers=1", "--direct_runner_bundle_repeat=1"]
  assert run_in(folder, [*score_command(place, corpus), *flags]) == 0
  assert run_in(folder, [*sample_command(), *flags]) == 0
  assert_same(folder, undisturbed)


def blocks_on_record(store: pathlib.Path) -> int:
  return len(list(store.glob("blocks/*/*.parquet")))


def kill_after(arguments: list[str], folder: pathlib.Path, is_time) -> bool:
  """Starts a command in a process group of its own and kills all of it when `is_time`; tells whether it still ran."""
  folder.mkdir(exist_ok=True)
  process = subprocess.Popen(
    [sys.executable, "-m", "pipelines.main", *arguments], cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL
  )
  while process.poll() is None:
    if is_time():
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      return True
    time.sleep(0.002)
  return False


def test_the_log_of_an_unbroken_run_counts_the_same_on_record_and_in_its_workers(undisturbed):
  """Kills: counts on record under other names than in metrics; counters of one step alone; blank lines that are
  read."""
  (scoring,), (sampling,) = logs(undisturbed / "scores/tiny"), logs(undisturbed / "out")
  for log in (scoring, sampling):
    assert {name: log["this_run"][name] for name in log["counters"]} == log["counters"]
  assert set(scoring["counters"]) > {"documents_read", "documents_scored", "blocks_scored", "tokens"}
  assert any(name.startswith("documents_bad_") for name in scoring["counters"])
  assert set(sampling["counters"]) == {"documents_selected"}


def test_killed_at_a_random_moment_the_same_command_goes_on(place, corpus, undisturbed):
  """Invariant 4. Kills the mutants: a block on record is scored again; a shard is compacted from its last run alone;
  the log counts what the last run did, and not what is on record."""
  folder, store = place / "killed", place / "killed/scores/tiny"
  seed = random.randrange(1 << 30)
  print(f"seed {seed}")
  wanted = random.Random(seed).randrange(1, 55)
  arguments = [*score_command(place, corpus), "--direct_num_workers=2"]
  assert kill_after(arguments, folder, lambda: blocks_on_record(store) >= wanted)
  on_record = {path: path.stat().st_mtime_ns for path in store.glob("blocks/*/*.parquet")}
  compacted = [path.stem for path in store.glob("shards/*.parquet")]
  assert not (store / "summary.json").exists()
  assert run_in(folder, arguments) == 0
  summary = json.loads((store / "summary.json").read_text())
  total = sum(len(shard["block_rows"]) for shard in summary["shards"] if shard["shard"] not in compacted)
  assert logs(store)[-1]["this_run"]["blocks_scored"] == total - len(on_record)
  (log,) = logs(undisturbed / "scores/tiny")
  assert logs(store)[-1]["counters"] == log["counters"]
  assert logs(store)[-1]["this_run"]["documents_scored"] < log["counters"]["documents_scored"]

  seconds = random.Random(seed).uniform(0, 0.3)
  runs = folder / "out/.winnow/runs"
  started = []

  def is_time() -> bool:
    if not started and list(runs.glob("*")):
      started.append(time.monotonic())
    return bool(started) and time.monotonic() - started[0] > seconds

  killed = kill_after([*sample_command(), "--direct_num_workers=2"], folder, is_time)
  print(f"sample killed: {killed}")
  assert run_in(folder, [*sample_command(), "--direct_num_workers=2"]) == 0
  assert_same(folder, undisturbed)


def test_a_worker_that_dies_ends_the_run_in_a_sentence(place, corpus):
  """Kills the mutant that leaves it to Beam's local runner, which waits for a dead process for ever."""
  folder = place / "dead_worker"
  folder.mkdir()
  command = [sys.executable, "-m", "pipelines.main", *score_command(place, corpus), "--direct_num_workers=2"]
  process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
  while not blocks_on_record(folder / "scores/tiny"):
    assert process.poll() is None
    time.sleep(0.01)
  workers = processes.local_workers(process.pid)
  assert len(workers) == 2
  workers[0].kill()
  _, error = process.communicate(timeout=60)
  assert process.returncode == 1
  assert not list(filter(processes.is_alive, workers))
  assert "winnow: a worker process died (-9;" in error
  assert "Traceback" not in error


def test_a_complete_request_succeeds_at_once_and_another_is_refused(place, corpus, undisturbed, capsys):
  before = content(undisturbed)
  assert run_in(undisturbed, score_command(place, corpus)) == 0
  assert run_in(undisturbed, sample_command()) == 0
  capsys.readouterr()
  assert run_in(undisturbed, [*score_command(place, corpus), "--max_input_tokens=31"]) == 2
  assert "max_input_tokens is 32 there and 31 now" in capsys.readouterr().err
  assert run_in(undisturbed, sample_command("--seed=1")) == 2
  assert "selection.seed is 0 there and 1 now" in capsys.readouterr().err
  assert content(undisturbed) == before


def test_larger_rates_hold_smaller_ones(place, undisturbed):
  """Invariant 2: 10% within 30%, as files that TFDS reads."""
  import tensorflow_datasets as tfds

  def sources(folder):
    dataset = tfds.builder_from_directory(str(folder)).as_dataset(split="train")
    return {example["source"] for example in tfds.as_numpy(dataset)}

  flags = [
    "sample",
    "--scores=scores",
    "--sampler=ask_llm",
    "--rate=0.1",
    "--output=../tenth",
    "--direct_num_workers=1",
  ]
  assert run_in(undisturbed, flags) == 0
  assert sources(place / "tenth") < sources(undisturbed / "out")


def test_curate_gives_what_score_and_sample_give(place, corpus, undisturbed):
  folder = place / "curated"
  command = ["curate", *score_command(place, corpus)[1:], *sample_command()[3:], "--direct_num_workers=1"]
  assert run_in(folder, command) == 0
  ours, theirs = content(folder), content(undisturbed)
  manifests = [json.loads(files.pop("out/manifest.json")) for files in (ours, theirs)]
  assert ours == theirs
  assert [m.pop("command")[1] for m in manifests] == ["curate", "sample"]
  assert manifests[0] == manifests[1]
