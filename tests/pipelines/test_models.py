"""Where models come from, and that every worker has the one that the launcher saw."""

import os
import pathlib
import subprocess
import sys

import corpora
import pytest

from curation.errors import WinnowError
from pipelines import model_scorers, models

COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def hub(tmp_path) -> pathlib.Path:
  """The cache of the hub's own client, with a model in two revisions; nothing is reachable."""
  model = tmp_path / "hub/models--org--rater"
  for size, commit in enumerate(COMMITS, 1):
    corpora.write_model(model / "snapshots" / commit, num_layers=size)
  (model / "refs").mkdir()
  (model / "refs/main").write_text(COMMITS[0])
  return tmp_path


def ask(hub: pathlib.Path, code: str) -> str:
  """Runs code in a process of its own, since the client reads its settings when it is imported."""
  environment = os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
  command = [sys.executable, "-c", f"from pipelines import models\n{code}"]
  return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_workers_get_the_commit_that_the_launcher_saw(hub):
  """Kills the mutant that hands workers the bare name: it may have moved on when they ask."""
  code = "folder = models.local_model('org/rater'); print(models.pinned('org/rater', folder))"
  pinned = ask(hub, code)
  assert pinned == f"org/rater@{COMMITS[0]}"
  (hub / "hub/models--org--rater/refs/main").write_text(COMMITS[1])
  assert ask(hub, f"print(models.local_model({pinned!r}).name)") == COMMITS[0]
  assert ask(hub, "print(models.local_model('org/rater').name)") == COMMITS[1]
  assert ask(hub, f"print(models.local_model('org/rater@{COMMITS[0]}').name)") == COMMITS[0]


def test_a_store_is_named_by_the_model_without_its_revision(tmp_path):
  assert models.model_name("google/flan-t5-xl") == "flan_t5_xl"
  assert models.model_name("google/flan-t5-xl@main") == "flan_t5_xl"
  assert models.model_name("gs://bucket/raters/v1@2/") == "v1_2"
  assert models.pinned(str(tmp_path), tmp_path) == str(tmp_path)


def test_a_worker_refuses_another_model_than_the_launchers(tmp_path):
  """Kills the mutant that loads whatever a worker's machine has under the path."""
  folder = pathlib.Path(corpora.write_model(tmp_path / "rater"))
  scorer = model_scorers.AskLlm(
    model=str(folder), template=corpora.PROMPT, yes_token="yes", max_input_tokens=32
  ).checked()
  scorer.load()
  weights = bytearray((folder / "model.safetensors").read_bytes())
  weights[-1] ^= 1
  (folder / "model.safetensors").write_bytes(bytes(weights))
  with pytest.raises(WinnowError, match=r"rater is not the same on every machine: model\.safetensors"):
    scorer.load()
