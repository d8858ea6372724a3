"""A scaling model of 16, 256 and 1,024 workers on C4: seconds of each stage from measured constants, and its growth.

A spreadsheet in Python. Most constants are figures of RESULTS.md; the assumed ones are marked, since nothing has run on
accelerators or on a cloud's store. Change the constants and run it again.
"""

import argparse
import dataclasses
import operator

# C4 (en): documents, shards, bytes of gzip and of JSON, and tokens of inputs cut at 512 with the prompt.
DOCUMENTS, SHARDS, GZIP_BYTES, PLAIN_BYTES, TOKENS_EACH = 364_868_892, 1_024, 305e9, 820e9, 380

# Measured on one core by bench_sampling, bench_selection, bench_race and bench_shuffle.
READ, SKIP = 207e6, 480e6  # bytes of text/s of blocks that are read, and of blocks that are skipped
TOKENISE = 5.5e6 / 2  # bytes of text/s of a process, for document and prompt; SentencePiece holds the GIL
WRITE_RUNS = 73e6 / 0.2  # bytes of input/s at 20%
KEYS = 4.8e6  # keys/s in a pass of the selection
PASSES = 3  # with something to do; the others read nothing
SKETCH = 7.5e3  # embeddings/s of a core in a pass, with 8 hashes of 768 dimensions
SHUFFLED = {"score": 59e3, "density": 186e3, "sample": 56e3}  # bytes per million documents
LAUNCH = 3.0  # seconds for a launcher and for starting the pipeline

# Assumed.
REQUEST = 0.05  # seconds of one request to an object store
STORE = 200e6  # bytes/s of a worker from and to an object store
LOAD = 180.0  # seconds until a new worker has its image, its model and its programs
BLOCK_ROWS, GROUP, SKETCH_BYTES, SLICES = 4_096, 1 << 20, 80e6, 38


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The sizes of a corpus."""

  documents: float
  shards: int
  plain_bytes: float

  @classmethod
  def c4(cls, times: int = 1) -> "Corpus":
    """Returns the sizes of C4, `times` over."""
    return cls(DOCUMENTS * times, SHARDS * times, PLAIN_BYTES * times)

  def readers(self, workers: int, per_worker: int) -> int:
    """Returns the number of stripes of a shard (pipelines/corpus/stripes.py)."""
    return min(max(round(per_worker * workers / self.shards), 1), 16)


def model(corpus: Corpus, workers: int, rate: float, cores: int, bytes_each: int) -> dict[str, float]:
  """Models scoring or embedding with a T5. Reading runs beside the model, on the worker's other cores."""
  readers, blocks = corpus.readers(workers, 4), corpus.documents / BLOCK_ROWS
  own, skipped = corpus.plain_bytes / READ, corpus.plain_bytes * (readers - 1) / SKIP
  running = min(workers, corpus.shards * readers)
  inference = corpus.documents * TOKENS_EACH / rate
  return {
    "launch": LAUNCH + corpus.shards / 1_000 * REQUEST + corpus.shards / 16 * REQUEST,  # a page of names, and checksums
    "load the model": LOAD,
    "read (beside)": (own + skipped) / (running * max(cores - 1, 1)),
    "tokenise (beside)": 0.9 * corpus.plain_bytes / TOKENISE / running,
    "inference": inference / running,
    "write blocks (behind)": blocks * (3 * REQUEST + BLOCK_ROWS * bytes_each / STORE) / running,
    "compact shards": blocks * (REQUEST + BLOCK_ROWS * bytes_each / STORE) / min(workers * cores, corpus.shards),
    "gather summaries": corpus.shards * 1e-4,
  }


def sketch(corpus: Corpus, workers: int, cores: int) -> dict[str, float]:
  """Models density: both passes over the embeddings, and merging."""
  groups = max(1, round(corpus.documents / GROUP))
  counting = min(workers, groups)
  return {
    "choose the kernel": 20.0 + min(corpus.shards, 5_000) * 2 * REQUEST / 16,
    "count groups": corpus.documents / (SKETCH * cores) / counting + groups / counting * SKETCH_BYTES / STORE,
    "merge slices": groups * SLICES * (REQUEST + SKETCH_BYTES / SLICES / STORE) / min(workers * cores, SLICES),
    "densities": corpus.documents / (SKETCH * cores) / workers + SKETCH_BYTES / STORE,
  }


def sample(corpus: Corpus, workers: int, cores: int, rate: float = 0.2) -> dict[str, float]:
  """Models an exact sample, from scores to TFRecords."""
  readers = corpus.readers(workers, 2)
  runs = corpus.shards * readers
  kept = rate * corpus.plain_bytes * 0.9
  outputs = min(max(kept / (200 << 20), 1), 1_024)
  running = min(workers * cores, runs)
  skipped = corpus.plain_bytes * (readers - 1) / SKIP
  return {
    "launch": LAUNCH + corpus.shards / 1_000 * REQUEST + corpus.shards / 16 * REQUEST,
    "find the threshold": PASSES * corpus.documents / KEYS / min(workers * cores, corpus.shards),
    "write runs": (corpus.plain_bytes / WRITE_RUNS + skipped) / running,
    "merge into shards": (outputs * runs * 2 * REQUEST / 8 + kept / STORE) / min(workers * cores, outputs),
    "manifest": outputs * 1e-3 + runs * 1e-5,
  }


def pipelines(corpus: Corpus, workers: int, rate: float, cores: int) -> dict[str, dict[str, float]]:
  """Returns the seconds of each stage of each command."""
  return {
    "score --scorer=ask_llm": model(corpus, workers, rate, cores, 12),
    "embed": model(corpus, workers, rate, cores, 1_550),
    "density, once embedded": sketch(corpus, workers, cores),
    "sample at 20%": sample(corpus, workers, cores),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--tokens_per_second", type=float, default=2e5, help="of one worker; T5-XL's aim on one H100")
  parser.add_argument("--cores", type=int, default=8, help="of one worker")
  namespace = parser.parse_args()
  columns = (1, 16, 256, 1_024)
  for name in pipelines(Corpus.c4(), 1, namespace.tokens_per_second, namespace.cores):
    print(f"\n{name}: seconds of each stage\n")
    print(f"| workers | {' | '.join(f'{count:,}' for count in columns)} | C4 twice |")
    print("|---" * (len(columns) + 2) + "|")
    rest = (namespace.tokens_per_second, namespace.cores)
    tables = [pipelines(Corpus.c4(), count, *rest)[name] for count in columns]
    double = pipelines(Corpus.c4(2), 256, *rest)[name]
    for stage in tables[0]:
      growth = double[stage] / tables[2][stage]
      figures = " | ".join(f"{table[stage]:,.0f}" for table in tables)
      print(f"| {stage} | {figures} | x {growth:.1f}{' FASTER THAN LINEAR' if growth > 2.05 else ''} |")
    limits = " | ".join(max(table.items(), key=operator.itemgetter(1))[0] for table in tables)
    print(f"| what limits | {limits} | with 256 |")
  print("\n| shuffle of C4 | MB |\n|---|---|")
  for name, million in SHUFFLED.items():
    print(f"| {name} | {million * DOCUMENTS / 1e12:,.0f} |")
  groups = DOCUMENTS / GROUP
  megabytes = 2 * SKETCH_BYTES / 1e6
  print(f"\nSketch: {groups:,.0f} groups, each written once and read once, {megabytes:,.0f} MB by the store.")
  print("Their names go through the shuffle. More workers than groups find nothing to count.")


if __name__ == "__main__":
  main()
