"""Perplexity: scores a document by how well a T5 predicts it under its pre-training objective (paper, section B.5).

A document's score is minus the mean negative log-likelihood of its target tokens, so a higher score means a lower
perplexity. `curation.scorers.span_corruption` turns documents into pairs of input and target. A long document is cut
into windows and nothing of it is left out: the sum over its windows is divided by the tokens of all of them. Shape
suffixes as in `curation.models.t5`; N documents of a block, W windows, B rows of a batch, L and T its bucket's lengths.
"""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from curation.errors import WinnowError
from curation.models import batching, engine, t5
from curation.models.checkpoints import Checkpoint
from curation.models.vocabulary import Vocabulary
from curation.scorers import span_corruption

# Making pairs takes some 100 bytes for each token of this many windows.
_WINDOWS_AT_ONCE = 1_024
# For prefix LM: the number of buckets for the longest windows, whose inputs and targets have one total length, and the
# longest of the other windows as a share of that length.
_LONGEST_BUCKETS, _SHORT_SHARE = 11, 0.4


class PreparedDocuments(NamedTuple):
  """A block ready for the devices; host memory only."""

  batches: engine.Prepared
  document_W: np.ndarray
  """The document that each pair belongs to: int64 [W]."""
  num_tokens_N: np.ndarray
  """Tokens of every whole text: int32 [N]."""


class Scores(NamedTuple):
  """The results of one block, in its order of documents."""

  scores: np.ndarray
  """-(mean negative log-likelihood per target token): float32 [N]; NaN where the model gave NaN."""
  num_tokens: np.ndarray
  """Tokens of each whole text: int32 [N]."""
  useful_tokens: int
  """Tokens of all pairs, eos included."""
  computed_tokens: int
  """Tokens of all pairs, with padding and dummy rows."""


class PerplexityScorer:
  """Scores blocks of texts with an `engine.Engine`, whose rules on threads and devices apply.

  Raises WinnowError if the objective does not suit the model's vocabulary or `max_input_tokens`.
  """

  def __init__(
    self,
    checkpoint: Checkpoint,
    *,
    objective: str = span_corruption.SPAN_CORRUPTION,
    max_input_tokens: int = 512,
    batch_tokens: int | None = None,
    dtype: str | None = None,
    devices_per_model: int = 1,
  ):
    """Puts the checkpoint on the devices.

    `max_input_tokens` limits a window's input with its eos. `dtype` defaults to the checkpoint's. `batch_tokens`, of
    inputs and targets together, and `devices_per_model` are those of `engine.Engine`.
    """
    self.objective, self.max_input_tokens = objective, max_input_tokens
    self._vocabulary = checkpoint.vocabulary
    self._sentinels = checkpoint.vocabulary.sentinel_ids()
    self._window = _checked_window(objective, checkpoint.config, checkpoint.vocabulary, max_input_tokens)
    self.config = dataclasses.replace(checkpoint.config, dtype=dtype or checkpoint.config.dtype)
    self.engine = engine.Engine(
      checkpoint.params,
      self.config,
      functools.partial(negative_log_likelihood, config=self.config),
      buckets=functools.partial(buckets, objective, max_input_tokens),
      batch_tokens=batch_tokens,
      devices_per_model=devices_per_model,
    )

  def prepare(self, texts: pa.Array, keys_N: np.ndarray) -> PreparedDocuments:
    """Tokenises a block (Arrow strings [N], no nulls), makes its pairs by the documents' keys, and plans the batches.

    Keys are hashes (uint64 [N]). A document's score is a function of its text and its key. A text without tokens
    becomes a pair of two eos.
    """
    if texts.null_count:
      raise ValueError("texts must not be null")
    tokens = self._vocabulary.encode(texts.to_pylist())
    windows = span_corruption.cut_windows(tokens.lengths(), keys_N, self._window)
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    ends_W = np.cumsum(windows.lengths_W)
    for start in range(0, len(ends_W), _WINDOWS_AT_ONCE):
      part = slice(start, start + _WINDOWS_AT_ONCE)
      lengths_W, keys_W = windows.lengths_W[part], windows.keys_W[part]
      ids_X = tokens.ids[ends_W[start] - lengths_W[0] : ends_W[part][-1]]
      if self.objective == span_corruption.PREFIX_LM:
        pairs = span_corruption.split_prefixes(ids_X, lengths_W, keys_W)
      else:
        mask_X = span_corruption.noise_mask(lengths_W, keys_W)
        pairs = span_corruption.corrupt_spans(ids_X, lengths_W, mask_X, self._sentinels)
      inputs += np.split(pairs.inputs.ids, pairs.inputs.offsets[1:-1])
      targets += np.split(pairs.targets.ids, pairs.targets.offsets[1:-1])
    batches = self.engine.prepare(inputs, targets)
    return PreparedDocuments(batches, windows.document_W, tokens.lengths().astype(np.int32))

  def run(self, prepared: PreparedDocuments, on_batch: engine.OnBatch | None = None) -> Scores:
    """Scores a prepared block.

    `on_batch` is that of `engine.Engine.run`, but gets the documents whose last pair is in the batch.
    """
    assert prepared.batches.target_lengths_N is not None
    left_N = np.bincount(prepared.document_W, minlength=len(prepared.num_tokens_N))

    def on_pairs(pairs: np.ndarray, tokens: int) -> None:
      assert on_batch is not None
      documents, counts = np.unique(prepared.document_W[pairs], return_counts=True)
      left_N[documents] -= counts
      on_batch(documents[left_N[documents] == 0], tokens)

    nll_W = self.engine.run(prepared.batches, None if on_batch is None else on_pairs)
    # bincount adds values one after the other, so that a document's windows are added in their order.
    documents = len(prepared.num_tokens_N)
    nll_N = np.bincount(prepared.document_W, nll_W.astype(np.float64), documents)
    targets_N = np.bincount(prepared.document_W, prepared.batches.target_lengths_N, documents)
    scores_N = (-nll_N / targets_N).astype(np.float32)
    return Scores(scores_N, prepared.num_tokens_N, *prepared.batches.padding())

  def warm_up(self) -> None:
    """Compiles and tries every shape: see `engine.Engine.warm_up`."""
    self.engine.warm_up()

  def describe(self) -> dict[str, Any]:
    """Returns what decides a score besides weights, vocabulary and keys, for a fingerprint; JSON types only."""
    return {
      **self.engine.describe(),
      **self._vocabulary.describe(),
      "objective": self.objective,
      "max_input_tokens": self.max_input_tokens,
    }


