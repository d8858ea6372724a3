"""Stores and outputs of version 0.1, before its modules moved into folders, are read, resumed and verified."""

import pathlib
import tarfile

import pytest
from running import content, run_in

from curation.selection import domains
from pipelines.files import fingerprints

# Made by the last commit of 0.1 from a corpus of tests/support/corpora.py: a recipe of three stages, densities and
# ratings, with their outputs; `interrupted` and `cut` hold what two killed commands left.
KEPT = pathlib.Path(__file__).parents[1] / "data/stores-0.1.tar.xz"
COMMON = ["--input=corpus/*", "--block_rows=16", "--max_bad_fraction=0.3", "--direct_num_workers=1"]
RATED = ["--sampler=ask_llm", "--scores=scores", "--name=ask_llm_rater", "--rate=0.3", "--direct_num_workers=1"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
  """Unpacks the folder, writes its path into it, and uses its list of domains; a newer library may have another."""
  with tarfile.open(KEPT) as archive:
    # Debian 12's Python 3.11.2 has no filters yet; the archive is our own.
    archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
    archive.extractall(tmp_path)
  for path in tmp_path.rglob("input.json"):
    path.write_text(path.read_text().replace("@FOLDER@", str(tmp_path)))
  engine = fingerprints.read_json(str(tmp_path / "whole/signatures_128/engine.json"))
  monkeypatch.setattr(domains, "suffix_list", lambda: engine["suffix_list"])
  return tmp_path


@pytest.mark.local_runner
def test_its_outputs_are_verified_and_its_stores_complete(place, capsys):
  """Kills the mutants: another format on disk; another fingerprint; other keys or another selection of them."""
  for output in ("d4", "density", "ask_llm", "rest", "undisturbed"):
    assert run_in(place, ["verify", output, "--direct_num_workers=1"]) == 0, capsys.readouterr().err
  capsys.readouterr()
  assert run_in(place, ["status", "scores"]) == 0
  said = capsys.readouterr().out
  assert said.count(", complete\n") == len(list((place / "scores").iterdir())) and "incomplete" not in said
  assert run_in(place, ["explain", "a.jsonl#3", "--scores=scores", "--output=ask_llm"]) == 0
  before = content(place / "scores"), content(place / "undisturbed")
  assert run_in(place, ["sample", *RATED, "--output=undisturbed", "--num_shards=4"]) == 0
  embeddings = ["--embeddings=made/*", "--sketch_rows=8", "--sketch_counters=64"]
  assert run_in(place, ["score", "--scorer=density", *COMMON, *embeddings, "--scores=scores"]) == 0
  assert (content(place / "scores"), content(place / "undisturbed")) == before


@pytest.mark.local_runner
def test_what_it_left_unfinished_goes_on_to_the_same_bytes(place):
  """Kills the mutants that make recorded blocks again under another name, or do not find the runs of a sample."""
  signed = place / "interrupted/signatures_128"
  recorded = {path.relative_to(signed): path.stat().st_mtime_ns for path in signed.rglob("*.parquet")}
  assert len(recorded) == 20 and not (signed / "summary.json").exists()
  assert run_in(place, ["score", "--scorer=minhash", *COMMON, "--scores=interrupted"]) == 0
  assert {path: (signed / path).stat().st_mtime_ns for path in recorded} == recorded
  whole = {name: data for name, data in content(place / "whole").items() if not name.endswith("input.json")}
  assert {n: d for n, d in content(place / "interrupted").items() if not n.endswith("input.json")} == whole

  written = sorted((place / "cut").glob("cut-train*"))
  times = [path.stat().st_mtime_ns for path in written]
  assert len(written) == 2 and not (place / "cut/manifest.json").exists()
  assert run_in(place, ["sample", *RATED, "--output=cut", "--num_shards=4"]) == 0
  assert [path.stat().st_mtime_ns for path in written] == times
  shards, others = (sorted((place / name).glob(f"{name}-train*")) for name in ("cut", "undisturbed"))
  assert [path.read_bytes() for path in shards] == [path.read_bytes() for path in others]
