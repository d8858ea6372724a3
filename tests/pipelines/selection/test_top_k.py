"""The top k as a transform, against sorting, with many ties, in bundles of all sizes."""

import json
import pathlib

import apache_beam as beam
import corpora
import numpy as np
import pytest
from apache_beam.options import pipeline_options
from apache_beam.testing import util
from apache_beam.transforms import window
from apache_beam.typehints import typehints

import pipelines.api as winnow
from curation.selection import selection
from pipelines import main
from pipelines.selection import top_k

NAN = float("nan")


def made(count: int) -> list[tuple[tuple[str, int], float]]:
  """Pairs of several shards with few distinct scores, some negative or zero of both signs, and some that are NaN."""
  generator = np.random.default_rng(3)
  scores = np.round(generator.standard_normal(count), 1)
  scores[::13] = np.nan
  return [((f"s{number % 4}", number), score) for number, score in enumerate(scores.tolist())]


def by_sorting(pairs: list[tuple], k: int, seed: int = 0) -> list[tuple]:
  """The best k by score, and by the tie hash of their shard and row."""

  def rank(pair: tuple) -> tuple[float, int]:
    (shard, row), score = pair
    return score, int(selection.tie_hashes(seed, shard, np.array([row]))[0])

  return sorted((pair for pair in pairs if not np.isnan(pair[1])), key=rank, reverse=True)[:k]


@pytest.mark.parametrize(
  "amount, k, seed, is_broken",
  [
    ({"rate": 0.3}, 831, 0, False),
    ({"rate": "1/3"}, 923, 7, True),
    ({"num_examples": 1}, 1, 0, True),
    ({"num_examples": 5_000}, 2_769, 0, False),
  ],
  ids=["rate", "fraction", "one", "all"],
)
def test_the_transform_finds_what_a_sort_finds(amount, k, seed, is_broken):
  """Invariant 2, over few bundles and over many. Kills: ties that fall by order, a rate of all elements and not of
  those with a score, one too many at the threshold."""
  pairs = made(3_000)
  with beam.Pipeline("FnApiRunner") as pipeline:
    created = pipeline | beam.Create(pairs)
    expected = by_sorting(pairs, k, seed)
    assert len(expected) == k
    found = (created | beam.Reshuffle() if is_broken else created) | top_k.TopK(**amount, seed=seed)
    util.assert_that(found, util.equal_to(expected))


