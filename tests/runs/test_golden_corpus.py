"""Real C4 with the golden T5 1.1, by commands: golden probabilities, a plain top k, nested rates, what T5X calls."""

import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import main

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(shared, tmp_path_factory):
  folder = tmp_path_factory.mktemp("golden")
  command = [
    "score",
    "--name=ask",
    f"--input={shared / 'data/c4/c4_en_1445.jsonl.gz'}",
    f"--model={shared / 'golden/t5_v1_1_tiny'}",
    f"--scores={folder / 'scores'}",
  ]
  assert main.main(command) == 0
  for rate in ("0.1", "0.2"):
    flags = [f"--scores={folder / 'scores'}", "--sampler=ask_llm", f"--rate={rate}", f"--output={folder / rate}"]
    assert main.main(["sample", *flags]) == 0
  return folder


@pytest.fixture(scope="module")
def documents(shared):
  with gzip.open(shared / "data/c4/c4_en_1445.jsonl.gz") as file:
    return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def scores(place):
  table = pq.read_table(place / "scores/ask/shards/c4_en_1445.jsonl.gz.parquet")
  assert table["row"].to_pylist() == list(range(1445))
  return table["score"].to_numpy()


def drawn(folder):
  import tensorflow_datasets as tfds

  dataset = tfds.builder_from_directory(str(folder)).as_dataset(split="train")
  return {int(e["source"].decode().rsplit("#", 1)[1]): e for e in tfds.as_numpy(dataset)}


def test_probabilities_are_the_golden_ones(shared, documents, scores):
  """Texts that C4 holds too; kills the mutant whose rows are off by one."""
  expected = json.loads((shared / "golden/expected/ask_llm_expected.json").read_text())["examples"]
  rows = {document["text"]: row for row, document in enumerate(documents)}
  compared = 0
  for example in expected:
    if example["text"] in rows:
      compared += 1
      assert np.exp(scores[rows[example["text"]]]) == pytest.approx(example["p_yes"], abs=1e-4)
      assert scores[rows[example["text"]]] == pytest.approx(example["logp_yes"], abs=1e-4)
  assert compared >= 10


def test_the_sample_is_numpys_top_k_text_included(place, documents, scores):
  found = drawn(place / "0.2")
  k = 289  # floor(0.2 * 1445 + 1/2)
  assert len(np.unique(scores)) == len(scores), "no ties, so a plain sort knows the answer"
  assert sorted(found) == sorted(np.argsort(-scores)[:k].tolist())
  for row, example in found.items():
    assert example["text"].decode() == documents[row]["text"]
    assert example["url"].decode() == documents[row]["url"]
    assert example["timestamp"].decode() == documents[row]["timestamp"]
    assert example["score"] == scores[row]


def test_ten_percent_lies_within_twenty(place):
  assert set(drawn(place / "0.1")) < set(drawn(place / "0.2"))
  assert len(drawn(place / "0.1")) == 145


def test_t5x_gets_as_many_sequences_as_epochs_are_reckoned_from(place, shared):
  """What T5X calls, at the paper's lengths. Kills: epochs by 512 tokens a sequence, which masking makes of 568."""
  import seqio

  from pretraining import plan, samples, tasks

  vocabulary = seqio.SentencePieceVocabulary(str(shared / "golden/spiece.model"), extra_ids=100)
  name = tasks.register_sample(str(place / "0.2"), name="golden", vocabulary=vocabulary)
  dataset = seqio.get_dataset(
    name,
    task_feature_lengths={"inputs": plan.SEQUENCE_LENGTH, "targets": 114},
    dataset_split="train",
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
    shard_info=seqio.ShardInfo(0, 1),
    num_epochs=1,
    seed=0,
  )
  examples = list(dataset.as_numpy_iterator())
  assert all(example["encoder_input_tokens"].shape == (512,) for example in examples)
  # Each 128 documents are joined and cut; what is left over at their end is a shorter sequence.
  assert len(examples) == pytest.approx(samples.read(str(place / "0.2")).tokens / plan.TEXT_TOKENS, rel=0.02)
