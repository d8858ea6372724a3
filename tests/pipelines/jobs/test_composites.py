"""`winnow score` and `winnow sample` as transforms, in pipelines of a user's own, against the commands."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import apache_beam as beam
import corpora
import numpy as np
import once
import pytest
from apache_beam.options import pipeline_options
from apache_beam.testing import util
from running import content, run_in

import pipelines.api as winnow

SCORING = {"input": "../corpus/*", "max_bad_fraction": 0.1, "block_rows": 64}
FLAGS = [f"--{name}={value}" for name, value in SCORING.items()]
DENSITY = {"embeddings": "../made/*", "sketch_rows": 20}
TWO_PROCESSES = pipeline_options.PipelineOptions(direct_num_workers=2, direct_running_mode="multi_processing")


def _embed(shard: str, rows: int) -> np.ndarray:
  return np.random.default_rng([*shard.encode()]).standard_normal((rows, 8), np.float32)


def _make(folder: pathlib.Path) -> None:
  corpora.write_with_embeddings(folder, _embed, big_rows=900, small_rows=90, bad_row=3)
  commands = folder / "commands"
  amount = ["--method=top_k", "--rate=0.2", "--rejected=rest"]
  flags = [f"--{name}={value}" for name, value in DENSITY.items()]
  scoring = ["--scorer=density", *FLAGS, *flags, "--scores=scores", "--direct_num_workers=1"]
  assert run_in(commands, ["curate", *scoring, *amount, "--output=out"]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """Returns a folder with corpus/, made/ with embeddings, and commands/ with what `winnow curate` makes of them."""
  return once.made(tmp_path_factory, "composites", _make)


@pytest.fixture
def folder(place, tmp_path, monkeypatch) -> pathlib.Path:
  """Returns an empty folder beside corpus/ and made/, which is the working directory."""
  for name in ("corpus", "made"):
    (tmp_path / name).symlink_to(place / name)
  folder = tmp_path / "own"
  folder.mkdir()
  monkeypatch.chdir(folder)
  return folder


def _places_aside(files: dict[str, bytes]) -> dict[str, bytes]:
  """Returns files without those that tell where the input lies."""
  return {name: data for name, data in files.items() if not name.endswith("input.json")}


def _counted(result: beam.runners.runner.PipelineResult) -> dict[str, int]:
  """Waits for a pipeline's end and returns its counters."""
  result.wait_until_finish()
  return {counter.key.metric.name: counter.committed for counter in result.metrics().query()["counters"]}


@pytest.mark.parametrize(
  "options", [None, pytest.param(TWO_PROCESSES, marks=pytest.mark.long)], ids=["one process", "two"]
)
def test_a_pipeline_of_ones_own_writes_what_the_command_writes(place, folder, options):
  """Twelve shards with bad rows, in dozens of blocks, through embeddings, sketch and densities. Kills: a store that
  loses what it is made of, settings that do not reach the scorer, a sample that forgets --rejected, or that another
  command line would make."""
  with beam.Pipeline("FnApiRunner", options=options) as pipeline:
    ledger = pipeline | winnow.Score("density", scores="scores", **SCORING, **DENSITY)
    manifests = ledger | winnow.Sample(output="out", method="top_k", rate=0.2, rejected="rest")
    kept = manifests | beam.Map(lambda manifest: (manifest["rejected"], manifest["counts"]["selected"]))
    expected = json.loads((place / "commands/out/manifest.json").read_text())["counts"]
    util.assert_that(
      kept, util.equal_to([(False, expected["selected"]), (True, expected["scored"] - expected["selected"])])
    )
  assert _places_aside(content(folder)) == _places_aside(content(place / "commands"))


def test_two_samples_are_drawn_from_one_store_in_one_pipeline(folder):
  """Kills: a second sample that scores again, or that takes the name of the first."""
  with beam.Pipeline("FnApiRunner") as pipeline:
    ledger = pipeline | winnow.Score("minhash", scores="scores", **SCORING)
    for name, rate in (("many", 0.5), ("few", 0.1)):
      _ = ledger | name >> winnow.Sample("random", output=name, rate=rate)
    util.assert_that(ledger | beam.Map(lambda ledger: type(ledger).__name__), util.equal_to(["Ledger"]))
  many, few = (json.loads((folder / name / "manifest.json").read_text())["counts"] for name in ("many", "few"))
  assert many["selected"] == round(0.5 * many["scored"]) and few["selected"] == round(0.1 * few["scored"])


def test_scores_that_follow_others_share_what_both_need(folder):
  """Kills: embeddings that are made twice, a second store that begins before the first is whole."""
  pipeline = beam.Pipeline("FnApiRunner")
  density = pipeline | "Density" >> winnow.Score("density", scores="scores", **SCORING, **DENSITY)
  others = {"embeddings": DENSITY["embeddings"], "num_clusters": 20}
  prototypes = density | "Prototypes" >> winnow.Score("prototypes", scores="scores", **SCORING, **others)
  _ = prototypes | winnow.Sample(output="out", rate=0.1)
  counters = _counted(pipeline.run())
  embedded = sum(
    json.loads((folder / "scores/embeddings_made/summary.json").read_text())[key] for key in ("scored", "bad")
  )
  assert counters["embed_documents_read"] == embedded
  assert json.loads((folder / "out/manifest.json").read_text())["request"]["sampler"] == "prototypes"


