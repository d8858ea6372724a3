"""Datasets that TFDS has prepared, and files that TensorFlow has written."""

import dataclasses
import pathlib

import buckets
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from prepared_corpus import RECORDS, WinnowTestCorpus
from reader_files import bad, documents, put, read

from curation.errors import WinnowError
from pipelines import main
from pipelines.corpus.readers import tfds as tfds_reader
from pipelines.corpus.readers.tf_example import feature_values, parse_example
from pipelines.files import storage

FILE_FORMATS = ["tfrecord", "array_record"]


@pytest.fixture(scope="module", params=FILE_FORMATS)
def prepared(request, tmp_path_factory):
  """Prepares the corpus in four shards; gives (file format, data folder)."""
  folder = tmp_path_factory.mktemp(request.param)
  builder = WinnowTestCorpus(config="en", data_dir=str(folder), file_format=request.param)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
  return request.param, folder


def test_tfds_is_read_shard_by_shard_in_its_own_order(prepared):
  """Kills: shards in another order, shards of another split, row numbers that continue over shards."""
  file_format, folder = prepared
  shards = tfds_reader.tfds_shards("tfds:winnow_test_corpus/en:1.2.0", data_dir=str(folder))
  assert [shard.name for shard in shards] == [
    f"winnow_test_corpus-train.{file_format}-{index:05}-of-00004" for index in range(4)
  ]
  assert {(shard.format, shard.compression) for shard in shards} == {(file_format, "")}
  assert all(shard.size == pathlib.Path(shard.path).stat().st_size for shard in shards)

  rows = [documents(read(shard, block_rows=50)) for shard in shards]
  assert all([row["row"] for row in of_shard] == list(range(len(of_shard))) for of_shard in rows)
  assert min(map(len, rows)) > 50
  source = tfds.builder_from_directory(folder / "winnow_test_corpus" / "en" / "1.2.0")
  if file_format == "tfrecord":
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    records = tfds.as_numpy(source.as_dataset(split="train", shuffle_files=False, read_config=in_order))
  else:
    records = source.as_data_source(split="train")
  expected = [{name: value.decode() for name, value in record.items()} for record in records]
  of_all = [row for of_shard in rows for row in of_shard]
  assert [{name: row[name] for name in ("text", "url", "timestamp")} for row in of_all] == expected
  assert sorted(record["url"] for record in expected) == sorted(record["url"] for record in RECORDS)


def test_a_split_is_named_behind_a_hash(prepared):
  """Kills: the train split whatever is named; files of the validation split under names of the train split."""
  _, folder = prepared
  shards = tfds_reader.tfds_shards("tfds:winnow_test_corpus/en:1.2.0#validation", data_dir=str(folder))
  assert {shard.name.partition(".")[0] for shard in shards} == {"winnow_test_corpus-validation"}
  urls = [row["url"] for shard in shards for row in documents(read(shard))]
  assert sorted(urls) == sorted(record["url"] for record in RECORDS[:40])


def upload(folder: pathlib.Path, bucket: str) -> str:
  """Copies a data folder of TFDS's to a bucket; returns its address."""
  for path in filter(pathlib.Path.is_file, folder.rglob("*")):
    storage.create(f"{bucket}/{folder.name}/{path.relative_to(folder)}", path.read_bytes())
  return f"{bucket}/{folder.name}"


@pytest.mark.parametrize(
  "spec", ["winnow_test_corpus/en:1.2.0#validation", "winnow_test_corpus/en", "winnow_test_corpus/en:1.*.*"]
)
def test_a_dataset_in_a_bucket_is_read_by_our_own_client(prepared, spec):
  """Kills: leaving the bucket to TFDS, which needs TensorFlow, which needs its own credentials."""
  _, folder = prepared
  with buckets.emulated() as bucket:
    address = upload(folder, bucket)
    there = tfds_reader.tfds_shards(f"tfds:{spec}", data_dir=f"{address}/")
    here = tfds_reader.tfds_shards(f"tfds:{spec}", data_dir=str(folder))
    moved = [
      dataclasses.replace(shard, path=f"{address}/{pathlib.Path(shard.path).relative_to(folder)}") for shard in here
    ]
    assert there == moved and len(there) in (1, 4)
    rows = [documents(read(shard)) for shard in there]
    with pytest.raises(WinnowError, match=f"is not in {address}: prepare it"):
      tfds_reader.tfds_shards("tfds:winnow_test_corpus/en:9.9.9", data_dir=address)
    storage.delete([there[0].path])
    with pytest.raises(WinnowError, match=f"{there[0].path}.* is missing"):
      tfds_reader.tfds_shards(f"tfds:{spec}", data_dir=address)
  assert rows == [documents(read(shard)) for shard in here]


