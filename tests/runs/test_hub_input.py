"""Input from the Hugging Face hub, played by a server in this process, which worker processes read from, too."""

import json
import pathlib

import corpora
import pytest
from hub import Hub
from huggingface_hub import constants
from running import content, run_in

from curation.errors import WinnowError
from pipelines.files import storage


@pytest.fixture
def hub(monkeypatch):
  with Hub() as played:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as other tests of this process may have left it
    monkeypatch.setenv("HF_ENDPOINT", played.endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield played


def draw(folder: pathlib.Path, source: str, *flags: str) -> int:
  command = ["sample", "--sampler=random", f"--input={source}", "--rate=0.4", "--output=out", "--max_bad_fraction=0.1"]
  return run_in(folder, [*command, "--block_rows=100", "--num_shards=2", *flags])


@pytest.mark.local_runner
def test_a_dataset_of_the_hub_gives_what_its_files_give(hub, tmp_path):
  """Twelve shards in all formats, two workers. Kills the mutants: a branch's files where the commit's were listed."""
  corpora.write_corpus(tmp_path / "corpus", big_rows=1_500, small_rows=150)
  hub.files = {f"data/train/{path.name}": path.read_bytes() for path in (tmp_path / "corpus").iterdir()}
  hub.files["README.md"] = b"# a card"
  source = "hf://datasets/owner/name/data/*/*"
  assert draw(tmp_path / "hub", source, "--direct_num_workers=2") == 0
  assert draw(tmp_path / "local", f"{tmp_path}/corpus/*", "--direct_num_workers=1") == 0
  here, there = content(tmp_path / "local/out"), content(tmp_path / "hub/out")
  shards = [name for name in here if name.startswith("out-train")]
  assert len(shards) == 2 and all(here[name] == there[name] for name in shards)
  inputs = json.loads(there["manifest.json"])["inputs"]
  assert {entry["checksum"].partition(":")[0] for entry in inputs} == {"git", "sha256"}
  assert f"/datasets/owner/name/resolve/{hub.commit}/data/train/big.jsonl.gz" in hub.asked
  assert not [path for path in hub.asked if "/resolve/main/" in path]
  assert run_in(tmp_path / "hub", ["verify", "out", "--direct_num_workers=1"]) == 0


def test_another_commit_with_other_files_is_refused(hub, tmp_path, capsys):
  hub.files = {"a.jsonl": b"".join(b'{"text": "document %d"}\n' % row for row in range(50))}
  assert draw(tmp_path, "hf://datasets/owner/name/*.jsonl", "--direct_num_workers=1") == 0
  hub.files["a.jsonl"] = hub.files["a.jsonl"].replace(b"7", b"8")
  hub.commit = "3" * 40
  capsys.readouterr()
  assert draw(tmp_path, "hf://datasets/owner/name/*.jsonl", "--direct_num_workers=1") == 2
  assert "inputs.a.jsonl.checksum is " in capsys.readouterr().err


def test_a_reference_with_slashes_is_a_revision(hub):
  """As the hub names the Parquet files that it makes of every dataset."""
  hub.files = {"default/train/0000.parquet": b"PAR1", "a.jsonl": b""}
  found = storage.match("hf://datasets/owner/name@refs/convert/parquet/default/*/*.parquet")
  assert found == [(f"hf://datasets/owner/name@{hub.commit}/default/train/0000.parquet", 4)]
  assert "/api/datasets/owner/name/revision/refs/convert/parquet" in hub.asked


def test_brackets_match_names_and_wildcards_on_the_hub(hub):
  """Kills the mutant that asks the hub for the pattern as it is: the hub knows no names with brackets."""
  hub.files = {"[a]/x.jsonl": b"{}", "b/x.jsonl": b"{}"}
  root = f"hf://datasets/owner/name@{hub.commit}"
  assert storage.find(f"{root}/[a]/*.jsonl") == storage.find(f"{root}/[a]/x.jsonl") == [(f"{root}/[a]/x.jsonl", 2)]
  assert storage.find(f"{root}/[ab]/x.jsonl") == [(f"{root}/b/x.jsonl", 2)]
  hub.files["a/x.jsonl"] = b"{}"
  hub.commit = "4" * 40
  root = f"hf://datasets/owner/name@{hub.commit}"
  with pytest.raises(WinnowError, match=r"write \[\[\]a\] for the name, or \[aa\] for the wildcard"):
    storage.find(f"{root}/[a]/*.jsonl")


def test_what_the_hub_does_not_have_or_cannot_take_is_told(hub, tmp_path, capsys, monkeypatch):
  assert draw(tmp_path, "hf://datasets/owner/name/*.parquet") == 2
  assert "matches no file" in capsys.readouterr().err
  assert draw(tmp_path, "hf://datasets/owner/nobody/*.parquet") == 2
  told = capsys.readouterr().err
  assert "cannot list hf://datasets/owner/nobody/*.parquet" in told
  assert "check the name, or log in with hf auth login (or HF_TOKEN) if it is private" in told
  assert draw(tmp_path, "hf://owner") == 2
  assert "write hf://datasets/OWNER/NAME/PATH" in capsys.readouterr().err
  hub.files, hub.commit = {"a.jsonl": b'{"text": "document"}\n'}, "4" * 40
  assert draw(tmp_path, "hf://datasets/owner/name/a.jsonl", "--output=hf://datasets/owner/out") == 2
  assert "hf:// can be read only" in capsys.readouterr().err
  with pytest.raises(WinnowError, match="can be read only"):
    storage.create("hf://datasets/owner/name/b.jsonl", b"")
