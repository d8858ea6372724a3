"""The Beam graph of each command, and the CPU time to build and run it on this machine.

For each command it prints the transforms, composite ones included, the fused stages, shuffles and side inputs, the
vertices of a Flink job as far as they can be known without Flink, the size of the graph, and the CPU time. The corpus
is tiny, so the CPU time is what a command takes beside its documents, imports not counted. A command that draws from a
store runs after the one that makes it.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile
import time

import apache_beam as beam
import common
import flink_graph
import numpy as np

from pipelines import main

SHARDS, ROWS = 3, 40
RECIPE = "\n".join(
  [
    "num_clusters: 4",
    "stages:",
    "- {scorer: minhash, threshold: 1}",
    "- {scorer: semdedup, rate: 0.75}",
    "- {scorer: prototypes, rate: 0.5}",
  ]
)
SCORING = ["--input=corpus/*", "--embeddings=made/*", "--scores=scores"]
COMMANDS = {
  "embed": ["embed", *SCORING],
  "score --scorer=density": ["score", "--scorer=density", *SCORING],
  "cluster": ["cluster", "--embeddings=scores/embeddings_made", "--num_clusters=4"],
  "score --scorer=minhash": ["score", "--scorer=minhash", "--input=corpus/*", "--scores=scores"],
  "sample from a store": ["sample", "--sampler=minhash", "--scores=scores", "--rate=0.5", "--output=rated"],
  "sample --threshold": ["sample", "--sampler=minhash", "--scores=scores", "--threshold=1", "--output=above"],
  "verify": ["verify", "rated"],
  "sample --sampler=random": ["sample", "--sampler=random", "--input=corpus/*", "--rate=0.5", "--output=random"],
  "curate, three stages": ["curate", "--recipe=recipe.yaml", *SCORING[:2], "--scores=recipe", "--output=kept"],
}


def write_inputs(folder: pathlib.Path) -> None:
  for name in ("corpus", "made"):
    (folder / name).mkdir()
  for shard in range(SHARDS):
    texts = [f"{text} {shard}.{row}" for row, text in enumerate(common.documents(ROWS))]
    (folder / f"corpus/{shard}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    np.save(folder / f"made/{shard}.npy", np.random.default_rng(shard).standard_normal((ROWS, 8)).astype(np.float32))
  (folder / "recipe.yaml").write_text(RECIPE)


def measure(arguments: list[str]) -> tuple[flink_graph.Graph, float]:
  """Runs a command in this process; returns its graph and its CPU seconds."""
  graphs = []
  run = beam.Pipeline.run

  def watched(pipeline: beam.Pipeline, *args, **keywords):
    graphs.append(pipeline.to_runner_api())
    return run(pipeline, *args, **keywords)

  beam.Pipeline.run = watched
  try:
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      assert main.main([*arguments, "--direct_num_workers=1"]) == 0, arguments
    seconds = time.process_time() - started
  finally:
    beam.Pipeline.run = run
  (graph,) = graphs
  return flink_graph.measure(graph), seconds


def bench() -> None:
  argparse.ArgumentParser(description=__doc__).parse_args()
  common.print_machine()
  with tempfile.TemporaryDirectory() as folder:
    write_inputs(pathlib.Path(folder))
    os.chdir(folder)
    names = [field.name.replace("_", " ") for field in dataclasses.fields(flink_graph.Graph)]
    print(f"{'command':26}", *(f"{name:>11}" for name in names), f"{'CPU s':>7}")
    for name, arguments in COMMANDS.items():
      graph, seconds = measure(arguments)
      print(f"{name:26}", *(f"{figure:11,}" for figure in dataclasses.astuple(graph)), f"{seconds:7.2f}")
    os.chdir("/")


if __name__ == "__main__":
  bench()
