"""Where models come from, and that every worker has the one that the launcher saw."""

import json
import os
import pathlib
import subprocess
import sys

import corpora
import pytest
import tiny_t5
from running import run_in

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.ask_llm import AskLlm

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
  command = [sys.executable, "-c", f"from pipelines.scorers.t5 import model_files\n{code}"]
  return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_workers_get_the_commit_that_the_launcher_saw(hub):
  """Kills the mutant that hands workers the bare name: it may have moved on when they ask."""
  code = "folder = model_files.local_model('org/rater'); print(model_files.pinned('org/rater', folder))"
  pinned = ask(hub, code)
  assert pinned == f"org/rater@{COMMITS[0]}"
  (hub / "hub/models--org--rater/refs/main").write_text(COMMITS[1])
  names = pinned, "org/rater", f"org/rater@{COMMITS[0]}"
  found = ask(hub, f"print(*(model_files.local_model(name).name for name in {names!r}))")
  assert found.split() == [COMMITS[0], COMMITS[1], COMMITS[0]]


def test_a_store_is_named_by_the_model_without_its_revision(tmp_path):
  assert model_files.model_name("google/flan-t5-xl") == "flan_t5_xl"
  assert model_files.model_name("google/flan-t5-xl@main") == "flan_t5_xl"
  assert model_files.model_name("gs://bucket/raters/v1@2/") == "v1_2"
  assert model_files.pinned(str(tmp_path), tmp_path) == str(tmp_path)


def test_a_worker_refuses_another_model_than_the_launchers(tmp_path):
  """Kills the mutant that loads whatever a worker's machine has under the path."""
  folder = pathlib.Path(corpora.write_model(tmp_path / "rater"))
  scorer = AskLlm(model=str(folder), template=corpora.PROMPT, yes_token="yes", max_input_tokens=32).checked()
  scorer.load()
  weights = bytearray((folder / "model.safetensors").read_bytes())
  weights[-1] ^= 1
  (folder / "model.safetensors").write_bytes(bytes(weights))
  with pytest.raises(WinnowError, match=r"rater is not the same on every machine: model\.safetensors"):
    scorer.load()


def test_a_sentence_t5_of_today_is_fetched_whole(tmp_path, bucket, monkeypatch, capsys):
  """As sentence-transformers 5.4 saves it with transformers 5: its limit beside the tokenizer, no SentencePiece file.

  Kills: a fetch without tokenizer_config.json, `winnow embed` without --vocabulary.
  """
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  tiny_t5.make_sentence_t5(tmp_path / "model")
  tiny_t5.save_as_sentence_transformers_5(tmp_path / "model")
  (tmp_path / "model/spiece.model").rename(tmp_path / "t5.model")
  there = f"{bucket}/{tmp_path.name}/model"
  for path in (tmp_path / "model").rglob("*"):
    if path.is_file():
      storage.create(f"{there}/{path.relative_to(tmp_path / 'model')}", path.read_bytes())
  (tmp_path / "corpus.jsonl").write_text('{"text": "the river"}\n{"text": "a stone"}\n')
  command = ["embed", f"--model={there}", "--input=corpus.jsonl", "--scores=scores", "--name=of"]
  assert run_in(tmp_path, command) == 2
  assert "has no spiece.model (transformers 5" in (told := capsys.readouterr().err) and "with --vocabulary" in told
  assert not (tmp_path / "scores").exists()
  assert run_in(tmp_path, [*command, "--vocabulary=t5.model"]) == 0
  request = json.loads((tmp_path / "scores/of/request.json").read_text())
  assert {"spiece.model", "tokenizer_config.json"} < request["model"].keys()


def test_a_head_that_only_the_tensors_tell_of_is_part_of_the_request(tmp_path):
  """A store that an older Winnow began ignored it. Kills: a run that goes on there with scores of another formula."""
  folder = pathlib.Path(corpora.write_model(tmp_path / "rater"))

  def request() -> dict:
    scorer = AskLlm(model=str(folder), template=corpora.PROMPT, yes_token="yes", max_input_tokens=32)
    return scorer.checked().request()["model"]

  assert "head" not in request()
  config = json.loads((folder / "config.json").read_text())
  del config["tie_word_embeddings"]
  (folder / "config.json").write_text(json.dumps(config))
  assert request()["head"] == "lm_head.weight"


def temporary_folders(final: str) -> list[str]:
  """The names of a checkpoint that Orbax still writes, as the locked one and older ones have them, and T5X's own."""
  atomicity = pytest.importorskip("orbax.checkpoint").path.atomicity
  locked = atomicity.AtomicRenameTemporaryPath.from_final(atomicity.epath.Path("/run") / final).get().name
  assert locked.startswith(f"{final}.")
  return [locked, f"{locked}-1700000000", f"{final}.tmp-1700000000"]


