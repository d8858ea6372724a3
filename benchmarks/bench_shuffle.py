"""Bytes that cross the shuffle per million documents, and the largest element and side input, of each real pipeline.

Each command runs on the local runner in this process, and the benchmark inspects the runner's buffers between stages.
It runs once on a corpus and once on a corpus with four times the shards, which separates bytes that grow with documents
from a fixed amount.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

import common
import numpy as np
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.runners.portability.fn_api_runner import execution

from curation.models import random_t5
from pipelines import main

ROWS = 20_000
SKETCH_BYTES = 80e6


class Crossed:
  """Bytes by kind, `shuffle` or `side input`, and the largest single element of each kind."""

  def __init__(self):
    self.bytes: collections.Counter[str] = collections.Counter()
    self.largest: collections.Counter[str] = collections.Counter()

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Counts what crosses Beam's buffers within the context."""
    grouping, windowed = execution.GroupingBuffer, execution.WindowGroupingBuffer
    append, append_windowed = grouping.append, windowed.append

    def count(kind: str, coder, data: bytes) -> None:
      stream = create_InputStream(data)
      self.bytes[kind] += len(data)
      while size := stream.size():
        coder.decode_from_stream(stream, True)
        self.largest[kind] = max(self.largest[kind], size - stream.size())

    def counted(buffer, data: bytes) -> None:
      count("shuffle", buffer._pre_grouped_coder.get_impl(), data)
      append(buffer, data)

    def counted_windowed(buffer, data: bytes) -> None:
      count("side input", buffer._windowed_value_coder.get_impl(), data)
      append_windowed(buffer, data)

    grouping.append, windowed.append = counted, counted_windowed
    try:
      yield
    finally:
      grouping.append, windowed.append = append, append_windowed


def write_corpus(folder: pathlib.Path, shards: int) -> None:
  """Writes short texts, and embeddings for them."""
  (folder / "corpus").mkdir(parents=True)
  (folder / "made").mkdir()
  texts = list(common.documents(1_445))
  generator = np.random.default_rng(0)
  for shard in range(shards):
    lines = (json.dumps({"text": texts[(shard + row) % 1_445][:40]}) for row in range(ROWS))
    (folder / f"corpus/{shard:05d}.jsonl").write_text("\n".join(lines))
    np.save(folder / f"made/{shard:05d}.npy", generator.standard_normal((ROWS, 16)).astype(np.float32))


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--shards", type=int, default=4)
  namespace = parser.parse_args()
  common.print_machine()
  measured: dict[str, list[Crossed]] = {}
  sizes = (namespace.shards, 4 * namespace.shards)
  with tempfile.TemporaryDirectory(prefix="winnow-bench-") as place:
    model = random_t5.write_random_checkpoint(
      pathlib.Path(place, "model"), common.documents(1_445), pieces=2_000, d_model=32, d_kv=8, d_ff=64, num_heads=4,
      num_layers=1,
    )  # fmt: skip
    for shards in sizes:
      folder = pathlib.Path(place, str(shards))
      write_corpus(folder, shards)
      os.chdir(folder)
      reading = ["--input=corpus/*", "--scores=scores", "--direct_num_workers=1"]
      small = [f"--model={model}", "--prompt_file=../prompt.txt", "--max_input_tokens=32"]
      pathlib.Path(place, "prompt.txt").write_text("{document}?")
      sampling = ["sample", "--scores=scores", "--rate=0.2", "--direct_num_workers=1", "--output=out"]
      for name, command in {
        "score --scorer=ask_llm": ["score", *reading, *small],
        "score --scorer=density (with embed)": ["score", *reading, "--scorer=density", "--embeddings=made/*"],
        "sample": [*sampling, "--sampler=ask_llm"],
      }.items():
        crossed = Crossed()
        with crossed.watching(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
          assert main.main(command) == 0
        measured.setdefault(name, []).append(crossed)
  millions = ROWS * (sizes[1] - sizes[0]) / 1e6
  print(f"{sizes[0]} and {sizes[1]} shards of {ROWS:,} documents")
  print("| pipeline | shuffle, bytes per million documents | beside, bytes | largest element | largest side input |")
  print("|---|---|---|---|---|")
  for name, (small_run, large_run) in measured.items():
    slope = (large_run.bytes["shuffle"] - small_run.bytes["shuffle"]) / millions
    beside = small_run.bytes["shuffle"] - slope * ROWS * sizes[0] / 1e6
    largest = [f"{large_run.largest[kind]:,}" for kind in ("shuffle", "side input")]
    print(f"| {name} | {slope:,.0f} | {beside:,.0f} | {' | '.join(largest)} |")
  dense = measured["score --scorer=density (with embed)"][1]
  in_all = dense.bytes["shuffle"]
  print(f"limit: 2 x the sketch for each worker, {2 * SKETCH_BYTES:,.0f} bytes; density has {in_all:,} in all")


if __name__ == "__main__":
  bench()
