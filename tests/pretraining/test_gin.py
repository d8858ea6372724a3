"""The gin files, read as T5X reads them, together with what they use of T5X."""

import importlib
import sys

import numpy as np
import pytest
import t5x_stand_in

from pretraining import plan


@pytest.fixture(scope="module", autouse=True)
def t5x(tmp_path_factory):
  """Puts T5X where Python finds it."""
  folder = tmp_path_factory.mktemp("t5x")
  t5x_stand_in.write(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    yield
  for name in [name for name in sys.modules if name.partition(".")[0] == "t5x"]:
    del sys.modules[name]


@pytest.fixture
def configure(place):
  """Parses gin files of ours with settings of a command line, as T5X does, until the test is over."""
  import gin

  vocabulary = "seqio.SentencePieceVocabulary"
  own = [f"{vocabulary}.sentencepiece_model_file = '{place}/model/spiece.model'", f"{vocabulary}.extra_ids = 100"]

  def parse(*names: str, settings: list[str]) -> None:
    gin.parse_config_files_and_bindings([f"{plan.GIN_FOLDER / name}.gin" for name in names], [*own, *settings])

  yield parse
  gin.clear_config()


def dataset_config(scope: str):
  """Returns the value of T5X's `@train/utils.DatasetConfig()`."""
  import gin

  with gin.config_scope(scope):
    return gin.get_configurable("t5x.utils.DatasetConfig")()


@pytest.mark.parametrize("model", plan.MODELS)
def test_a_run_is_the_papers(configure, output, model):
  """Section 4.1. Kills: T5X's own batch, cached tasks that nobody has cached, targets too short for 512 inputs."""
  import gin
  from t5.data import preprocessors

  configure(model, settings=[f"SAMPLE = '{output}'", "MODEL_DIR = '/run'"])
  assert gin.query_parameter("SIZE/macro.value") == model.removeprefix("t5_")
  train = dataset_config("train")
  assert (train.mixture_or_task_name, train.split) == ("winnow_half_50", "train")
  assert (train.batch_size, train.use_cached) == (plan.BATCH_SIZE, False) == (1024, False)
  assert gin.query_parameter("TRAIN_STEPS/macro.value") == plan.STEPS == 1_000_000
  assert gin.query_parameter("DROPOUT_RATE/macro.value") == 0.1
  period = gin.get_configurable("t5x.utils.SaveCheckpointConfig")().period
  assert not [step for step in (20_000, 100_000, 300_000, 500_000, 700_000) if step % period]  # B.5
  made_of, targets = preprocessors.random_spans_helper(
    inputs_length=train.task_feature_lengths["inputs"],
    noise_density=0.15,
    mean_noise_span_length=3.0,
    extra_tokens_per_span_inputs=1,
    extra_tokens_per_span_targets=1,
  )
  assert train.task_feature_lengths == {"inputs": plan.SEQUENCE_LENGTH, "targets": targets}
  assert made_of == plan.TEXT_TOKENS


def test_what_gin_registers_is_trained_on_with_the_models_vocabulary(configure, output, vocabulary):
  """The tasks that T5X looks up after gin has made its settings. Kills: T5's vocabulary in the task alone."""
  import seqio

  configure("t5_small", settings=[f"SAMPLE = '{output}'", "MODEL_DIR = '/run'", "USE_CACHED_TASKS = True"])
  train, evaluation = dataset_config("train"), dataset_config("train_eval")
  assert (evaluation.mixture_or_task_name, evaluation.split) == ("winnow_validation", "validation")
  assert (train.use_cached, evaluation.use_cached) == (True, False)
  validation = seqio.get_mixture_or_task(evaluation.mixture_or_task_name).tasks
  for task in (seqio.TaskRegistry.get(train.mixture_or_task_name), *validation):
    assert [feature.vocabulary for feature in task.output_features.values()] == [vocabulary] * 2
  examples = seqio.get_dataset(
    train.mixture_or_task_name,
    train.task_feature_lengths,
    dataset_split=train.split,
    shuffle=True,
    use_cached=False,
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
    shard_info=seqio.ShardInfo(1, 2),
  )
  lengths = []
  for example in examples.as_numpy_iterator():
    assert example["encoder_input_tokens"].shape == (512,) and example["decoder_target_tokens"].shape == (114,)
    lengths.append(np.count_nonzero(example["encoder_input_tokens"]))
  # What is left of each 128 concatenated documents is shorter, and comes anywhere for they are shuffled.
  assert max(lengths) == 512 and np.mean(np.equal(lengths, 512)) > 0.5


def model_vocabulary():
  """Returns the model's vocabulary for T5X, the macro VOCABULARY of its gin files."""
  import gin

  return gin.get_configurable("seqio.SentencePieceVocabulary")()


def test_model_sample_and_t5s_own_tasks_have_one_vocabulary(output):
  """seqio's equality counts, since T5X refuses a task with another vocabulary.

  Kills: the one of T5X's gin files for the model.
  """
  import gin
  import seqio

  from pretraining import tasks

  importlib.import_module("t5.data.tasks")  # registers GLUE's tasks
  try:
    gin.parse_config_files_and_bindings(
      ["pretraining/gin/t5_small.gin"], [f"SAMPLE = '{output}'", "MODEL_DIR = '/run'"]
    )
    model = model_vocabulary()
    trained = [dataset_config("train").mixture_or_task_name, tasks.register_sample(str(output), name="by_hand")]
  finally:
    gin.clear_config()
  for task in [*trained, "glue_cola_v002", "c4_v220_span_corruption"]:
    for feature in seqio.TaskRegistry.get(task).output_features.values():
      assert feature.vocabulary == model


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_model_of_t5xs_gin_files_is_fine_tuned_with_t5s_tasks(is_bound):
  """One more gin file is needed, as docs/pretraining.md says. Without it T5X reports that vocabularies differ."""
  import gin
  import seqio

  importlib.import_module("t5.data.tasks")
  ours = ["pretraining/gin/vocabulary.gin"] if is_bound else []
  try:
    gin.parse_config_files_and_bindings(["t5x/examples/t5/t5_1_0/small.gin", *ours], ["DROPOUT_RATE = 0.1"])
    model = model_vocabulary()
  finally:
    gin.clear_config()
  task = seqio.TaskRegistry.get("glue_cola_v002")
  assert (task.output_features["targets"].vocabulary == model) == is_bound


def test_whole_c4_takes_the_place_of_a_sample(configure, vocabulary):
  import seqio

  configure("t5_large", "c4", settings=["MODEL_DIR = '/run'", "C4_VERSION = '3.0.1'"])
  assert dataset_config("train").mixture_or_task_name == "winnow_c4_en"
  assert dataset_config("train_eval").mixture_or_task_name == "winnow_validation"
  assert seqio.TaskRegistry.get("winnow_c4_en").source.tfds_dataset.name == "c4/en:3.0.1"
  assert seqio.TaskRegistry.get("winnow_c4_en").output_features["inputs"].vocabulary == vocabulary


def test_a_run_without_a_sample_is_refused(configure):
  with pytest.raises(ValueError, match="SAMPLE"):
    configure("t5_small", settings=["MODEL_DIR = '/run'"])