def test_no_file_of_a_bucket_leads_out_of_the_copy_of_its_metadata(tmp_path, monkeypatch):
  """Kills the mutant that joins an object's name, which may hold dots, to a folder."""
  # By the listing alone: the emulator refuses such a name, though Google's and Amazon's stores accept it.
  name = f"gs://b/sets/c4/../../../../../../../../..{tmp_path}/victim.json"
  monkeypatch.setattr(storage, "match", lambda pattern: [(name, 2)])
  monkeypatch.setattr(storage, "read_bytes", lambda path: b"{}")
  with pytest.raises(WinnowError, match="leads out of gs://b/sets"):
    tfds_reader.tfds_shards("tfds:c4", data_dir="gs://b/sets")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("spec", "said"),
  [
    ("tfds:winnow_test_corpus/en:9.9.9", "is not in .* prepare it with `tfds build"),
    ("tfds:winnow_test_corpus/de:1.2.0", "is not in .* prepare it with `tfds build"),
    ("tfds:c4/en:3.1.0", "is not in .* prepare it with `tfds build c4/en:3.1.0`"),
    ("tfds:huggingface:c4", "is not in .* prepare it with `tfds build"),
    ("tfds:", "cannot read the dataset .* write tfds:NAME/CONFIG:VERSION#SPLIT"),
    ("tfds:winnow_test_corpus/en:1.2.0#test", "has no split test, but train, validation: name one of them, tfds:"),
    ("tfds:winnow_test_corpus/en:1.2.0#train[:5]", r"has no split train\[:5\]"),
  ],
)
def test_a_dataset_that_is_not_prepared_is_not_prepared_here_either(prepared, spec, said):
  """Kills: `tfds.load`, or any other way that fetches what is missing."""
  _, folder = prepared
  before = sorted(folder.rglob("*"))
  with pytest.raises(WinnowError, match=said) as raised:
    tfds_reader.tfds_shards(spec, data_dir=str(folder))
  assert "\n" not in str(raised.value)
  assert sorted(folder.rglob("*")) == before


def test_a_missing_file_of_a_dataset_is_named(prepared, tmp_path):
  _, folder = prepared
  for path in folder.rglob("*.*"):
    if path.is_file() and "00002-of" not in path.name:
      copy = tmp_path / path.relative_to(folder)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())
  with pytest.raises(WinnowError, match=r"00002-of-00004.* is missing"):
    tfds_reader.tfds_shards("tfds:winnow_test_corpus/en:1.2.0", data_dir=str(tmp_path))


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tfrecords_that_tensorflow_wrote(tmp_path, compression):
  path = tmp_path / ("a.tfrecord.gz" if compression else "a.tfrecord")
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for record in RECORDS:
      feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()])) for name, value in record.items()
      }
      writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
  blocks = read(put(path, path.read_bytes()))
  assert documents(blocks) == [{"row": row, **record} for row, record in enumerate(RECORDS)]
  assert bad(blocks) == []


def test_examples_are_parsed_as_tensorflow_parses_them():
  message = tf.train.Example()
  message.features.feature["bytes"].bytes_list.value.extend([b"", b"\xff", "é".encode()])
  message.features.feature["ints"].int64_list.value.extend([0, -1, 1 << 62])
  message.features.feature["floats"].float_list.value.extend([0.5, -1e30])
  message.features.feature["none"].SetInParent()
  features = parse_example(message.SerializeToString())
  assert {name: feature_values(feature) for name, feature in features.items()} == {
    "bytes": [b"", b"\xff", "é".encode()],
    "ints": [0, -1, 1 << 62],
    "floats": [0.5, pytest.approx(-1e30)],
    "none": [],
  }
  assert dict(parse_example(b"")) == {}
  with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
    parse_example(b"no example")


def test_a_sample_of_a_tfds_dataset_keeps_its_provenance(prepared, tmp_path):
  """Runs the command: `source` names the shard of TFDS and the row in it."""
  file_format, folder = prepared
  command = ["sample", "--sampler=random", "--rate=0.5", f"--output={tmp_path / 'half'}", "--direct_num_workers=1"]
  assert main.main([*command, "--input=tfds:winnow_test_corpus/en:1.2.0", f"--tfds_data_dir={folder}"]) == 0
  shards = {
    shard.name: shard for shard in tfds_reader.tfds_shards("tfds:winnow_test_corpus/en:1.2.0", data_dir=str(folder))
  }
  drawn = list(tfds.as_numpy(tfds.builder_from_directory(tmp_path / "half").as_dataset(split="train")))
  assert len(drawn) == 250
  assert all(file_format in example["source"].decode() for example in drawn)
  for example in drawn:
    name, row = example["source"].decode().split("#")
    assert documents(read(shards[name]))[int(row)]["text"] == example["text"].decode()
