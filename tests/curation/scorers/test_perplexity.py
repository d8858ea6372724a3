"""Perplexity: golden likelihoods, scores against a direct computation, and scores of one document alone."""

import functools
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import tiny_t5

from curation.errors import WinnowError
from curation.models import batching, checkpoints, t5
from curation.models.vocabulary import EOS_ID, Vocabulary
from curation.scorers import perplexity, span_corruption
from curation.selection import hashing

# Few tokens, so that a table has few buckets: compiling a shape takes a second. Windows of more than 33 tokens have
# two spans or more; of a single one every mask is the same.
LIMITS: dict[str, Any] = {"max_input_tokens": 40, "batch_tokens": 96}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  return tiny_t5.make_checkpoint(tmp_path_factory.mktemp("perplexity"))


@pytest.fixture(scope="module")
def checkpoint(folder) -> checkpoints.Checkpoint:
  return checkpoints.load_checkpoint(folder, "float32")


@pytest.fixture(scope="module", params=span_corruption.OBJECTIVES)
def scorer(request, checkpoint) -> perplexity.PerplexityScorer:
  return perplexity.PerplexityScorer(checkpoint, objective=request.param, **LIMITS)


def keys(count: int, seed: int = 0) -> np.ndarray:
  return hashing.hash_documents("mask", seed, "a", np.arange(count))


def score(scorer, texts: list[str], keys_N: np.ndarray | None = None) -> perplexity.Scores:
  keys_N = keys(len(texts)) if keys_N is None else keys_N
  return scorer.run(scorer.prepare(pa.array(texts, pa.string()), keys_N))


def pairs_of(batches) -> list[tuple[list[int], list[int]]]:
  """Returns every pair's ids without padding."""
  pairs = {}
  for batch, ids_BL, ids_BT in zip(batches.plan, batches.ids, batches.targets, strict=True):
    for row, i in enumerate(batch.indices):
      length, target = batches.lengths_N[i], batches.target_lengths_N[i]
      pairs[int(i)] = ids_BL[row, :length].tolist(), ids_BT[row, :target].tolist()
      assert not ids_BL[row, length:].any() and not ids_BT[row, target:].any()
  return [pairs[i] for i in range(len(pairs))]


@functools.partial(jax.jit, static_argnames="config")
def logits(params, ids_BL, length, decoder_ids_BT, config):
  mask_BL = jnp.arange(ids_BL.shape[1])[None, :] < length
  decoded_BTD = t5.decode(params, t5.encode(params, ids_BL, mask_BL, config), mask_BL, decoder_ids_BT, config)
  return t5._logits(params, decoded_BTD, config)


def nll(checkpoint, inputs: list[int], targets: list[int]) -> float:
  """Computes the NLL of one pair alone, in a shape that no bucket has, with softmax and sum in float64."""
  ids, decoder_ids = np.zeros((2, 1, 50), np.int32)
  ids[0, : len(inputs)], decoder_ids[0, 1 : len(targets)] = inputs, targets[:-1]
  logits_1TV = logits(checkpoint.params, ids, len(inputs), decoder_ids, checkpoint.config)
  rows = np.asarray(logits_1TV, np.float64)[0]
  return sum(np.log(np.exp(row).sum()) - row[target] for row, target in zip(rows, targets, strict=False))


@pytest.mark.parametrize("name", ["t5_v1_0_tiny", "t5_v1_1_tiny"])
def test_golden_likelihoods(shared, name):
  model = checkpoints.load_checkpoint(shared / "golden" / name, "float32")
  golden = np.load(shared / "golden" / "expected" / f"{name}.npz")
  sums = perplexity.negative_log_likelihood(
    model.params,
    golden["nll_input_ids"],
    golden["nll_input_lengths"],
    golden["nll_target_ids"],
    golden["nll_target_lengths"],
    config=model.config,
  )
  np.testing.assert_allclose(sums, golden["nll_sum"], rtol=0, atol=2e-3)
  np.testing.assert_allclose(sums / golden["nll_target_lengths"], golden["nll_mean"], rtol=0, atol=5e-5)


