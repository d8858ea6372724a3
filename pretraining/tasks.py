"""seqio tasks of T5's span corruption: for an output of Winnow, for C4, and for the paper's validation sets.

A task may be registered again, since gin registers it for every setting that names it.
"""

import functools

import seqio
import tensorflow as tf
from t5 import data
from t5.data import preprocessors

from curation.errors import WinnowError
from pipelines.output import tfds_metadata
from pretraining import samples

C4_VERSION = "3.1.0"
HQ_VALIDATION = "winnow_hq_validation"
VALIDATION = "winnow_validation"
_VALIDATION_SPLIT = "validation"


def register_sample(output: str, name: str | None = None, vocabulary: seqio.Vocabulary | None = None) -> str:
  """Registers a complete output of Winnow, a local or gs:// folder, as the task `winnow_<name>`; returns that name.

  `name` defaults to the dataset's own. `vocabulary`, which must be the model's, defaults to T5's. The only split is
  `train`. Raises WinnowError if the output cannot be trained on, or if another task has the name.
  """
  sample = samples.read(output)
  source = seqio.TFExampleDataSource(
    {tfds_metadata.SPLIT: sample.pattern},
    {"text": tf.io.FixedLenFeature([], tf.string)},
    num_input_examples={tfds_metadata.SPLIT: sample.documents},
  )
  return _register(f"winnow_{name or sample.name}", source, vocabulary)


def register_c4(c4_version: str = C4_VERSION, vocabulary: seqio.Vocabulary | None = None) -> str:
  """Registers all of C4 as TFDS has it, train and validation, as the task `winnow_c4_en`; returns that name."""
  splits = {split: split for split in (tfds_metadata.SPLIT, _VALIDATION_SPLIT)}
  return _register("winnow_c4_en", seqio.TfdsDataSource(f"c4/en:{c4_version}", splits=splits), vocabulary)


def register_validation(c4_version: str = C4_VERSION, vocabulary: seqio.Vocabulary | None = None) -> str:
  """Registers the paper's validation sets; returns `winnow_validation`, the mixture of all five tasks.

  C.1 is the validation split of `winnow_c4_en`. The four sets of C.2, as TFDS has them, form the mixture
  `winnow_hq_validation`, which draws equally from each. T5X evaluates a mixture's tasks one by one, whereas `winnow
  evaluate` computes the HQ perplexity over all their tokens.
  """
  # LM1B has no split named validation; its test split is the held-out one.
  hq = [
    _register("winnow_wiki40b_en", _held_out("wiki40b/en:1.3.0"), vocabulary),
    _register("winnow_c4_realnewslike", _held_out(f"c4/realnewslike:{c4_version}"), vocabulary),
    _register("winnow_c4_webtextlike", _held_out(f"c4/webtextlike:{c4_version}"), vocabulary),
    _register("winnow_lm1b_news", _held_out("lm1b:1.1.0", "test"), vocabulary),
  ]
  for mixture, tasks in ((HQ_VALIDATION, hq), (VALIDATION, [register_c4(c4_version, vocabulary), *hq])):
    if mixture not in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.add(mixture, tasks, default_rate=1.0)
  return VALIDATION


def _held_out(tfds_name: str, split: str = _VALIDATION_SPLIT) -> seqio.TfdsDataSource:
  """Returns a TFDS split as the validation split."""
  return seqio.TfdsDataSource(tfds_name, splits={_VALIDATION_SPLIT: split})


def _register(name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary | None) -> str:
  """Registers a task with the preprocessors of t5's c4_v220_span_corruption."""
  vocabulary = vocabulary or data.get_default_vocabulary()
  if name in seqio.TaskRegistry.names():
    known = seqio.TaskRegistry.get(name)
    if repr(known.source) != repr(source) or known.output_features["targets"].vocabulary != vocabulary:
      raise WinnowError(
        f"the task {name} is registered already, with another vocabulary or over {known.source}; give it another name"
      )
    return name
  seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[
      functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      preprocessors.span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
      "inputs": seqio.Feature(vocabulary, add_eos=True, required=False),
      "targets": seqio.Feature(vocabulary, add_eos=True),
    },
    metric_fns=[],
  )
  return name
