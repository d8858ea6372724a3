"""The parts of T5X that our gin files use: its files by name, with their settings. T5X is on no package index."""

import pathlib

FILES = {
  "t5x/__init__.py": "",
  "t5x/utils.py": """
import dataclasses

@dataclasses.dataclass
class DatasetConfig:
  mixture_or_task_name: str
  task_feature_lengths: dict
  split: str
  batch_size: int
  use_cached: bool

@dataclasses.dataclass
class SaveCheckpointConfig:
  period: int
""",
  "t5x/examples/__init__.py": "",
  "t5x/examples/t5/__init__.py": "",
  "t5x/examples/t5/t5_1_0/__init__.py": "",
  "t5x/configs/__init__.py": "",
  "t5x/configs/runs/__init__.py": "",
  "t5x/configs/runs/pretrain.gin": """
from __gin__ import dynamic_registration
from t5x import utils

MIXTURE_OR_TASK_NAME = %gin.REQUIRED
TASK_FEATURE_LENGTHS = %gin.REQUIRED
TRAIN_STEPS = %gin.REQUIRED
MODEL_DIR = %gin.REQUIRED
BATCH_SIZE = 128
USE_CACHED_TASKS = True

train/utils.DatasetConfig:
  mixture_or_task_name = %MIXTURE_OR_TASK_NAME
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  split = 'train'
  batch_size = %BATCH_SIZE
  use_cached = %USE_CACHED_TASKS
train_eval/utils.DatasetConfig:
  mixture_or_task_name = %MIXTURE_OR_TASK_NAME
  task_feature_lengths = %TASK_FEATURE_LENGTHS
  split = 'validation'
  batch_size = %BATCH_SIZE
  use_cached = %USE_CACHED_TASKS
utils.SaveCheckpointConfig.period = 1000
""",
}
for size in ("small", "large"):
  FILES[f"t5x/examples/t5/t5_1_0/{size}.gin"] = f"""
from __gin__ import dynamic_registration
import seqio

SIZE = '{size}'
DROPOUT_RATE = %gin.REQUIRED
VOCABULARY = @seqio.SentencePieceVocabulary()
seqio.SentencePieceVocabulary.sentencepiece_model_file = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
"""


def write(folder: pathlib.Path) -> None:
  for name, content in FILES.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
