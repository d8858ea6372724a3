"""Evaluates an embedder on held-out texts: `python -m curation.demo.embedder.evaluate --input=FOLDER`.

Shape suffixes: N documents, O dimensions of an embedding, V words, Q quantiles.
"""

import argparse
import collections
import re
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import scipy.sparse

from curation.coverage import kernels, minhash
from curation.demo import embedder as demo_embedder
from curation.demo.embedder import edits, examples, initial, train
from curation.demo.training import measuring, texts
from curation.scorers import sentence_t5

# 0.6 at the median cosine of edits and 0.0001 at that of unrelated texts, so that a sum counts near-copies alone.
KERNEL = kernels.Kernel("l2", bandwidth=1.0, hashes=8)
_SHARE = 0.2
_QUANTILES = (1, 5, 25, 50, 75, 95, 99)
_MIN_WORDS = 40  # of a document whose halves are matched
_WORD = re.compile(r"\w+")


def embed_texts(embedder: sentence_t5.SentenceT5Embedder, documents: list[str]) -> np.ndarray:
  """Embeds texts as unit vectors: float32 [N, O]."""
  return embedder.run(embedder.prepare(pa.array(documents, pa.string()))).embeddings


def untrained(model: sentence_t5.SentenceT5, seed: int) -> sentence_t5.SentenceT5:
  """Returns a model of the same sizes and vocabulary with random weights."""
  params = initial.random_params(model.config, model.dimensions, seed)
  return sentence_t5.SentenceT5(model.config, params, model.vocabulary, model.max_input_tokens)


def tf_idf(documents: list[str], corpus: list[str]) -> scipy.sparse.csr_array:
  """Computes unit vectors of log term frequency by inverse document frequency in `corpus`: float64 [N, V], sparse."""
  frequency = collections.Counter(word for text in corpus for word in set(_words(text)))
  places = {word: place for place, word in enumerate(sorted(frequency))}
  rows, columns, values = [], [], []
  for row, text in enumerate(documents):
    counts = {word: count for word, count in collections.Counter(_words(text)).items() if word in places}
    weights = [(1 + np.log(n)) * np.log((1 + len(corpus)) / frequency[word]) for word, n in counts.items()]
    rows += [row] * len(counts)
    columns += [places[word] for word in counts]
    values += list(np.array(weights) / max(float(np.linalg.norm(weights)), 1e-12))
  return scipy.sparse.csr_array((values, (rows, columns)), shape=(len(documents), len(places)))


def matched_share(similarities_NN: np.ndarray) -> float:
  """Computes the share of rows whose own column is the most similar one; a tie is not a match."""
  own_N = np.diagonal(similarities_NN)
  return float(np.mean((similarities_NN >= own_N[:, None]).sum(axis=1) == 1))


def held_out_texts(pool: list[str], *, limit: int, seed: int) -> list[str]:
  """Returns up to `limit` texts, never trained on, long enough for halves, and no near-copies of one another."""
  fit = [text for text, out in zip(pool, texts.held_out(pool), strict=True) if out]
  fit = [text for text in train.fit_texts(fit) if len(text.split()) >= _MIN_WORDS]
  return [fit[i] for i in np.random.default_rng([seed, 5]).permutation(len(fit))[:limit]]


def draw_rare(sums_N: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
  """Draws `number` documents without replacement by the inverse of their kernel sum, with Gumbel keys."""
  return np.argsort(np.log(sums_N) - generator.gumbel(size=len(sums_N)))[:number]


def evaluate(
  model: sentence_t5.SentenceT5,
  pools: dict[str, list[str]],
  *,
  limit: int,
  seed: int,
  log: Callable[[str], None] = print,
) -> None:
  """Prints how often halves match, the distribution of cosines, and how many near-copies a draw by density leaves."""
  embedders = {
    "trained": sentence_t5.SentenceT5Embedder(model),
    "untrained": sentence_t5.SentenceT5Embedder(untrained(model, seed)),
  }
  for name, pool in pools.items():
    real = held_out_texts(pool, limit=limit, seed=seed)
    left, right = map(list, zip(*map(examples.halves, real), strict=True))
    shares = {
      title: matched_share(embed_texts(embedder, left) @ embed_texts(embedder, right).T)
      for title, embedder in embedders.items()
    }
    known = texts.not_held_out(pool)
    shares["TF-IDF"] = matched_share((tf_idf(left, known) @ tf_idf(right, known).T).toarray())
    log(f"{name}: the other half of a held-out document is the nearest of {len(real):,}")
    log("  " + "  ".join(f"{title} {share:.3f}" for title, share in shares.items()))
    log(f"{name}: cosines at {', '.join(map(str, _QUANTILES))}%, of texts edited and of unrelated texts")
    for title, embedder in embedders.items():
      for pairs, values in zip(("edited", "unrelated"), cosines(embedder, real, seed=seed), strict=True):
        log(f"  {title:9s} {pairs:10s}" + "  ".join(f"{q:6.3f}" for q in np.percentile(values, _QUANTILES)))
    _density(embedders["trained"], name, pool, seed=seed, log=log)


def cosines(
  embedder: sentence_t5.SentenceT5Embedder, documents: list[str], *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Computes cosines of each text to its light edit, float32 [N], and to each other text, float32 [N * (N - 1)]."""
  generator = np.random.default_rng([seed, 4])
  embedded_NO = embed_texts(embedder, documents)
  edited_NO = embed_texts(embedder, [edits.edit(text, generator) for text in documents])
  others = ~np.eye(len(documents), dtype=bool)
  return np.sum(embedded_NO * edited_NO, axis=1), (embedded_NO @ embedded_NO.T)[others]


def _density(
  embedder: sentence_t5.SentenceT5Embedder, name: str, pool: list[str], *, seed: int, log: Callable[[str], None]
) -> None:
  embedded_NO = embed_texts(embedder, pool)
  sums_N = KERNEL.sums(embedded_NO, embedded_NO)
  copies_N = minhash.near_copies(pool)
  number = round(_SHARE * len(pool))
  kept_N = np.zeros(len(pool), bool)
  kept_N[draw_rare(sums_N, number, np.random.default_rng([seed, 6]))] = True
  log(
    f"{name}: kernel sums among all {len(pool):,} texts at {', '.join(map(str, _QUANTILES))}%, "
    f"and {_SHARE:.0%} drawn by their inverse"
  )
  for title, rows_N in (("near-copies", copies_N), ("others", ~copies_N)):
    if rows_N.any():
      log(
        f"  {title:12s}"
        + "  ".join(f"{q:6.2f}" for q in np.percentile(sums_N[rows_N], _QUANTILES))
        + f"  drawn: {kept_N[rows_N].sum():,} of {rows_N.sum():,}"
      )


def _words(text: str) -> list[str]:
  return _WORD.findall(text.lower())


def main(argv: Sequence[str] | None = None) -> int:
  def measure(model: sentence_t5.SentenceT5, pools: dict[str, list[str]], arguments: argparse.Namespace) -> None:
    evaluate(model, pools, limit=arguments.limit, seed=arguments.seed)

  return measuring.run_command(
    argv,
    "embedder",
    shipped=demo_embedder.folder(),
    shared="c4/c4_en_1445.jsonl.gz",
    load=sentence_t5.load,
    measure=measure,
  )


if __name__ == "__main__":
  sys.exit(main())
