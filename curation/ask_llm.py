"""Ask-LLM: asks an instruction-tuned T5 whether a document is worth training on (paper, section 3.1 and Figure 3).

A document's score is log P("yes") at the first decoder step, given the prompt with the document in it. Shape suffixes
as in `curation.t5`; N documents of a block, B rows of a batch, L its bucket's length.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from curation import batching, t5
from curation.checkpoints import Checkpoint
from curation.errors import WinnowError
from curation.vocabulary import EOS_ID, Vocabulary, usable_cores

# Part of every fingerprint: raise it with any change that may change a score's bits.
ENGINE_VERSION = 1

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

# On the CPU, with a batch on every core, 1,024 tokens a batch are as fast as 2,048 (T5-base: 0.88-0.94 of sgemm against
# 0.90-0.92), and the half-empty last batches of 16 buckets cost half as much.
_BATCH_TOKENS_CPU = 1_024
_BATCH_TOKENS_ACCELERATOR = 8_192
# Batches under way on every accelerator: one computes, the others' inputs and results travel.
_IN_FLIGHT_ACCELERATOR = 3


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


class Prepared(NamedTuple):
  """A block ready for the devices; host memory only."""

  plan: list[batching.Batch]
  ids: list[np.ndarray]
  """One int32 [B, L] for every batch of the plan, padded with 0."""
  input_lengths_N: np.ndarray
  """Tokens of every document's input, instruction and eos included: int32 [N]."""
  num_tokens_N: np.ndarray
  """Tokens of every document's whole text, without eos and before any cut: int32 [N]."""


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
  """Scores blocks of texts on all local devices, with parameters held once on each.

  `prepare` needs only the host and may run in other threads while `run` computes; both may be called from several
  threads. Raises WinnowError if the prompt does not suit the model's vocabulary or `max_input_tokens`.
  """

  def __init__(
    self,
    checkpoint: Checkpoint,
    prompt: Prompt | None = None,
    *,
    max_input_tokens: int = 512,
    batch_tokens: int | None = None,
    dtype: str | None = None,
  ):
    """`max_input_tokens` counts the whole prompt with its eos; `dtype` is the checkpoint's unless given."""
    self.prompt = prompt or Prompt()
    self.max_input_tokens = max_input_tokens
    self._vocabulary = checkpoint.vocabulary
    self._yes_id, self._prefix, self._suffix = _question(self.prompt, self._vocabulary, max_input_tokens)
    self._devices = jax.local_devices()
    on_cpu = self._devices[0].platform == "cpu"
    # XLA gives one batch all cores, but what it does between the products leaves most of them idle.
    self._in_flight = usable_cores() if on_cpu else _IN_FLIGHT_ACCELERATOR * len(self._devices)
    if batch_tokens is None:
      batch_tokens = _BATCH_TOKENS_CPU if on_cpu else _BATCH_TOKENS_ACCELERATOR
    self.table = batching.bucket_table(len(self._prefix) + len(self._suffix) + 2, max_input_tokens, batch_tokens)
    self.config = dataclasses.replace(checkpoint.config, dtype=dtype or checkpoint.config.dtype)
    params = t5.cast(checkpoint.params, self.config.dtype)
    with _out_of_memory("The model does not fit into the memory of one device: take a smaller one."):
      self._params = [jax.block_until_ready(jax.device_put(params, device)) for device in self._devices]

  def prepare(self, texts: pa.Array) -> Prepared:
    """Tokenises a block (Arrow strings [N], no nulls), cuts documents that are too long, and plans the batches."""
    if texts.null_count:
      raise ValueError("texts hold nulls")
    inputs, num_tokens_N = self._tokenise(texts.to_pylist())
    input_lengths_N = np.fromiter(map(len, inputs), np.int32, len(inputs))
    plan = batching.plan(input_lengths_N, self.table)
    ids = []
    for batch in plan:
      ids_BL = np.zeros((batch.rows, batch.length), np.int32)
      for row, i in enumerate(batch.indices):
        ids_BL[row, : len(inputs[i])] = inputs[i]
      ids.append(ids_BL)
    return Prepared(plan, ids, input_lengths_N, num_tokens_N)

  def run(self, prepared: Prepared) -> Scores:
    """Computes a prepared block; every device gets every n-th batch, several batches at a time."""
    lengths = [prepared.input_lengths_N[batch.indices] for batch in prepared.plan]
    results = self._compute(prepared.ids, lengths)
    scores_N = np.full(len(prepared.num_tokens_N), np.nan, np.float32)
    for batch, result_B in zip(prepared.plan, results, strict=True):
      scores_N[batch.indices] = result_B[: len(batch.indices)]
    padding = batching.padding(prepared.input_lengths_N, prepared.plan)
    return Scores(scores_N, prepared.num_tokens_N, *padding, batches=len(prepared.plan))

  def warm_up(self) -> None:
    """Compiles every shape for every device and runs it, longest first, so that lack of memory shows here.

    The longest runs as often at once as `run` would have it. Raises WinnowError that names the flag to turn.
    """
    for length, rows in reversed(list(zip(self.table.lengths, self.table.rows, strict=True))):
      with _out_of_memory(
        f"Batches of {rows:,} x {length:,} tokens do not fit into memory: lower --batch_tokens (now about "
        f"{rows * length:,}) or take a smaller model."
      ):
        dummy = np.zeros((rows, length), np.int32), np.full(1, length)
        for i in range(len(self._devices)):
          self._compute_batch(i, *dummy)
        if length == self.table.lengths[-1]:
          self._compute(*([part] * self._in_flight for part in dummy))

  def describe(self) -> dict[str, Any]:
    """Everything beside weights and vocabulary that decides a score, for a fingerprint; JSON types only."""
    return {
      **engine(),
      "prompt": self.prompt.template,
      "yes_token": self.prompt.yes_token,
      "max_input_tokens": self.max_input_tokens,
      "dtype": self.config.dtype,
      "buckets": self.table.to_json(),
      "device_kind": self._devices[0].device_kind,
    }

  def _compute(self, ids: Sequence[np.ndarray], lengths: Sequence[np.ndarray]) -> list[np.ndarray]:
    """log P(yes) of many batches, given as for `_compute_batch`, `_in_flight` of them at a time."""
    with concurrent.futures.ThreadPoolExecutor(self._in_flight, "winnow-batch") as pool:
      return list(pool.map(self._compute_batch, range(len(ids)), ids, lengths))

  def _compute_batch(self, i: int, ids_BL: np.ndarray, lengths_n: np.ndarray) -> np.ndarray:
    """log P(yes) of batch i, on its device: float32 [B]; rows beyond the lengths given are dummies of one token."""
    device = i % len(self._devices)
    lengths_B = np.ones(len(ids_BL), np.int32)
    lengths_B[: len(lengths_n)] = lengths_n
    inputs = jax.device_put((ids_BL, lengths_B), self._devices[device])
    return jax.device_get(_log_probability(self._params[device], *inputs, self._yes_id, self.config))

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


