"""The listing of a user's local files: it follows links, reads only folders that can match, and never omits a file
silently.
"""

import contextlib
import glob
import os
import pathlib
import shutil
import tempfile

import hypothesis
import pytest
from hypothesis import strategies as st

from curation.errors import WinnowError
from pipelines.files import local_files


def make(folder: pathlib.Path, *names: str) -> None:
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)


def matches(folder: pathlib.Path, pattern: str) -> list[str]:
  return [os.path.relpath(path, folder) for path in local_files.find(f"{folder}/{pattern}")]


@contextlib.contextmanager
def unprivileged():
  """Drops the rights of root, who may list everything."""
  user = os.geteuid()
  if user == 0:
    os.seteuid(65534)
  try:
    yield
  finally:
    os.seteuid(user)


@pytest.fixture
def open_folder():
  """A folder that every user can reach, unlike tmp_path."""
  folder = pathlib.Path(tempfile.mkdtemp())
  folder.chmod(0o755)
  yield folder
  for path in folder.rglob("*"):
    path.chmod(0o755)
  shutil.rmtree(folder)


@pytest.mark.parametrize("pattern", ["data/*/*.x", "data/**/*.x", "data/**", "data/[AB]/?.x", "*/B/b.x"])
def test_links_to_folders_and_files_are_followed(tmp_path, pattern):
  """Kills the mutant that does not follow links: the shards behind them were left out silently."""
  make(tmp_path, "data/A/a.x", "disk/b.x", "elsewhere")
  (tmp_path / "data/B").symlink_to("../disk")
  (tmp_path / "data/A/c.x").symlink_to(tmp_path / "elsewhere")
  wanted = ["data/B/b.x"] if pattern == "*/B/b.x" else ["data/A/a.x", "data/A/c.x", "data/B/b.x"]
  assert matches(tmp_path, pattern) == wanted


@pytest.mark.parametrize(
  ("link", "to", "pattern"),
  [
    ("data/z.x", "gone", "data/*.x"),
    ("data/z.x", "gone", "data/z.x"),
    ("data/z.x", "gone", "data/**"),
    ("data/Z", "gone", "data/*/*.x"),
    ("data/Z", "gone", "data/Z/*.x"),
    ("data/Z", "gone", "data/**/*.x"),
    ("data/Z", "gone/further", "**/*.x"),
  ],
)
def test_a_link_to_nothing_is_refused(tmp_path, link, to, pattern):
  """The disk of its target may not be mounted. Kills the mutant that ignores the link."""
  make(tmp_path, "data/a.x", "data/A/a.x")
  (tmp_path / link).symlink_to(to)
  with pytest.raises(WinnowError, match=f"{link} is a link to {to}, which does not exist"):
    matches(tmp_path, pattern)


def test_links_that_the_pattern_does_not_match_harm_nobody(tmp_path):
  make(tmp_path, "data/a.x", "data/A/a.x")
  (tmp_path / "data/notes").symlink_to("gone")
  (tmp_path / "data/A/up").symlink_to("..")
  (tmp_path / "data/.hidden").symlink_to("gone")
  assert matches(tmp_path, "data/*.x") == ["data/a.x"]
  assert matches(tmp_path, "data/A/*.x") == ["data/A/a.x"]


@pytest.mark.parametrize(("to", "pattern"), [("..", "data/**/*.x"), ("../..", "data/**"), (".", "**/a.x")])
def test_a_folder_that_holds_itself_is_refused(tmp_path, to, pattern):
  make(tmp_path, "data/A/a.x")
  (tmp_path / "data/A/up").symlink_to(to)
  with pytest.raises(WinnowError, match="data/A/up is a link to a folder that contains it"):
    matches(tmp_path, pattern)


def test_a_loop_of_links_is_refused(tmp_path):
  make(tmp_path, "data/a.x")
  (tmp_path / "data/b.x").symlink_to("c.x")
  (tmp_path / "data/c.x").symlink_to("b.x")
  with pytest.raises(WinnowError, match=r"data/b\.x is a link in a loop of links"):
    matches(tmp_path, "data/*.x")


@pytest.mark.parametrize("pattern", ["data/*/*.x", "data/**/*.x", "data/B/*.x", "data/*/b.x"])
def test_a_folder_that_cannot_be_listed_is_refused(open_folder, pattern):
  make(open_folder, "data/A/a.x", "data/B/b.x")
  (open_folder / "data/B").chmod(0)
  with unprivileged(), pytest.raises(WinnowError, match=r"data/B(/b\.x)?: Permission denied; make it readable"):
    matches(open_folder, pattern)


def test_a_folder_that_the_pattern_can_name_is_refused_and_no_other(tmp_path):
  make(tmp_path, "data/a.x", "data/b.x/part", "data/A/c")
  with pytest.raises(WinnowError, match=r"data/b\.x is a folder, and files are wanted: write .*data/b\.x/\*"):
    matches(tmp_path, "data/*.x")
  with pytest.raises(WinnowError, match=r"data is a folder, and files are wanted: write .*/data/\*, for all"):
    matches(tmp_path, "data")
  assert matches(tmp_path, "data/**") == ["data/A/c", "data/a.x", "data/b.x/part"]
  assert matches(tmp_path, "data/*/*") == ["data/A/c", "data/b.x/part"]


