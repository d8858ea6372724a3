"""Files that are complete or absent, on a local disk and on an object store (an emulator)."""

import os
import re
import subprocess
import sys
import threading

import pytest

from curation.errors import WinnowError
from pipelines.files import object_stores, storage


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
  return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_the_first_writer_wins(folder):
  """Kills the mutant that opens the final name for writing: a second writer would replace a file that readers rely
  on."""
  path = storage.join(folder, "a", "file")
  storage.create(path, b"first")
  storage.create(path, b"second")
  assert storage.read_bytes(path) == b"first"


def test_a_writer_that_fails_leaves_nothing(folder):
  path = storage.join(folder, "file")
  with pytest.raises(RuntimeError, match="half"), storage.create_file(path) as file:
    file.write(b"one half")
    file.flush()
    assert not storage.exists(path)
    raise RuntimeError("half-way")
  assert not storage.exists(path)
  assert storage.list_names(folder) == set()
  if storage.is_local(folder):
    assert os.listdir(folder) == []


def test_many_writers_at_once_leave_one_whole_file(folder):
  path = storage.join(folder, "file")
  contents = [bytes([number]) * 100_000 for number in range(8)]
  threads = [threading.Thread(target=storage.create, args=(path, content)) for content in contents]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert storage.read_bytes(path) in contents
  assert list(storage.list_names(folder)) == ["file"]


def test_listing_deleting_and_checksums(folder):
  for name in ("a.x", "b.x", "deeper/c.x"):
    storage.create(storage.join(folder, name), name.encode())
  assert storage.list_names(folder) == {"a.x", "b.x"}
  assert [storage.base_name(path) for path, _ in storage.match(storage.join(folder, "*.x"))] == ["a.x", "b.x"]
  assert storage.list_names(storage.join(folder, "none")) == set()
  assert storage.match(storage.join(folder, "none", "*")) == []
  # CRC32C of b"a.x", as any tool computes it; the object store's own must be the same.
  assert storage.checksum(storage.join(folder, "a.x")) == "crc32c:" + f"{CRC_OF_A:08x}"
  storage.delete([storage.join(folder, "a.x"), storage.join(folder, "gone.x")])
  assert storage.list_names(folder) == {"b.x"}
  storage.delete_folder(folder)
  storage.delete_folder(folder)
  assert storage.match(storage.join(folder, "**")) == []


# These hold the command line or the path of the input, which differ here.
CRC_OF_A = 0x93153783


def test_a_missing_file_is_file_not_found(folder):
  with pytest.raises(FileNotFoundError):
    storage.read_bytes(storage.join(folder, "nothing"))


def test_a_file_that_is_gone_once_it_is_open_is_file_not_found(bucket):
  """Google's client has its own error for a missing object. Kills the mutant that reports trouble with the store."""
  path = f"{bucket}/opened/file"
  storage.create(path, bytes(1_000))
  with storage.open_input(path, buffer_bytes=256 << 10) as file:
    storage.delete([path])
    with pytest.raises(FileNotFoundError, match=r"opened/file"):
      file.read(10)


def test_a_file_that_is_gone_once_it_is_listed_has_no_time(tmp_path, monkeypatch):
  """Another run may compact a shard meanwhile."""
  for name in ("a.x", "b.x"):
    storage.create(str(tmp_path / name), b"")
  ask = os.stat

  def gone(path, **keywords):
    if str(path).endswith(".x"):
      (tmp_path / "a.x").unlink(missing_ok=True)
    return ask(path, **keywords)

  monkeypatch.setattr(os, "stat", gone)
  assert list(storage.list_times(f"{tmp_path}/*.x")) == [f"{tmp_path}/b.x"]


