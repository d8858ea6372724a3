"""The data that T5X gets from seqio: T5's examples, every text once over all hosts, the paper's validation sets."""

import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import validation_sets

from curation.errors import WinnowError
from pipelines.output import tfds_metadata
from pipelines.output.formats.registry import FORMATS
from pretraining import samples

LENGTHS = {"inputs": 64, "targets": 32}


@pytest.fixture
def register(vocabulary):
  """Calls `register_sample` with the vocabulary of the tests."""
  from pretraining import tasks

  return functools.partial(tasks.register_sample, vocabulary=vocabulary)


def packed(name: str, host: int, hosts: int, *, split: str = "train") -> list[dict[str, np.ndarray]]:
  """Calls seqio as T5X does, for one epoch."""
  import seqio

  examples = seqio.get_dataset(
    name,
    LENGTHS,
    dataset_split=split,
    shuffle=True,
    num_epochs=1,
    seed=0,
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
    shard_info=seqio.ShardInfo(host, hosts),
  )
  return list(examples.as_numpy_iterator())


def unmasked(example: dict[str, np.ndarray], vocabulary) -> list[int]:
  """Returns the tokens of text in both halves of a packed example, without padding, ends and sentinels."""
  tokens = [*example["encoder_input_tokens"].tolist(), *example["decoder_target_tokens"].tolist()]
  return [token for token in tokens if 1 < token < vocabulary.vocab_size - vocabulary.extra_ids]


def written_texts(output: pathlib.Path) -> list[str]:
  paths = sorted(output.glob("*.tfrecord-*"))
  return [text for path in paths for table in FORMATS["tfrecord"].read(str(path)) for text in table["text"].to_pylist()]


def test_examples_are_those_of_t5s_own_task(place, register, vocabulary):
  """Over two epochs. Kills: another noise density, no end of sequence, masks that an epoch repeats."""
  import seqio
  import t5.data.tasks  # noqa: F401, which registers c4_v220_span_corruption
  import tensorflow as tf

  ours = seqio.TaskRegistry.get(register(str(place / "tenth")))
  t5s = seqio.TaskRegistry.get("c4_v220_span_corruption")
  features = {name: dataclasses.replace(f, vocabulary=vocabulary) for name, f in t5s.output_features.items()}
  assert ours.output_features == features
  texts = written_texts(place / "tenth")  # of one shard, so that they are read in this order
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"text": texts}), ["train"]
  )
  reference = seqio.Task("reference", source, features, t5s.preprocessors)
  both = [
    list(task.get_dataset(LENGTHS, "train", shuffle=True, seed=11, num_epochs=2).as_numpy_iterator())
    for task in (ours, reference)
  ]
  assert len(both[0]) == len(both[1]) > 200
  for mine, theirs in zip(*both, strict=True):
    assert mine.keys() == theirs.keys() == {"inputs", "targets"}
    for name in mine:
      np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.parametrize("hosts", [1, 2, *(pytest.param(hosts, marks=pytest.mark.long) for hosts in (4, 8))])
def test_hosts_train_on_every_token_once(output, register, vocabulary, hosts):
  """Also where six shards do not go round evenly, and where there are more hosts than shards.

  Kills: a glob that finds no shard or not all, hosts that read one shard twice, texts cut at the sequence's length.
  """
  name = register(str(output))
  assert name == "winnow_half_50"
  counts: collections.Counter[int] = collections.Counter()
  for host in range(hosts):
    examples = packed(name, host, hosts)
    assert examples
    for example in examples:
      assert example["encoder_input_tokens"].shape == (64,) and example["decoder_target_tokens"].shape == (32,)
      counts.update(unmasked(example, vocabulary))
  expected = collections.Counter(token for text in written_texts(output) for token in vocabulary.encode(text))
  assert counts == expected
  assert expected.total() == samples.read(str(output)).tokens  # what the rater counted, which epochs are reckoned from


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_read_shards_of_their_own(output, register, hosts):
  """Kills: a source that every host reads whole."""
  import seqio

  source = seqio.TaskRegistry.get(register(str(output))).source
  assert [pathlib.Path(path).name for path in source.list_shards("train")] == [
    tfds_metadata.shard_file_name("half_50", index, 6) for index in range(6)
  ]
  assert source.num_input_examples("train") == len(written_texts(output))
  read = [
    [row["text"].decode() for row in source.get_dataset("train", False, None, info).as_numpy_iterator()]
    for info in (seqio.ShardInfo(host, hosts) for host in range(hosts))
  ]
  assert all(len(texts) < len(written_texts(output)) for texts in read)
  assert collections.Counter(itertools.chain(*read)) == collections.Counter(written_texts(output))