def test_a_sample_begins_with_stores_that_are_there_or_with_none(place, folder):
  """Kills: random sampling that wants scores, a folder of stores that is read from elsewhere."""
  shutil.copytree(place / "commands/scores", "scores")
  with beam.Pipeline("FnApiRunner") as pipeline:
    drawn = winnow.Sample("density", scores="scores", input=SCORING["input"], output="best", method="top_k", rate=0.2)
    _ = pipeline | "Best" >> drawn
    _ = pipeline | "Any" >> winnow.Sample("random", **SCORING, output="any", num_examples=40)
  best = (folder / "best").glob("*.tfrecord-*")
  assert [path.read_bytes() for path in sorted(best)] == [
    path.read_bytes() for path in sorted((place / "commands/out").glob("*.tfrecord-*"))
  ]
  assert json.loads((folder / "any/manifest.json").read_text())["counts"]["selected"] == 40


def test_a_pipeline_goes_on_with_what_is_on_record(folder, place):
  """Invariant of resuming. Kills: a store that is scored again since the pipeline is another, or that counts anew."""

  def run() -> dict[str, int]:
    pipeline = beam.Pipeline("FnApiRunner")
    ledger = pipeline | winnow.Score("minhash", scores="scores", **SCORING)
    _ = ledger | winnow.Sample(output="out", rate=0.2)
    return _counted(pipeline.run())

  first = run()
  before = content(folder)
  store = folder / "scores/minhash"
  again = run()
  assert content(folder) == before
  assert first["documents_scored"] > 1_500 and "documents_scored" not in again
  # What is lost is made again, and nothing else is.
  (folder / "out/manifest.json").unlink()
  damaged = next((store / "shards").glob("a.jsonl*"))
  damaged.write_bytes(damaged.read_bytes()[:-1])
  (store / "summary.json").unlink()
  assert 0 < run()["documents_scored"] < 150
  restored = {name: data for name, data in content(folder).items() if "/damaged/" not in name}
  assert restored == before


SCRIPT = f"""
import apache_beam as beam
import pipelines.api as winnow

with beam.Pipeline("FnApiRunner") as pipeline:
  ledger = pipeline | winnow.Score("density", scores="scores", **{SCORING}, **{DENSITY})
  _ = ledger | winnow.Sample(output="out", method="top_k", rate=0.2, rejected="rest")
"""


@pytest.mark.long
def test_a_pipeline_that_is_killed_goes_on(place, folder):
  """Kills: what a killed pipeline leaves stays in the store, or spoils what the next run makes."""
  for pattern in (
    "embeddings_made/blocks/*/*",
    "density_made/sketch/*",
    "density_made/shards/*",
    "../out/.winnow/runs/*",
  ):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT])
    while process.poll() is None and not list((folder / "scores").glob(pattern)):
      time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, f"it ended before there was {pattern}"
  subprocess.run([sys.executable, "-c", SCRIPT], check=True)
  assert _places_aside(content(folder)) == _places_aside(content(place / "commands"))


@pytest.mark.parametrize(
  ("make", "told"),
  [
    (
      lambda: winnow.Score("ask_llm", scores="s", input="i", modle="m"),
      "there is no setting modle; did you mean model",
    ),
    (lambda: winnow.Score("density", scores="s", input="i", estimate=True), "there is no setting estimate"),
    (lambda: winnow.Score("densty", scores="s", input="i"), "invalid choice: 'densty'"),
    (lambda: winnow.Score("density", input="i"), "--scores= must be given"),
    (lambda: winnow.Score("density", scores="s", input=["a", "b"]), r"input=\['a', 'b'\] is no text, number"),
    (lambda: winnow.Sample(rate=0.2), "--output= must be given"),
    (lambda: winnow.Sample("random", **SCORING, output="o", rate="x"), None),
  ],
)
def test_settings_are_refused_as_the_transform_is_made(make, told, folder):
  """Kills the mutant that finds out when the pipeline is built, or when it runs."""
  if told is None:  # an amount is read with the store
    transform = make()
    with pytest.raises(winnow.WinnowError, match="rate=x"):
      beam.Pipeline("FnApiRunner") | transform
  else:
    with pytest.raises(winnow.WinnowError, match=told):
      make()
  assert not list(folder.iterdir())


@pytest.mark.parametrize(
  ("apply", "told"),
  [
    (lambda begin: begin | winnow.Score("minhash", scores="s", input="absent/*"), "absent"),
    (lambda begin: begin | winnow.Score("minhash", **SCORING, scores="s", accelerator="nvidia-l4"), "is for Dataflow"),
    (lambda begin: begin | winnow.Sample(output="o", scores="s", rate=0.2), "--sampler= must be given"),
    (lambda begin: begin | winnow.Sample("density", output="o", scores="s", rate=0.2), "--scores=s"),
    (lambda begin: begin | beam.Create([1]) | winnow.Sample(output="o", rate=0.2), "Sample follows Score"),
  ],
)
def test_what_cannot_work_is_refused_as_the_pipeline_is_built(apply, told, folder):
  """Kills the mutant that claims a folder before it checks."""
  with pytest.raises(winnow.WinnowError, match=told):
    apply(beam.Pipeline("FnApiRunner"))
  assert not list(folder.iterdir())


def test_a_sample_after_scores_is_of_these_scores(folder):
  """Kills: settings of the sample that the scores have settled, and a sampler of another scorer, in silence."""
  ledger = beam.Pipeline("FnApiRunner") | winnow.Score("minhash", scores="scores", **SCORING)
  for settings, told in [
    ({"input": "x"}, "--input is a setting of Score"),
    ({"scores": "x"}, "--scores is a setting of Score"),
    ({"sampler": "density"}, "does not draw by the scores of --scorer=minhash"),
  ]:
    with pytest.raises(winnow.WinnowError, match=told):
      _ = ledger | told >> winnow.Sample(output="out", rate=0.2, **settings)
  assert not (folder / "out").exists()
