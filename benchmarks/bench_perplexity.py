"""The perplexity scorer's engine, without Beam, on real C4 lengths: documents/s, padding, and its share of sgemm."""

import argparse
import itertools
import time

import bench_scoring
import common
import numpy as np
import pyarrow as pa

from curation.models import batching, checkpoints, random_t5, t5, vocabulary
from curation.scorers import perplexity, span_corruption
from curation.selection import hashing
from pipelines.corpus import blocks

# T5's own size, whatever the number of pieces, since the logits are a good part of the decoder's work.
VOCABULARY_SIZE = 32_128
# Characters of C4 per token of T5's vocabulary.
CHARACTERS_A_TOKEN = 4.3


def model(size: str) -> checkpoints.Checkpoint:
  """Makes a T5 1.1 of this size with random weights, and a vocabulary trained on the documents."""
  sizes = dict(bench_scoring.SIZES[size])
  config = t5.T5Config(
    vocab_size=VOCABULARY_SIZE,
    num_decoder_layers=sizes["num_layers"],
    gated=True,
    tie_word_embeddings=False,
    **sizes,
  )
  texts = itertools.islice(common.documents(1_445), 1_445)
  words = vocabulary.Vocabulary(random_t5.train_vocabulary(texts, bench_scoring.PIECES))
  return checkpoints.Checkpoint(config, checkpoints.build_params(random_t5.random_tensors(config, 0), config), words)


def keys(count: int) -> np.ndarray:
  """Returns keys of documents: uint64 [count]."""
  return hashing.hash_documents("mask", 0, "bench", np.arange(count))


def planned_padding(objective: str, count: int) -> float:
  """Returns the share of padding in the plan of a block of C4's lengths, with T5's vocabulary and the CPU's batches."""
  window = span_corruption.window_length(objective, 512)
  lengths_N = np.array([len(text) / CHARACTERS_A_TOKEN for text in common.documents(count)]).astype(int)
  windows = span_corruption.cut_windows(lengths_N, keys(count), window)
  inputs_W, targets_W = span_corruption.pair_lengths(windows.lengths_W)
  if objective == span_corruption.PREFIX_LM:
    ids_X = np.zeros(int(lengths_N.sum()), np.int32)
    pairs = span_corruption.split_prefixes(ids_X, windows.lengths_W, windows.keys_W)
    inputs_W, targets_W = pairs.inputs.lengths(), pairs.targets.lengths()
  plan = batching.plan(inputs_W, perplexity.buckets(objective, 512, 1_024), targets_W)
  useful, computed = batching.padding(inputs_W + targets_W, plan)
  return 1 - useful / computed


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=tuple(bench_scoring.SIZES), default="small")
  parser.add_argument("--objective", choices=span_corruption.OBJECTIVES, default=span_corruption.SPAN_CORRUPTION)
  parser.add_argument("--documents", type=int, default=300)
  namespace = parser.parse_args()
  common.print_machine()
  texts = list(common.documents(namespace.documents))
  scorer = perplexity.PerplexityScorer(model(namespace.size), objective=namespace.objective)
  started = time.perf_counter()
  scorer.warm_up()
  print(f"T5-{namespace.size} size, random weights, {scorer.config.dtype}, {namespace.objective}")
  print(f"{len(texts):,} documents ({common.corpus_name()})")
  print(f"compiling and running {len(scorer.engine.table.lengths)} shapes: {time.perf_counter() - started:.1f} s")
  before = bench_scoring.sgemm_flops()
  started = time.perf_counter()
  prepared = scorer.prepare(pa.array(texts), keys(len(texts)))
  preparing = time.perf_counter() - started
  started = time.perf_counter()
  scores = scorer.run(prepared)
  seconds = time.perf_counter() - started
  limit = (before + bench_scoring.sgemm_flops()) / 2
  pairs = prepared.batches
  assert pairs.target_lengths_N is not None
  flops = perplexity.useful_flops(scorer.config, pairs.lengths_N, pairs.target_lengths_N).sum()
  print(f"limit: sgemm {limit / 1e9:.0f} GFLOP/s (the mean of before and after)")
  print(
    f"tokenising and masking: {scores.num_tokens.sum() / preparing:,.0f} tokens/s, {preparing / seconds:.1%} of the "
    "time below"
  )
  print(f"{len(texts) / seconds:.1f} documents/s, {scores.num_tokens.sum() / seconds:,.0f} of their tokens/s")
  print(
    f"padding: {1 - scores.useful_tokens / scores.computed_tokens:.1%} of {scores.computed_tokens:,} tokens computed, "
    "inputs and targets"
  )
  for count in (1_445, blocks.BLOCK_ROWS):
    print(f"padding of a block of {count:,} documents, by its plan: {planned_padding(namespace.objective, count):.1%}")
  print(f"useful: {flops / seconds / 1e9:.0f} GFLOP/s, {flops / seconds / limit:.2f} of sgemm")


if __name__ == "__main__":
  bench()