def test_a_task_is_registered_as_often_as_it_is_named_but_for_one_output(place, output, register, vocabulary):
  """Kills: a run that trains on the sample that another one registered first."""
  import seqio

  from pretraining import tasks

  assert register(str(output)) == register(str(output)) == "winnow_half_50"
  assert register(str(place / "tenth")) == "winnow_tenth"
  with pytest.raises(WinnowError, match="task winnow_tenth is registered already"):
    register(str(output), name="tenth")
  other = seqio.SentencePieceVocabulary(vocabulary.sentencepiece_model_file, extra_ids=50)
  with pytest.raises(WinnowError, match="task winnow_tenth is registered already, with another vocabulary"):
    tasks.register_sample(str(place / "tenth"), vocabulary=other)
  assert register(str(output), name="fair") == "winnow_fair"


def test_without_a_vocabulary_it_is_t5s(output):
  import seqio

  from pretraining import tasks

  features = seqio.TaskRegistry.get(tasks.register_sample(str(output))).output_features
  assert features["inputs"].vocabulary.sentencepiece_model_file.startswith("gs://t5-data/vocabs/cc_all.32000")
  assert features["targets"].vocabulary.extra_ids == 100


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory) -> Iterator[pathlib.Path]:
  import seqio

  folder = tmp_path_factory.mktemp("tfds")
  validation_sets.write(folder)
  seqio.set_tfds_data_dir_override(str(folder))
  yield folder
  seqio.set_tfds_data_dir_override(None)


def test_validation_is_the_papers(vocabulary):
  """C.1 and C.2, by their names in TFDS."""
  import seqio

  from pretraining import tasks

  assert tasks.register_validation(vocabulary=vocabulary) == tasks.register_validation(vocabulary=vocabulary)
  everything, quality = (seqio.MixtureRegistry.get(name) for name in ("winnow_validation", "winnow_hq_validation"))
  names = {task.name: task.source.tfds_dataset.name for task in everything.tasks}
  assert names == {name: ":".join(path.rsplit("/", 1)) for name, (path, _, _) in validation_sets.SETS.items()}
  assert [task.name for task in quality.tasks] == [name for name in names if name != "winnow_c4_en"]
  assert {mixture.get_rate(task) for mixture in (everything, quality) for task in mixture.tasks} == {1.0}
  with pytest.raises(WinnowError, match="winnow_c4_en is registered already"):
    tasks.register_c4("3.0.1", vocabulary)


def test_validation_reads_what_is_held_out(tfds_folder, vocabulary):
  """Kills: LM1B's train split in place of its test, and texts that are others than `winnow evaluate` reads."""
  from pretraining import tasks

  tasks.register_validation(vocabulary=vocabulary)
  for name, (_, _, word) in validation_sets.SETS.items():
    examples = packed(name, 0, 1, split="validation")
    tokens = collections.Counter(token for example in examples for token in unmasked(example, vocabulary))
    once = collections.Counter(vocabulary.encode(validation_sets.text_of(name, word)))
    assert tokens == {token: count * validation_sets.TEXTS for token, count in once.items()}


def test_hq_validation_takes_as_much_of_each_set(tfds_folder, vocabulary):
  """Kills: a mixture that leaves out a set, or with other rates."""
  import seqio

  from pretraining import tasks

  tasks.register_validation(vocabulary=vocabulary)
  examples = seqio.get_dataset(
    tasks.HQ_VALIDATION,
    LENGTHS,
    dataset_split="validation",
    shuffle=False,
    seed=0,
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
  ).take(800)
  drawn = collections.Counter(
    collections.Counter(vocabulary.decode(unmasked(example, vocabulary)).split()).most_common(1)[0][0]
    for example in examples.as_numpy_iterator()
  )
  assert drawn.keys() == {"stone", "house", "seven", "light"}
  assert min(drawn.values()) > 150


def test_c4_is_trained_on_whole(tfds_folder, vocabulary):
  """Kills: the validation split in place of train."""
  from pretraining import tasks

  name = tasks.register_c4(vocabulary=vocabulary)
  assert name == "winnow_c4_en"
  garden = set(vocabulary.encode(f"{validation_sets.NOT_HELD_OUT} {validation_sets.NOT_HELD_OUT}"))
  assert all(set(unmasked(example, vocabulary)) == garden for example in packed(name, 0, 2))