def test_scores_are_those_of_every_window_alone(scorer, checkpoint):
  """Documents of no token, of one, of a window and of many. Kills: the mean of windows' means, a window left out, one
  that is cut short, a sum without eos, a target that is fed to the decoder unshifted."""
  texts = ["", "a", *tiny_t5.make_texts(20, longest=60)]
  texts += [" ".join(tiny_t5.make_texts(14, seed=1, longest=60))]
  window = span_corruption.window_length(scorer.objective, LIMITS["max_input_tokens"])
  tokens = checkpoint.vocabulary.encode(texts)
  windows = span_corruption.cut_windows(tokens.lengths(), keys(len(texts)), window)
  if scorer.objective == span_corruption.SPAN_CORRUPTION:
    mask_X = span_corruption.noise_mask(windows.lengths_W, windows.keys_W)
    sentinels = checkpoint.vocabulary.sentinel_ids()
    expected = span_corruption.corrupt_spans(tokens.ids, windows.lengths_W, mask_X, sentinels)
  else:
    expected = span_corruption.split_prefixes(tokens.ids, windows.lengths_W, windows.keys_W)
  prepared = scorer.prepare(pa.array(texts), keys(len(texts)))
  pairs = pairs_of(prepared.batches)
  assert [inputs for inputs, _ in pairs] == [expected.inputs[i].tolist() for i in range(len(pairs))]
  assert [targets for _, targets in pairs] == [expected.targets[i].tolist() for i in range(len(pairs))]
  sums, counts = np.zeros(len(texts)), np.zeros(len(texts))
  for document, (inputs, targets) in zip(windows.document_W, pairs, strict=True):
    sums[document] += nll(checkpoint, inputs, targets)
    counts[document] += len(targets)
  assert np.bincount(windows.document_W)[-1] > 10
  scores = scorer.run(prepared)
  np.testing.assert_allclose(scores.scores, -sums / counts, rtol=1e-5)
  assert scores.num_tokens.tolist() == tokens.lengths().tolist()
  assert scores.scores.dtype == np.float32 and scores.num_tokens.dtype == np.int32


def test_scores_do_not_depend_on_neighbours_order_or_block(scorer):
  """Invariant 1, bit for bit: a whole block, shuffled blocks, small blocks and single texts.

  Kills: keys by the place in the block, windows summed in the order of their batches, a pair's row padded to its batch.
  """
  texts = tiny_t5.make_texts(40, longest=90)
  keys_N = keys(len(texts))
  together = score(scorer, texts)
  assert len(np.unique(together.scores)) == 40
  generator = np.random.default_rng(0)
  for size in (1, 3, 17, 40):
    order_N = generator.permutation(len(texts))
    blocks = [order_N[j : j + size] for j in range(0, len(texts), size)]
    parts = [score(scorer, [texts[i] for i in block], keys_N[block]) for block in blocks]
    assert np.concatenate([part.scores for part in parts]).tobytes() == together.scores[order_N].tobytes()
    assert (np.concatenate([part.num_tokens for part in parts]) == together.num_tokens[order_N]).all()


def test_windows_made_at_once_change_nothing(scorer, monkeypatch):
  """Kills: tokens of the windows before, where a block's are made in several parts."""
  texts = tiny_t5.make_texts(40, longest=90)
  expected = score(scorer, texts).scores
  monkeypatch.setattr(perplexity, "_WINDOWS_AT_ONCE", 7)
  assert score(scorer, texts).scores.tobytes() == expected.tobytes()


def test_another_key_is_another_mask(scorer):
  texts = tiny_t5.make_texts(20, seed=2, longest=60)
  assert (score(scorer, texts).scores != score(scorer, texts, keys(20, seed=1)).scores).mean() > 0.4


def test_empty_block_and_empty_text(scorer, checkpoint):
  nothing = score(scorer, [])
  assert nothing.scores.shape == nothing.num_tokens.shape == (0,) and nothing[2:] == (0, 0)
  empty = score(scorer, ["", "river"])
  np.testing.assert_allclose(empty.scores[0], -nll(checkpoint, [EOS_ID], [EOS_ID]), rtol=1e-5)
  assert empty.num_tokens[0] == 0


def test_accounts_for_padding(scorer):
  prepared = scorer.prepare(pa.array(tiny_t5.make_texts(40, longest=60)), keys(40))
  scores = scorer.run(prepared)
  assert scores.useful_tokens == sum(len(part) for pair in pairs_of(prepared.batches) for part in pair)
  assert scores.computed_tokens == sum(ids.size for ids in (*prepared.batches.ids, *prepared.batches.targets))


def test_warm_up_compiles_every_shape_and_nothing_is_compiled_later(checkpoint):
  jax.clear_caches()
  scorer = perplexity.PerplexityScorer(checkpoint, **LIMITS)
  scorer.warm_up()
  compiled = perplexity.negative_log_likelihood._cache_size()
  assert compiled == len(scorer.engine.table.lengths) <= 16
  score(scorer, tiny_t5.make_texts(40, longest=60))
  assert perplexity.negative_log_likelihood._cache_size() == compiled


