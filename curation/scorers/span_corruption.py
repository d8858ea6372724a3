"""T5's pre-training objectives as (input, target) pairs: span corruption and prefix LM (Raffel et al. 2020, section 3).

A document is cut into windows as long as a model's input allows; the last one may be shorter. Every window becomes a
pair, whose sides both end in eos. t5's own preprocessors (t5.data.preprocessors 0.9.4) draw from random streams. Here a
mask is a function of its window's key, a 64-bit hash, and has the same distribution. Tokens are stored end to end
(`vocabulary.Tokens`), and no code loops over windows.

Shape suffixes: N documents, W windows, X tokens of all windows, S their spans, I positions where a span may begin.
"""

from typing import NamedTuple

import numpy as np

from curation.errors import WinnowError
from curation.models.vocabulary import EOS_ID, NUM_SENTINELS, Tokens, Vocabulary
from curation.selection import hashing

SPAN_CORRUPTION, PREFIX_LM = "span_corruption", "prefix_lm"
OBJECTIVES = (SPAN_CORRUPTION, PREFIX_LM)

# t5's defaults, with which all published T5 models were trained.
NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0

_NO_HASH = np.uint64(2**64 - 1)


class Windows(NamedTuple):
  """Consecutive parts of documents, in order within each document and in the order of documents."""

  document_W: np.ndarray
  """The document that each window belongs to: int64 [W]."""
  lengths_W: np.ndarray
  """The tokens of each window without eos: int64 [W]; 0 for the one window of a document without tokens."""
  keys_W: np.ndarray
  """The key of each window, a hash: uint64 [W]."""


class Pairs(NamedTuple):
  """W pairs of an input and a target, eos included."""

  inputs: Tokens
  targets: Tokens


