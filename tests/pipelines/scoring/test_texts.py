"""The transform that scores texts in a pipeline of one's own, beside the function."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import apache_beam as beam
import corpora
import numpy as np
import once
import pyarrow as pa
import pytest
from apache_beam.options import pipeline_options
from apache_beam.testing import util
from apache_beam.transforms import window
from apache_beam.typehints import decorators, typehints

from curation.errors import WinnowError
from curation.selection import hashing
from pipelines.corpus import sources
from pipelines.scorers.count import Count
from pipelines.scorers.t5.ask_llm import AskLlm
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.scoring import texts as scoring
from pipelines.scoring.description import OnBatch, Own, Scores

TEXTS: list[str | None] = [*corpora.sentences(40, 2), None, " ", *corpora.sentences(5, 3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
  return once.made(tmp_path_factory, "texts_model", corpora.write_model)


def describe(model: pathlib.Path) -> AskLlm:
  return AskLlm(model=str(model), template=corpora.PROMPT, max_input_tokens=48)


def keyed() -> list[tuple[tuple[str, int], str | None]]:
  return [((f"shard{number % 3}", number), text) for number, text in enumerate(TEXTS)]


def expected(description) -> list[tuple[tuple[str, int], float]]:
  scores = scoring.score_texts(description, TEXTS).tolist()
  return [(key, score) for (key, _), score in zip(keyed(), scores, strict=True)]


def equal_with_nan(wanted: list[tuple]):
  """Returns a check that elements are as wanted; NaN equals NaN, and everything else is compared exactly."""

  def plain(pairs: list[tuple]) -> list[tuple]:
    return sorted((key, "nan" if math.isnan(score) else score) for key, score in pairs)

  def check(found: list[tuple]) -> None:
    assert plain(found) == plain(wanted)

  return check


@pytest.mark.parametrize("kind", [AskLlm, Perplexity])
def test_the_transform_gives_the_bits_of_the_function(model, kind):
  """Invariant 1, over bundles of one and of many. Kills: a bundle's last texts left out, scores under the next key, a
  mask by the place in a bundle, a text without a score that is dropped."""
  description = describe(model) if kind is AskLlm else Perplexity(model=str(model), max_input_tokens=40)
  with beam.Pipeline("FnApiRunner") as pipeline:
    texts = pipeline | "Texts" >> beam.Create(keyed())
    whole = texts | "Whole" >> scoring.ScoreTexts(description)
    parts = texts | "Break" >> beam.Reshuffle() | "Parts" >> scoring.ScoreTexts(description)
    util.assert_that(whole, equal_with_nan(expected(description)), label="whole")
    util.assert_that(parts, equal_with_nan(expected(description)), label="parts")


@dataclasses.dataclass(frozen=True)
class Keys(Own):
  """A scorer whose score is the key that it draws by."""

  reads = sources.KEYED_TEXT

  def request(self) -> dict[str, Any]:
    return {"scorer": "keys"}

  def source(self, texts: sources.Texts) -> sources.KeyedTexts:
    return sources.KeyedTexts(texts, "mask", 9)

  def prepare(self, column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().field("key").to_numpy()

  def run(self, prepared: np.ndarray, on_batch: OnBatch | None = None) -> Scores:
    return Scores(prepared.astype(np.float32))


def test_keys_of_a_shard_go_by_the_row_over_all_blocks():
  """Kills: rows that start anew in each block."""
  texts = [None if number == 3 else "text" for number in range(5_000)]
  found = scoring.score_texts(Keys(), texts, shard="a.jsonl")
  expected = hashing.hash_documents("mask", 9, "a.jsonl", np.arange(5_000)).astype(np.float32)
  np.testing.assert_array_equal(np.delete(found, 3), np.delete(expected, 3))
  assert np.isnan(found[3]) and len({*scoring.score_texts(Keys(), texts[4:]).tolist()}) == 1


def test_a_text_without_a_key_is_its_own_key(model):
  """Kills: keys that are places in a bundle, and a missing text that fails or is dropped."""
  scores = scoring.score_texts(describe(model), TEXTS).tolist()
  with beam.Pipeline("FnApiRunner") as pipeline:
    found = pipeline | beam.Create([text for text in TEXTS if text is not None]) | scoring.ScoreTexts(describe(model))
    expected = [(text, value) for text, value in zip(TEXTS, scores, strict=True) if text is not None]
    util.assert_that(found, equal_with_nan(expected))


def test_a_model_is_read_and_loaded_once(model, monkeypatch):
  """Kills: a model that is checked, byte by byte, or loaded again in every call."""
  loaded = []
  load, checked = AskLlm.load, AskLlm.checked
  monkeypatch.setattr(AskLlm, "load", lambda self: (loaded.append("load"), load(self))[1])
  monkeypatch.setattr(AskLlm, "checked", lambda self: (loaded.append("checked"), checked(self))[1])
  description = AskLlm(model=str(model), template=corpora.PROMPT, max_input_tokens=56)
  first = scoring.score_texts(description, TEXTS)
  again = scoring.score_texts(AskLlm(model=str(model), template=corpora.PROMPT, max_input_tokens=56), TEXTS)
  assert loaded == ["checked", "load"]
  np.testing.assert_array_equal(first, again)


@pytest.mark.local_runner
def test_two_processes_give_the_same_bits(model, tmp_path):
  """Kills: a model that only the launcher has, a description that cannot be pickled."""

  def noted(pair):
    (tmp_path / f"{os.getpid()}-{pair[0][1]}").touch()
    return pair

  options = pipeline_options.PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
  with beam.Pipeline("FnApiRunner", options=options) as pipeline:
    scores = (
      pipeline
      | beam.Create(keyed())
      | beam.Reshuffle()
      | scoring.ScoreTexts(describe(model))
      | "Note" >> beam.Map(noted)
    )
    util.assert_that(scores, equal_with_nan(expected(describe(model))))
  processes = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
  assert len(list(tmp_path.iterdir())) == len(TEXTS) and str(os.getpid()) not in processes


def test_a_full_block_does_not_wait_for_the_end_of_its_bundle():
  """Kills: a bundle that is held in memory whole."""
  fn = scoring._ScoreFn(Count())
  fn.setup()
  fn.start_bundle()
  out = [len(list(fn.process((number, "text"), 0, window.GlobalWindow()))) for number in range(5_000)]
  assert [(place, size) for place, size in enumerate(out) if size] == [(4_095, 4_096)]
  assert [value.value[0] for value in fn.finish_bundle()] == [*range(4_096, 5_000)]


def test_windows_and_timestamps_stay(model):
  """Kills: scores that all land in the global window, or at the time of their bundle."""
  with beam.Pipeline("FnApiRunner") as pipeline:
    stamped = (
      pipeline
      | beam.Create([(number, text) for number, text in enumerate(corpora.sentences(6, 0))])
      | "Stamp" >> beam.Map(lambda pair: window.TimestampedValue(pair, 10 * pair[0]))
      | beam.WindowInto(window.FixedWindows(20))
      | scoring.ScoreTexts(describe(model))
      | "Look" >> beam.ParDo(_Look())
    )
    util.assert_that(stamped, util.equal_to([(n, 10 * n, 10 * n // 20 * 20) for n in range(6)]))


class _Look(beam.DoFn):
  def process(self, pair, timestamp=beam.DoFn.TimestampParam, where=beam.DoFn.WindowParam):
    assert np.isfinite(pair[1])
    yield pair[0], int(timestamp), int(where.start)


def test_type_hints_follow_the_keys():
  """Kills: a lost key type, without which a GroupByKey takes a slow coder or refuses."""
  pipeline = beam.Pipeline("FnApiRunner")
  for number, (element, wanted) in enumerate(
    ((str, tuple[str, float]), (tuple[int, str], tuple[int, float]), (tuple[bytes, str], tuple[bytes, float]))
  ):
    texts = pipeline | f"Texts{number}" >> beam.Create([]).with_output_types(element)
    scores = texts | f"Score{number}" >> scoring.ScoreTexts(Count())
    assert scores.element_type == typehints.normalize(wanted)
  numbers = pipeline | "Numbers" >> beam.Create([1]).with_output_types(int)
  with pytest.raises(decorators.TypeCheckError):
    _ = numbers | scoring.ScoreTexts(Count())


def test_what_cannot_work_is_refused_before_the_pipeline_runs(model):
  """Kills: a job that starts a thousand workers, each of which finds no model."""
  with pytest.raises(WinnowError, match="there is no such folder"):
    scoring.ScoreTexts(AskLlm(model=str(model / "missing")))
  with pytest.raises(WinnowError, match="The prompt must hold"):
    scoring.ScoreTexts(AskLlm(model=str(model), template="no place"))