@pytest.mark.parametrize("where", ["here", "there"])
def test_checkpoints_are_found_and_named_by_run_and_step(tmp_path, bucket, where):
  """Kills: a glob of files alone on an object store, checkpoints that are still being written, names by step alone."""
  root = f"{bucket}/{tmp_path.name}" if where == "there" else str(tmp_path)
  for folder in ("a/small-1/checkpoint_20", "a/small-1/checkpoint_100"):
    storage.create(f"{root}/{folder}/state/d/x", b"x")
    storage.create(f"{root}/{folder}/commit_success.txt", b"")
  storage.create(f"{root}/a/small-1/checkpoint_7/checkpoint", b"x")
  storage.create(f"{root}/b/large/checkpoint-20/config.json", b"x")
  unfinished = [*temporary_folders("checkpoint_200"), "checkpoint_list"]
  for folder in unfinished:
    storage.create(f"{root}/a/small-1/{folder}/state/d/x", b"x")
    storage.create(f"{root}/a/small-1/{folder}/commit_success.txt", b"")
  storage.create(f"{root}/a/small-1/checkpoint_list.txt", b"x")
  found = model_files.find_models(f"{root}/a/*/checkpoint_*,{root}/b/large/checkpoint-20/,org/t5-v1_1")
  assert found.models == {
    "small_1_checkpoint_100": f"{root}/a/small-1/checkpoint_100",
    "small_1_checkpoint_20": f"{root}/a/small-1/checkpoint_20",
    "small_1_checkpoint_7": f"{root}/a/small-1/checkpoint_7",
    "large_checkpoint_20": f"{root}/b/large/checkpoint-20/",
    "t5_v1_1": "org/t5-v1_1",
  }
  assert [reason.partition(" is not called ")[0] for reason in found.left_out] == sorted(
    f"{root}/a/small-1/{folder}" for folder in unfinished
  )
  with pytest.raises(WinnowError, match=r"--models=.*checkpoint_9\* matches no folder of a checkpoint; quote"):
    model_files.find_models(f"{root}/a/*/checkpoint_9*")
  with pytest.raises(WinnowError, match=r"matches no folder of a checkpoint: .*checkpoint_200.* is not called"):
    model_files.find_models(f"{root}/a/*/checkpoint_200*")
  for folder in temporary_folders("checkpoint_200"):
    with pytest.raises(WinnowError, match="before a checkpoint is whole"):
      model_files.local_model(f"{root}/a/small-1/{folder}/")


def test_orbax_on_an_object_store_is_waited_for(tmp_path, bucket, monkeypatch):
  """Nothing is renamed there. Kills: a checkpoint that is read, or a point of a curve, from half its files."""
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  run = f"{bucket}/{tmp_path.name}/run"
  marker = pytest.importorskip("orbax.checkpoint").path.atomicity.COMMIT_SUCCESS_FILE
  for name in ("checkpoint_1/state/manifest.ocdbt", f"checkpoint_1/{marker}", "checkpoint_2/state/manifest.ocdbt"):
    storage.create(f"{run}/{name}", b"x")
  storage.create(f"{run}/checkpoint_3/_CHECKPOINT_METADATA", b"x")
  # An item of the checkpoint is marked before the whole of it.
  storage.create(f"{run}/checkpoint_2/state/{marker}", b"")
  found = model_files.find_models(f"{run}/*")
  assert found.models == {"run_checkpoint_1": f"{run}/checkpoint_1"}
  assert len(found.left_out) == 2 and all(f"has no {marker}" in reason for reason in found.left_out)
  with pytest.raises(WinnowError, match=f"checkpoint_2 is not whole yet: it has no {marker}"):
    model_files.local_model(f"{run}/checkpoint_2")
  storage.create(f"{run}/checkpoint_2/{marker}", b"")
  assert model_files.local_model(f"{run}/checkpoint_2").is_dir()
  assert len(model_files.find_models(f"{run}/*").models) == 2


def test_a_checkpoint_here_has_the_run_that_it_lies_in(tmp_path, monkeypatch):
  """Kills the mutant that names a run by what was typed."""
  (tmp_path / "run/checkpoint_1").mkdir(parents=True)
  monkeypatch.chdir(tmp_path / "run")
  assert model_files.find_models("checkpoint_*").models == {"run_checkpoint_1": "checkpoint_1"}