def check_request(
  config: t5.T5Config,
  vocabulary: Vocabulary,
  *,
  objective: str,
  max_input_tokens: int,
  batch_tokens: int | None = None,
  devices_per_model: int = 1,
) -> None:
  """Raises the WinnowError that a PerplexityScorer would raise for these arguments, without a model or a device."""
  t5.check_division(config, devices_per_model)
  _checked_window(objective, config, vocabulary, max_input_tokens)
  buckets(objective, max_input_tokens, engine.BATCH_TOKENS_CPU if batch_tokens is None else batch_tokens)


def work(
  config: t5.T5Config,
  vocabulary: Vocabulary,
  texts: list[str],
  *,
  objective: str,
  max_input_tokens: int,
  batch_tokens: int,
) -> engine.Work:
  """Returns the work of scoring N texts, without a model.

  Documents get made-up keys, which decide where prefix LM cuts a window in two.
  """
  num_tokens_N = vocabulary.encode(texts).lengths()
  window = span_corruption.window_length(objective, max_input_tokens)
  windows = span_corruption.cut_windows(num_tokens_N, np.arange(len(texts), dtype=np.uint64), window)
  if objective == span_corruption.PREFIX_LM:
    prefix_W = span_corruption.prefix_lengths(windows.lengths_W, windows.keys_W)
    inputs_W, targets_W = prefix_W + 1, windows.lengths_W - prefix_W + 1
  else:
    inputs_W, targets_W = span_corruption.pair_lengths(windows.lengths_W)
  flops_N = np.bincount(windows.document_W, useful_flops(config, inputs_W, targets_W), len(texts))
  lengths_N = np.bincount(windows.document_W, inputs_W + targets_W, len(texts))
  table = buckets(objective, max_input_tokens, batch_tokens)
  return engine.Work(num_tokens_N, lengths_N, flops_N, table, (inputs_W, targets_W))


