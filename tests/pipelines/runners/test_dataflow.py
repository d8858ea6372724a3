"""Dataflow as far as it can be tested without an account: job graphs built offline, with a fake API and a fake store.

Input, model, scores, output and Beam's staged files are on an emulator of an object store.
"""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from typing import Any

import apache_beam as beam
import corpora
import dataflow_api
import numpy as np
import pytest
import tiny_t5
from apache_beam.options import pipeline_options
from apache_beam.runners.dataflow import dataflow_runner

from curation.errors import WinnowError
from curation.selection import selection
from pipelines import main
from pipelines.corpus import blocks
from pipelines.corpus.corpus import Corpus
from pipelines.files import fingerprints, storage
from pipelines.jobs import filling
from pipelines.jobs.output_job import SamplingJob
from pipelines.jobs.store_job import ScoringJob
from pipelines.output import manifests, writing
from pipelines.runners import launch
from pipelines.scorers.count import Count
from pipelines.scoring import scoring
from pipelines.store.score_store import ScoreStore

JOB_ID = "2026-11-25_00_00_00-1"


@pytest.fixture(scope="module")
def place(bucket, tmp_path_factory) -> pathlib.Path:
  """A local folder with a prompt; the corpus, the model and embeddings are in the bucket."""
  folder = tmp_path_factory.mktemp("dataflow")
  for path in pathlib.Path(corpora.write_model(folder / "model")).iterdir():
    storage.create(f"{bucket}/model/{path.name}", path.read_bytes())
  for shard in range(3):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(40, shard)]
    storage.create(f"{bucket}/in/{shard}.jsonl", "\n".join(lines).encode())
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  """Makes Beam ask the service twenty times as often as every five seconds."""
  ticking = types.SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 20))
  monkeypatch.setattr(dataflow_runner, "time", ticking)


def dataflow(*flags: str) -> list[str]:
  where = ["--project=winnow-test", "--region=us-central1", "--temp_location=gs://winnow/tmp"]
  return ["--runner=DataflowRunner", *where, "--sdk_container_image=example.com/winnow:1", *flags]


def command(place: pathlib.Path, name: str, *flags: str) -> list[str]:
  what = ["--model=gs://winnow/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=64"]
  return [name, "--input=gs://winnow/in/*", "--scores=gs://winnow/scores", *what, *flags]


def everything(bucket: str) -> list[str]:
  return sorted(path for path, _ in storage.match(f"{bucket}/**") if not path.startswith(f"{bucket}/tmp/"))


@pytest.fixture
def graph(monkeypatch):
  """Collects the graph of the job that a dry run builds: transforms by name, and all components."""
  from pipelines.runners import dataflow as ours

  built = []
  monkeypatch.setattr(ours, "describe", lambda job: built.append(job) or "built")
  return built


def transforms_of(job) -> dict:
  return {transform.unique_name: transform for transform in job.proto_pipeline.components.transforms.values()}


def test_a_dry_run_builds_the_job_and_leaves_no_trace(place, bucket, capsys):
  """Kills the mutants that claim the store, or write a log into it."""
  before = everything(bucket)
  assert main.main(command(place, "score", *dataflow("--dry_run=True", "--no_auth"))) == 0
  assert re.search("the job winnow-score-ask-llm-model-[0-9a-f]{8} has", capsys.readouterr().out)
  flags = dataflow("--dry_run=True", "--no_auth")
  assert main.main(command(place, "curate", "--rate=0.5", "--output=gs://winnow/out", *flags)) == 0
  assert re.search("the job winnow-curate-out-[0-9a-f]{8} has", capsys.readouterr().out)
  assert everything(bucket) == before


