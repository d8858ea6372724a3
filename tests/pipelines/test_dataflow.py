"""Dataflow as far as it is seen without an account: job graphs built offline, and an API and a store that are played.

Input, model, scores, output and what Beam stages lie on the emulator of an object store.
"""

import json
import pathlib

import corpora
import dataflow_api
import pytest
from apache_beam.options import pipeline_options

from curation.errors import WinnowError
from pipelines import launch, main, storage

JOB_ID = "2026-11-25_00_00_00-1"


@pytest.fixture(scope="module")
def place(bucket, tmp_path_factory) -> pathlib.Path:
  """A local folder with a prompt; the corpus, the model and embeddings lie in the bucket."""
  folder = tmp_path_factory.mktemp("dataflow")
  for path in pathlib.Path(corpora.write_model(folder / "model")).iterdir():
    storage.create(f"{bucket}/model/{path.name}", path.read_bytes())
  for shard in range(3):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(40, shard)]
    storage.create(f"{bucket}/in/{shard}.jsonl", "\n".join(lines).encode())
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


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
  from pipelines import dataflow as ours

  built = []
  monkeypatch.setattr(ours, "describe", lambda job: built.append(job) or "built")
  return built


def transforms_of(job) -> dict:
  return {transform.unique_name: transform for transform in job.proto_pipeline.components.transforms.values()}


def test_a_dry_run_builds_the_job_and_leaves_no_trace(place, bucket, capsys):
  """Kills the mutants that claim the store, or write a log into it."""
  before = everything(bucket)
  assert main.main(command(place, "score", *dataflow("--dry_run=True", "--no_auth"))) == 0
  assert "the job winnow-score-ask-llm-model has" in capsys.readouterr().out
  flags = dataflow("--dry_run=True", "--no_auth")
  assert main.main(command(place, "curate", "--rate=0.5", "--output=gs://winnow/out", *flags)) == 0
  assert "the job winnow-curate-out has" in capsys.readouterr().out
  assert everything(bucket) == before


def test_the_graph_fans_out_before_scoring_and_moves_no_text(place, graph):
  """Kills the mutants: stripes scored where they were made, all on one worker; a threshold found by a sort."""
  flags = dataflow("--dry_run=True", "--no_auth")
  assert main.main(command(place, "curate", "--rate=0.5", "--output=gs://winnow/out", *flags)) == 0
  transforms = transforms_of(graph[0])
  consumers = {pc: name for name, t in transforms.items() for pc in t.inputs.values() if not t.subtransforms}
  assert "Score/Stripes/Spread" in transforms
  (spread,) = transforms["Score/Stripes/Spread"].outputs.values()
  assert consumers[spread] == "Score/ScoreBlocks"
  urns = {name: t.spec.urn for name, t in transforms.items()}
  for combine in ("Sample/FindThreshold/AddBins0", "Sample/FindThreshold/AddSelected"):
    assert any(name.startswith(combine) and urn == "beam:transform:combine_per_key:v1" for name, urn in urns.items()), (
      combine
    )
  options = graph[0].options
  assert options.view_as(pipeline_options.DebugOptions).number_of_worker_harness_threads == 4
  assert "no_use_multiple_sdk_containers" in options.view_as(pipeline_options.DebugOptions).experiments
  assert graph[0].proto_pipeline.ByteSize() < 1_000_000


@pytest.mark.parametrize("given", ["--setup_file=./setup.py", "--extra_package=winnow.tar.gz"])
def test_workers_without_winnow_are_refused(given, tmp_path):
  """Kills the mutant that submits a job whose every worker fails to import us."""
  bare = [flag for flag in dataflow("--no_auth") if not flag.startswith("--sdk_container_image")]
  with pytest.raises(WinnowError, match="Dataflow's workers need Winnow"):
    launch.Launcher(bare)
  launch.Launcher([*bare, given])
  launcher = launch.Launcher([*bare, given, "--number_of_worker_harness_threads=2"])
  assert launcher.options.view_as(pipeline_options.DebugOptions).number_of_worker_harness_threads == 2


def test_a_template_is_written_and_not_waited_for(place, bucket, capsys):
  """What a Flex Template's launcher does. Kills the mutant that waits for a job that nobody has submitted."""
  flags = dataflow("--template_location=gs://winnow/tmp/job.json", "--no_auth")
  assert main.main(command(place, "score", "--name=template", *flags)) == 0
  assert "gs://winnow/tmp/job.json holds the job" in capsys.readouterr().out
  assert json.loads(storage.read_bytes("gs://winnow/tmp/job.json"))["name"] == "winnow-score-template"
  assert f"{bucket}/scores/template/request.json" in everything(bucket)


def test_a_job_that_fails_is_told_with_its_console(place, capsys):
  """Kills the mutants: the service's error lost; a failed job ends the command with 0."""
  worker = (
    "Traceback (most recent call last):\n  File somewhere\n"
    "curation.errors.WinnowError: x.gz cannot be read: replace it [while running 'Score/ScoreBlocks-ptransform-24']\n"
  )
  with dataflow_api.serve(["JOB_STATE_RUNNING", "JOB_STATE_FAILED"], error=worker) as api:
    assert main.main(command(place, "score", "--name=fails", *dataflow(*api.flags))) == 1
  told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("winnow: ")]
  assert told == [
    "winnow: x.gz cannot be read: replace it (https://console.cloud.google.com/dataflow/jobs/us-central1/"
    f"{JOB_ID}?project=winnow-test; it is cancelled with gcloud dataflow jobs cancel {JOB_ID} --region=us-central1 "
    "--project=winnow-test)"
  ]
  (job,) = api.jobs
  assert job["name"] == "winnow-score-fails"
  (pool,) = job["environment"]["workerPools"]
  assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == ["example.com/winnow:1"]


def test_a_job_that_is_done_is_told_by_what_its_workers_wrote(place, bucket, capsys):
  """The store of a local run, whose last file comes when the job is done, as Dataflow's workers would write it."""
  assert main.main(command(place, "score", "--name=done", "--direct_num_workers=1", "--no_auth")) == 0
  told = capsys.readouterr().out
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
  assert capsys.readouterr().out == told
  assert "120 documents read = 120 scored + 0 bad" in told
