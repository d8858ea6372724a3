"""Ask-LLM's engine, without Beam, on real C4 lengths: documents/s, tokens/s, padding, and its share of sgemm."""

import argparse
import itertools
import tempfile
import time

import common
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from curation.models import checkpoints, random_t5, t5
from curation.scorers import ask_llm
from pipelines.corpus import blocks

SIZES = {
  "small": {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
  "base": {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
}
# Enough, since words make longer pieces in T5's own 32,000 than in 8,000 trained on 1,445 documents.
PIECES = 8_000


def sgemm_flops(size: int = 2048, seconds: float = 3.0) -> float:
  """Measures the operations/s of float32 matrix products alone, in the same library."""
  a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
  multiply = jax.jit(lambda x: x @ x)
  multiply(a).block_until_ready()
  started, count = time.perf_counter(), 0
  while time.perf_counter() - started < seconds:
    multiply(a).block_until_ready()
    count += 1
  return 2 * size**3 * count / (time.perf_counter() - started)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=tuple(SIZES), default="small")
  parser.add_argument("--documents", type=int, default=1_000)
  namespace = parser.parse_args()
  common.print_machine()
  texts = list(common.documents(namespace.documents))
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder:
    vocabulary_texts = list(itertools.islice(common.documents(1_445), 1_445))
    random_t5.write_random_checkpoint(folder, vocabulary_texts, pieces=PIECES, **SIZES[namespace.size])
    scorer = ask_llm.AskLlmScorer(checkpoints.load_checkpoint(folder))
  started = time.perf_counter()
  scorer.warm_up()
  print(f"T5-{namespace.size} size, random weights, {scorer.config.dtype}")
  print(f"{len(texts):,} documents ({common.corpus_name()})")
  print(f"compiling and running {len(scorer.engine.table.lengths)} shapes: {time.perf_counter() - started:.1f} s")
  before = sgemm_flops()
  started = time.perf_counter()
  prepared = scorer.prepare(pa.array(texts))
  tokenising = time.perf_counter() - started
  started = time.perf_counter()
  scores = scorer.run(prepared)
  seconds = time.perf_counter() - started
  limit = (before + sgemm_flops()) / 2
  flops = t5.useful_flops(scorer.config, prepared.batches.lengths_N).sum()
  print(f"limit: sgemm {limit / 1e9:.0f} GFLOP/s (the mean of before and after)")
  print(
    f"tokenising: {scores.num_tokens.sum() / tokenising:,.0f} tokens/s, {tokenising / seconds:.1%} of the time below"
  )
  print(f"{len(texts) / seconds:.1f} documents/s, {scores.useful_tokens / seconds:,.0f} useful tokens/s")
  print(
    f"padding: {1 - scores.useful_tokens / scores.computed_tokens:.1%} of {scores.computed_tokens:,} tokens computed"
  )
  for count in (1_445, blocks.BLOCK_ROWS):
    useful, computed = scorer.prepare(pa.array(list(common.documents(count)))).batches.padding()
    print(f"padding of a block of {count:,} documents, by its plan: {1 - useful / computed:.1%}")
  print(f"useful: {flops / seconds / 1e9:.0f} GFLOP/s, {flops / seconds / limit:.2f} of sgemm")


if __name__ == "__main__":
  bench()
