"""T5 in JAX: arithmetic, batching, vocabulary, checkpoints and training steps."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.models.checkpoint_writer import write_checkpoint as write_checkpoint
  from curation.models.checkpoint_writer import write_sentence_t5 as write_sentence_t5
  from curation.models.checkpoints import Checkpoint as Checkpoint
  from curation.models.checkpoints import load_checkpoint as load_checkpoint
  from curation.models.engine import Engine as Engine
  from curation.models.t5 import T5Config as T5Config
  from curation.models.vocabulary import Tokens as Tokens
  from curation.models.vocabulary import Vocabulary as Vocabulary
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "checkpoint_writer.write_checkpoint",
      "checkpoint_writer.write_sentence_t5",
      "checkpoints.Checkpoint",
      "checkpoints.load_checkpoint",
      "engine.Engine",
      "t5.T5Config",
      "vocabulary.Tokens",
      "vocabulary.Vocabulary",
    ),
  )
