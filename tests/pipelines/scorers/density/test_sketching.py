"""Sketches of groups of blocks: the groups, their merging in any order, and files that are not what they should be."""

import functools
import itertools
import json
import pickle
import shutil

import numpy as np
import pytest
import tiny_t5
from hypothesis import given
from hypothesis import strategies as st

from curation.coverage import kernels, race
from pipelines import main
from pipelines.scorers.density import sketching
from pipelines.store.groups import group_blocks

CONFIG = race.SketchConfig(6, kernels.Kernel("l2", 0.7, 2), rows=30, counters=50)


@given(block_rows=st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=6), documents=st.integers(1, 80))
def test_groups_hold_every_block_once_in_order(block_rows, documents):
  """Kills: blocks at a shard's end left out, and groups that never end."""
  groups = list(group_blocks(block_rows, documents))
  held = [(shard, block) for group in groups for shard, first, stop in group.parts for block in range(first, stop)]
  assert held == [(shard, block) for shard, rows in enumerate(block_rows) for block in range(len(rows))]
  sizes = [sum(sum(block_rows[shard][a:b]) for shard, a, b in group.parts) for group in groups]
  assert all(size >= documents for size in sizes[:-1])
  assert all(size < documents + 30 for size in sizes)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """Paths of sketches of parts of a cloud, and the sketch of all of it."""
  folder = tmp_path_factory.mktemp("parts")
  points_ND = race.unit_vectors(np.random.default_rng(3).standard_normal((700, 6)))
  whole = race.Sketch(CONFIG)
  whole.add(points_ND)
  paths = []
  for start in range(0, 700, 100):
    sketch = race.Sketch(CONFIG)
    sketch.add(points_ND[start : start + 100])
    paths.append(str(folder / f"{start}.safetensors"))
    with open(paths[-1], "wb") as file:
      race.save(sketch, file)
  return paths, whole


@given(order=st.permutations(range(7)), cuts=st.lists(st.integers(0, 7), max_size=3), pickled=st.booleans())
def test_merging_gives_the_whole_sketch_however_it_is_split(parts, order, cuts, pickled):
  """Kills: an accumulator that is changed after it was handed on, and an empty one that counts."""
  paths, whole = parts
  combine = sketching.MergeRowsFn()
  merged = []
  for start, stop in sketching.slices_of(CONFIG):
    borders = [0, *sorted(cuts), 7]
    accumulators = []
    for a, b in itertools.pairwise(borders):
      rows = [sketching.RowsOf(paths[i], start, stop) for i in order[a:b]]
      accumulators.append(functools.reduce(combine.add_input, rows, combine.create_accumulator()))
    if pickled:
      accumulators = pickle.loads(pickle.dumps(accumulators))
    merged.append(combine.extract_output(combine.merge_accumulators(iter(accumulators))))
  np.testing.assert_array_equal(np.concatenate(merged), whole.counts_RB)


def test_slices_are_small_and_hold_every_row():
  for rows, counters in ((1_000, 20_000), (2, 1), (50, 1 << 22)):
    config = race.SketchConfig(6, CONFIG.kernel, rows=rows, counters=counters)
    slices = list(sketching.slices_of(config))
    assert [row for start, stop in slices for row in range(start, stop)] == list(range(rows))
    assert all(4 * (stop - start) * counters <= max(1 << 21, 4 * counters) for start, stop in slices)


def density(folder, *flags: str) -> int:
  where = [f"--input={folder}/*.jsonl", f"--embeddings={folder}/*.npy", f"--scores={folder}/scores", "--name=d"]
  return main.main(["score", "--scorer=density", *where, "--sketch_rows=20", "--direct_num_workers=1", *flags])


@pytest.fixture
def corpus(tmp_path):
  texts = "".join(json.dumps({"text": f"text {row}"}) + "\n" for row in range(400))
  (tmp_path / "a.jsonl").write_text(texts)
  np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32))
  return tmp_path