@pytest.mark.parametrize("objective", span_corruption.OBJECTIVES)
@pytest.mark.parametrize("max_input_tokens", [2, 3, 5, 8, 24, 100, 512, 1_024])
def test_a_bucket_holds_every_pair(objective, max_input_tokens):
  """Every window up to the longest, wherever it is cut. Kills: targets of the bucket below, stairs a token too low."""
  table = perplexity.buckets(objective, max_input_tokens, 1_024)
  lengths_W = np.arange(span_corruption.window_length(objective, max_input_tokens) + 1)
  inputs_W, targets_W = span_corruption.pair_lengths(lengths_W)
  if objective == span_corruption.PREFIX_LM:
    windows, cuts = np.meshgrid(lengths_W, lengths_W)
    is_pair = (cuts < windows) & ((cuts > 0) | (windows < 2)) | (windows == 0) & (cuts == 0)
    inputs_W, targets_W = (cuts + 1)[is_pair], (windows - cuts + 1)[is_pair]
  bucket_W = table.find_buckets(inputs_W, targets_W)
  assert (inputs_W <= np.array(table.lengths)[bucket_W]).all()
  assert (targets_W <= np.array(table.targets)[bucket_W]).all()
  assert len(table.lengths) <= batching.MAX_BUCKETS and max(table.lengths) < max_input_tokens + 8


@pytest.mark.parametrize("vocabulary", ["golden", "T5's size"])
@pytest.mark.parametrize(("batch_tokens", "limit"), [(1_024, 0.05), (8_192, 0.10)], ids=["CPU", "accelerator"])
def test_padding_of_a_block_of_c4(shared, vocabulary, batch_tokens, limit):
  """DESIGN.md, section 9: over inputs and targets, dummy rows counted; T5's own vocabulary makes a token of about 4.3
  characters."""
  with gzip.open(shared / "data" / "c4" / "c4_en_1445.jsonl.gz", "rt") as lines:
    texts = ([json.loads(line)["text"] for line in lines] * 3)[:4_096]
  if vocabulary == "golden":
    lengths_N = Vocabulary((shared / "golden" / "spiece.model").read_bytes()).encode(texts).lengths()
  else:
    lengths_N = np.array([len(text) / 4.3 for text in texts]).astype(int)
  windows = span_corruption.cut_windows(lengths_N, keys(len(texts)), 568)
  inputs_W, targets_W = span_corruption.pair_lengths(windows.lengths_W)
  plan = batching.plan(inputs_W, perplexity.buckets("span_corruption", 512, batch_tokens), targets_W)
  useful, computed = batching.padding(inputs_W + targets_W, plan)
  assert 1 - useful / computed <= limit


