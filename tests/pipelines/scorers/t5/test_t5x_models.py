"""Checkpoints of T5X as --model: scored by the command, fetched from an object store, part of the request."""

import json
import pathlib

import corpora
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import t5x_files

from curation.errors import WinnowError
from curation.models import checkpoints
from pipelines import main
from pipelines.files import storage
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.ask_llm import AskLlm


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
  """A folder, which is the current one, with a corpus and a model in Hugging Face's layout and in both of T5X's."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  corpora.write_model(tmp_path / "rater")
  arrays = t5x_files.to_arrays(safetensors.numpy.load_file(tmp_path / "rater/model.safetensors"))
  t5x_files.write_legacy(tmp_path / "legacy/checkpoint_7", arrays)
  t5x_files.write_orbax(tmp_path / "orbax/checkpoint_7", arrays)
  (tmp_path / "vocabulary").mkdir()
  (tmp_path / "vocabulary/t5.model").write_bytes((tmp_path / "rater/spiece.model").read_bytes())
  lines = [json.dumps({"text": text}) for text in corpora.sentences(50, 1)]
  (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  return tmp_path


def score(name: str, model: str, *flags: str) -> int:
  asking = ["--prompt_file=prompt.txt", "--max_input_tokens=24", "--batch_tokens=256"]
  where = ["--input=corpus.jsonl", "--scores=scores", f"--name={name}", f"--model={model}"]
  return main.main(["score", *where, *asking, *flags])


def scores(place: pathlib.Path, name: str) -> np.ndarray:
  return pq.read_table(place / f"scores/{name}/shards/corpus.jsonl.parquet").column("score").to_numpy()


def test_the_command_scores_as_with_hugging_faces_copy(place, capsys):
  """Kills the mutants that leave chunks or the vocabulary out of the request: a store goes on with another model."""
  assert score("hugging_face", "rater") == 0
  assert score("legacy", "legacy/checkpoint_7", "--vocabulary=vocabulary/t5.model") == 0
  assert score("orbax", "orbax/checkpoint_7/", "--scorer=ask_llm", "--vocabulary=vocabulary/t5.model") == 0
  expected = scores(place, "hugging_face")
  assert np.unique(expected).size > 40
  for name in ("legacy", "orbax"):
    np.testing.assert_allclose(scores(place, name), expected, rtol=0, atol=1e-5)
  capsys.readouterr()

  assert score("orbax", "orbax/checkpoint_7") == 2
  assert "name its file with --vocabulary" in capsys.readouterr().err
  assert score("orbax", "orbax", "--vocabulary=vocabulary/t5.model") == 2
  assert "checkpoint_N" in capsys.readouterr().err
  assert score("orbax", "orbax/checkpoint_7", "--vocabulary=nowhere") == 2
  assert "nowhere does not exist" in capsys.readouterr().err

  (place / "vocabulary/t5.model").write_bytes((place / "vocabulary/t5.model").read_bytes() + b"\x98\x3f\x01")
  assert score("orbax", "orbax/checkpoint_7", "--vocabulary=vocabulary/t5.model") == 2
  assert "spiece.model" in capsys.readouterr().err
  chunk = "target.encoder.layers_0.mlp.wo.kernel/0.0"
  (place / "legacy/checkpoint_7" / chunk).unlink()
  assert score("legacy", "legacy/checkpoint_7", "--vocabulary=rater/spiece.model") == 2
  assert chunk in capsys.readouterr().err


def rater(model: str, vocabulary: str) -> AskLlm:
  return AskLlm(model=model, vocabulary=vocabulary, template=corpora.PROMPT, yes_token="yes", max_input_tokens=32)


@pytest.mark.parametrize("folder", [".", "rater"])
def test_a_vocabulary_in_the_models_folder_is_known_however_it_is_spelt(place, folder):
  """Kills the mutant whose identity of a model depends on how paths are typed: workers would refuse it."""
  (place / "rater/spiece.model").rename(place / "rater/own.model")
  spelt = {".": "rater/own.model", "rater": str(place / "rater/own.model")}[folder]
  launched = rater("rater", spelt).checked()
  assert sorted(launched.files) == ["config.json", "model.safetensors", "spiece.model"]
  launched.load()  # as a worker, by absolute paths
  assert launched.request() == rater(str(place / "rater"), "./rater/../rater/own.model").checked().request()


def test_a_vocabulary_beside_hugging_faces_layout(place):
  """A worker may run elsewhere. Kills the mutant that hands it a relative path."""
  (place / "rater/spiece.model").unlink()
  scorer = rater("rater", "vocabulary/t5.model").checked()
  assert scorer.vocabulary == str(place / "vocabulary/t5.model")
  assert sorted(scorer.files) == ["config.json", "model.safetensors", "spiece.model"]
  scorer.load()


@pytest.mark.parametrize("layout", ["legacy", "orbax"])
def test_a_checkpoint_on_an_object_store(place, bucket, layout):
  """Kills the mutants that fetch the optimizer's arrays, or not all of the model's."""
  there = f"{bucket}/{place.name}"
  for path in place.rglob("*"):
    if path.is_file():
      storage.create(f"{there}/{path.relative_to(place)}", path.read_bytes())
  storage.create(f"{there}/orbax/checkpoint_7/commit_success.txt", b"")
  folder = model_files.local_model(f"{there}/{layout}/checkpoint_7/")
  vocabulary = model_files.local_vocabulary(f"{there}/vocabulary/t5.model")
  fetched = checkpoints.load_checkpoint(folder, "float32", vocabulary=vocabulary)
  expected = checkpoints.load_checkpoint(place / "rater", "float32")
  assert jax.tree.all(jax.tree.map(np.array_equal, fetched.params, expected.params))
  named = checkpoints.checkpoint_files(folder, vocabulary)
  assert {path for path in folder.rglob("*") if path.is_file()} == {*named} - {vocabulary}
  assert model_files.local_model(f"{there}/{layout}/checkpoint_7") == folder
  requests = [rater(f"{root}/{layout}/checkpoint_7", f"{root}/vocabulary/t5.model") for root in (there, ".")]
  assert requests[0].checked().request() == requests[1].checked().request()
  with pytest.raises(WinnowError, match=r"--vocabulary=.*nowhere is not there"):
    model_files.local_vocabulary(f"{there}/nowhere")


@pytest.mark.parametrize("name", ["target.x/../../../evil.pth", "state/d//evil", "target.x/./evil", "../evil"])
def test_an_object_whose_name_leads_out_of_its_folder_is_refused(monkeypatch, tmp_path, name):
  """A bucket's names may be anything. Kills the mutant that makes paths of them: a bucket could write any file."""
  monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(storage, "match", lambda pattern: [(f"gs://bucket/model/{name}", 4)])
  monkeypatch.setattr(storage, "exists", lambda path: True)
  with pytest.raises(WinnowError, match="is no name of a file below it"):
    model_files.local_model("gs://bucket/model")
  assert not list(tmp_path.rglob("*"))