@pytest.mark.parametrize("how", ["corrupt", "foreign", "cut"])
def test_a_sketch_that_is_damaged_is_made_again_and_one_of_something_else_never_used(corpus, capsys, how):
  """Kills: a sketch that is taken because it is there."""
  assert density(corpus) == 0
  store = corpus / "scores/d"
  (store / "summary.json").unlink()
  (store / "shards/a.jsonl.parquet").unlink()
  path = store / "sketch/sketch.safetensors"
  data = bytearray(whole := path.read_bytes())
  if how == "corrupt":
    data[-4:] = b"\x09\0\0\0"
  elif how == "cut":
    del data[-8:]
  else:
    with open(path, "rb") as file:
      config = race.SketchFile(file, "s").config
    other = race.Sketch(config)
    other.add(race.unit_vectors(np.ones((3, 5))))
    with open(path, "wb") as file:
      race.save(other, file)
    data = bytearray(path.read_bytes())
  path.write_bytes(data)
  capsys.readouterr()
  if how == "foreign":
    assert density(corpus) == 1
    assert "sketch.safetensors is the sketch of something else" in capsys.readouterr().err
    path.unlink()
  assert density(corpus) == 0
  assert path.read_bytes() == whole
  assert ("1 damaged file was found" in capsys.readouterr().err) == (how != "foreign")


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    (["--bandwidth=0"], "--bandwidth=0.0 is not a number above 0"),
    (["--bandwidth=nan"], "--bandwidth=nan is not a number above 0"),
    (["--hashes=65"], "--hashes=65 is not between 1 and 64"),
    (["--kernel=angular", "--bandwidth=1"], "--kernel=angular has no --bandwidth"),
    (["--sketch_rows=1"], "a sketch's rows must be a whole number from 2"),
    (["--sketch_counters=0"], "a sketch's counters must be a whole number from 1"),
    (["--prompt_file=p"], "--prompt_file is for --scorer=ask_llm"),
    (["--scorer=ask_llm", "--model=m"], "--embeddings is for --scorer=density"),
    (["--sketch_seed=99999999999999999999"], "a whole number of 64 bits"),
    (["--devices_per_model=2"], "--devices_per_model is for --model"),
    (["--embedding_name=d"], "give each store a name of its own"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(corpus, capsys, flags, told):
  assert density(corpus, *flags) == 2
  assert told in capsys.readouterr().err
  assert not (corpus / "scores").exists()


def test_a_bandwidth_too_small_for_the_numbers_fails_in_a_sentence(corpus, capsys):
  assert density(corpus, "--bandwidth=1e-6") == 1
  assert "--bandwidth=1e-06 is too small" in capsys.readouterr().err


def test_another_request_is_refused_and_overwrite_starts_over(corpus, capsys):
  """Kills: a sketch that outlives its request."""
  assert density(corpus, "--hashes=2") == 0
  assert density(corpus, "--hashes=3") == 2
  assert "hashes is 2 there and 3 now" in capsys.readouterr().err
  before = (corpus / "scores/d/sketch/sketch.safetensors").read_bytes()
  assert density(corpus, "--hashes=3", "--overwrite") == 0
  assert (corpus / "scores/d/sketch/sketch.safetensors").read_bytes() != before
  assert json.loads((corpus / "scores/d/sketch/kernel.json").read_text())["config"]["kernel"]["hashes"] == 3


def test_a_density_belongs_to_its_embeddings(corpus, capsys):
  """Kills: a request that does not say which embeddings, so that scores of others are taken for its own."""
  assert density(corpus) == 0
  np.save(corpus / "a.npy", np.random.default_rng(1).standard_normal((400, 5)).astype(np.float32))
  assert density(corpus) == 2
  assert "embeddings_" in capsys.readouterr().err
  assert density(corpus, "--embedding_name=new") == 2
  assert "scores/d belongs to another request: embeddings is" in capsys.readouterr().err
  assert density(corpus, "--embedding_name=new", "--overwrite") == 0


@pytest.mark.parametrize("how", ["damaged", "other hashes", "other embeddings"])
def test_a_kernel_that_cannot_be_gone_on_with_is_told_with_what_helps(corpus, capsys, how):
  """Kills: advice to type --overwrite, which spares a store that is not complete."""
  assert density(corpus) == 0
  store = corpus / "scores/d"
  before = (store / "sketch/sketch.safetensors").read_bytes()
  (store / "summary.json").unlink()
  (store / "shards/a.jsonl.parquet").unlink()
  path = store / "sketch/kernel.json"
  if how == "damaged":
    path.write_text("{")
  else:
    field = how.split()[1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: "0" * 32}))
  capsys.readouterr()
  assert density(corpus) == 1
  told = capsys.readouterr().err
  assert f"delete {store / 'sketch'} and run the command again" in told
  shutil.rmtree(store / "sketch")
  assert density(corpus) == 0
  assert (store / "sketch/sketch.safetensors").read_bytes() == before