def buckets(objective: str, max_input_tokens: int, batch_tokens: int) -> batching.BucketTable:
  """Returns the shapes of an objective's pairs.

  Under span corruption a target's length follows from its input's, and buckets are evenly spaced as in
  `batching.bucket_table`. On C4, with 1,024 tokens a batch, 4% of the tokens computed are padding. Under prefix LM any
  two lengths may occur together, and 16 shapes leave 28% of padding: they form two staircases, one for the longest
  windows and one for shorter ones.
  """
  window = span_corruption.window_length(objective, max_input_tokens)
  if objective == span_corruption.PREFIX_LM:
    short = max(int(_SHORT_SHARE * window), 1)
    steps = [(window, _LONGEST_BUCKETS), (short, batching.MAX_BUCKETS - _LONGEST_BUCKETS)]
    shapes = [shape for total, count in steps for shape in _staircase(total, count)]
    return batching.pair_table(shapes, batch_tokens)
  inputs_W, targets_W = span_corruption.pair_lengths(np.arange(window + 1))
  lengths = batching.bucket_lengths(1, max_input_tokens)
  # The longest target among the windows whose input fits.
  longest = targets_W[np.searchsorted(inputs_W, lengths, side="right") - 1]
  return batching.pair_table(zip(lengths, map(int, longest), strict=True), batch_tokens)


def useful_flops(config: t5.T5Config, inputs_W: np.ndarray, targets_W: np.ndarray) -> np.ndarray:
  """Counts the floating-point operations for each of W pairs of these lengths, without padding: float64 [W].

  Counts the encoder, the decoder over all positions of the target, and their logits. A product of m x k by k x n is
  2mkn operations. Only the half of the decoder's self-attention that is not masked counts.
  """
  joined = config.num_heads * config.d_kv
  projection, feed_forward = config.d_model * joined, (3 if config.gated else 2) * config.d_model * config.d_ff
  inputs_W, targets_W = np.asarray(inputs_W, np.float64), np.asarray(targets_W, np.float64)
  # Four projections of the self-attention and two of the cross-attention, whose keys and values come from the inputs.
  layer_W = 2 * (6 * projection + feed_forward) * targets_W + 2 * 2 * projection * inputs_W
  layer_W += 4 * joined * targets_W * (inputs_W + (targets_W + 1) / 2)
  logits_W = 2 * config.vocab_size * config.d_model * targets_W
  return t5.useful_flops(config, inputs_W, encoder_only=True) + config.num_decoder_layers * layer_W + logits_W


@functools.partial(jax.jit, static_argnames="config")
def negative_log_likelihood(
  params: t5.Params,
  ids_BL: jax.Array,
  lengths_B: jax.Array,
  targets_BT: jax.Array,
  target_lengths_B: jax.Array,
  config: t5.T5Config,
) -> jax.Array:
  """Computes the negative log-likelihood of each target given its input, in nats: float32 [B], sums over tokens.

  `ids_BL` and `targets_BT` are int32, of which the first `lengths_B` and `target_lengths_B` count.
  """
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < lengths_B[:, None]
  target_mask_BT = jnp.arange(targets_BT.shape[1])[None, :] < target_lengths_B[:, None]
  states_BLD = t5.encode(params, ids_BL, mask_BL, config)
  nll_BT = t5.nll_per_token(
    params, states_BLD, mask_BL, targets_BT=targets_BT, target_mask_BT=target_mask_BT, config=config
  )
  return jnp.sum(nll_BT, axis=1)


def _checked_window(objective: str, config: t5.T5Config, vocabulary: Vocabulary, max_input_tokens: int) -> int:
  """Returns the tokens of the longest window; raises WinnowError if the objective does not suit the model."""
  if objective not in span_corruption.OBJECTIVES:
    raise WinnowError(f"--objective={objective} is unknown: take {' or '.join(span_corruption.OBJECTIVES)}.")
  window = span_corruption.window_length(objective, max_input_tokens)
  if objective == span_corruption.SPAN_CORRUPTION:
    span_corruption.check_sentinels(vocabulary, config.vocab_size, max_input_tokens)
  return window


def _staircase(total: int, count: int) -> list[tuple[int, int]]:
  """Returns shapes that hold windows of up to `total` tokens, wherever they are cut in two, with eos on both sides."""
  ends = np.unique(np.linspace(0, total, count + 1).astype(int))
  # A window of one token has no prefix.
  return [(int(stop) + 1, max(total - int(start), 2)) for start, stop in itertools.pairwise(ends)]
