"""A dataset that tests prepare by TFDS, in a file of its own because TFDS looks for the module of its class."""

import tensorflow_datasets as tfds

RECORDS = [
  {"text": f"text {row} é語😀", "url": f"https://x.org/{row}", "timestamp": f"2019-{row}"} for row in range(500)
]


class WinnowTestCorpus(tfds.core.GeneratorBasedBuilder):
  """A small corpus with two splits."""

  VERSION = tfds.core.Version("1.2.0")
  BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="en"),)

  def _info(self):
    fields = {name: tfds.features.Text() for name in ("text", "url", "timestamp")}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(RECORDS), "validation": self._generate_examples(RECORDS[:40])}

  def _generate_examples(self, records):
    yield from enumerate(records)