def engine() -> dict[str, Any]:
  """What of `describe` is known without a model or a device."""
  return {"engine_version": ENGINE_VERSION, "jax": jax.__version__}  # JAX's compiler decides the last bits


def check_request(
  prompt: Prompt, vocabulary: Vocabulary, *, max_input_tokens: int, batch_tokens: int | None = None
) -> None:
  """Raises what an AskLlmScorer would for these arguments, without a model or a device."""
  _, prefix, suffix = _question(prompt, vocabulary, max_input_tokens)
  tokens = _BATCH_TOKENS_CPU if batch_tokens is None else batch_tokens
  batching.bucket_table(len(prefix) + len(suffix) + 2, max_input_tokens, tokens)


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


def enable_compilation_cache(folder: str | Path) -> None:
  """Keeps compiled programs in `folder` (local or gs://), so that the next process need not compile them again.

  Holds for the whole process; call it before the first program is compiled.
  """
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # By default only what took a second or more is kept; a worker of small models compiles 16 that take half of that.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@functools.partial(jax.jit, static_argnames="config")
def _log_probability(
  params: t5.Params, ids_BL: jax.Array, lengths_B: jax.Array, token_id: int, config: t5.T5Config
) -> jax.Array:
  """log P(token) at the first decoder step, over the whole vocabulary: float32 [B]."""
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < lengths_B[:, None]
  states_BLD = t5.encode(params, ids_BL, mask_BL, config)
  logits_BV = t5.first_step_logits(params, states_BLD, mask_BL, config)
  return logits_BV[:, token_id] - jax.nn.logsumexp(logits_BV, axis=-1)


@contextlib.contextmanager
def _out_of_memory(message: str) -> Iterator[None]:
  """Turns a device's or the host's lack of memory into a WinnowError with this message."""
  try:
    yield
  except MemoryError as error:
    raise WinnowError(message) from error
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
      raise
    raise WinnowError(message) from error
