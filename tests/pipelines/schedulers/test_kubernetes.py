"""`winnow launch k8s`: what is refused, and what each pod of the Job runs."""

import pathlib

import pytest
import yaml
from schedulers import command_in_pod, containers_of

from pipelines import main

ONE = ["k8s", "--parts=3", "--image=registry/winnow:1"]
VOLUME = "--volume=corpora:/data"
SCORE = ["--", "score", "--model=org/model", "--scores=gs://bucket/scores"]
HARD = "gs://bucket/$(PART) $$ ${HOME} 'a' \"b\": #c*.jsonl"
SAMPLE = ["--", "sample", "--scores=gs://bucket/scores", "--sampler=ask_llm", "--rate=0.2", "--output=gs://bucket/best"]


@pytest.mark.parametrize(
  ("argv", "sentence"),
  [
    ([*ONE, *SCORE, "--input=/data/*.jsonl"], "--input=/data/*.jsonl is on no volume of the pods"),
    ([*ONE, VOLUME, *SCORE, "--input=data/*.jsonl"], "--input=data/*.jsonl is on no volume of the pods"),
    ([*ONE, VOLUME, *SCORE, "--input=/data/../etc/x.jsonl"], "it is not below /data"),
    ([*ONE, VOLUME, *SCORE, "--input=/database/x.jsonl"], "it is not below /data"),
    ([*ONE, *SCORE[:2], "--model=here", "--scores=gs://b/s", "--input=gs://b/*"], "--model=here is on no volume"),
    ([*ONE, "--volume=/data", *SCORE, "--input=/data/*.jsonl"], "--volume=/data is no volume: write CLAIM:/FOLDER"),
    ([*ONE, "--gpus_per_task=4", *SCORE, f"--input={HARD}"], "a pod is one part, with one GPU"),
    (
      [*ONE, "--sbatch_options=--partition=gpu", *SCORE, f"--input={HARD}"],
      "--sbatch_options is for winnow launch slurm",
    ),
    ([*ONE[:2], *SCORE, f"--input={HARD}"], "--image= must be given"),
    ([*ONE[:1], "--parts=100001", ONE[2], *SCORE, f"--input={HARD}"], "--parts=100001 is above 100,000"),
    ([*ONE, "--submit", *SCORE, f"--input={HARD}"], "--submit needs kubectl"),
  ],
)
def test_what_no_pod_could_do_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, argv, sentence):
  """Kills the mutants that pass it on, such as a folder that only this machine has."""
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PATH", str(tmp_path))
  assert main.main(["launch", *argv]) == 2
  printed = capsys.readouterr()
  assert sentence in printed.err and printed.err.count("\n") == 1
  assert not printed.out


def test_each_pod_runs_one_part_of_each_command_in_order(capsys):
  """Kills the mutants: a word in which Kubernetes replaces what looks like a variable, commands in another order, a GPU
  for a command without a model, a part that no pod does.
  """
  argv = [*ONE, "--gpus_per_task=1", "--memory=20", VOLUME, "--service_account=me", "--hours=2"]
  assert main.main(["launch", *argv, *SCORE, f"--input={HARD}", *SAMPLE]) == 0
  manifest = capsys.readouterr().out
  pods, (scoring, sampling) = containers_of(manifest)
  assert pods == 3
  for index in range(3):
    part = ["--part_steal", f"--part={index}/3"]
    words = ["score", "--model=org/model", "--scores=gs://bucket/scores", f"--input={HARD}"]
    assert command_in_pod(scoring, index) == ["winnow", *words, *part]
    assert command_in_pod(sampling, index) == ["winnow", *SAMPLE[1:], *part]
  assert scoring["resources"]["limits"] == {"memory": "20Gi", "nvidia.com/gpu": "1"}
  assert sampling["resources"] == {"requests": {"cpu": "8", "memory": "20Gi"}, "limits": {"memory": "20Gi"}}
  job = yaml.safe_load(manifest)
  pod = job["spec"]["template"]["spec"]
  assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "corpora"}}]
  assert scoring["volumeMounts"] == sampling["volumeMounts"] == [{"name": "shared", "mountPath": "/data"}]
  assert (pod["serviceAccountName"], job["spec"]["activeDeadlineSeconds"]) == ("me", 7200)
  assert scoring["image"] == sampling["image"] == "registry/winnow:1"


def test_a_job_of_the_same_commands_has_the_same_name_and_others_do_not(capsys):
  """Kills the mutants: a second Job that does everything again beside the first; two corpora that share one name."""

  def named(*argv: str) -> str:
    assert main.main(["launch", *argv]) == 0
    return yaml.safe_load(capsys.readouterr().out)["metadata"]["name"]

  assert named(*ONE, *SCORE, "--input=tfds:c4/en:3.1.0")  # a name, and no path on a disk
  name = named(*ONE, *SCORE, "--input=gs://b/*.jsonl")
  assert name == named("k8s", "--parts=5", "--image=other", *SCORE, "--input=gs://b/*.jsonl")
  assert name != named(*ONE, *SCORE, "--input=gs://c/*.jsonl")
  long = [word for command in ("embed", "score", "curate") for word in ["--", command, *SCORE[2:], "--input=gs://b/*"]]
  long += ["--output=gs://b/o", "--rate=0.1", *SAMPLE, "--", "cluster", "--embeddings=gs://b/s", "--num_clusters=2"]
  long += ["--", "evaluate", "--models=org/model", "--input=gs://b/*", "--scores=gs://b/e"]
  assert len(f"{named(*ONE, *long)}-99999") <= 63  # the host name of a pod
  assert len(named("flink", *ONE[1:], *long)) <= 45


def test_submit_hands_the_manifest_to_kubectl(tmp_path, monkeypatch, capsys):
  kubectl = tmp_path / "kubectl"
  kubectl.write_text(f'#!/bin/sh\n[ "$*" = "apply -f -" ] && exec cat > {tmp_path}/applied\n')
  kubectl.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
  argv = [*ONE, *SCORE, "--input=gs://b/*.jsonl"]
  assert main.main(["launch", *argv]) == 0
  printed = capsys.readouterr().out
  assert main.main(["launch", argv[0], "--submit", *argv[1:]]) == 0
  assert not capsys.readouterr().out
  without_comment = [pathlib.Path(tmp_path, "applied").read_text(), printed]
  assert len({text.partition("\n")[2] for text in without_comment}) == 1
  kubectl.write_text("#!/bin/sh\ncat > /dev/null\nexit 1\n")
  assert main.main(["launch", argv[0], "--submit", *argv[1:]]) == 1
  assert "kubectl did not take all jobs" in capsys.readouterr().err
