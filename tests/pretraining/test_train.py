"""A tiny T5, trained on a sample by its seqio task."""

import dataclasses
import pathlib

import numpy as np
import pytest

from curation.errors import WinnowError
from curation.models import checkpoints
from curation.models.vocabulary import NUM_SENTINELS, Vocabulary
from curation.scorers import span_corruption
from pretraining import tasks, train

CONFIG = train.TrainConfig(
  d_model=32, d_kv=8, d_ff=64, num_layers=1, input_tokens=64, batch_size=8, steps=60, checkpoint_steps=25
)


@pytest.fixture(scope="module")
def pieces(place) -> Vocabulary:
  return Vocabulary((place / "model/spiece.model").read_bytes())


def run(output: pathlib.Path, place: pathlib.Path, model_dir: pathlib.Path, *flags: str) -> int:
  sizes = [f"--{name}={value}" for name, value in dataclasses.asdict(CONFIG).items()]
  return train.main(
    [str(output), f"--model_dir={model_dir}", f"--vocabulary={place}/model/spiece.model", *sizes, *flags]
  )


def test_batches_are_t5s_pairs(output, vocabulary, pieces):
  """Kills: batches of documents that are cut and not concatenated, and one epoch's masks in the next."""
  task = tasks.register_sample(str(output), vocabulary=vocabulary)
  config = dataclasses.replace(CONFIG, steps=40)
  result = list(train.batches(task, pieces, config))
  assert len(result) == 40
  inputs = np.concatenate([batch.inputs_BL for batch in result])
  targets = np.concatenate([batch.targets_BT for batch in result])
  window = span_corruption.window_length(span_corruption.SPAN_CORRUPTION, 64)
  _, (longest,) = span_corruption.pair_lengths(np.array([window]))
  assert inputs.shape == (320, 64) and targets.shape == (320, longest)
  assert np.mean(np.count_nonzero(inputs, axis=1) == 64) > 0.9
  first_sentinel = len(pieces) + NUM_SENTINELS - 1
  assert (targets[:, 0] == first_sentinel).all() and inputs.max() == first_sentinel
  assert len(np.unique(inputs, axis=0)) == 320
  for again, before in zip(train.batches(task, pieces, config), result, strict=True):
    assert np.array_equal(again.inputs_BL, before.inputs_BL) and np.array_equal(again.targets_BT, before.targets_BT)
  other = next(train.batches(task, pieces, dataclasses.replace(config, seed=1)))
  assert not np.array_equal(other.inputs_BL, result[0].inputs_BL)


def test_a_checkpoint_is_the_model_after_its_step(output, vocabulary, pieces):
  """Kills: a checkpoint of the step before, and one whose arrays the next step overwrites."""
  task = tasks.register_sample(str(output), vocabulary=vocabulary)
  config = dataclasses.replace(CONFIG, steps=51, checkpoint_steps=50)
  saved, log = {}, []
  train.train(task, pieces, config, save=saved.__setitem__, log=log.append)
  assert list(saved) == [50, 51] and len(log) == 2
  *_, last = train.batches(task, pieces, config)
  before = saved[50]
  loss = float(train.mean_nll(before.params, last, before.config))
  assert f"step     51  loss {loss:.4f}" in log[1]


@pytest.mark.long
def test_the_command_learns_and_writes_what_evaluation_reads(output, place, tmp_path, capfd):
  """Kills: an optimiser of half a schedule, and weights in float16."""
  assert run(output, place, tmp_path / "a") == 0
  losses = [float(line.split("loss")[1].split()[0]) for line in capfd.readouterr().out.splitlines() if "loss" in line]
  assert len(losses) == 2 and losses[1] < losses[0] < np.log(CONFIG.d_model * 100)
  assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"checkpoint-{step}" for step in (25, 50, 60)]
  checkpoint = checkpoints.load_checkpoint(tmp_path / "a/checkpoint-60", "float32")
  assert checkpoint.config.d_model == 32 and not checkpoint.config.gated
  assert np.abs(checkpoint.params["embedding_VD"] - checkpoint.params["embedding_VD"].astype(np.float16)).max() > 0
  assert run(output, place, tmp_path / "b") == 0
  files = ("model.safetensors", "config.json", "spiece.model")
  for name in files:
    assert (tmp_path / "a/checkpoint-60" / name).read_bytes() == (tmp_path / "b/checkpoint-60" / name).read_bytes()


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--steps=0", "--steps=0 is too small"),
    ("--learning_rate=nan", "--learning_rate must be"),
    ("--num_heads=0", "num_heads must be"),
    ("--input_tokens=5000", "T5 has 100"),
    ("--vocabulary=/nowhere/spiece.model", "--vocabulary=/nowhere/spiece.model cannot be read"),
  ],
)
def test_what_cannot_be_trained_is_refused(output, place, tmp_path, capfd, flag, message):
  assert run(output, place, tmp_path / "new", flag) == 2
  assert message in capfd.readouterr().err
  assert not (tmp_path / "new").exists()


def test_a_folder_with_checkpoints_is_left_alone(output, place, tmp_path, capfd):
  (tmp_path / "checkpoint-60").mkdir()
  assert run(output, place, tmp_path) == 2
  assert "has checkpoints" in capfd.readouterr().err


def test_another_vocabulary_is_refused(output, vocabulary, pieces):
  task = tasks.register_sample(str(output), vocabulary=vocabulary)
  other = Vocabulary((pathlib.Path(train.__file__).parents[1] / "curation/demo/rater/spiece.model").read_bytes())
  with pytest.raises(WinnowError, match="register it with the same"):
    next(train.batches(task, other, CONFIG))
