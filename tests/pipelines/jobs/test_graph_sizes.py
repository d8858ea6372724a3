"""Graphs stay small: each transform costs time before a job starts, and Flink deploys all stages of a job at once."""

import pathlib

import apache_beam as beam
import corpora
import flink_graph
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import fn_runner
from running import run_in

RECIPE = """
num_clusters: 12
kmeans_sample: 100
stages:
- {scorer: minhash, threshold: 1}
- {scorer: semdedup, rate: 0.75}
- {scorer: prototypes, rate: 0.5}
"""
MODEL = ("--model=model", "--prompt_file=prompt.txt", "--max_input_tokens=32")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("graphs")
  corpora.write_with_embeddings(
    folder, lambda shard, rows: np.ones((rows, 8), np.float32), big_rows=60, small_rows=60, bad_row=50
  )
  (folder / "recipe.yaml").write_text(RECIPE)
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  return folder


@pytest.mark.parametrize(
  ("arguments", "most_transforms", "most_stages", "most_vertices"),
  [
    (["score", "--scorer=ask_llm", *MODEL, "--scores=scores"], 14, 4, 6),
    (["score", "--scorer=density", "--embeddings=made/*", "--scores=scores"], 56, 15, 24),
    (["sample", "--sampler=random", "--rate=0.3", "--output=out"], 64, 14, 23),
    (["curate", "--recipe=recipe.yaml", "--embeddings=made/*", "--scores=scores", "--output=out"], 460, 84, 112),
  ],
  ids=["score", "density", "sample", "recipe"],
)
def test_graphs_are_small(place, monkeypatch, arguments, most_transforms, most_stages, most_vertices):
  """Beam's `Create`, `Reshuffle`, global combines and side inputs are several transforms or vertices each. Kills the
  mutants: one of them in place of its smaller form; passes for a threshold that is given; a list that is spread twice.
  """
  built = []

  def build(pipeline: beam.Pipeline) -> None:
    built.append(pipeline.to_runner_api())
    raise RuntimeError("it was built, which is enough")

  monkeypatch.setattr(beam.Pipeline, "run", build)
  common = ["--input=corpus/*", "--max_bad_fraction=0.5", "--overwrite", "--direct_num_workers=1"]
  assert run_in(place, [*arguments, *common]) == 1
  (proto,) = built
  graph = flink_graph.measure(proto)
  _, stages = fn_runner.FnApiRunner().create_stages(proto)
  assert graph.transforms <= most_transforms
  assert len(stages) <= most_stages
  assert graph.vertices <= most_vertices


def test_vertices_are_counted_as_flink_makes_them():
  """By hand: an impulse, a stage after it, a group with a stage that is chained to it, a view, and a stage with it."""
  pipeline = beam.Pipeline()
  numbers = pipeline | beam.Impulse() | beam.FlatMap(lambda _: [1, 2]) | "Plus" >> beam.Map(lambda number: number + 1)
  grouped = numbers | beam.Map(lambda number: (0, number)) | beam.GroupByKey() | "Size" >> beam.Map(len)
  _ = numbers | "Add" >> beam.Map(lambda number, size: number + size, beam.pvalue.AsSingleton(grouped))
  graph = flink_graph.measure(pipeline.to_runner_api())
  assert (graph.stages, graph.shuffles, graph.side_inputs, graph.vertices) == (3, 1, 1, 5)
