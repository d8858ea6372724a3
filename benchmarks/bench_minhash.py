"""MinHash of web text: documents/s compared with datasketch, and recall and precision on planted near-copies.

datasketch runs in .venv-peers, which `make bench-peers` makes; without it only Winnow is measured.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
import time
import tracemalloc
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import scipy.sparse

from curation.coverage import minhash

PEERS_PYTHON = common.PROJECT / ".venv-peers/bin/python"
SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def plant(texts: list[str], generator: np.random.Generator) -> list[str]:
  """Copies each text and replaces runs of words, up to half of them, which gives similarities of all sizes."""
  planted = []
  for text in texts:
    words = text.split()
    for _ in range(generator.integers(0, 6)):
      start = generator.integers(0, max(1, len(words)))
      stop = start + generator.integers(0, len(words) // 8 + 2)
      words[start:stop] = ["replaced"] * min(stop - start, len(words) - start)
    planted.append(" ".join(words))
  return planted


def exact_similarities(texts: list[str]) -> scipy.sparse.coo_matrix:
  """Computes the Jaccard similarity of all pairs where it is not 0, the later text first."""
  sets = []
  for text in texts:
    words = "".join(character.lower() if character.isalnum() else " " for character in text).split()
    sets.append({" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))})
  places = {shingle: place for place, shingle in enumerate(dict.fromkeys(itertools.chain.from_iterable(sets)))}
  columns = [places[shingle] for shingles in sets for shingle in shingles]
  sizes_N = np.array([len(shingles) for shingles in sets])
  incidence = scipy.sparse.csr_matrix((np.ones(len(columns)), columns, np.cumsum([0, *sizes_N])))
  shared = scipy.sparse.tril(incidence @ incidence.T, -1).tocoo()
  shared.data /= sizes_N[shared.row] + sizes_N[shared.col] - shared.data
  return shared


def print_recall(texts: list[str], config: minhash.MinHashConfig) -> None:
  """Prints the share of pairs in one component by their exact similarity, and recall and precision."""
  similar = exact_similarities(texts)
  signatures_NH = minhash.signatures(pa.array(texts), config.hashes)
  edges_C2 = edges(signatures_NH, config)
  label_N = np.arange(len(texts))
  label_N[edges_C2[:, 0]] = edges_C2[:, 1]
  together = label_N[similar.row] == label_N[similar.col]
  is_high = similar.data >= SIMILARITIES[0]
  agreeing = np.mean(signatures_NH[similar.row[is_high]] == signatures_NH[similar.col[is_high]], axis=1)
  error = np.sqrt(np.mean(np.square(agreeing - similar.data[is_high])))
  print(f"{len(texts):,} texts with planted near-copies: standard error of similarities from 0.5 on {error:.3f}")
  print(f"{'exact similarity':<20}{'pairs':>8}{'joined':>10}")
  for low, high in itertools.pairwise((*SIMILARITIES, np.inf)):
    within = (similar.data >= low) & (similar.data < high)
    share = f"{together[within].mean():>10.1%}" if within.any() else f"{'-':>10}"
    print(f"{f'{low:.2f} to {high:.2f}' if low < 1 else '1':<20}{within.sum():>8,}{share}")
  at_least = similar.data >= config.similarity
  both = np.sum(together & at_least)
  near = np.sum(together & (similar.data >= config.similarity - 0.1))
  print(
    f"at {config.similarity}: recall {both / at_least.sum():.1%}; of {together.sum():,} joined pairs "
    f"{both / together.sum():.1%} are as similar, {near / together.sum():.1%} at least {config.similarity - 0.1:.1f}"
  )


def edges(signatures_NH: np.ndarray, config: minhash.MinHashConfig) -> np.ndarray:
  """Joins documents by their signatures; returns edges, int64 [C, 2]."""
  keys_NB = minhash.band_keys(signatures_NH, config)
  rows_M = np.repeat(np.arange(len(keys_NB)), config.bands)
  return minhash.bucket_edges(keys_NB.ravel(), rows_M, signatures_NH, config)


def run_datasketch(texts: list[str], config: minhash.MinHashConfig) -> dict | str:
  """Returns datasketch's seconds and pairs on one core, as Winnow runs, or why there are none."""
  if not PEERS_PYTHON.exists():
    return f"{PEERS_PYTHON.parent.parent.name} does not exist: run make bench-peers"
  with tempfile.TemporaryDirectory(prefix="winnow-minhash-") as folder:
    task, result = Path(folder, "task.json"), Path(folder, "result.json")
    task.write_text(
      json.dumps(
        {
          "texts": texts,
          "hashes": config.hashes,
          "bands": config.bands,
          "rows": config.rows,
          "similarity": config.similarity,
        }
      )
    )
    done = subprocess.run(
      [PEERS_PYTHON, "-m", "peers.run_datasketch", task, result],
      cwd=common.PROJECT / "benchmarks",
      env={"OMP_NUM_THREADS": "1"},
      capture_output=True,
      text=True,
      check=False,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else json.loads(result.read_text())


def print_memory(near_copies: int, files: int = 32) -> None:
  """Prints the memory that one worker takes to connect the edges of a corpus, where a copy has edges in most files."""
  generator = np.random.default_rng(0)
  parts = [np.sort(generator.choice(near_copies, near_copies * 2 // 5, replace=False)) + 1 for _ in range(files)]
  tracemalloc.start()
  copies = minhash.connected(np.stack([part_C, part_C // 4 * 4], axis=1) for part_C in parts)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  print(f"connecting edges in {files} files: {peak / len(copies):,.0f} bytes for each of {len(copies):,} near-copies")


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=100_000)
  parser.add_argument("--beside", type=int, default=4_000, help="documents that datasketch gets")
  parser.add_argument("--planted", type=int, default=1_445)
  namespace = parser.parse_args()
  common.print_machine()
  config = minhash.MinHashConfig()
  minhash.near_copies(["compiles", "the loops"], config)
  print(f"{common.corpus_name()}, {config.bands} bands of {config.rows}, one core")
  texts = [f"{number} {text}" for number, text in enumerate(common.documents(namespace.documents))]
  column = pa.array(texts, pa.large_string())
  started = time.perf_counter()
  signatures_NH = minhash.signatures(column, config.hashes)
  signed = time.perf_counter() - started
  copies = len(edges(signatures_NH, config))
  whole = time.perf_counter() - started
  print(
    f"Winnow, {len(texts):,} documents: signatures {len(texts) / signed:,.0f} documents/s "
    f"({column.nbytes / signed / 1e6:.0f} MB/s), with components {len(texts) / whole:,.0f}; {copies:,} near-copies"
  )
  compared = texts[: namespace.beside]
  beside = run_datasketch(compared, config)
  if isinstance(beside, str):
    print(f"beside: datasketch is not available: {beside}")
  else:
    started = time.perf_counter()
    is_copy = minhash.near_copies(compared, config)
    seconds = time.perf_counter() - started
    theirs, ours = {pair[0] for pair in beside["pairs"]}, set(np.flatnonzero(is_copy).tolist())
    print(
      f"beside, {len(compared):,} documents: datasketch signatures {len(compared) / beside['sign']:,.0f} documents/s, "
      f"with LSH and verification {len(compared) / beside['all']:,.0f}; Winnow {len(compared) / seconds:,.0f}, "
      f"{beside['all'] / seconds:.0f} times as many; near-copies {len(theirs):,} and {len(ours):,}, "
      f"{len(theirs & ours):,} in common"
    )
  print_memory(40 * namespace.documents)
  real = list(dict.fromkeys(common.documents(namespace.planted)))
  print_recall([*real, *plant(real, np.random.default_rng(0))], config)


if __name__ == "__main__":
  bench()
