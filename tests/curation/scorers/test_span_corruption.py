"""Pre-training pairs against t5's own: the same pairs from the same mask, and masks of the same distribution."""

import itertools
import math

import numpy as np
import pytest
import tiny_t5
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.models import random_t5
from curation.models.vocabulary import EOS_ID, Vocabulary
from curation.scorers import span_corruption
from curation.selection import hashing

SENTINELS = np.arange(1099, 999, -1, dtype=np.int32)
LENGTHS = [0, 1, 2, 3, 5, 16, 17, 18, 34, 100, 567, 568, 1, 40]


class Sizes:
  """A vocabulary with everything that t5's functions need."""

  vocab_size = 1_100


def keys(count: int, seed: int = 0) -> np.ndarray:
  return hashing.hash_documents("test", seed, "", np.arange(count))


def masks(length: int, count: int, seed: int = 0) -> np.ndarray:
  """Draws masks: bool [count, length]."""
  return span_corruption.noise_mask(np.full(count, length), keys(count, seed)).reshape(count, length)


def tokens(lengths) -> np.ndarray:
  return np.random.default_rng(0).integers(2, 1_000, int(np.sum(lengths))).astype(np.int32)


def runs(mask: np.ndarray) -> list[int]:
  """Returns the lengths of the runs of True."""
  return [len(list(run)) for is_noise, run in itertools.groupby(mask) if is_noise]


def chi_squared_is_small(counts: np.ndarray, expected: np.ndarray) -> bool:
  degrees = counts.size - 1
  return ((counts - expected) ** 2 / expected).sum() < degrees + 6 * math.sqrt(2 * degrees)


@pytest.fixture(scope="module")
def theirs():
  from t5.data import preprocessors

  return preprocessors


def their_mask(theirs, length: int, seed: int) -> np.ndarray:
  seeds = np.array([[seed, 1], [seed, 2]], np.int32)
  return theirs.random_spans_noise_mask(length, span_corruption.NOISE_DENSITY, seeds).numpy()


@pytest.mark.parametrize("inputs_length", [2, 3, 7, 8, 100, 114, 511, 512, 1024])
def test_windows_are_as_long_as_theirs(theirs, inputs_length):
  expected = theirs.random_spans_helper(inputs_length, 0.15, 3.0, 1, 1)
  window = span_corruption.window_length(span_corruption.SPAN_CORRUPTION, inputs_length)
  if inputs_length > 12:  # in shorter windows it counts no span, though their mask has one
    assert (window, span_corruption.pair_lengths(np.array([window]))[1][0]) == expected
  # The longest whose input fits.
  inputs_W, _ = span_corruption.pair_lengths(np.arange(window + 2))
  assert inputs_W.max() > inputs_length >= inputs_W[:-1].max()
  assert span_corruption.window_length(span_corruption.PREFIX_LM, inputs_length) == inputs_length - 1


def test_t5s_own_sizes():
  assert span_corruption.window_length(span_corruption.SPAN_CORRUPTION, 512) == 568
  assert [int(n[0]) for n in span_corruption.pair_lengths(np.array([568]))] == [512, 114]


def test_noise_and_spans_are_as_many_as_theirs(theirs):
  """Kills: rounding half away from zero, spans of a window rounded down, a window of one token with noise."""
  for length in range(1, 600):
    expected = their_mask(theirs, length, length)
    (mask,) = masks(length, 1, seed=length)
    assert mask.sum() == expected.sum() and len(runs(mask)) == len(runs(expected)), length
    assert not mask[0] and mask[-1] == (length > 1)


def test_pairs_of_a_mask_are_theirs(theirs):
  """Checks many windows at once. Kills: sentinels counted over windows, eos counted as text, sentinels that ascend."""
  lengths_W = np.array(LENGTHS)
  mask_X, ids_X = span_corruption.noise_mask(lengths_W, keys(len(LENGTHS))), tokens(lengths_W)
  inputs, targets = span_corruption.corrupt_spans(ids_X, lengths_W, mask_X, SENTINELS)
  inputs_W, targets_W = span_corruption.pair_lengths(lengths_W)
  assert (inputs.lengths() == inputs_W).all() and (targets.lengths() == targets_W).all()
  assert inputs.ids.dtype == targets.ids.dtype == np.int32
  ends = np.cumsum(lengths_W)
  for i, (stop, length) in enumerate(zip(ends, lengths_W, strict=True)):
    ids, mask = ids_X[stop - length : stop], mask_X[stop - length : stop]
    for ours, function in (
      (inputs, theirs.noise_span_to_unique_sentinel),
      (targets, theirs.nonnoise_span_to_unique_sentinel),
    ):
      expected = function(ids, mask, Sizes, None).numpy()
      assert ours[i].tolist() == [*expected, EOS_ID]


