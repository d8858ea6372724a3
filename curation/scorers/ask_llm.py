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
  """The question: a template with one `{document}`, and the answer whose probability is the score."""

  template: str = TEMPLATE
  yes_token: str = "yes"

  def __post_init__(self):
    found = self.template.count("{document}")
    if found != 1:
      raise WinnowError(
        f"The prompt must hold {{document}} exactly once, where the text goes, but holds it {found} times."
      )
    if not self.yes_token.strip():
      raise WinnowError("The answer whose probability is asked for (--yes_token) is empty: give a word, such as yes.")

  @property
  def prefix(self) -> str:
    return self.template.partition("{document}")[0]

  @property
  def suffix(self) -> str:
    return self.template.partition("{document}")[2]


class Scores(NamedTuple):
  """What one block gave, in its own order."""

  scores: np.ndarray
  """log P(yes): float32 [N]; NaN where the model gave NaN."""
  num_tokens: np.ndarray
  """Tokens of the whole text: int32 [N]."""
  useful_tokens: int
  """Tokens of all inputs (instruction and eos included)."""
  computed_tokens: int
  """The same with padding and dummy rows."""
  batches: int


class AskLlmScorer:
  """Scores blocks of texts with an `engine.Engine`, whose threads and devices it uses.

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
    """`max_input_tokens` counts the whole prompt with its eos; `dtype` is the checkpoint's unless given.

    `batch_tokens` and `devices_per_model` as for `engine.Engine`.
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
    """Tokenises a block (Arrow strings [N], no nulls), cuts documents that are too long, and plans the batches."""
    if texts.null_count:
      raise ValueError("texts hold nulls")
    inputs, num_tokens_N = self._tokenise(texts.to_pylist())
    return engine.PreparedTexts(self.engine.prepare(inputs), num_tokens_N)

  def run(self, prepared: engine.PreparedTexts, on_batch: engine.OnBatch | None = None) -> Scores:
    """Computes a prepared block; `on_batch` as for `engine.Engine.run`."""
    scores_N = self.engine.run(prepared.batches, on_batch)
    return Scores(scores_N, prepared.num_tokens_N, *prepared.batches.padding(), batches=len(prepared.batches.plan))

  def warm_up(self) -> None:
    """As `engine.Engine.warm_up`."""
    self.engine.warm_up()

  def describe(self) -> dict[str, Any]:
    """Everything beside weights and vocabulary that decides a score, for a fingerprint; JSON types only."""
    return {
      **self.engine.describe(),
      **self._vocabulary.describe(),
      "prompt": self.prompt.template,
      "yes_token": self.prompt.yes_token,
      "max_input_tokens": self.max_input_tokens,
    }

  def _tokenise(self, texts: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """The models' inputs, cut to `max_input_tokens`, and the number of tokens of every whole text: int32 [N].

    The prompt is tokenised joined where it fits, as any reader of the whole prompt would; where it does not, its parts
    are tokenised apart and the END of the document is cut. A text of over twice the limit need not be tried.
    """
    documents = self._vocabulary.encode(texts)
    num_tokens_N = documents.lengths()
    maybe = np.flatnonzero(num_tokens_N <= 2 * self.max_input_tokens)
    joined = self._vocabulary.encode([self.prompt.prefix + texts[i] + self.prompt.suffix for i in maybe])
    inputs = [self._prompt_ids(documents.of(i)) for i in range(len(texts))]
    for place, i in enumerate(maybe):
      full = joined.of(place)
      if len(full) < self.max_input_tokens:
        inputs[i] = np.append(full, np.int32(EOS_ID))
    return inputs, num_tokens_N.astype(np.int32)

  def _prompt_ids(self, document: np.ndarray) -> np.ndarray:
    """The prompt around as much of the document as there is room for."""
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
  """Raises what an AskLlmScorer would for these arguments, without a model or a device."""
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
  """What scoring N texts would take, without a model: lengths to within the piece that joining a prompt may save."""
  _, prefix, suffix = _question(prompt, vocabulary, max_input_tokens)
  around = len(prefix) + len(suffix) + 1
  num_tokens_N = vocabulary.encode(texts).lengths()
  lengths_N = np.minimum(num_tokens_N + around, max_input_tokens)
  table = batching.bucket_table(around + 1, max_input_tokens, batch_tokens)
  return engine.Work(num_tokens_N, lengths_N, t5.useful_flops(config, lengths_N), table)


def _question(prompt: Prompt, vocabulary: Vocabulary, max_input_tokens: int) -> tuple[int, np.ndarray, np.ndarray]:
  """The answer's id, and the ids before and behind the document; WinnowError where no document would fit between."""
  yes_id = vocabulary.answer_id(prompt.yes_token)
  affixes = vocabulary.encode([prompt.prefix, prompt.suffix])
  instruction = len(affixes.ids) + 1
  if max_input_tokens <= instruction:
    raise WinnowError(
      f"The instruction alone takes {instruction} tokens, so --max_input_tokens must be at least {instruction + 1}, "
      f"not {max_input_tokens}."
    )
  return yes_id, affixes.of(0), affixes.of(1)


@functools.partial(jax.jit, static_argnames="config")
def _log_probability(
  params: t5.Params, ids_BL: jax.Array, lengths_B: jax.Array, token_id: int, config: t5.T5Config
) -> jax.Array:
  """log P(token) at the first decoder step, over the whole vocabulary: float32 [B]."""
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < lengths_B[:, None]
  states_BLD = t5.encode(params, ids_BL, mask_BL, config)
  logits_BV = t5.first_step_logits(params, states_BLD, mask_BL, config)
  return logits_BV[:, token_id] - jax.nn.logsumexp(logits_BV, axis=-1)
