"""The output folder, read by TFDS and seqio."""

import io
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.output import tfds_metadata, tfrecords
from pipelines.sorted_runs import run_files, run_writer

NUM_SHARDS = 4
NUM_DOCUMENTS = 300


def make_documents() -> pa.Table:
  """Makes small texts of very different lengths, some of them not ASCII."""
  subjects = ("The river", "A red lantern", "Grandmother's clock", "Der Bäcker", "An old ferry", "雨")
  verbs = ("crosses", "remembers", "counts", "hides", "mends")
  objects = ("the harbour", "nine small stones", "a letter nobody sent", "the winter road", "its own shadow")
  texts = [
    " ".join(
      f"{subjects[(i + j) % 6]} {verbs[(i * j) % 5]} {objects[(i + 2 * j) % 5]}, number {i}." for j in range(1 + i % 17)
    )
    for i in range(NUM_DOCUMENTS)
  ]
  return pa.table(
    {
      "text": texts,
      "url": [f"https://example.org/{i}" for i in range(NUM_DOCUMENTS)],
      "timestamp": ["2019-04-25T12:57:54Z"] * NUM_DOCUMENTS,
      "source": [f"a.jsonl#{i}" for i in range(NUM_DOCUMENTS)],
      "score": pa.array(-np.arange(NUM_DOCUMENTS) / 7, pa.float32()),
    }
  )


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> tuple[pathlib.Path, list[dict]]:
  """A complete output folder, whose last shard is empty, and its documents in the order of their places."""
  folder = tmp_path_factory.mktemp("output")
  documents = make_documents()
  hash_N = np.random.default_rng(0).permutation(NUM_DOCUMENTS).astype(np.uint64)
  shard_N = (hash_N % np.uint64(NUM_SHARDS - 1)).astype(np.uint32)
  file = io.BytesIO()
  with run_writer.RunWriter(num_shards=NUM_SHARDS) as writer:
    writer.add(shard_N, hash_N, tfrecords.encode_examples(documents))
    writer.finish(file, {})
  lengths, sizes = [], []
  for index in range(NUM_SHARDS):
    with (folder / tfds_metadata.shard_file_name("tiny_set", index, NUM_SHARDS)).open("wb") as shard:
      length = run_files.write_records(run_writer.merge_shard([run_files.RunReader(file)], index), shard)
      size = shard.tell()
    lengths.append(length)
    sizes.append(size)
  tfds_metadata.write_dataset_metadata(
    str(folder), name="tiny_set", shard_lengths=lengths, num_bytes=sum(sizes), description="A test."
  )
  rows = documents.to_pylist()
  return folder, [rows[place] for place in np.lexsort((hash_N, shard_N))]


def test_tfds_reads_the_folder(output):
  import tensorflow_datasets as tfds

  folder, expected = output
  builder = tfds.builder_from_directory(folder)
  assert builder.name == "tiny_set"
  assert builder.info.splits["train"].num_examples == NUM_DOCUMENTS
  assert builder.info.splits["train"].num_bytes == sum(file.stat().st_size for file in folder.glob("*.tfrecord-*"))
  assert builder.info.splits["train"].filenames[0] == "tiny_set-train.tfrecord-00000-of-00004"
  features = builder.info.features
  assert sorted(features) == ["score", "source", "text", "timestamp", "url"]
  assert features["score"].np_dtype == np.float32 and features["score"].shape == ()
  assert all(isinstance(features[name], tfds.features.Text) for name in features if name != "score")
  in_order = tfds.ReadConfig(interleave_cycle_length=1)
  read = [
    {name: value.decode() if isinstance(value, bytes) else float(value) for name, value in row.items()}
    for row in tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False, read_config=in_order))
  ]
  assert read == expected


def test_metadata_are_the_same_bytes_every_time_without_tensorflow(output, tmp_path):
  folder, _ = output
  info = json.loads((folder / "dataset_info.json").read_text())
  code = """
import json, sys
from pipelines.output import tfds_metadata
folder, info = sys.argv[1], json.loads(sys.argv[2])
(split,) = info["splits"]
tfds_metadata.write_dataset_metadata(
  folder, name=info["name"], shard_lengths=[int(n) for n in split["shardLengths"]], num_bytes=int(split["numBytes"]),
  description=info["description"],
)
assert "tensorflow" not in sys.modules
"""
  subprocess.run(
    [sys.executable, "-c", code, str(tmp_path), json.dumps(info)],
    check=True,
    cwd=pathlib.Path(tfds_metadata.__file__).parents[2],
  )
  assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset_info.json", "features.json"]
  for name in ("dataset_info.json", "features.json"):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  assert info["splits"][0]["filepathTemplate"] == "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
  assert str(folder) not in json.dumps(info)