def test_the_graph_fans_out_before_scoring_and_moves_no_text(place, graph):
  """Kills the mutants: stripes that are fused with their creation, all on one worker; a threshold found by a sort."""
  flags = dataflow("--dry_run=True", "--no_auth")
  assert main.main(command(place, "curate", "--rate=0.5", "--output=gs://winnow/out", *flags)) == 0
  transforms = transforms_of(graph[0])
  consumers = {pc: name for name, t in transforms.items() for pc in t.inputs.values() if not t.subtransforms}
  assert "Stores/Score/Stripes/Spread" in transforms
  (spread,) = transforms["Stores/Score/Stripes/Spread"].outputs.values()
  assert consumers[spread] == "Stores/Score/ScoreBlocks"
  urns = {name: t.spec.urn for name, t in transforms.items()}
  assert urns["Stores/Score/Stripes/Spread"] == "beam:transform:reshuffle:v1"
  assert urns["Outputs/Sample/FindThreshold/AddCounts/Add"] == "beam:transform:combine_per_key:v1"
  options = graph[0].options
  assert options.view_as(pipeline_options.DebugOptions).number_of_worker_harness_threads == 4
  assert "no_use_multiple_sdk_containers" in options.view_as(pipeline_options.DebugOptions).experiments
  assert graph[0].proto_pipeline.ByteSize() < 1_000_000


def test_the_inference_stage_alone_asks_for_an_accelerator(place, bucket, graph, tmp_path):
  """Kills the mutants: a hint for every stage; a hint for a stage of embeddings or scores without a model."""
  for path in tiny_t5.make_sentence_t5(tmp_path / "embedder").rglob("*"):
    if path.is_file():
      storage.create(f"{bucket}/embedder/{path.relative_to(tmp_path / 'embedder')}", path.read_bytes())
  flags = dataflow("--dry_run=True", "--no_auth", "--accelerator=nvidia-l4")
  sample = ["--rate=0.5", "--output=gs://winnow/out"]
  asked = command(place, "curate", *sample, *flags)
  dense = [flag for flag in asked if not flag.startswith(("--prompt_file", "--max_input_tokens", "--model"))]
  for arguments, stage in (
    (asked, "Stores/Score/ScoreBlocks"),
    ([*dense, "--scorer=density", "--model=gs://winnow/embedder"], "Stores/Embed/ScoreBlocks"),
  ):
    graph.clear()
    assert main.main(arguments) == 0
    environments = graph[0].proto_pipeline.components.environments
    hints = {
      name: dict(environments[transform.environment_id].resource_hints)
      for name, transform in transforms_of(graph[0]).items()
      if transform.environment_id
    }
    assert {name for name, found in hints.items() if found} == {stage}
    wanted = b"type:nvidia-l4;count:1;install-nvidia-driver:5xx;machine_type:g2-standard-4"
    assert hints[stage] == {"beam:resources:accelerator:v1": wanted}
    google = graph[0].options.view_as(pipeline_options.GoogleCloudOptions)
    assert "worker_accelerator" not in ",".join(google.dataflow_service_options or [])
    assert graph[0].options.view_as(pipeline_options.WorkerOptions).machine_type == "n2-standard-8"


def graph_of(num_shards: int) -> Any:
  """Builds the graph of scoring and sampling many shards with quotas; their names and checksums do not compress."""
  generator = np.random.default_rng(0)
  shards = tuple(
    blocks.Shard(f"c4-train.{i:05d}", f"gs://b/c4-train.{i:05d}", "jsonl", "gzip", 320 << 20, checksum)
    for i, checksum in enumerate(map(str, generator.integers(1 << 60, size=num_shards)))
  )
  corpus = Corpus(shards, blocks.Fields(), 4096)
  store = ScoreStore.for_request("gs://winnow/many", {"shards": num_shards})
  config = scoring.ScoringConfig(store, Count(), corpus.texts, 0.01)
  request = selection.SelectionRequest("random", rate="0.2", group_by="domain", group_max=100)
  drawn = writing.SamplingConfig(store, request, corpus.fields, 4096, "gs://winnow/many_out", "c4", "f" * 32)
  scoring_job = ScoringJob(corpus, config, {}, {}, False, False, False)
  sampling_job = SamplingJob(corpus, drawn, {}, manifests.Context(("winnow",), {}), False)
  pipeline = beam.Pipeline("FnApiRunner")
  _ = pipeline | filling.FillStores(scoring_job, 1024) | filling.FillOutputs([sampling_job], 1024)
  return pipeline.to_runner_api()


