"""The demo's corpus: complete, mixed in format, without a trace of the machine, and the same every time."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest
import zstandard
from pyarrow import parquet

from curation.demo import corpus as demo_corpus

SHARDS = 5
PROJECT = pathlib.Path(demo_corpus.__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  return demo_corpus.write_demo_corpus(tmp_path_factory.mktemp("corpus"), shards=SHARDS)


def read_shard(path: str) -> list[dict]:
  if path.endswith(".parquet"):
    return parquet.read_table(path).to_pylist()
  data = pathlib.Path(path).read_bytes()
  data = gzip.decompress(data) if path.endswith(".gz") else zstandard.ZstdDecompressor().decompress(data)
  return [json.loads(line) for line in data.splitlines()]


def test_shards_hold_every_document_once_and_count_them(corpus):
  """Kills: a shard's slice that starts or steps off by one (`documents[shard :: shards + 1]`)."""
  records = [record for path in corpus.paths for record in read_shard(path)]
  assert len(records) == len({record["url"] for record in records}) == corpus.documents == sum(corpus.sources.values())
  assert set(corpus.sources) == {"docstring", "licence", "readme", "topic"}
  assert corpus.documents >= 3000
  assert all(list(record) == ["text", "url", "timestamp"] and record["timestamp"] == "" for record in records)
  assert all(record["text"].strip() for record in records)
  assert len({record["text"] for record in records}) < len(records)  # licences have copies


def test_shards_are_of_three_formats_and_the_glob_names_them(corpus):
  folder = pathlib.Path(corpus.pattern).parent
  assert sorted(map(str, folder.glob(pathlib.Path(corpus.pattern).name))) == list(corpus.paths)
  assert sorted(map(str, folder.iterdir())) == list(corpus.paths)  # no temporary file stays
  assert [path.partition(".")[2] for path in map(os.path.basename, corpus.paths)] == [
    *["json.gz"] * (SHARDS - 2),
    "jsonl.zst",
    "parquet",
  ]


def test_urls_name_no_folder_of_this_machine(corpus):
  """Kills: urls made of file paths, and RECORD entries outside the metadata folder (`../../../bin/...`)."""
  urls = [record["url"] for path in corpus.paths for record in read_shard(path)]
  places = {sys.prefix, sys.base_prefix, str(pathlib.Path.home()), "site-packages", ".."}
  assert not [url for url in urls if any(place in url for place in places)]
  assert {url.partition("://")[0] for url in urls} == {"package", "pydoc", "python"}
  assert {"pydoc://topic/assert", "package://numpy/METADATA", "python://json"} <= set(urls)


def test_another_process_writes_the_same_bytes_and_imports_nothing(corpus, tmp_path):
  """Kills: gzip's time stamp, an order taken from a set, and docstrings got by importing.

  Also the store's create-if-absent, which would keep shards of a corpus that an upgrade of a package changed.
  """
  (tmp_path / os.path.basename(corpus.paths[0])).write_bytes(b"from before an upgrade")
  script = f"""
import sys
from curation.demo import corpus as demo_corpus
before = set(sys.modules)
demo_corpus.write_demo_corpus({str(tmp_path)!r}, shards={SHARDS})
print(*{{"antigravity", "huggingface_hub", "rich"}} & (set(sys.modules) - before))
"""
  environment = os.environ | {"PYTHONHASHSEED": "4321", "PYTHONPATH": str(PROJECT)}
  result = subprocess.run(
    [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment, cwd=tmp_path.parent
  )
  assert result.stdout.strip() == ""
  for path in map(pathlib.Path, corpus.paths):
    assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_docstrings_of_odd_files(tmp_path):
  """Kills: a surrogate that no writer takes, a file of another syntax that ends the demo, test folders as documents."""
  for name, source in {
    "lib/json.py": '"""Half a pair: \\ud800."""\nclass A:\n  """A class."""\n  def f(self):\n    """A method."""\n',
    "lib/csv/__init__.py": '"""A package."""\nasync def g():\n  """A coroutine."""\n',
    "lib/csv/tests/thing.py": '"""A test."""',
    "lib/csv/thing_test.py": '"""A test."""',
    "lib/test/support.py": '"""A test."""',
    "lib/stranger.py": '"""Not of the standard library."""',
    "site/rich/broken.py": "def f(:\n",
    "site/rich/null.py": "\0",
    "site/rich/empty.py": '"""   """',
    **{f"site/rich/part_{part}.py": '"""A part."""' for part in "hgfedcba"},
    "site/rich/latin.py": b'# coding: latin-1\n"""caf\xe9"""',
    "site/unlisted/__init__.py": '"""Not a package of ours."""',
  }.items():
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(source if isinstance(source, bytes) else source.encode())
  documents = demo_corpus.read_documents(tmp_path / "lib", tmp_path / "site")
  docstrings = {d.url: d.text for d in documents if d.source == "docstring"}
  # An order taken from a folder would change from machine to machine.
  assert list(docstrings) == sorted(docstrings)
  assert docstrings == {
    "python://csv": "A package.",
    "python://csv.g": "A coroutine.",
    "python://json": "Half a pair: ?.",
    "python://json.A": "A class.",
    "python://rich.latin": "café",
    **{f"python://rich.part_{part}": "A part." for part in "abcdefgh"},
  }


def test_texts_of_package_metadata(tmp_path):
  """Kills: a package's code or data taken for a licence, a RECORD that leads out of its folder, strict decoding."""
  for name, data in {
    "Odd_Name-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Odd_Name\nVersion: 1\n\nA readme.\n",
    "Odd_Name-1.dist-info/licenses/deep/COPYING.txt": b"Copyright \xa9",
    "Odd_Name-1.dist-info/LICENSE-MIT": b"MIT",
    "Odd_Name-1.dist-info/top_level.txt": b"odd",
    "odd/LICENSE": b"beside the code",
    "old.egg-info/PKG-INFO": b"Metadata-Version: 1.0\nName: old\nVersion: 2\nDescription: UNKNOWN\n",
    "../outside.dist-info/LICENSE": b"outside",
  }.items():
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
  inside = ["METADATA", "licenses/deep/COPYING.txt", "LICENSE-MIT", "top_level.txt", "gone/LICENSE"]
  record = ["odd/LICENSE", "../outside.dist-info/LICENSE", *(f"Odd_Name-1.dist-info/{name}" for name in inside)]
  (tmp_path / "site/Odd_Name-1.dist-info/RECORD").write_text("".join(f"{name},,\n" for name in record))
  (tmp_path / "site/old.egg-info/SOURCES.txt").write_text("old.egg-info/PKG-INFO\n")
  documents = demo_corpus.read_documents(tmp_path / "lib", tmp_path / "site")
  assert {d.url: d.text for d in documents if d.source != "topic"} == {
    "package://odd-name/METADATA": "A readme.\n",
    "package://odd-name/LICENSE-MIT": "MIT",
    "package://odd-name/licenses/deep/COPYING.txt": "Copyright \ufffd",
    "package://old/PKG-INFO": "UNKNOWN",
  }


def test_too_few_shards_for_the_formats_are_refused(tmp_path):
  with pytest.raises(ValueError, match="shards=2"):
    demo_corpus.write_demo_corpus(tmp_path, shards=2)
  assert not list(tmp_path.iterdir())
