"""Ask-LLM: asks an instruction-tuned T5 whether a document is worth training on (paper, section 3.1 and Figure 3).

A document's score is log P("yes") at the first decoder step, given the prompt with the document in it. Shape suffixes
as in `curation.models.t5`; N documents of a block, B rows of a batch, L its bucket's length.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from curation.models import batching, engine, t5
from curation.models.checkpoints import Checkpoint
from curation.models.vocabulary import EOS_ID, Vocabulary

# Part of the fingerprint beside the engine's version: increment it with any change of the first step's bits. Before 2,
# the last rows of some batches had other bits than the others on CPUs without AVX-512.
_FIRST_STEP = 2

TEMPLATE = """###
{document}
###

Does the previous paragraph demarcated within ### and ### contain informative signal for pre-training a \
large-language model? An informative datapoint should be well-formatted, contain some usable knowledge of the world, \
and strictly NOT have any harmful, racist, sexist, etc. content.

OPTIONS:
- yes
- no
"""


@dataclasses.dataclass(frozen=True)
class Prompt:
  """The question: a template with one `{document}`, and the answer whose probability is the score.

  Raises WinnowError for a template without exactly one `{document}`, and for an empty answer.
  """

  template: str = TEMPLATE
  yes_token: str = "yes"

  def __post_init__(self):
    count = self.template.count("{document}")
    if count != 1:
      raise WinnowError(
        f"The prompt must hold {{document}} exactly once, where the text goes, but holds it {count} times."
      )
    if not self.yes_token.strip():
      raise WinnowError("--yes_token, the answer whose probability is the score, is empty: give a word, such as yes.")

  @property
  def prefix(self) -> str:
    """The template before the document."""
    return self.template.partition("{document}")[0]

  @property
  def suffix(self) -> str:
    """The template after the document."""
    return self.template.partition("{document}")[2]


class Scores(NamedTuple):
  """The results of one block, in its order of documents."""

  scores: np.ndarray
  """log P(yes): float32 [N]; NaN where the model gave NaN."""
  num_tokens: np.ndarray
  """Tokens of each whole text: int32 [N]."""
  useful_tokens: int
  """Tokens of all inputs, instruction and eos included."""
  computed_tokens: int
  """Tokens of all inputs, with padding and dummy rows."""
  batches: int


class AskLlmScorer:
  """Scores blocks of texts with an `engine.Engine`, whose rules on threads and devices apply.

  Raises WinnowError if the prompt does not suit the model's vocabulary or `max_input_tokens`.
  """

  def __init__(
    self,
    checkpoint: Checkpoint,
    prompt: Prompt | None = None,
    *,
    max_input_tokens: int = 512,
    batch_tokens: int | None = None,
    dtype: str | None = None,
    devices_per_model: int = 1,
  ):
    """Puts the checkpoint on the devices.

    `max_input_tokens` limits the whole prompt with its eos. `dtype` defaults to the checkpoint's. `batch_tokens` and
    `devices_per_model` are those of `engine.Engine`.
    """
    self.prompt = prompt or Prompt()
    self.max_input_tokens = max_input_tokens
    self._vocabulary = checkpoint.vocabulary
    self._yes_id, self._prefix, self._suffix = _question(self.prompt, self._vocabulary, max_input_tokens)
    self.config = dataclasses.replace(checkpoint.config, dtype=dtype or checkpoint.config.dtype)
    self.engine = engine.Engine(
      checkpoint.params,
      self.config,
      functools.partial(_log_probability, token_id=self._yes_id, config=self.config),
      buckets=functools.partial(batching.bucket_table, len(self._prefix) + len(self._suffix) + 2, max_input_tokens),
      batch_tokens=batch_tokens,
      devices_per_model=devices_per_model,
    )

  def prepare(self, texts: pa.Array) -> engine.PreparedTexts:
    """Tokenises a block (Arrow strings [N], no nulls), truncates documents that are too long, and plans the batches."""
    if texts.null_count:
      raise ValueError("texts must not be null")
    inputs, num_tokens_N = self._tokenise(texts.to_pylist())
    return engine.PreparedTexts(self.engine.prepare(inputs), num_tokens_N)

  def run(self, prepared: engine.PreparedTexts, on_batch: engine.OnBatch | None = None) -> Scores:
    """Scores a prepared block; `on_batch` is that of `engine.Engine.run`."""
    scores_N = self.engine.run(prepared.batches, on_batch)
    return Scores(scores_N, prepared.num_tokens_N, *prepared.batches.padding(), batches=len(prepared.batches.plan))

  def warm_up(self) -> None:
    """Compiles and tries every shape: see `engine.Engine.warm_up`."""
    self.engine.warm_up()

  def describe(self) -> dict[str, Any]:
    """Returns what decides a score besides weights and vocabulary, for a fingerprint; JSON types only."""
    return {
      **self.engine.describe(),
      **self._vocabulary.describe(),
      "first_step": _FIRST_STEP,
      "prompt": self.prompt.template,
      "yes_token": self.prompt.yes_token,
      "max_input_tokens": self.max_input_tokens,
    }

  def _tokenise(self, texts: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the model's inputs, at most `max_input_tokens` long, and the tokens of every whole text: int32 [N].

    A prompt that fits is tokenised as one string, as any reader of the whole prompt would do. For a prompt that does
    not fit, the parts are tokenised separately and the END of the document is truncated. A text of more than twice the
    limit is not tried as one string.
    """
    documents = self._vocabulary.encode(texts)
    num_tokens_N = documents.lengths()
    candidates = np.flatnonzero(num_tokens_N <= 2 * self.max_input_tokens)
    joined = self._vocabulary.encode([self.prompt.prefix + texts[i] + self.prompt.suffix for i in candidates])
    inputs = [self._prompt_ids(documents[i]) for i in range(len(texts))]
    for position, i in enumerate(candidates):
      full = joined[position]
      if len(full) < self.max_input_tokens:
        inputs[i] = np.append(full, np.int32(EOS_ID))
    return inputs, num_tokens_N.astype(np.int32)

  def _prompt_ids(self, document: np.ndarray) -> np.ndarray:
    """Returns the ids of the prompt around as much of the document as fits."""
    room = self.max_input_tokens - 1 - len(self._prefix) - len(self._suffix)
    return np.concatenate([self._prefix, document[:room], self._suffix, [EOS_ID]], dtype=np.int32)