def test_nan_stays_with_its_document(folder, checkpoint, tmp_path):
  """One piece's embedding is NaN: documents with it get NaN, and their neighbours in the batch their own scores."""
  (piece,) = checkpoint.vocabulary.encode(["violin"]).ids
  for name in ("config.json", "spiece.model"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  tensors["shared.weight"] = np.array(tensors["shared.weight"])
  tensors["shared.weight"][piece] = np.nan
  safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  broken = perplexity.PerplexityScorer(checkpoints.load_checkpoint(tmp_path, "float32"), **LIMITS)
  sound = perplexity.PerplexityScorer(checkpoint, **LIMITS)
  texts = tiny_t5.make_texts(60, longest=40)
  has_it = np.array(["violin" in text for text in texts])
  assert 5 < has_it.sum() < 55
  scores_N = score(broken, texts).scores
  assert np.isnan(scores_N[has_it]).all()
  assert scores_N[~has_it].tobytes() == score(sound, texts).scores[~has_it].tobytes()


def test_describe_is_json_and_names_what_decides_a_score(checkpoint):
  described = perplexity.PerplexityScorer(checkpoint, **LIMITS).describe()
  assert json.loads(json.dumps(described)) == described
  others = {
    "objective": perplexity.PerplexityScorer(checkpoint, objective="prefix_lm", **LIMITS),
    "max_input_tokens": perplexity.PerplexityScorer(checkpoint, **LIMITS | {"max_input_tokens": 23}),
    "buckets": perplexity.PerplexityScorer(checkpoint, **LIMITS | {"batch_tokens": 200}),
    "dtype": perplexity.PerplexityScorer(checkpoint, dtype="bfloat16", **LIMITS),
  }
  for field, other in others.items():
    differing = {name for name, value in other.describe().items() if value != described[name]}
    assert field in differing and differing <= {field, "buckets"}
  assert set(described) == {"engine_version", "jax", "device_kind", "devices_per_model", *others}
  assert described["buckets"].keys() == {"lengths", "targets", "rows"}


def test_what_does_not_fit_is_refused_by_launcher_and_worker(checkpoint):
  for request, message in (
    ({"objective": "mlm"}, "--objective=mlm is unknown: take span_corruption or prefix_lm"),
    ({"max_input_tokens": 1}, "--max_input_tokens must be at least 2"),
    ({"max_input_tokens": 4_096}, "T5 has 100 sentinels: take at most"),
    ({"batch_tokens": 0}, "--batch_tokens must be at least 1"),
    ({"devices_per_model": 2}, "--devices_per_model=2 must divide"),
  ):
    with pytest.raises(WinnowError, match=message):
      perplexity.PerplexityScorer(checkpoint, **LIMITS | request)
    whole = {"objective": "span_corruption", **LIMITS} | request
    with pytest.raises(WinnowError, match=message):
      perplexity.check_request(checkpoint.config, checkpoint.vocabulary, **whole)
  # Prefix LM needs no sentinels.
  limits = {"max_input_tokens": 4_096, "batch_tokens": 64}
  perplexity.check_request(checkpoint.config, checkpoint.vocabulary, objective="prefix_lm", **limits)


def test_work_is_that_of_the_scorer(scorer, checkpoint):
  """Kills: flops of the inputs alone, windows that are counted as whole documents."""
  texts = tiny_t5.make_texts(30, longest=90)
  work = perplexity.work(checkpoint.config, checkpoint.vocabulary, texts, objective=scorer.objective, **LIMITS)
  prepared = scorer.prepare(pa.array(texts), np.arange(30, dtype=np.uint64))
  batches = prepared.batches
  assert work.pairs is not None and work.table == scorer.engine.table
  assert (work.pairs[0] == batches.lengths_N).all() and (work.pairs[1] == batches.target_lengths_N).all()
  assert work.lengths_N.sum() == batches.padding().useful_tokens
  flops_W = perplexity.useful_flops(checkpoint.config, batches.lengths_N, batches.target_lengths_N)
  np.testing.assert_allclose(work.flops_N.sum(), flops_W.sum())
  assert (work.num_tokens_N == prepared.num_tokens_N).all()


@pytest.mark.parametrize(("length", "target"), [(128, 8), (8, 64)])
def test_operations_are_those_of_the_model(tmp_path, length, target):
  """Counted by XLA, with norms and softmax, for one layer and one head, as it counts the body of a loop once.

  Kills the mutants: keys and values of the cross-attention left out; logits of one step alone.
  """
  folder = tiny_t5.make_checkpoint(tmp_path, num_layers=1, d_model=256, d_kv=256, d_ff=64, num_heads=1)
  checkpoint = checkpoints.load_checkpoint(folder, "float32")
  ids, targets = np.ones((1, length), np.int32), np.ones((1, target), np.int32)
  compiled = perplexity.negative_log_likelihood.lower(
    checkpoint.params, ids, np.full(1, length), targets, np.full(1, target), config=checkpoint.config
  ).compile()
  counted = compiled.cost_analysis()["flops"]
  ours = perplexity.useful_flops(checkpoint.config, np.array([length]), np.array([target])).sum()
  assert 0.92 * counted < ours < 1.05 * counted


def test_memory_does_not_grow_faster_than_the_document(checkpoint):
  """Eight documents of over 250,000 tokens. Kills the mutant that draws the masks of all windows at once."""
  scorer = perplexity.PerplexityScorer(checkpoint, max_input_tokens=512)
  text = " ".join(tiny_t5.make_texts(1, longest=100) * 8_000)[:2_000_000]
  tokens = int(checkpoint.vocabulary.encode([text]).lengths()[0])
  assert tokens > 250_000
  tracemalloc.start()
  try:
    scorer.prepare(pa.array([text] * 8), keys(8))
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  # Ids, twice, and pieces of Python's in between.
  assert peak < 40 * 8 * tokens


def test_each_document_is_told_of_once_when_its_last_pair_is_done(scorer):
  """Kills: a document that is told of with each of its windows; one of several batches that never is."""
  texts = tiny_t5.make_texts(40, longest=200)
  prepared = scorer.prepare(pa.array(texts), keys(len(texts)))
  calls: list[tuple[list[int], int]] = []
  scores = scorer.run(prepared, lambda places, tokens: calls.append((places.tolist(), tokens)))
  assert sorted(place for places, _ in calls for place in places) == list(range(len(texts)))
  assert sum(tokens for _, tokens in calls) == scores.useful_tokens
  assert len(calls) == len(prepared.batches.plan) and any(not places for places, _ in calls)
  assert scores.scores.tobytes() == scorer.run(prepared).scores.tobytes()
