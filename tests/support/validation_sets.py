"""Tiny datasets under the TFDS names of the paper's validation sets."""

import pathlib

# The full TFDS name, the split that is held out, and a word that no other set has.
SETS = {
  "winnow_c4_en": ("c4/en/3.1.0", "validation", "river"),
  "winnow_wiki40b_en": ("wiki40b/en/1.3.0", "validation", "stone"),
  "winnow_c4_realnewslike": ("c4/realnewslike/3.1.0", "validation", "house"),
  "winnow_c4_webtextlike": ("c4/webtextlike/3.1.0", "validation", "seven"),
  "winnow_lm1b_news": ("lm1b/1.1.0", "test", "light"),
}
NOT_HELD_OUT = "garden"
TEXTS = 40
_WIKI40B = "\n_START_ARTICLE_\n{0}\n_START_SECTION_\n{0}\n_START_PARAGRAPH_\n{0}_NEWLINE_{0}"


def write(folder: pathlib.Path) -> None:
  """Writes every set in two shards a split, with a train split beside the one that is held out."""
  import tensorflow_datasets as tfds

  for task, (path, split, word) in SETS.items():
    name, *config, version = path.split("/")
    (folder / path).mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
      name=name,
      version=tfds.core.Version(version),
      config_name=config[0] if config else None,
      data_dir=str(folder / path),
      module_name="",
    )
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=TEXTS // 2, overwrite=True, file_format="tfrecord")
    writer.initialize_splits([split, "train"])
    writer.add_examples(
      {
        split: [{"text": text_of(task, word)}] * TEXTS,
        "train": [{"text": text_of(task, NOT_HELD_OUT)}] * TEXTS,
      }
    )
    writer.close_all()


def text_of(task: str, word: str) -> str:
  words = " ".join([word] * 25)
  return _WIKI40B.format(words) if "wiki40b" in task else " ".join([words] * 4)