def test_paths_mean_themselves_whatever_they_hold(folder):
  """Kills the mutant that lists, sizes or deletes its own folders by unescaped globs: [a-c] and * match other files."""
  odd, other = storage.join(folder, "odd [a-c]*?"), storage.join(folder, "odd a**")
  for place in (odd, other):
    storage.create(storage.join(place, "x[1].bin"), b"four")
  storage.create(storage.join(odd, "deeper", "y"), b"y")
  assert storage.list_names(odd) == {"x[1].bin"}
  assert storage.size(storage.join(odd, "x[1].bin")) == 4
  assert [path for path, _ in storage.match(storage.join(storage.escape(odd), "*.bin"))] == [
    storage.join(odd, "x[1].bin")
  ]
  with pytest.raises(FileNotFoundError):
    storage.size(storage.join(odd, "x1.bin"))
  storage.delete([storage.join(odd, "x[1].bin")])
  assert storage.list_names(odd) == set()
  storage.delete_folder(odd)
  assert not storage.exists(storage.join(odd, "deeper", "y"))
  assert storage.list_names(other) == {"x[1].bin"}


# The files that each pattern matches, on any store.
FILES = ("a1.x", "a[1].x", ".hidden.x", "d/b.x", "d/.git/c.x", "d/e/f.x", "[a]/g.x", "d/e/notes.txt")
PATTERNS = {
  "*.x": ("a1.x", "a[1].x"),
  ".*.x": (".hidden.x",),
  "[a]/g.x": ("[a]/g.x",),
  "a[[]1].x": ("a[1].x",),
  "a[12].x": ("a1.x",),
  "[a]/*.x": ("[a]/g.x",),
  "?1.x": ("a1.x",),
  "a?d": (),
  "*/*.x": ("[a]/g.x", "d/b.x"),
  "*/.git/*": ("d/.git/c.x",),
  "**": ("[a]/g.x", "a1.x", "a[1].x", "d/b.x", "d/e/f.x", "d/e/notes.txt"),
  "**/*.x": ("[a]/g.x", "a1.x", "a[1].x", "d/b.x", "d/e/f.x"),
  "d/**/*.x": ("d/b.x", "d/e/f.x"),
  "**/e/**/*.x": ("d/e/f.x",),
  "**/**/f.x": ("d/e/f.x",),
  "nothing*": (),
}


def test_a_users_glob_means_the_same_everywhere(folder):
  """Kills the mutants: hidden files among the shards; `**` that needs a folder; `?` that matches a slash; a bracket in
  the name of a file that is taken for a set of characters."""
  for name in FILES:
    storage.create(storage.join(folder, "tree", name), name.encode())
  root = storage.join(folder, "tree")
  for pattern, names in PATTERNS.items():
    assert storage.find(storage.join(root, pattern)) == sorted(
      (storage.join(root, name), len(name)) for name in names
    ), pattern
  with pytest.raises(WinnowError, match=r"write \*\*/\*\.x in place of \*\*\.x"):
    storage.find(storage.join(root, "**.x"))


@pytest.mark.parametrize(
  ("files", "pattern", "very", "wildcard"),
  [
    (("[a]/x", "a/x", "a/y"), "[a]/*", "[[]a]/*", "[aa]/*"),
    (("a[1-2].x", "a1.x", "a2.x"), "a[1-2].x", "a[[]1-2].x", "a[11-2].x"),
    (("top/[!b]/x", "top/a/e/x", "top/c/x"), "**/[!b]/**", "**/[[]!b]/**", "**/[!bb]/**"),
  ],
)
def test_brackets_that_match_as_a_name_and_as_a_wildcard_are_refused(folder, files, pattern, very, wildcard):
  """Kills the mutants that silently take only the name, or both, and a message whose advice does not help."""
  root = storage.join(folder, "brackets")
  storage.delete_folder(root)
  paths = [storage.join(root, name) for name in files]
  storage.create(paths[0], b"x")
  assert storage.find(storage.join(root, pattern)) == [(paths[0], 1)]
  for path in paths[1:]:
    storage.create(path, b"x")
  with pytest.raises(WinnowError) as refused:
    storage.find(storage.join(root, pattern))
  (was,) = {part for part in pattern.split("/") if "[" in part}
  (name,), (others,) = ({part for part in text.split("/") if "[" in part} for text in (very, wildcard))
  assert str(refused.value).startswith(f"{was} in {root}/{pattern} is both a name, which matches {paths[0]}, and a ")
  assert str(refused.value).endswith(f"write {name} for the name, or {others} for the wildcard")
  assert [path for path, _ in storage.find(storage.join(root, very))] == paths[:1]
  assert [path for path, _ in storage.find(storage.join(root, wildcard))] == paths[1:]