def test_graphs_of_many_shards_stay_small(bucket):
  """The limit of Dataflow is 10 MB. Kills the mutant that writes every stripe into every stage that reads."""
  small, large = graph_of(1_000), graph_of(10_000)
  assert large.ByteSize() < 3_000_000
  assert large.ByteSize() < 10 * small.ByteSize()
  largest = max(len(transform.spec.payload) for transform in large.components.transforms.values())
  assert largest < 1_000_000


@pytest.mark.parametrize("given", ["--setup_file=./setup.py", "--extra_package=winnow.tar.gz"])
def test_workers_without_winnow_are_refused(given, tmp_path):
  """Kills the mutant that submits a job whose workers cannot import Winnow."""
  bare = [flag for flag in dataflow("--no_auth") if not flag.startswith("--sdk_container_image")]
  with pytest.raises(WinnowError, match="Dataflow's workers need Winnow"):
    launch.Launcher(bare)
  launch.Launcher([*bare, given])
  launcher = launch.Launcher([*bare, given, "--number_of_worker_harness_threads=2"])
  assert launcher.options.view_as(pipeline_options.DebugOptions).number_of_worker_harness_threads == 2


def test_a_template_is_written_and_not_waited_for(place, bucket, capsys):
  """The launcher of a Flex Template writes one. Kills the mutant that waits for a job that nobody has submitted."""
  flags = dataflow("--template_location=gs://winnow/tmp/job.json", "--no_auth")
  assert main.main(command(place, "score", "--name=template", *flags)) == 0
  assert "gs://winnow/tmp/job.json holds the job" in capsys.readouterr().out
  assert json.loads(storage.read_bytes("gs://winnow/tmp/job.json"))["name"].startswith("winnow-score-template-")
  assert f"{bucket}/scores/template/request.json" in everything(bucket)


def test_a_template_with_nothing_to_do_writes_a_job_too(place, bucket, capsys):
  """Kills the mutant whose launch fails because it made no job."""
  assert main.main(command(place, "score", "--name=complete", "--direct_num_workers=1", "--no_auth")) == 0
  flags = dataflow("--template_location=gs://winnow/tmp/nothing.json", "--no_auth")
  assert main.main(command(place, "score", "--name=complete", *flags)) == 0
  assert "gs://winnow/tmp/nothing.json holds the job" in capsys.readouterr().out
  assert json.loads(storage.read_bytes("gs://winnow/tmp/nothing.json"))["name"].startswith("winnow-score-complete-")


def test_an_evaluation_is_no_template(place, bucket, capsys):
  """Kills the mutant that writes the first of its jobs, and then waits for results that nobody computes."""
  flags = dataflow("--template_location=gs://winnow/tmp/evaluate.json", "--no_auth")
  where = ["--models=gs://winnow/model", "--input=gs://winnow/in/*", "--scores=gs://winnow/evaluated"]
  before = everything(bucket)
  assert main.main(["evaluate", *where, *flags]) == 2
  assert "an evaluation is a job for each model" in capsys.readouterr().err
  assert everything(bucket) == before


def test_a_second_job_of_one_name_is_refused_before_it_clears_what_the_first_has_made(place, bucket, capsys):
  """Kills the mutant that checks only after --overwrite has removed the store."""
  assert main.main(command(place, "score", "--name=busy", "--direct_num_workers=1", "--no_auth")) == 0
  before = everything(bucket)
  with dataflow_api.serve(["JOB_STATE_RUNNING", "JOB_STATE_FAILED"]) as api:
    flags = dataflow(*api.flags)
    assert main.main(command(place, "score", "--name=running", *flags)) == 1
    name = api.jobs[0]["name"]
    capsys.readouterr()
    api.jobs[0]["name"] = name.replace("running", "busy")[:-8] + fingerprints.fingerprint("gs://winnow/scores/busy")[:8]
    assert main.main(command(place, "score", "--name=busy", "--overwrite", *flags)) == 1
  message = capsys.readouterr().err
  assert f"the job {api.jobs[0]['name']} is already running as {JOB_ID}: wait for it, or cancel it" in message
  assert len(api.jobs) == 1
  assert [path for path in everything(bucket) if "/running/" not in path] == before