def check_request(
  prompt: Prompt,
  config: t5.T5Config,
  vocabulary: Vocabulary,
  *,
  max_input_tokens: int,
  batch_tokens: int | None = None,
  devices_per_model: int = 1,
) -> None:
  """Raises the WinnowError that an AskLlmScorer would raise for these arguments, without a model or a device."""
  t5.check_division(config, devices_per_model)
  _, prefix, suffix = _question(prompt, vocabulary, max_input_tokens)
  tokens = engine.BATCH_TOKENS_CPU if batch_tokens is None else batch_tokens
  batching.bucket_table(len(prefix) + len(suffix) + 2, max_input_tokens, tokens)


def work(
  prompt: Prompt,
  config: t5.T5Config,
  vocabulary: Vocabulary,
  texts: list[str],
  *,
  max_input_tokens: int,
  batch_tokens: int,
) -> engine.Work:
  """Returns the work of scoring N texts, without a model.

  Lengths may be off by the piece that tokenising a prompt as one string saves.
  """
  _, prefix, suffix = _question(prompt, vocabulary, max_input_tokens)
  around = len(prefix) + len(suffix) + 1
  num_tokens_N = vocabulary.encode(texts).lengths()
  lengths_N = np.minimum(num_tokens_N + around, max_input_tokens)
  table = batching.bucket_table(around + 1, max_input_tokens, batch_tokens)
  return engine.Work(num_tokens_N, lengths_N, t5.useful_flops(config, lengths_N), table)


def _question(prompt: Prompt, vocabulary: Vocabulary, max_input_tokens: int) -> tuple[int, np.ndarray, np.ndarray]:
  """Returns the answer's id, and the ids before and after the document.

  Raises WinnowError if these leave no room for a document.
  """
  yes_id = vocabulary.answer_id(prompt.yes_token)
  affixes = vocabulary.encode([prompt.prefix, prompt.suffix])
  instruction = len(affixes.ids) + 1
  if max_input_tokens <= instruction:
    raise WinnowError(
      f"The instruction alone takes {instruction} tokens, so --max_input_tokens must be at least {instruction + 1}, "
      f"not {max_input_tokens}."
    )
  return yes_id, affixes[0], affixes[1]


@functools.partial(jax.jit, static_argnames="config")
def _log_probability(
  params: t5.Params, ids_BL: jax.Array, lengths_B: jax.Array, token_id: int, config: t5.T5Config
) -> jax.Array:
  """Computes log P(token) at the first decoder step, over the whole vocabulary: float32 [B]."""
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < lengths_B[:, None]
  states_BLD = t5.encode(params, ids_BL, mask_BL, config)
  logits_BV = t5.first_step_logits(params, states_BLD, mask_BL, config)
  return logits_BV[:, token_id] - jax.nn.logsumexp(logits_BV, axis=-1)
