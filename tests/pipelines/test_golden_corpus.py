"""Real C4 with the golden T5 1.1, through the commands: golden probabilities, a plain top k, nested rates, seqio."""

import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import main


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


def test_seqio_trains_on_it(place, shared):
  """What T5X calls: TFExampleDataSource, span corruption, packing, sharded over hosts."""
  import functools

  import seqio
  import tensorflow as tf
  from t5.data import preprocessors

  vocabulary = seqio.SentencePieceVocabulary(str(shared / "golden/spiece.model"), extra_ids=100)
  features = {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
  seqio.TaskRegistry.add(
    "winnow_golden",
    source=seqio.TFExampleDataSource(
      {"train": str(place / "0.2/*-train.tfrecord-*")}, {"text": tf.io.FixedLenFeature([], tf.string)}
    ),
    preprocessors=[
      functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      preprocessors.span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=features,
    metric_fns=[],
  )
  dataset = seqio.get_dataset(
    "winnow_golden",
    task_feature_lengths={"inputs": 128, "targets": 64},
    dataset_split="train",
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
    shard_info=seqio.ShardInfo(0, 1),
    shuffle=False,
    num_epochs=1,
    seed=0,
  )
  batches = list(dataset.take(20).as_numpy_iterator())
  assert len(batches) == 20
  assert all(batch["encoder_input_tokens"].shape == (128,) for batch in batches)
  assert all(batch["encoder_segment_ids"].min() == 1 for batch in batches), "packed: no padding"