def test_empty_parts_of_objects_names_are_found_by_patterns_that_have_them(bucket):
  """Kills the mutants that drop empty parts from the pattern, or from both pattern and name."""
  for name in ("a//x.jsonl", "a/x.jsonl", "a//b//x.jsonl"):
    storage.create(f"{bucket}/empty/{name}", b"{}")
  for pattern, names in {
    "a//*.jsonl": ["a//x.jsonl"],
    "a/*.jsonl": ["a/x.jsonl"],
    "*//x.jsonl": ["a//x.jsonl"],
    "a//**": ["a//b//x.jsonl", "a//x.jsonl"],
    "a/**//*.jsonl": ["a//b//x.jsonl", "a//x.jsonl"],
    "a//*//*.jsonl": ["a//b//x.jsonl"],
    "a/*.jsonl/": ["a/x.jsonl"],
  }.items():
    assert [path for path, _ in storage.find(f"{bucket}/empty/{pattern}")] == [
      f"{bucket}/empty/{name}" for name in names
    ], pattern


def test_doubled_slashes_mean_one_on_a_disk(tmp_path):
  storage.create(str(tmp_path / "a/b/x.jsonl"), b"{}")
  for pattern in ("a//*//x.jsonl", "a//**//**//*.jsonl", "/a/b//*"):
    assert storage.find(f"{tmp_path}/{pattern}") == [(f"{tmp_path}/a/b/x.jsonl", 2)], pattern


def test_what_consoles_leave_for_a_folder_is_no_file(bucket):
  storage.create(f"{bucket}/console/a/x.jsonl", b"{}")
  object_stores.blob(f"{bucket}/console/a/").upload_from_string(b"")
  for pattern in ("console/*", "console/**", "console/a/*"):
    assert [path for path, _ in storage.find(f"{bucket}/{pattern}")] == [f"{bucket}/console/a/x.jsonl"][
      : pattern != "console/*"
    ]


def test_a_file_of_another_run_is_noticed(folder):
  """Kills the mutant that accepts any file of that name: a run of another request may still be writing."""
  path = storage.join(folder, "file")
  storage.create(path, b"ours", must_agree=True)
  storage.create(path, b"ours", must_agree=True)
  with pytest.raises(WinnowError, match="a run of another request has written there too"):
    storage.create(path, b"theirs", must_agree=True)
  assert storage.read_bytes(path) == b"ours"


def test_what_cannot_be_deleted_is_told(tmp_path, monkeypatch):
  """Kills the mutant that ignores the error: the remaining files would pass for those of the next request."""
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder/file").write_bytes(b"x")
  unlink = os.unlink

  def busy(path, **keywords):
    if str(path).endswith("file"):
      raise PermissionError(13, "Permission denied", str(path))
    unlink(path, **keywords)

  monkeypatch.setattr(os, "unlink", busy)
  with pytest.raises(WinnowError, match=r"cannot delete .*folder: Permission denied"):
    storage.delete_folder(str(tmp_path / "folder"))
  monkeypatch.undo()
  storage.delete_folder(str(tmp_path / "folder"))
  assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_link_is_emptied_and_stays(tmp_path):
  """A user may keep `blocks` on another disk. Kills the mutants: a link that cannot be deleted; files that stay behind
  the link; links within the folder that are followed."""
  disk, other = tmp_path / "disk", tmp_path / "other"
  for name in ("disk/a/file", "disk/file", "other/file"):
    storage.create(str(tmp_path / name), b"x")
  (disk / "link").symlink_to(other)
  (tmp_path / "store").mkdir()
  (tmp_path / "store/blocks").symlink_to(disk)
  storage.delete_folder(str(tmp_path / "store/blocks"))
  assert os.listdir(tmp_path / "store/blocks") == [] and os.listdir(other) == ["file"]
  storage.create(str(tmp_path / "store/blocks/new"), b"x")
  assert os.listdir(disk) == ["new"]