@given(st.lists(st.integers(0, 80), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_pair_says_its_whole_window(lengths, seed):
  """Each sentinel of an input stands for what follows it in the target."""
  lengths_W = np.array(lengths)
  ids_X = tokens(lengths)
  mask_X = span_corruption.noise_mask(lengths_W, keys(len(lengths), seed))
  pairs = span_corruption.corrupt_spans(ids_X, lengths_W, mask_X, SENTINELS)
  rebuilt: list[int] = []
  for i in range(len(lengths)):
    *kept, kept_end = pairs.inputs[i].tolist()
    *noise, noise_end = pairs.targets[i].tolist()
    assert kept_end == noise_end == EOS_ID
    spans: dict[int, list[int]] = {}
    for token in noise:
      if token in SENTINELS:
        last = token
        spans[last] = []
      else:
        spans[last].append(token)
    rebuilt += [token for each in kept for token in (spans[each] if each in SENTINELS else [each])]
  assert rebuilt == ids_X.tolist()


def test_all_masks_of_a_length_are_equally_likely(theirs):
  """34 tokens have 5 of noise in 2 spans: 28 x 4 masks. Kills: one draw for both kinds of span, a biased choice."""
  wanted = {
    (kept, noise): i for i, (kept, noise) in enumerate(itertools.product(range(1, 29), range(1, 5)))
  }  # by the first run of each kind

  def number(mask: np.ndarray) -> int:
    kept = int(mask.argmax())
    return wanted[kept, int((~mask[kept:]).argmax())]

  drawn = [number(mask) for mask in masks(34, 200 * len(wanted))]
  assert chi_squared_is_small(np.bincount(drawn, minlength=len(wanted)), np.full(len(wanted), 200))
  for seed in range(100):  # raises KeyError for a mask that ours never are
    number(their_mask(theirs, 34, seed))


def test_noise_lies_where_theirs_does(theirs):
  """By position, of 100 tokens: their masks against the mean of many of ours."""
  number, length = 1_500, 100
  import tensorflow as tf

  draw = tf.function(lambda seed: theirs.random_spans_noise_mask(length, 0.15, tf.stack([[seed, 1], [seed, 2]])))
  counts = sum(draw(tf.constant(seed)).numpy().astype(int) for seed in range(number))
  often = masks(length, 40_000).mean(axis=0)
  inner = slice(1, -1)  # the first is never noise, the last always
  spread = np.sqrt(number * often * (1 - often))[inner]
  assert np.abs((counts - number * often)[inner] / spread).max() < 5
  assert counts[0] == often[0] == 0 and counts[-1] == number and often[-1] == 1


def test_spans_have_the_lengths_that_theory_gives():
  """85 tokens of noise in 28 spans: one is l long in C(84 - l, 26) of the C(84, 27) ways to cut them."""
  counts = np.bincount([length for mask in masks(568, 2_000) for length in runs(mask)], minlength=20)[1:13]
  likely = np.array([math.comb(84 - length, 26) / math.comb(84, 27) for length in range(1, 13)])
  # The lengths of one window add up to 85, so they vary slightly less than independent ones.
  assert chi_squared_is_small(counts, likely * 2_000 * 28)


def test_a_mask_depends_on_its_window_alone():
  """Invariant 1. Kills: hashes numbered over the block, a mask that is drawn for the longest window and cut."""
  lengths_W, keys_W = np.array(LENGTHS), keys(len(LENGTHS))
  together = span_corruption.noise_mask(lengths_W, keys_W)
  alone = [span_corruption.noise_mask(lengths_W[i : i + 1], keys_W[i : i + 1]) for i in range(len(LENGTHS))]
  assert together.tolist() == np.concatenate(alone).tolist()
  assert span_corruption.noise_mask(lengths_W[:0], keys_W[:0]).size == 0


def test_masks_are_these_for_ever():
  """Kills any change of what is drawn: scores of an old store and of a new one would not be of the same masks."""
  windows = span_corruption.cut_windows(np.array([60, 0, 30]), hashing.hash_documents("mask", 7, "a", np.arange(3)), 40)
  mask_X = span_corruption.noise_mask(windows.lengths_W, windows.keys_W)
  assert np.flatnonzero(mask_X).tolist() == GOLDEN_MASK
  pairs = span_corruption.split_prefixes(tokens([90]), windows.lengths_W, windows.keys_W)
  assert pairs.inputs.lengths().tolist() == GOLDEN_PREFIXES


GOLDEN_MASK = [26, 35, 36, 37, 38, 39, 57, 58, 59, 86, 87, 88, 89]
GOLDEN_PREFIXES = [29, 5, 1, 2]


def test_documents_are_cut_and_nothing_is_dropped():
  lengths_N = np.array([0, 1, 40, 41, 79, 80, 81, 3])
  windows = span_corruption.cut_windows(lengths_N, keys(8), 40)
  assert windows.document_W.tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7]
  assert windows.lengths_W.tolist() == [0, 1, 40, 40, 1, 40, 39, 40, 40, 40, 40, 1, 3]
  assert len(np.unique(windows.keys_W)) == 13
  (alone,) = {window.tobytes() for window in span_corruption.cut_windows(lengths_N[6:7], keys(8)[6:7], 40)[2:]}
  assert windows.keys_W[9:12].tobytes() == alone


def test_prefixes_are_theirs(theirs):
  lengths_W = np.array(LENGTHS)
  ids_X = tokens(lengths_W)
  inputs, targets = span_corruption.split_prefixes(ids_X, lengths_W, keys(len(LENGTHS)))
  for i, stop in enumerate(np.cumsum(lengths_W)):
    ids, cut = ids_X[stop - lengths_W[i] : stop], len(inputs[i]) - 1
    mask = np.arange(len(ids)) < cut
    assert inputs[i].tolist() == [*theirs.drop_nonnoise_tokens(ids, mask, None, None).numpy(), EOS_ID]
    assert targets[i].tolist() == [*theirs.drop_noise_tokens(ids, mask, None, None).numpy(), EOS_ID]
    assert cut == 0 if len(ids) < 2 else 1 <= cut < len(ids)
  assert theirs.random_prefix_noise_mask(1, 0.5, np.array([[1, 2]], np.int32)).numpy().tolist() == [False]


def test_all_prefixes_are_equally_likely():
  """Kills: no prefix of one token, none of all but one."""
  pairs = span_corruption.split_prefixes(tokens([40 * 39_000]), np.full(39_000, 40), keys(39_000))
  counts = np.bincount(pairs.inputs.lengths() - 1, minlength=41)
  assert counts[0] == counts[40] == 0
  assert chi_squared_is_small(counts[1:40], np.full(39, 1_000))


def test_sentinels_lie_behind_the_pieces_or_are_the_last_of_them(shared):
  """The golden README: `<extra_id_k>` is 1099 - k. Kills the mutant that puts a second set behind T5X's "100extra"."""
  from sentencepiece import sentencepiece_model_pb2

  raw = (shared / "golden" / "spiece.model").read_bytes()
  assert Vocabulary(raw).sentinel_ids().tolist() == SENTINELS.tolist()
  model = sentencepiece_model_pb2.ModelProto.FromString(raw)
  for k in range(99, -1, -1):
    model.pieces.add(piece=f"▁<extra_id_{k}>", score=-100.0)
  inside = Vocabulary(model.SerializeToString())
  assert len(inside) == 1_100 and inside.sentinel_ids().tolist() == SENTINELS.tolist()


def test_limits_that_do_not_fit_are_refused():
  words = Vocabulary(random_t5.train_vocabulary(tiny_t5.make_texts(300, seed=1), 300))
  span_corruption.check_sentinels(words, len(words) + 100, 512)
  with pytest.raises(WinnowError, match="needs 100 sentinels behind the vocabulary's"):
    span_corruption.check_sentinels(words, len(words) + 99, 512)
  with pytest.raises(WinnowError, match=r"of \d+ corrupted spans, but T5 has 100 sentinels: take") as e:
    span_corruption.check_sentinels(words, len(words) + 100, 4_096)
  most = int(str(e.value).rpartition(" ")[2].strip(".").replace(",", ""))
  span_corruption.check_sentinels(words, len(words) + 100, most)
  with pytest.raises(WinnowError, match="T5 has 100 sentinels"):
    span_corruption.check_sentinels(words, len(words) + 100, most + 1)
  for objective in span_corruption.OBJECTIVES:
    with pytest.raises(WinnowError, match="--max_input_tokens must be at least 2"):
      span_corruption.window_length(objective, 1)


@pytest.mark.parametrize("objective", span_corruption.OBJECTIVES)
def test_targets_are_counted_without_their_text(objective):
  """Kills the mutants that forget a target's eos or sentinels, or the shorter last window, or a document's key."""
  lengths_N = np.array([*LENGTHS, 0, 1, 2, 1500, 0])
  keys_N = keys(len(lengths_N))
  windows = span_corruption.cut_windows(lengths_N, keys_N, span_corruption.window_length(objective, 64))
  ids_X = np.arange(windows.lengths_W.sum(), dtype=np.int32)
  if objective == span_corruption.PREFIX_LM:
    pairs = span_corruption.split_prefixes(ids_X, windows.lengths_W, windows.keys_W)
  else:
    mask_X = span_corruption.noise_mask(windows.lengths_W, windows.keys_W)
    pairs = span_corruption.corrupt_spans(ids_X, windows.lengths_W, mask_X, np.arange(10_000, 10_100))
  expected_N = np.bincount(windows.document_W, pairs.targets.lengths(), len(lengths_N))
  np.testing.assert_array_equal(span_corruption.target_lengths(objective, lengths_N, keys_N, 64), expected_N)
  assert len(span_corruption.target_lengths(objective, lengths_N[:0], keys_N[:0], 64)) == 0
