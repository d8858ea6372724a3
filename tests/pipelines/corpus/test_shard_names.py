"""Names of shards, and of the files that belong to them."""

import hypothesis
import pytest
from hypothesis import strategies as st

from curation.errors import WinnowError
from pipelines.corpus import shard_names
from pipelines.files import storage

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(shard_names.is_name)


def named(pattern: str, *paths: str) -> list[str]:
  return shard_names.name_shards([storage.without_root(path) for path in paths], storage.without_root(pattern))


def test_a_shard_is_its_file_wherever_that_lies():
  """Kills the mutant that names every shard by a path: a corpus that moves would lose its scores."""
  assert named("/data/*/*.x", "/data/a/1.x", "/data/b/2.x") == ["1.x", "2.x"]
  assert named("gs://b/**", "gs://b/a/1.x", "gs://b/2.x") == ["1.x", "2.x"]


@pytest.mark.parametrize(
  ("pattern", "paths", "names"),
  [
    ("/data/*/*.x", ["/data/a/1.x", "/data/b/1.x", "/data/b/2.x"], ["a/1.x", "b/1.x", "b/2.x"]),
    ("/data/**/*.x", ["/data/1.x", "/data/b/c/1.x"], ["1.x", "b/c/1.x"]),
    ("/data/*/part/*.x", ["/data/a/part/1.x", "/data/b/part/1.x"], ["a/part/1.x", "b/part/1.x"]),
    ("/data/d[12]/1.x", ["/data/d1/1.x", "/data/d2/1.x"], ["d1/1.x", "d2/1.x"]),
    ("/data [new]/*/1.x", ["/data [new]/a/1.x", "/data [new]/b/1.x"], ["a/1.x", "b/1.x"]),
    ("/da[[]1]/*/1.x", ["/da[1]/a/1.x", "/da[1]/b/1.x"], ["a/1.x", "b/1.x"]),
    ("gs://b/data/*/1.x", ["gs://b/data/a/1.x", "gs://b/data/b/1.x"], ["a/1.x", "b/1.x"]),
    ("/data//deep//*/1.x", ["/data/deep/a/1.x", "/data/deep/b/1.x"], ["a/1.x", "b/1.x"]),
    ("gs://b/d//*/1.x", ["gs://b/d//a/1.x", "gs://b/d//b/1.x"], ["a/1.x", "b/1.x"]),
    ("s3://*/1.x", ["s3://a/1.x", "s3://a/c/1.x"], ["1.x", "c/1.x"]),
    (
      "hf://datasets/o/n@refs/convert/parquet/*/train/0.parquet",
      [f"hf://datasets/o/n@{'0' * 40}/{name}/train/0.parquet" for name in "ab"],
      ["a/train/0.parquet", "b/train/0.parquet"],
    ),
  ],
)
def test_where_names_repeat_shards_are_paths_below_the_fixed_part(pattern, paths, names):
  """Kills the mutant that uses the whole path: the corpus could not move."""
  assert named(pattern, *paths) == names


def test_an_object_that_no_name_can_be_made_of_is_refused():
  with pytest.raises(WinnowError, match=r"d//1\.x has an empty part"):
    named("gs://b/**", "gs://b/d//1.x", "gs://b/d/1.x")


def test_files_of_a_shard_have_its_name_if_a_file_can():
  assert shard_names.file_name("c4-train.00000-of-01024.json.gz") == "c4-train.00000-of-01024.json.gz"
  assert shard_names.file_name("x" * 210) == "x" * 210
  assert shard_names.file_name("a/b.x").startswith("a_b.x~")
  assert shard_names.file_name("../../b.x").startswith(".._.._b.x~")
  assert shard_names.file_name("ä" * 120 + ".x").endswith("x~" + shard_names.file_name("ä" * 120 + ".x")[-32:])


@hypothesis.given(st.one_of(PATHS, PATHS.map(shard_names.file_name), PATHS.map(lambda path: path * 40)))
def test_a_file_of_a_shard_stays_in_its_folder_and_fits(name):
  """Kills the mutants: a slash that leads into another folder; a cut within a character; a name one byte too long."""
  made = shard_names.file_name(name)
  assert "/" not in made and made not in (".", "..") and 0 < len(made.encode()) <= 210


@hypothesis.given(PATHS, PATHS)
def test_no_two_shards_share_a_file(one, other):
  """Kills the mutants: a slash that is only replaced; a name that looks shortened but is kept."""
  others = [other, one.replace("/", "_"), one + "_", f"{one}/b", f"{one}_b", shard_names.file_name(one), one * 40]
  for name in filter(one.__ne__, [*others, shard_names.file_name(f"{one}/b"), shard_names.file_name(one * 40)]):
    assert shard_names.file_name(name) != shard_names.file_name(one), name