def test_curate_refuses_a_sampler_of_other_scores(corpus, capsys):
  """Kills: the documents of the highest density drawn as those of the highest quality."""
  where = [f"--input={corpus}/*.jsonl", f"--scores={corpus}/s", f"--output={corpus}/o", "--rate=0.5"]
  embeddings = [f"--embeddings={corpus}/*.npy"]
  assert main.main(["curate", "--scorer=density", "--sampler=ask_llm", *where, *embeddings]) == 2
  assert "--sampler=ask_llm does not draw by the scores of --scorer=density" in capsys.readouterr().err
  where = [f"--input={corpus}/*.jsonl", f"--scores={corpus}/s", f"--output={corpus}/o", "--num_tokens=5"]
  assert main.main(["curate", "--scorer=density", *where, *embeddings]) == 2
  assert "--embeddings come without; use --num_examples" in capsys.readouterr().err
  assert not (corpus / "s").exists()


@pytest.mark.parametrize("tokens", [-5, 0, 1, 99_999_999])
def test_limits_that_no_text_fits_are_refused_at_launch(corpus, capsys, tokens):
  """Kills: a limit of 0 that counts as none, and one that fails after the store is claimed."""
  model = tiny_t5.make_sentence_t5(corpus / "model")
  where = [f"--input={corpus}/*.jsonl", f"--scores={corpus}/s", f"--model={model}"]
  assert main.main(["embed", *where, f"--max_input_tokens={tokens}"]) == 2
  assert f"--max_input_tokens={tokens} is not between 2 and" in capsys.readouterr().err
  assert not (corpus / "s").exists()


def test_curate_gives_what_score_and_sample_give(corpus):
  where = [f"--input={corpus}/*.jsonl", f"--embeddings={corpus}/*.npy", "--name=d", "--direct_num_workers=1"]
  drawing = ["--rate=0.3", "--seed=5", "--temperature=2", "--num_shards=2", "--dataset_name=d"]
  curated = ["curate", "--scorer=density", *where, "--sketch_rows=20", *drawing]
  assert main.main([*curated, f"--scores={corpus}/scores2", f"--output={corpus}/out2"]) == 0
  assert density(corpus) == 0
  sampled = ["sample", f"--scores={corpus}/scores", "--sampler=density", "--name=d", *drawing]
  assert main.main([*sampled, f"--output={corpus}/out"]) == 0
  shards = sorted(path.name for path in (corpus / "out").glob("*.tfrecord*"))
  assert len(shards) == 2
  for name in shards:
    assert (corpus / "out" / name).read_bytes() == (corpus / "out2" / name).read_bytes()


def test_what_a_killed_run_left_damaged_is_made_again(corpus, capsys, monkeypatch):
  """Kills the mutants: a partial sketch, merged rows or a sample that are whole because they are there."""

  def killed(*_):
    raise KeyboardInterrupt

  assert density(corpus) == 0
  expected = {path.name: path.read_bytes() for path in (corpus / "scores/d/sketch").iterdir()}
  (corpus / "scores").rename(corpus / "undisturbed")
  with monkeypatch.context() as patch:
    patch.setattr(sketching, "assemble", killed)
    assert density(corpus) != 0
  left = list((corpus / "scores/d/sketch/work").iterdir())
  assert len(left) == 3  # the sample, a partial sketch and its one slice
  capsys.readouterr()
  assert main.main(["status", str(corpus / "scores/d")]) == 0
  assert (
    "d: density scores, incomplete\n  density sketch: not built yet, 3 partial sketches done\n"
    in capsys.readouterr().out
  )
  for path, how in zip(left, ("corrupt", "cut", "empty"), strict=True):
    data = bytearray(path.read_bytes())
    if how == "corrupt":
      data[-300] ^= 0x10
    path.write_bytes(data if how == "corrupt" else data[:-8] if how == "cut" else b"")
  capsys.readouterr()
  assert density(corpus) == 0
  assert "3 damaged files were found" in capsys.readouterr().err
  assert {path.name: path.read_bytes() for path in (corpus / "scores/d/sketch").iterdir()} == expected


def test_an_embedding_that_is_damaged_is_made_again(corpus, capsys):
  """Kills the mutants: damage in a complete store that no run would ever mend; one that costs more than its block."""
  assert density(corpus, "--block_rows=50") == 0
  (embeddings,) = [path for path in (corpus / "scores").iterdir() if path.name != "d"]
  block = sorted(embeddings.glob("blocks/*/*.parquet"))[3]
  expected = block.read_bytes()
  before = {path: path.stat().st_mtime_ns for path in embeddings.glob("blocks/*/*.parquet") if path != block}
  shutil.rmtree(corpus / "scores/d")
  block.write_bytes(expected[:-40])
  capsys.readouterr()
  assert density(corpus, "--block_rows=50") == 0
  assert f"1 damaged file was found in {embeddings}, to be made again" in capsys.readouterr().err
  assert block.read_bytes() == expected
  assert {path: path.stat().st_mtime_ns for path in before} == before