@pytest.mark.parametrize(
  ("folder_name", "expected"),
  [
    ("c4_ask_llm_20", "c4_ask_llm_20"),
    ("C4-AskLLM.20%", "c4_ask_llm_20"),
    ("20percent", "dataset_20percent"),
    ("__", "dataset"),
    ("", "dataset"),
    ("データ", "dataset"),
    ("x/", "x"),
  ],
)
def test_dataset_names(folder_name, expected):
  assert tfds_metadata.dataset_name(folder_name) == expected


@given(st.text(max_size=30))
def test_any_folder_name_becomes_a_tfds_name(folder_name):
  from tensorflow_datasets.core import naming

  name = tfds_metadata.dataset_name(folder_name)
  assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
  assert naming.camelcase_to_snakecase(name) == name == tfds_metadata.dataset_name(name)
  parsed = naming.FilenameInfo.from_str(tfds_metadata.shard_file_name(name, 3, 100_000))
  assert (parsed.dataset_name, parsed.split, parsed.shard_index, parsed.num_shards) == (name, "train", 3, 100_000)


@pytest.fixture(scope="module")
def task_name(output, tmp_path_factory) -> Iterator[str]:
  """Registers a seqio task over the output as in T5's pre-training, with a SentencePiece model of these texts."""
  import functools

  import sentencepiece
  import seqio
  import tensorflow as tf
  from t5.data import preprocessors

  folder, expected = output
  model = tmp_path_factory.mktemp("vocabulary") / "tiny"
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([row["text"] for row in expected]),
    model_prefix=str(model),
    vocab_size=200,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  vocabulary = seqio.SentencePieceVocabulary(f"{model}.model", extra_ids=100)
  features = {
    "text": tf.io.FixedLenFeature([], tf.string),
    "url": tf.io.FixedLenFeature([], tf.string),
    "timestamp": tf.io.FixedLenFeature([], tf.string),
    "source": tf.io.FixedLenFeature([], tf.string),
    "score": tf.io.FixedLenFeature([], tf.float32),
  }
  seqio.TaskRegistry.add(
    "winnow_test_span_corruption",
    source=seqio.TFExampleDataSource({"train": str(folder / "tiny_set-train.tfrecord-*")}, features),
    preprocessors=[
      functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      preprocessors.span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")},
  )
  yield "winnow_test_span_corruption"
  seqio.TaskRegistry.remove("winnow_test_span_corruption")


def test_seqio_shards_the_files_over_hosts(output, task_name):
  import seqio

  _, expected = output
  source = seqio.TaskRegistry.get(task_name).source
  assert len(source.list_shards("train")) == NUM_SHARDS
  read = []
  for host in range(2):
    shards = source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(host, 2))
    read.append([row["source"].decode() for row in shards.as_numpy_iterator()])
  assert len(read[0]) > 50 and len(read[1]) > 50
  assert sorted(read[0] + read[1]) == sorted(row["source"] for row in expected)


def test_seqio_packs_span_corruption(output, task_name):
  """Makes the call of T5X on both of two hosts for one epoch: no token of the texts is lost."""
  import seqio

  _, expected = output
  lengths = {"inputs": 64, "targets": 32}
  num_tokens = 0
  for host in range(2):
    packed = seqio.get_dataset(
      task_name,
      lengths,
      dataset_split="train",
      shuffle=True,
      num_epochs=1,
      seed=0,
      use_cached=False,
      feature_converter=seqio.EncDecFeatureConverter(pack=True),
      shard_info=seqio.ShardInfo(host, 2),
    )
    batches = list(packed.as_numpy_iterator())
    assert batches
    for batch in batches:
      assert batch["encoder_input_tokens"].shape == (64,) and batch["decoder_target_tokens"].shape == (32,)
      assert batch["encoder_segment_ids"].max() >= 1
      num_tokens += int((batch["encoder_input_tokens"] > 0).sum() + (batch["decoder_target_tokens"] > 0).sum())
  vocabulary = seqio.TaskRegistry.get(task_name).output_features["targets"].vocabulary
  raw_tokens = sum(len(vocabulary.encode(row["text"])) for row in expected)
  assert raw_tokens < num_tokens < 1.4 * raw_tokens  # sentinels and ends come on top, nothing is lost