def test_sweeping_stays_in_the_folder_and_passes_what_it_cannot_list(tmp_path, monkeypatch):
  """Kills the mutants that follow links out of the folder, and that end at the first folder that cannot be listed."""
  name = ".x.00000000-1-00000000.tmp"
  places = [tmp_path / place for place in ("disk", "disk/a", "disk/closed", "disk/z", "other", "elsewhere")]
  for place in places:
    storage.create(str(place / name), b"x")
    os.utime(place / name, (0, 0))
  (tmp_path / "disk/link").symlink_to(tmp_path / "other")
  (tmp_path / "store").symlink_to(tmp_path / "disk")
  scan = os.scandir

  def closed_to_us(path):
    if str(path).endswith("closed"):
      raise PermissionError(13, "Permission denied", str(path))
    return scan(path)

  monkeypatch.setattr(os, "scandir", closed_to_us)  # root may list everything
  storage.sweep_temporary_files(str(tmp_path / "store"))
  left = [place.name for place in places if (place / name).exists()]
  assert left == ["closed", "other", "elsewhere"]


def test_what_dead_writers_left_is_swept_and_what_live_ones_write_is_not(tmp_path):
  """Kills the mutant that sweeps everything: a second run of the same command would lose the file that it writes."""
  code = f"""
import os
from pipelines.files import storage
with storage.create_file({str(tmp_path / "dead")!r}) as file:
  file.write(b"half")
  file.flush()
  os._exit(9)
"""
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
  assert len(os.listdir(tmp_path)) == 1
  with storage.create_file(str(tmp_path / "live")) as file:
    file.write(b"data")
    assert storage.list_names(str(tmp_path)) == set()
    storage.sweep_temporary_files(str(tmp_path))
  assert os.listdir(tmp_path) == ["live"]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux tells")
def test_a_zombie_and_a_process_with_the_number_of_a_dead_one_write_nothing(tmp_path):
  """Kills the mutants that ask only whether there is a process of that number."""
  path = str(tmp_path / "dead")
  code = f"import os; from pipelines.files import storage\nwith storage.create_file({path!r}): os._exit(9)"
  zombie = subprocess.Popen([sys.executable, "-c", code])
  os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
  with storage.create_file(str(tmp_path / "live")):
    dead, ours = sorted(os.listdir(tmp_path))
    assert (dead[:6], ours[:6]) == (".dead.", ".live.")
    (tmp_path / re.sub(r"-[g-v]{4}", "-vvvv", ours)).touch()  # of an earlier process
    storage.sweep_temporary_files(str(tmp_path))
    assert os.listdir(tmp_path) == [ours]
  zombie.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="only Linux has namespaces")
def test_a_process_of_another_namespace_is_not_taken_for_dead(tmp_path):
  """A process in a container has our host name and a meaningless id. Kills the mutant that compares only host names."""
  path = str(tmp_path / "file")
  code = f"import os; from pipelines.files import storage\nwith storage.create_file({path!r}) as file: os._exit(9)"
  other = subprocess.run(
    ["unshare", "--pid", "--fork", sys.executable, "-c", code], check=False, capture_output=True, text=True
  )
  if "unshare" in other.stderr:
    pytest.skip(f"no namespace can be made here: {other.stderr}")
  (written,) = os.listdir(tmp_path)
  storage.sweep_temporary_files(str(tmp_path))
  assert os.listdir(tmp_path) == [written]


def test_a_folder_removed_under_a_writer_is_told(tmp_path):
  with pytest.raises(WinnowError, match="run it again"), storage.create_file(str(tmp_path / "a/file")) as file:
    file.write(b"data")
    storage.delete_folder(str(tmp_path / "a"))


def test_an_unknown_scheme_is_refused_in_a_sentence():
  with pytest.raises(WinnowError, match="nosuch://"):
    storage.match("nosuch://bucket/*")
