"""A student of given embeddings: learning it from half a million documents, and its scores beside reading alone.

The first part learns from arrays that a file maps, as `winnow distill` does, and reports the peak of memory. The second
writes a store of embeddings through `winnow embed`, reads its blocks, and then scores them by `winnow score
--scorer=student`. The bar is 0.7 of the embeddings a second that reading alone reaches.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import common
import numpy as np

from curation.selection import hashing
from curation.student import figures, learning, splits
from curation.student.models import Shape, Student
from pipelines.corpus import blocks, fixed_width
from pipelines.scorers.student.scorer import EmbeddingsWithTokens
from pipelines.scoring.stored_blocks import StoredEmbeddings
from pipelines.store.score_store import ScoreStore
from pipelines.worker import prefetch

BAR_SHARE = 0.7


def make_examples(folder: pathlib.Path, documents: int, dimensions: int) -> learning.Examples:
  """Draws unit vectors around centres, and scores that a network of them and the length explains in part."""
  generator = np.random.default_rng(0)
  centres = generator.standard_normal((200, dimensions), np.float32)
  weights = generator.standard_normal((dimensions, 32), np.float32)
  points_ND = np.memmap(folder / "points", np.float16, "w+", shape=(documents, dimensions))
  targets_N = np.empty(documents, np.float32)
  tokens_N = generator.integers(20, 3_000, documents).astype(np.int32)
  for start in range(0, documents, 20_000):
    rows = slice(start, min(start + 20_000, documents))
    size = rows.stop - start
    made_ND = centres[generator.integers(0, 200, size)] + generator.standard_normal((size, dimensions), np.float32)
    made_ND /= np.linalg.norm(made_ND, axis=1, keepdims=True)
    points_ND[rows] = made_ND
    targets_N[rows] = np.tanh(made_ND @ weights).sum(axis=1) + 0.3 * np.log1p(tokens_N[rows])
    targets_N[rows] += 0.5 * generator.standard_normal(size)
  hashes_N = hashing.hash_documents(splits.PART, 0, "shard", np.arange(documents))
  return learning.Examples(points_ND, tokens_N, targets_N, splits.parts_of(hashes_N))


def bench_learning(documents: int, dimensions: int) -> None:
  with tempfile.TemporaryDirectory() as folder:
    examples = make_examples(pathlib.Path(folder), documents, dimensions)
    started = time.perf_counter()
    learned = learning.learn(examples, 0)
    seconds = time.perf_counter() - started
    judging_N = examples.numbers(splits.JUDGING)
    reached = figures.spearman(examples.targets_N[judging_N], examples.predict(learned.student, judging_N))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(f"learning from {documents:,} documents of {dimensions} dimensions: {seconds:.0f} s, peak {peak:,.0f} MB")
  print(f"  with the pages of the mapped file; Spearman {learned.choice['spearman']}, judged {reached:.4f}")


def bench_predicting(dimensions: int) -> None:
  points_ND = np.random.default_rng(0).standard_normal((40_960, dimensions)).astype(np.float16)
  tokens_N = np.full(len(points_ND), 300, np.int32)
  for hidden in (0, 128):
    shape = Shape(dimensions, hidden, True)
    student = Student(shape, np.random.default_rng(1).standard_normal(shape.num_weights).astype(np.float32))
    student.predict(points_ND, tokens_N)
    started = time.perf_counter()
    student.predict(points_ND, tokens_N)
    print(f"{shape.kind} in memory, one core: {len(points_ND) / (time.perf_counter() - started):,.0f} documents/s")


def bench_scoring(documents: int, dimensions: int, block_rows: int) -> None:
  """Compares the loaded scorer over all blocks of a store, read ahead, with reading them."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    generator = np.random.default_rng(0)
    (folder / "a.jsonl").write_text("".join(f'{{"text": "document {row}"}}\n' for row in range(documents)))
    np.save(folder / "a.npy", generator.standard_normal((documents, dimensions), np.float32).astype(np.float16))
    made = [f"--embeddings={folder}/a.npy", f"--input={folder}/a.jsonl", f"--scores={folder}/scores"]
    common.winnow("embed", *made, "--name=embedded", f"--block_rows={block_rows}")
    store = ScoreStore.at(str(folder / "scores/embedded"))
    assert store is not None
    (shard,) = store.shards()

    def read(stored: StoredEmbeddings):
      for block in stored.read(shard, blocks.every):
        assert isinstance(block, blocks.Block)
        yield block

    stored = StoredEmbeddings(store, "float16")
    for kind, hidden in (("ridge", 0), ("network", 128)):
      shape = Shape(dimensions, hidden, False)
      student = Student(shape, generator.standard_normal(shape.num_weights).astype(np.float32))
      student.predict(np.zeros((1, dimensions), np.float16))
      best: dict[str, float] = {}
      for _ in range(3):
        started = time.perf_counter()
        for block in prefetch.prefetch(read(stored), ahead=2):
          fixed_width.array(block.documents["embedding"], "float16")
        best["read"] = min(best.get("read", 1e9), time.perf_counter() - started)
        started = time.perf_counter()
        both = EmbeddingsWithTokens(store, "float16")
        for block in prefetch.prefetch(read(both), ahead=2):
          student.predict(fixed_width.array(block.documents["embedding"], "float16"))
        best["score"] = min(best.get("score", 1e9), time.perf_counter() - started)
      read_second, score_second = (documents / best[what] for what in ("read", "score"))
      share = score_second / read_second
      verdict = "reached" if share >= BAR_SHARE else "MISSED"
      print(
        f"{kind}: {score_second:,.0f} documents/s, reading alone {read_second:,.0f}: {share:.2f} of it "
        f"(bar {BAR_SHARE}: {verdict})"
      )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--documents", type=int, default=500_000)
  parser.add_argument("--scored", type=int, default=200_000)
  parser.add_argument("--dimensions", type=int, default=768)
  parser.add_argument("--block_rows", type=int, default=4_096)
  flags = parser.parse_args()
  common.print_machine()
  bench_predicting(flags.dimensions)
  bench_scoring(flags.scored, flags.dimensions, flags.block_rows)
  bench_learning(flags.documents, flags.dimensions)


if __name__ == "__main__":
  main()
