"""The library's face beside the commands: the same bits, in the same order, and errors of one kind."""

import json
import os
import pathlib
import subprocess
import sys

import corpora
import duckdb
import numpy as np
import once
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from running import shards_of

import pipelines.api as winnow
from curation.demo import embedder
from pipelines import main

PROJECT = pathlib.Path(__file__).resolve().parents[2]
UNFIT = {3: None, 7: "", 11: " \u200b ", 20: "\ud800 half a pair"}  # no texts, by their rows
SETTINGS = {
  "ask_llm": {"max_input_tokens": 64, "yes_token": "yes"},
  "perplexity": {"max_input_tokens": 40, "mask_seed": 5},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """A folder with a model, two shards with bad rows, and their scores by two scorers."""
  return once.made(tmp_path_factory, "api", write_place)


def write_place(folder: pathlib.Path) -> None:
  corpora.write_model(folder / "model")
  (folder / "in").mkdir()
  for shard in range(2):
    lines = [json.dumps({"text": text, "url": f"http://a{shard}.org"}) for text in texts_of(shard)]
    (folder / f"in/{shard}.jsonl").write_text("\n".join(lines) + "\n")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  for name, settings in SETTINGS.items():
    given = [f"--{setting}={value}" for setting, value in settings.items()]
    command = ["score", f"--scorer={name}", f"--input={folder}/in/*", f"--scores={folder}/scores", f"--name={name}"]
    command += [f"--model={folder}/model", "--max_bad_fraction=1", "--block_rows=17", *given]
    command += [f"--prompt_file={folder}/prompt.txt"] if name == "ask_llm" else []
    assert main.main(command) == 0


def texts_of(shard: int) -> list[str | None]:
  texts: list[str | None] = [*corpora.sentences(50, shard)]
  for row, text in UNFIT.items():
    texts[row] = text
  return texts


def by_command(place: pathlib.Path, name: str, shard: int) -> np.ndarray:
  """What the command scored of a shard, row by row; NaN for bad rows."""
  table = shards_of(place / "scores" / name).to_pandas().query(f"shard == '{shard}.jsonl'")
  scores = np.full(50, np.nan, np.float32)
  scores[table["row"]] = table["score"]
  return scores


def describe(place: pathlib.Path, name: str):
  if name == "ask_llm":
    return winnow.AskLlm(model=place / "model", template=corpora.PROMPT, **SETTINGS[name])
  return winnow.Perplexity(model=place / "model", **SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_have_the_bits_of_the_command(place, name):
  """Invariant 1. Kills: a score that depends on other texts of the call; a mask by the row among good rows."""
  for shard in range(2):
    expected = by_command(place, name, shard)
    assert np.flatnonzero(np.isnan(expected)).tolist() == sorted(UNFIT)
    found = winnow.score(texts_of(shard), describe(place, name), shard=f"{shard}.jsonl")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_text_is_masked_by_the_seed_and_the_text_alone(place):
  """Kills: masks by the position in the list, and one mask for all seeds."""
  texts, scorer = texts_of(0), describe(place, "perplexity")
  scores = winnow.score(texts, scorer)
  np.testing.assert_array_equal(winnow.score(texts[::-1], scorer), scores[::-1])
  other = winnow.Perplexity(model=place / "model", max_input_tokens=40, mask_seed=6)
  are_other = winnow.score(texts, other) != scores
  assert are_other[~np.isnan(scores)].mean() > 0.4  # a text of few tokens has few masks


@pytest.mark.parametrize(
  "column",
  [
    iter,
    pa.array,
    lambda texts: pa.chunked_array([texts[:9], texts[9:]]),
    lambda texts: pd.Series(texts, dtype="string"),
    lambda texts: pd.Series([float("nan") if text is None else text for text in texts]),
    pl.Series,
    lambda texts: np.array(texts, object),
  ],
  ids=["iterator", "arrow", "chunks", "pandas", "nan", "polars", "numpy"],
)
def test_columns_of_all_libraries_are_texts(place, column):
  """Kills: `nan` or `<NA>` that is scored as if it was a text."""
  texts = [None if text == UNFIT[20] else text for text in texts_of(0)]  # no library holds half of a pair
  scorer = describe(place, "ask_llm")
  np.testing.assert_array_equal(winnow.score(column(texts), scorer), by_command(place, "ask_llm", 0))


def test_more_texts_than_a_block_holds_keep_their_order(place):
  """Kills: rows that start anew in each block, and a last block that is left out."""
  texts = corpora.sentences(30, 1) * 140
  scores = winnow.score((text for text in texts), describe(place, "ask_llm"))
  assert len(scores) == 4_200
  np.testing.assert_array_equal(scores.reshape(140, 30), np.tile(scores[:30], (140, 1)))


def test_a_model_that_changes_is_loaded_again(place, tmp_path):
  """Kills: a model that is kept by its path alone."""
  before = winnow.score(["river stone"], winnow.AskLlm(model=corpora.write_model(tmp_path / "model")))
  corpora.write_model(tmp_path / "model", num_layers=2)
  after = winnow.score(["river stone"], winnow.AskLlm(model=tmp_path / "model"))
  assert np.isfinite(before).all() and before != after


def test_scorers_by_name_take_the_settings_of_the_command(place):
  """Kills: a prompt or a seed that is left out."""
  settings = {"model": place / "model", "prompt_file": str(place / "prompt.txt"), **SETTINGS["ask_llm"]}
  np.testing.assert_array_equal(winnow.score(texts_of(1), "ask_llm", **settings), by_command(place, "ask_llm", 1))
  assert winnow.scorer("ask_llm", **settings) == describe(place, "ask_llm")
  named = winnow.scorer("perplexity", model=place / "model", **SETTINGS["perplexity"])
  assert named == describe(place, "perplexity")


@pytest.mark.parametrize(
  "arguments, settings, told",
  [
    (("one text", "ask_llm"), {}, "put it into a list"),
    ((["a", 7], "ask_llm"), {}, "text 1 is of the type int"),
    ((["a"], "ask_lm"), {}, "there is no scorer ask_lm; did you mean ask_llm?"),
    ((["a"], "ask_llm"), {"modle": "m"}, "has no setting modle; did you mean model?"),
    ((["a"], "ask_llm"), {"mask_seed": 1}, "the scorer ask_llm has no setting mask_seed"),
    ((["a"], "perplexity"), {"objective": "lm"}, "objective='lm' is none of span_corruption, prefix_lm"),
    ((["a"], "ask_llm"), {"model": "./missing"}, "there is no such folder"),
    ((["a"], "ask_llm"), {"yes_token": "yes yes"}, "yes yes"),
    ((["a"], "density"), {}, "compares the documents of a whole corpus"),
    ((["a"], "minhash"), {}, "compares the documents of a whole corpus"),
  ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(place, arguments, settings, told):
  """Kills: a traceback of the library, an exit, and a setting that is silently ignored."""
  if arguments[1] == "ask_llm":
    settings = {"model": str(place / "model"), **settings}
  with pytest.raises(winnow.WinnowError, match=r"^[^\n]+$") as raised:
    winnow.score(*arguments, **settings)
  assert told in str(raised.value)


def test_settings_beside_a_description_are_refused(place):
  with pytest.raises(winnow.WinnowError, match="give it to AskLlm"):
    winnow.score(["a"], describe(place, "ask_llm"), dtype="float32")


def test_embeddings_are_no_scores(place):
  """Kills: the first coordinate of an embedding in place of a score."""
  from pipelines.scorers.t5.sentence_t5 import SentenceT5

  with pytest.raises(winnow.WinnowError, match="gives texts no scores"):
    winnow.score(["a"], SentenceT5(model=str(embedder.folder()), embedding_dtype="float32"))


def test_pandas_polars_and_duckdb_read_the_scores(place):
  """Kills: a shard left out, and columns that a library does not take."""
  scores = winnow.read_scores(place / "scores/ask_llm")
  expected = shards_of(place / "scores/ask_llm").to_pydict()
  assert scores.schema.names == [*expected] == ["shard", "row", "score", "num_tokens", "domain"]
  assert scores.to_table().to_pydict() == expected and set(expected["domain"]) == {"a0.org", "a1.org"}
  assert scores.to_table().to_pandas().to_dict("list") == expected
  best = [(shard, row) for _, shard, row in sorted(zip(*(expected[c] for c in ("score", "shard", "row")), strict=True))]
  lazy = pl.scan_pyarrow_dataset(scores).sort("score", "shard", "row").select("shard", "row").collect()
  assert lazy.rows() == best
  assert duckdb.sql("SELECT shard, row FROM scores ORDER BY score, shard, row").fetchall() == best
  some = duckdb.sql("SELECT row FROM scores WHERE shard = '1.jsonl' AND row < 9 ORDER BY row").fetchall()
  assert some == [(row,) for row in range(9) if row not in UNFIT]


def test_only_complete_stores_are_read(place, tmp_path, monkeypatch):
  """Kills: scores of a part of a corpus that look like those of all of it."""
  monkeypatch.chdir(tmp_path)
  store = tmp_path / "scores/one"
  command = ["score", f"--input={place}/in/*", "--scores=scores", "--name=one", f"--model={place}/model"]
  assert main.main([*command, "--max_bad_fraction=1"]) == 0
  assert winnow.read_scores("scores/one").count_rows() == 92
  shard = store / "shards/1.jsonl.parquet"
  content = shard.read_bytes()
  shard.write_bytes(content[: len(content) // 2])
  refuse("scores/one", "1.jsonl.parquet is missing or damaged")
  shard.unlink()
  refuse("scores/one", "is incomplete; run its command again")
  (store / "summary.json").unlink()
  refuse("scores/one", "is incomplete; run its command again")
  refuse("scores", "holds no score store")
  refuse("nowhere", "holds no score store")
  refuse("gs://bucket/scores/one", "is not on this machine")


def refuse(folder: str, told: str) -> None:
  with pytest.raises(winnow.WinnowError, match=r"^[^\n]+$") as raised:
    winnow.read_scores(folder)
  assert told in str(raised.value)


def test_a_store_of_embeddings_has_no_scores(place, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.save("0.npy", np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32))
  command = ["embed", f"--input={place}/in/0.jsonl", "--embeddings=*.npy", "--scores=scores", "--name=made"]
  assert main.main([*command, "--max_bad_fraction=1"]) == 0
  refuse("scores/made", "holds embeddings and no scores")


def test_the_library_is_light_until_it_is_used():
  """Kills: an import of Beam, Arrow, NumPy or JAX at the top, and a name that is declared but not there."""
  code = (
    "import sys, pipelines.api as winnow; heavy = {'apache_beam', 'jax', 'numpy', 'pyarrow'} & {*sys.modules};"
    "print(heavy, [name for name in winnow.__all__ if getattr(winnow, name).__name__ != name], hasattr(winnow, 'x'))"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True, text=True)
  assert done.stdout == "set() [] False\n"


def test_nothing_is_printed(place):
  """Kills: a bar, a warning or a log on the terminal of a program that only calls a function."""
  code = (
    "import pipelines.api as winnow, signal; signals = signal.SIGINT, signal.SIGTERM;"
    "before = [*map(signal.getsignal, signals)];"
    f"winnow.score(['river', None], 'ask_llm', model={str(place / 'model')!r});"
    f"winnow.read_scores({str(place / 'scores/ask_llm')!r});"
    "assert before == [*map(signal.getsignal, signals)]"
  )
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, env=environment)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