def test_what_would_never_end_is_refused(tmp_path):
  make(tmp_path, "data/a.x")
  os.mkfifo(tmp_path / "data/b.x")
  with pytest.raises(WinnowError, match=r"data/b\.x is neither a file nor a folder"):
    matches(tmp_path, "data/*.x")


@pytest.mark.parametrize(
  ("link", "to", "pattern"), [("data/latest", "run3", "data/*/*.x"), ("data/run3/b.x", "a.x", "data/run3/*")]
)
def test_one_file_in_two_ways_is_refused(tmp_path, link, to, pattern):
  """Each of its documents would be scored, counted and selected twice."""
  make(tmp_path, "data/run3/a.x", "data/run2/a.x")
  (tmp_path / link).symlink_to(to)
  with pytest.raises(WinnowError, match=r"data/\S+ and \S+data/\S+ are one file, reached through links"):
    matches(tmp_path, pattern)
  os.remove(tmp_path / link)
  os.link(tmp_path / "data/run3/a.x", tmp_path / "data/run3/c.x")  # as tools that save room for copies do
  assert matches(tmp_path, "data/run3/*") == ["data/run3/a.x", "data/run3/c.x"]


def test_only_folders_that_the_pattern_can_match_are_listed(tmp_path, monkeypatch):
  """Kills the mutant that walks the whole tree: /usr/zz*.jsonl read 153,000 entries."""
  make(tmp_path, "data/A/a.x", "data/A/deep/er", "data/B/b.x", "other/c.x", "data/x.x", "data/[1]/y")
  listed = []
  scan = os.scandir

  def counted(path):
    listed.append(os.path.relpath(path, tmp_path))
    return scan(path)

  monkeypatch.setattr(os, "scandir", counted)
  for pattern, folders in {
    "data/*.x": ["data"],
    "data/zz*.x": ["data"],
    "data/A/a.x": [],
    "data/A*/*.x": ["data", "data/A"],
    "*/A/a.x": ["."],
    "data/[1]/y": ["data"],
    "data/[[]1]/y": [],
    "data/A/**": ["data/A", "data/A/deep"],
  }.items():
    listed.clear()
    matches(tmp_path, pattern)
    assert sorted(set(listed)) == folders, pattern


def test_folders_that_brackets_name_in_two_ways_are_refused(tmp_path):
  """Kills the mutant that takes only the folder of exactly this name: a model was left out silently."""
  make(tmp_path, "[a]/checkpoint_1/x", "b/checkpoint_1/x")
  assert local_files.find_folders(f"{tmp_path}/[a]/*") == [f"{tmp_path}/[a]/checkpoint_1"]
  make(tmp_path, "a/checkpoint_1/x")
  with pytest.raises(WinnowError, match=r"write \[\[\]a\] for the name, or \[aa\] for the wildcard"):
    local_files.find_folders(f"{tmp_path}/[a]/*")


def test_our_own_listings_find_hidden_files_and_pass_what_is_broken(tmp_path):
  """A shard may be called `.a`, and its block files are ours. Kills the mutant with one rule for users' globs and
  ours."""
  make(tmp_path, "blocks/.a-0/1.x", "blocks/b-0/1.x", "blocks/b-0/[1].x")
  (tmp_path / "blocks/c").symlink_to("gone")
  (tmp_path / "blocks/d").symlink_to("d")
  (tmp_path / "blocks/e").symlink_to(".")
  names = ["blocks/.a-0/1.x", "blocks/b-0/1.x", "blocks/b-0/[1].x"]
  assert [os.path.relpath(path, tmp_path) for path in local_files.match(f"{tmp_path}/blocks/*/*.x")] == names
  assert [os.path.relpath(path, tmp_path) for path in local_files.match(f"{tmp_path}/**/*.x")] == names
  assert list(local_files.match(f"{tmp_path}/blocks/b-0/[1].x")) == [f"{tmp_path}/blocks/b-0/1.x"]
  folders = [os.path.relpath(path, tmp_path) for path in local_files.match_folders(f"{tmp_path}/blocks/*")]
  assert folders == ["blocks/.a-0", "blocks/b-0", "blocks/e"]


NAMES = st.sampled_from(["a", "b", "ab", ".a", "a.x", "b.x", "[a]", "a]"])
COMPONENTS = st.sampled_from(["*", "**", "a", "?", "a*", "*.x", "[ab]", "[!a]*", ".*", "[[]a]", "*b*"])


@hypothesis.given(
  st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=8), st.lists(COMPONENTS, min_size=1, max_size=4)
)
@hypothesis.settings(max_examples=300)
def test_the_files_are_those_of_a_shells_glob(tree, wanted):
  """Compares with Python's glob."""
  with tempfile.TemporaryDirectory() as folder:
    for path in tree:
      place = pathlib.Path(folder, *path)
      with contextlib.suppress(OSError):  # a part of it is a file already, or all of it a folder
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("")
    pattern = os.path.join(folder, *wanted)
    expected = sorted({path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)})
    folders = {path.rstrip("/") for path in glob.glob(pattern, recursive=True) if os.path.isdir(path)}
    assert list(local_files.match(pattern)) == sorted(
      {path for path in glob.glob(pattern, recursive=True, include_hidden=True) if os.path.isfile(path)}
    )
    if wanted[-1] == "**" or not folders:
      assert list(local_files.find(pattern)) == expected
    else:
      with pytest.raises(WinnowError, match="is a folder"):
        local_files.find(pattern)
    assert local_files.find_folders(pattern) == sorted(folders if wanted[-1] != "**" else ())
