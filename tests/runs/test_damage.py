"""Files that are damaged while nobody runs, and inputs that change while somebody does: found, told, and made again."""

import gzip
import pathlib
import shutil

import corpora
import numpy as np
import pytest
from running import content, run_in

from pipelines.files import damage, storage
from pipelines.output import manifests
from pipelines.scoring import recording, scoring
from pipelines.worker import prefetch

SCORE = ["--max_input_tokens=32", "--scores=scores", "--name=tiny", "--block_rows=50", "--direct_num_workers=1"]
SAMPLE = ["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.3", "--output=out", "--num_shards=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("damage")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=3_000, small_rows=300)
  return folder


def score_command(place: pathlib.Path, corpus: str = "corpus") -> list[str]:
  return ["score", f"--input={place / corpus}/*", f"--model={place}/model", f"--prompt_file={place}/prompt.txt", *SCORE]


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  folder = place / "undisturbed"
  assert run_in(folder, score_command(place)) == 0
  assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) == 0
  return folder


def write_embeddings(place: pathlib.Path, folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Of the corpus, a file for each shard; returns what they hold."""
  folder.mkdir()
  generator = np.random.default_rng(0)
  found = {}
  for path in sorted((place / "corpus").iterdir()):
    rows = corpora.rows_of(path.name, big_rows=3_000, small_rows=300)
    found[path.name] = generator.standard_normal((rows, 6)).astype(np.float32)
    np.save(folder / f"{path.name}.npy", found[path.name])
  return found


def interrupted(*_, **__):
  raise KeyboardInterrupt


def spoil(path: pathlib.Path, how: int) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 0x20
  path.write_bytes((bytes(data), data[: len(data) // 2], b"")[how % 3])


def test_whatever_is_damaged_in_a_store_is_made_again(place, undisturbed, monkeypatch, capsys):
  """Blocks, shards and dead letters. Kills the mutants: a run that relies on what it has not looked at; a shard that is
  damaged and ends the run."""
  folder, store = place / "store", place / "store/scores/tiny"
  compacted = []

  def compact_three(*arguments, **keywords):
    if len(compacted) == 3:
      raise KeyboardInterrupt
    compacted.append(arguments)
    return compact(*arguments, **keywords)

  compact = scoring.block_files.compact_shard
  with monkeypatch.context() as patch:
    patch.setattr(scoring.block_files, "compact_shard", compact_three)
    assert run_in(folder, score_command(place)) != 0
  blocks, shards = sorted(store.glob("blocks/*/*.parquet")), sorted(store.glob("shards/*"))
  letters = [store / "dead_letter" / f"{shard.stem}.jsonl" for shard in shards]
  assert len(blocks) > 40 and len(shards) == 3
  spoilt = [*blocks[::5], shards[0], letters[1]]
  for how, path in enumerate(spoilt):
    spoil(path, how)
  capsys.readouterr()
  assert run_in(folder, score_command(place)) == 0
  assert len(damage.records(str(store))) == len(spoilt)
  assert "damaged files were found" in capsys.readouterr().err
  assert content(store) == content(undisturbed / "scores/tiny")


def test_whatever_is_damaged_in_an_output_is_made_again(place, undisturbed, monkeypatch, capsys):
  """Runs and output shards. Kills the mutants: a run that is whole because it opens; a shard that is done because its
  record says so."""
  folder = place / "output"
  shutil.copytree(undisturbed / "scores", folder / "scores")
  with monkeypatch.context() as patch:
    patch.setattr(manifests, "publish", interrupted)
    assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) != 0
  runs, shards = sorted(folder.rglob("*.run")), sorted((folder / "out").glob("*tfrecord*"))
  assert len(runs) == 12 and len(shards) == 4
  records = sorted((folder / "out").rglob("runs/*/0000?.json"))
  assert len(records) == 4
  spoilt = [*runs[::3], *shards[:3], records[3]]
  for how, path in enumerate(spoilt):
    spoil(path, how)
  capsys.readouterr()
  assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) == 0
  assert len(damage.records(str(folder / "out"))) == len(spoilt)
  assert "8 damaged files were found" in capsys.readouterr().err
  assert content(folder / "out") == content(undisturbed / "out")


@pytest.mark.parametrize("how", ["--rate=0.3", "--threshold=-5", "--group_by=domain"])
def test_a_bit_that_no_page_holds_is_found_before_a_sample_is_drawn(place, undisturbed, capsys, how):
  """In the footer, where it might hide rows. Kills the mutant that compares pages alone."""
  folder = place / how.strip("-")
  shutil.copytree(undisturbed / "scores", folder / "scores")
  path = folder / "scores/tiny/shards/i.jsonl.parquet"
  data = bytearray(path.read_bytes())
  data[data.rindex(b"parquet-cpp-arrow")] ^= 1
  path.write_bytes(data)
  more = ["--group_max=5", "--rate=0.3"] if "group" in how else []
  command = [flag for flag in SAMPLE if "rate" not in flag]
  assert run_in(folder, [*command, how, *more, "--direct_num_workers=1"]) != 0
  assert "i.jsonl.parquet is missing or damaged (its bytes do not fit their checksum)" in capsys.readouterr().err
  assert not (folder / "out/manifest.json").exists() and not path.exists()


@pytest.mark.parametrize("how", ["replaced", "truncated"])
def test_a_shard_that_changes_while_it_is_scored_leaves_no_scores(place, undisturbed, monkeypatch, capsys, how):
  """Kills the mutants: a run that does not look at its input again; one that leaves the blocks that it had written."""
  shutil.copytree(place / "corpus", place / how)
  path = place / how / "big.jsonl.gz"
  whole = path.read_bytes()
  seen = []

  def changing(items, *, ahead):
    for item in prefetch_items(items, ahead=ahead):
      seen.append(item[0].index)
      if len(seen) == 5:
        path.write_bytes(whole[: len(whole) // 2] if how == "truncated" else (place / "corpus/e.jsonl.gz").read_bytes())
      yield item

  prefetch_items = prefetch.prefetch
  folder = place / f"{how}_run"
  with monkeypatch.context() as patch:
    patch.setattr(prefetch, "prefetch", changing)
    assert run_in(folder, score_command(place, how)) == 1
  assert f"{how}/big.jsonl.gz changed while it was read; restore it" in capsys.readouterr().err
  assert not list((folder / "scores/tiny/blocks").glob("big.jsonl.gz-*/*.parquet"))
  path.write_bytes(whole)
  assert run_in(folder, score_command(place, how)) == 0
  expected = content(undisturbed / "scores/tiny/shards")
  assert content(folder / "scores/tiny/shards") == expected


OTHERS = {
  "texts": lambda lines: [line.replace(b"river", b"rover") for line in lines],
  "bad rows": lambda lines: [line.replace(b'{"text": "cut off', b'{"text": "cut elsewhere') for line in lines],
  "order": lambda lines: [line for i in range(0, len(lines) - 1, 2) for line in (lines[i + 1], lines[i])],
  "bad rows at an end": lambda lines: [*lines[:1480], b"{", *lines[1481:]],
}


KINDS = [*(pytest.param(kind, marks=pytest.mark.long) for kind in ("bad rows", "order")), "texts", "bad rows at an end"]


@pytest.mark.parametrize("kind", [*KINDS, "embeddings"])
def test_what_is_on_record_of_an_input_that_was_replaced_is_made_again(place, monkeypatch, kind):
  """Replaced once its checksum was taken, the run killed before the shard's end, where it would have looked again, and
  the input restored. Kills the mutant that goes on from whatever is on record."""
  kind, change = kind.replace(" ", "_"), OTHERS.get(kind)
  inputs = place / f"inputs_{kind}"
  shutil.copytree(place / "corpus", inputs)
  command = score_command(place, inputs.name)
  path = inputs / "big.jsonl.gz"
  if change is not None:
    other = gzip.compress(b"\n".join(change(gzip.decompress(path.read_bytes()).split(b"\n")[:-1])) + b"\n")
  else:
    embeddings_ND = write_embeddings(place, place / "vectors")["big.jsonl.gz"]
    path = place / "vectors/big.jsonl.gz.npy"
    np.save(place / "other.npy", -embeddings_ND)
    other = (place / "other.npy").read_bytes()
    reading = [f"--input={inputs}/*", f"--embeddings={place}/vectors/*", "--scores=scores", "--block_rows=50"]
    command = ["embed", *reading, "--direct_num_workers=1"]
  whole, identify, record = path.read_bytes(), storage.checksum, recording.record
  written = []

  def identified_then_replaced(name: str) -> str:
    found = identify(name)
    if name == str(path):
      path.write_bytes(other)
    return found

  def killed_at_last(where, *arguments):
    if where[1].name == "big.jsonl.gz" and arguments[0].index > 30:
      raise KeyboardInterrupt
    written.append(where[1].name)
    return record(where, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(storage, "checksum", identified_then_replaced)
    patch.setattr(recording, "record", killed_at_last)
    assert run_in(place / kind, command) != 0
  assert (of_other := written.count("big.jsonl.gz")) > 20
  path.write_bytes(whole)
  assert run_in(place / kind, command) == 0
  again = len(list((place / kind).rglob("damaged-*")))  # no other block is made again
  assert again == 1 if "bad" in kind else of_other - 1 <= again <= of_other
  assert run_in(place / f"{kind}_undisturbed", command) == 0
  assert content(place / kind / "scores") == content(place / f"{kind}_undisturbed/scores")


def test_embeddings_that_change_while_they_are_read_leave_no_blocks(place, monkeypatch, capsys):
  """Rows and dimensions stay. Kills the mutant that looks at the texts alone again."""
  write_embeddings(place, place / "changing")
  path = place / "changing/big.jsonl.gz.npy"
  whole, seen = path.read_bytes(), []

  def changing(items, *, ahead):
    for item in prefetch_items(items, ahead=ahead):
      seen.append(item[0].index)
      if len(seen) == 5:
        path.write_bytes(whole[:-64] + bytes(64))
      yield item

  prefetch_items = prefetch.prefetch
  reading = [f"--input={place}/corpus/*", f"--embeddings={place}/changing/*", "--scores=scores", "--block_rows=50"]
  with monkeypatch.context() as patch:
    patch.setattr(prefetch, "prefetch", changing)
    assert run_in(place / "embeds", ["embed", *reading, "--direct_num_workers=1"]) == 1
  assert "changing/big.jsonl.gz.npy changed while it was read; restore it" in capsys.readouterr().err
  assert not list((place / "embeds").rglob("big.jsonl.gz-*/*.parquet"))


def test_a_shard_that_changes_while_it_is_sampled_ends_the_run(place, undisturbed, monkeypatch, capsys):
  """Its rows are as many and as good, its texts are others. Kills the mutant that joins by rows alone."""
  folder = place / "sampled"
  shutil.copytree(undisturbed / "scores", folder / "scores")
  path = place / "corpus/a.jsonl"
  whole = path.read_bytes()
  identify = storage.checksum

  def identified_then_changed(name: str) -> str:
    found = identify(name)
    if name == str(path):
      path.write_bytes(whole.replace(b"river", b"rover"))
    return found

  with monkeypatch.context() as patch:
    patch.setattr(storage, "checksum", identified_then_changed)
    assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) == 1
  assert "a.jsonl, block 0: its documents are not those that were scored" in capsys.readouterr().err
  assert not (folder / "out/manifest.json").exists()
  path.write_bytes(whole)
  assert run_in(folder, [*SAMPLE, "--direct_num_workers=1"]) == 0
  assert content(folder / "out") == content(undisturbed / "out")


def test_embeddings_that_prove_damaged_as_they_are_used_are_made_again(place, capsys):
  """Their store is complete, so that nobody looks before. Kills the mutants: the command ends with the first damaged
  block; it tries again whatever it failed of."""
  write_embeddings(place, place / "made")
  reading = [f"--input={place}/corpus/*", f"--embeddings={place}/made/*", "--scores=scores", "--block_rows=50"]
  sketch = ["--bandwidth=0.5", "--hashes=2", "--sketch_rows=20", "--sketch_counters=50", "--direct_num_workers=1"]
  score = ["score", "--scorer=density", *reading, *sketch]
  assert run_in(place / "whole", score) == 0
  folder = place / "embedded"
  assert run_in(folder, ["embed", *reading, "--direct_num_workers=1"]) == 0
  store = folder / "scores/embeddings_made"
  spoilt = [next(store.glob(f"blocks/{shard}-*/*.parquet")) for shard in ("a.jsonl", "big.jsonl.gz", "f.parquet")]
  for how, path in enumerate(spoilt):
    spoil(path, how)
  capsys.readouterr()
  assert run_in(folder, score) == 0
  assert len(damage.records(str(store))) == len(spoilt)
  assert content(folder / "scores") == content(place / "whole/scores")
  (place / "made/a.jsonl.npy").unlink()
  shutil.rmtree(folder / "scores/density_made")
  spoil(next(store.glob("blocks/a.jsonl-*/*.parquet")), 1)
  assert run_in(folder, score) == 2  # what would make it again is gone