@pytest.mark.local_runner
def test_two_processes_select_the_same():
  """Kills: a hash that a process draws anew, as Python's own hash of a string does."""
  pairs = [(f"document {number}", float(number % 3)) for number in range(300)]
  options = pipeline_options.PipelineOptions(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
  chosen = [pair for pair in pairs if pair[1] == 2.0]
  (floor,) = sorted(top_k.ranks_of(chosen, 0)[:, 1].tolist(), reverse=True)[39:40]
  expected = [pair for pair in chosen if top_k.ranks_of([pair], 0)[0, 1] >= floor]
  with beam.Pipeline("FnApiRunner", options=options) as pipeline:
    found = pipeline | beam.Create(pairs) | beam.Reshuffle() | top_k.TopK(num_examples=40)
    util.assert_that(found, util.equal_to(expected))


@pytest.mark.long  # what it kills, the sort above kills too, as long as the command's own tests hold
def test_scores_on_record_give_the_sample_of_the_command(tmp_path, monkeypatch):
  """Most of MinHash's scores are equal. Kills: another hash, another rounding of the rate or another order of scores
  than that of `winnow sample`."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "in").mkdir()
  for shard in range(2):
    lines = [json.dumps({"text": text}) for text in corpora.repeating_texts(70, shard)]
    (tmp_path / f"in/{shard}.jsonl").write_text("\n".join(lines) + "\n")
  assert main.main(["score", "--scorer=minhash", "--input=in/*", "--scores=scores", "--name=copies"]) == 0
  flags = ["--sampler=minhash", "--rate=0.3", "--seed=4", "--output=out", "--output_format=jsonl"]
  assert main.main(["sample", "--scores=scores", *flags]) == 0
  lines = [line for path in pathlib.Path("out").glob("*.jsonl*") for line in path.read_text().splitlines()]
  expected = [json.loads(line)["source"] for line in lines]
  rows = winnow.read_scores("scores/copies").to_table().to_pylist()
  assert len({row["score"] for row in rows}) < len(rows) / 2 and len(expected) == 42
  with beam.Pipeline("FnApiRunner") as pipeline:
    pairs = pipeline | beam.Create([((row["shard"], row["row"]), row["score"]) for row in rows])
    sources = pairs | winnow.TopK(0.3, seed=4) | beam.Map(lambda pair: f"{pair[0][0]}#{pair[0][1]}")
    util.assert_that(sources, util.equal_to(expected))


def test_smaller_selections_lie_within_larger_ones():
  """Invariant 2 with many equal scores. Kills: a hash that depends on the rate."""
  pairs = made(1_000)

  def check(found: list[tuple]) -> None:
    by_rate = {rate: {key for of, key in found if of == rate} for rate in (0.1, 0.2, 0.4)}
    assert [len(keys) for keys in by_rate.values()] == [92, 185, 369]
    assert by_rate[0.1] < by_rate[0.2] < by_rate[0.4]

  with beam.Pipeline("FnApiRunner") as pipeline:
    created = pipeline | beam.Create(pairs)
    selected = [
      created | f"Top{rate}" >> top_k.TopK(rate) | f"Tell{rate}" >> beam.Map(lambda pair, of: (of, pair[0]), of=rate)
      for rate in (0.1, 0.2, 0.4)
    ]
    util.assert_that(selected | beam.Flatten(), check)


@pytest.mark.parametrize(
  "pairs, amount", [([], {"rate": 0.5}), ([("a", NAN)], {"num_examples": 2}), ([("a", 1.0)], {"rate": 0.4})]
)
def test_nothing_is_selected_where_nothing_fits(pairs, amount):
  """Kills: a pipeline that fails on an empty PCollection, and a NaN that counts as the highest score."""
  with beam.Pipeline("FnApiRunner") as pipeline:
    created = pipeline | beam.Create(pairs).with_output_types(tuple[str, float])
    util.assert_that(created | top_k.TopK(**amount), util.is_empty())


@pytest.mark.parametrize("keys", [["a", "b", "c"], [b"a", b"b", b"c"], [0, 1, 2], [("a", 0), ("a", 1), ("b", 0)]])
def test_all_kinds_of_keys_have_an_order(keys):
  ranks = top_k.ranks_of([(key, 0.0) for key in keys], 0)
  assert len({*ranks[:, 1].tolist()}) == 3 and len({*ranks[:, 0].tolist()}) == 1


def test_ranks_leave_a_bundle_in_batches():
  """Kills: a bundle, or all elements, held in one list."""
  fn = top_k._RankFn(0)
  fn.start_bundle()
  out = [list(fn.process((number, 1.0))) for number in range(100_000)]
  assert [(place, *map(len, batches)) for place, batches in enumerate(out) if batches] == [(65_535, 65_536)]
  assert [len(value.value) for value in fn.finish_bundle()] == [100_000 - 65_536]


def test_elements_keep_their_timestamps():
  """Kills the mutant whose batches give all elements the time of the last one."""
  pairs = [(f"document {number}", float(number)) for number in range(200)]
  with beam.Pipeline("FnApiRunner") as pipeline:
    stamped = pipeline | beam.Create(pairs) | beam.Map(lambda pair: window.TimestampedValue(pair, pair[1]))
    selected = stamped | top_k.TopK(0.5)
    times = selected | beam.Map(lambda pair, time=beam.DoFn.TimestampParam: (pair[1], float(time)))
    util.assert_that(times, util.equal_to([(float(number), float(number)) for number in range(100, 200)]))


def test_the_type_of_keys_stays():
  pairs = beam.Pipeline("FnApiRunner") | beam.Create([(1, 1.0)]).with_output_types(tuple[int, float])
  assert (pairs | top_k.TopK(0.5)).element_type == typehints.normalize(tuple[int, float])


@pytest.mark.parametrize(
  "amount, told",
  [
    ({}, "needs one amount"),
    ({"rate": 0.5, "num_examples": 1}, "needs one amount"),
    ({"rate": 1.5}, r"rate=1.5 is not in \(0, 1\]"),
    ({"rate": "half"}, "rate=half is not a number"),
    ({"num_examples": 0}, "num_examples=0 selects nothing"),
  ],
)
def test_amounts_that_select_nothing_are_refused(amount, told):
  with pytest.raises(winnow.WinnowError, match=told):
    top_k.TopK(**amount)


def test_windows_are_refused():
  """Kills: a threshold of one window that is used for another."""
  stamped = beam.Pipeline("FnApiRunner") | beam.Create([("a", 1.0)]) | beam.WindowInto(window.FixedWindows(1))
  with pytest.raises(winnow.WinnowError, match="in the global window"):
    _ = stamped | top_k.TopK(0.5)


@pytest.mark.parametrize(
  "pairs, told", [([("a", 1.0), ("a", 1.0)], "give each element a key of its own"), ([((1, 2), 1.0)], "by the key")]
)
def test_what_has_no_order_fails_with_its_reason(pairs, told):
  """Kills: one of two equal elements that is dropped, or both kept."""
  with pytest.raises(Exception, match=told), beam.Pipeline("FnApiRunner") as pipeline:
    _ = pipeline | beam.Create(pairs) | top_k.TopK(num_examples=1)