def test_a_job_that_fails_is_told_with_its_console(place, capsys):
  """Kills the mutants: an error of the service that is lost; a failed job that ends the command with 0."""
  worker = (
    "Traceback (most recent call last):\n  File somewhere\n"
    "curation.errors.WinnowError: x.gz cannot be read: replace it [while running 'Score/ScoreBlocks-ptransform-24']\n"
  )
  with dataflow_api.serve(["JOB_STATE_RUNNING", "JOB_STATE_FAILED"], error=worker) as api:
    assert main.main(command(place, "score", "--name=fails", *dataflow(*api.flags))) == 1
  messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("winnow: ")]
  place_of_job = (
    f" (https://console.cloud.google.com/dataflow/jobs/us-central1/{JOB_ID}?project=winnow-test; cancel it with "
    f"gcloud dataflow jobs cancel {JOB_ID} --region=us-central1 --project=winnow-test)"
  )
  assert messages == [
    f"winnow: the job is running{place_of_job}",
    f"winnow: x.gz cannot be read: replace it{place_of_job}",
  ]
  (job,) = api.jobs
  assert job["name"].startswith("winnow-score-fails-")
  (pool,) = job["environment"]["workerPools"]
  assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == ["example.com/winnow:1"]


def test_a_job_that_is_done_is_told_by_what_its_workers_wrote(place, bucket, capsys):
  """The store is that of a local run; its last file appears when the job is done, as if Dataflow's workers had written
  it."""
  assert main.main(command(place, "score", "--name=done", "--direct_num_workers=1", "--no_auth")) == 0
  message = capsys.readouterr().out
  path = f"{bucket}/scores/done/summary.json"
  summary = storage.read_bytes(path)
  storage.delete([path])

  class Finishing(list):
    def __getitem__(self, index):
      if index == 1:
        storage.create(path, summary)
      return super().__getitem__(index)

  with dataflow_api.serve(Finishing(["JOB_STATE_RUNNING", "JOB_STATE_DONE"])) as api:
    assert main.main(command(place, "score", "--name=done", *dataflow(*api.flags))) == 0
  counts, _, command_to_type = capsys.readouterr().out.partition("next:")
  assert counts == message.partition("next:")[0] and "--runner=DataflowRunner" in command_to_type
  assert "120 documents read = 120 scored + 0 bad" in message


def test_an_interrupted_wait_leaves_the_job_and_says_how_to_cancel_it(place, bucket):
  """Kills the mutant that does not mention a job that continues and costs money."""
  with dataflow_api.serve(["JOB_STATE_RUNNING"]) as api:
    arguments = command(place, "score", "--name=interrupted", *dataflow(*api.flags))
    process = subprocess.Popen(
      [sys.executable, "-m", "pipelines.main", *arguments],
      stderr=subprocess.PIPE,
      text=True,
      cwd=place,
      # SIGINT is ignored if the tests run in the background, as in some CI systems.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
      if line.startswith("winnow: the job is running"):
        break
    # More than once: Python drops an interrupt that falls into a callback of its garbage collector.
    while process.poll() is None:
      process.send_signal(signal.SIGINT)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)  # a second one that comes while the interpreter ends would end it otherwise
    message = process.stderr.read()
  assert process.wait() == 130
  assert "winnow: the job continues on its runner (https://console.cloud.google.com/" in message
  assert f"gcloud dataflow jobs cancel {JOB_ID}" in message