def noise_counts(lengths_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Counts the noise tokens and noise spans of windows of these lengths, at least one each: int64 [W].

  Computed in float32 and rounded to even, as in t5's random_spans_noise_mask. A window of fewer than two tokens counts
  as one of two tokens, of which the second is noise.
  """
  lengths_W = np.maximum(lengths_W, 2)
  noise_W = np.round(lengths_W.astype(np.float32) * np.float32(NOISE_DENSITY)).astype(np.int64)
  noise_W = np.clip(noise_W, 1, lengths_W - 1)
  spans_W = np.round(noise_W.astype(np.float32) / np.float32(MEAN_SPAN_LENGTH)).astype(np.int64)
  return noise_W, np.maximum(spans_W, 1)


def pair_lengths(lengths_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Counts the tokens of inputs and targets that span corruption makes of such windows, eos included: int64 [W]."""
  lengths_W = np.asarray(lengths_W, np.int64)
  noise_W, spans_W = noise_counts(lengths_W)
  inputs_W, targets_W = lengths_W - noise_W + spans_W + 1, noise_W + spans_W + 1
  # The noise of the shortest windows lies beyond their end, and a window without tokens has no sentinel either.
  short_W = lengths_W < 2
  return np.where(short_W, lengths_W + 1, inputs_W), np.where(short_W, lengths_W + 1, targets_W)


def prefix_lengths(lengths_W: np.ndarray, keys_W: np.ndarray) -> np.ndarray:
  """Returns the tokens before the cut of prefix LM: int64 [W], from 1 to all but one, each number equally likely.

  The distribution is that of t5's prefix_lm. A window of one token or none has a prefix of 0.
  """
  choices_W = np.maximum(lengths_W - 1, 0)
  return np.floor(hashing.to_uniforms(keys_W) * choices_W).astype(np.int64) + (choices_W > 0)


def target_lengths(objective: str, lengths_N: np.ndarray, keys_N: np.ndarray, max_input_tokens: int) -> np.ndarray:
  """Counts the tokens of all targets of documents of these lengths and keys, eos included: int64 [N].

  These are the tokens that a model has to predict, and no text is needed to count them.
  """
  windows = cut_windows(lengths_N, keys_N, window_length(objective, max_input_tokens))
  if objective == PREFIX_LM:
    targets_W = windows.lengths_W - prefix_lengths(windows.lengths_W, windows.keys_W) + 1
  else:
    _, targets_W = pair_lengths(windows.lengths_W)
  # A document's windows are consecutive, and it has at least one.
  starts_N = np.searchsorted(windows.document_W, np.arange(len(lengths_N)))
  return np.add.reduceat(targets_W, starts_N) if len(starts_N) else np.zeros(0, np.int64)


def window_length(objective: str, max_input_tokens: int) -> int:
  """Returns the tokens of the longest window whose input has at most `max_input_tokens` with eos: 568 for T5's 512.

  Raises WinnowError if an input has no room for a token.
  """
  if max_input_tokens < 2:
    raise WinnowError(f"--max_input_tokens must be at least 2, a token and its end, not {max_input_tokens}.")
  if objective == PREFIX_LM:
    return max_input_tokens - 1
  # Inputs never get shorter as their window gets longer, and they have over 0.8 of its tokens.
  inputs_W, _ = pair_lengths(np.arange(2 * max_input_tokens))
  return int(np.searchsorted(inputs_W, max_input_tokens, side="right")) - 1


def check_sentinels(vocabulary: Vocabulary, vocab_size: int, max_input_tokens: int) -> None:
  """Raises WinnowError if a model has fewer sentinels than a window may have spans."""
  if int(vocabulary.sentinel_ids()[0]) >= vocab_size:
    raise WinnowError(
      f"The model embeds {vocab_size:,} pieces, but span corruption needs {NUM_SENTINELS} sentinels behind the "
      f"vocabulary's {len(vocabulary):,}: take a T5 that was pre-trained with them, or --objective=prefix_lm."
    )
  _, spans_W = noise_counts(np.array([window_length(SPAN_CORRUPTION, max_input_tokens)]))
  # A target begins with a sentinel and has as many sentinels as there are spans.
  if spans_W[0] > NUM_SENTINELS:
    raise WinnowError(
      f"--max_input_tokens={max_input_tokens:,} makes windows of {spans_W[0]} corrupted spans, but T5 has "
      f"{NUM_SENTINELS} sentinels: take at most {_longest_inputs():,}."
    )


def cut_windows(lengths_N: np.ndarray, keys_N: np.ndarray, window: int) -> Windows:
  """Cuts documents of these lengths and keys (uint64) into windows of `window` tokens; none is dropped."""
  lengths_N = np.asarray(lengths_N, np.int64)
  count_N = np.maximum(-(-lengths_N // window), 1)
  document_W = np.repeat(np.arange(len(lengths_N)), count_N)
  number_W = np.arange(len(document_W)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
  lengths_W = np.minimum(lengths_N[document_W] - number_W * window, window)
  return Windows(document_W, lengths_W, hashing.hash_numbers(np.asarray(keys_N, np.uint64)[document_W], number_W))


def noise_mask(lengths_W: np.ndarray, keys_W: np.ndarray) -> np.ndarray:
  """Draws the mask of the tokens that span corruption removes: bool [X].

  Spans alternate between kept tokens and noise, beginning with kept tokens, and there are equally many of both. Among
  the masks with the counts of `noise_counts`, all are equally likely.
  """
  noise_W, spans_W = noise_counts(lengths_W)
  drawn_W = np.maximum(lengths_W, 2)
  kept_S = _random_segments(drawn_W - noise_W, spans_W, keys_W)
  noise_S = _random_segments(noise_W, spans_W, hashing.mix(keys_W))
  spans_2S = np.stack([kept_S, noise_S], axis=1).ravel()
  mask = np.repeat(np.tile([False, True], len(noise_S)), spans_2S)
  return mask[_places(drawn_W) < np.repeat(lengths_W, drawn_W)]


def corrupt_spans(ids_X: np.ndarray, lengths_W: np.ndarray, mask_X: np.ndarray, sentinels: np.ndarray) -> Pairs:
  """Makes pairs of windows under a mask: inputs have a sentinel for each noise span, targets for each kept span.

  Follows t5's noise_span_to_unique_sentinel and nonnoise_span_to_unique_sentinel, and appends eos to both.
  """
  return Pairs(
    _with_sentinels(ids_X, lengths_W, mask_X, sentinels), _with_sentinels(ids_X, lengths_W, ~mask_X, sentinels)
  )


def split_prefixes(ids_X: np.ndarray, lengths_W: np.ndarray, keys_W: np.ndarray) -> Pairs:
  """Cuts windows in two: the first `prefix_lengths` tokens of a window are the input, the others the target."""
  prefix_W = prefix_lengths(lengths_W, keys_W)
  is_input_X = _places(lengths_W) < np.repeat(prefix_W, lengths_W)
  return Pairs(_with_eos(ids_X[is_input_X], prefix_W), _with_eos(ids_X[~is_input_X], lengths_W - prefix_W))


def _random_segments(items_W: np.ndarray, segments_W: np.ndarray, keys_W: np.ndarray) -> np.ndarray:
  """Cuts `items` tokens into `segments` runs of at least one, each way equally likely; returns lengths, int64 [S].

  A run begins at the first token, and at the other tokens with the smallest hashes.
  """
  place_I = np.arange(max(int(items_W.max(initial=1)), 1))
  hashes_WI = hashing.hash_numbers(keys_W[:, None], place_I)
  is_item_WI = place_I < items_W[:, None]
  # Hashes of one key all differ, so that exactly `segments` of them are at most the last one that is taken.
  hashes_WI[~is_item_WI] = _NO_HASH
  hashes_WI[:, 0] = 0
  last_W1 = np.take_along_axis(np.sort(hashes_WI, axis=1), segments_W[:, None] - 1, axis=1)
  starts_S = np.flatnonzero((hashes_WI <= last_W1)[is_item_WI])
  return np.diff(np.append(starts_S, items_W.sum()))


def _with_sentinels(ids_X: np.ndarray, lengths_W: np.ndarray, mask_X: np.ndarray, sentinels: np.ndarray) -> Tokens:
  """Replaces each run of masked tokens by one sentinel, in order within each window, and appends eos."""
  before_X = np.roll(mask_X, 1)
  before_X[_places(lengths_W) == 0] = False
  is_first_X = mask_X & ~before_X
  # Number the runs within each window.
  run_X = np.cumsum(is_first_X)
  ends_W = np.cumsum(lengths_W)
  runs_before_W = np.append(0, run_X)[ends_W - lengths_W]
  number_X = run_X - np.repeat(runs_before_W, lengths_W) - 1
  kept_X = ~(mask_X & before_X)
  replaced_X = np.where(is_first_X, sentinels[number_X], ids_X)
  kept_before = np.append(0, np.cumsum(kept_X))
  return _with_eos(replaced_X[kept_X], kept_before[ends_W] - kept_before[ends_W - lengths_W])


def _with_eos(ids: np.ndarray, lengths_W: np.ndarray) -> Tokens:
  """Appends eos to each of W sequences."""
  ends_W = np.cumsum(lengths_W)
  offsets = np.append(0, ends_W + np.arange(1, len(ends_W) + 1)).astype(np.int64)
  return Tokens(np.insert(ids, ends_W, EOS_ID).astype(np.int32, copy=False), offsets)


def _places(lengths_W: np.ndarray) -> np.ndarray:
  """Returns each token's position in its window: int64 [X]."""
  return np.arange(lengths_W.sum()) - np.repeat(np.cumsum(lengths_W) - lengths_W, lengths_W)


def _longest_inputs() -> int:
  """Returns the largest `max_input_tokens` whose windows have a sentinel for every span."""
  lengths_W = np.arange(10_000)
  _, spans_W = noise_counts(lengths_W)
  return int(pair_lengths(lengths_W[spans_W <= NUM_SENTINELS])[0].max())
