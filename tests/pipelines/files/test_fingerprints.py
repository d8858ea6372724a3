import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from pipelines.files import fingerprints

JSON = st.recursive(
  st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
  max_leaves=12,
)


@given(JSON, JSON)
def test_two_values_differ_exactly_if_their_fingerprints_do(one, other):
  """Kills the mutant that compares lists only as far as the shorter one goes."""
  same = fingerprints.to_json(one) == fingerprints.to_json(other)
  assert (fingerprints.first_difference(one, other) is None) == same
  assert (fingerprints.fingerprint(one) == fingerprints.fingerprint(other)) == same


def test_the_field_that_differs_is_named():
  known = {"a": 1, "inputs": [{"name": "x", "bytes": 1}, {"name": "y", "bytes": 2}]}
  wanted = {"a": 1, "inputs": [{"name": "x", "bytes": 1}, {"name": "y", "bytes": 3}]}
  assert fingerprints.first_difference(known, wanted) == ("inputs.y.bytes", "2", "3")
  assert fingerprints.first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", "absent", "2")


def test_a_digest_comes_with_its_description():
  """Kills the mutant that says only "bf60" there and "6742" now, which helps nobody."""
  field, known, wanted = fingerprints.first_difference(
    {"scores": {"clusters": "ab" * 8}}, {"scores": {"clusters": "cd" * 8}}
  )
  assert field == "scores.clusters" and wanted == f'"{"cd" * 8}"'
  assert known == (
    f'"{"ab" * 8}" (a digest of the request for the clusters: embeddings, number, sample, iterations and seed)'
  )
  assert fingerprints.first_difference({"hashes": 2}, {"hashes": 3}) == ("hashes", "2", "3")
  assert fingerprints.first_difference({"method": "top_k"}, {"method": "ips"}) == ("method", '"top_k"', '"ips"')


def test_a_folder_belongs_to_the_first_request(tmp_path):
  path = str(tmp_path / "folder" / "request.json")
  fingerprints.claim(path, {"seed": 0}, owner="the folder")
  fingerprints.claim(path, {"seed": 0}, owner="the folder")
  assert fingerprints.holds(path, fingerprints.fingerprint({"seed": 0}))
  assert not fingerprints.holds(path, fingerprints.fingerprint({"seed": 1}))
  with pytest.raises(WinnowError, match="the folder belongs to another request: seed is 0 there and 1 now"):
    fingerprints.claim(path, {"seed": 1}, owner="the folder")
  assert fingerprints.read_json(path) == {"seed": 0}


def test_a_damaged_file_is_told_in_a_sentence(tmp_path):
  (tmp_path / "request.json").write_text('{"seed": ')
  with pytest.raises(WinnowError, match="not readable JSON"):
    fingerprints.read_json(str(tmp_path / "request.json"))


def test_below_a_file_there_is_no_request(tmp_path):
  """The path of a request may lie below a file, as with --embeddings of one file. Kills the mutant that handles only
  missing files."""
  (tmp_path / "a.npy").write_bytes(b"")
  assert fingerprints.field(f"{tmp_path}/a.npy/request.json", "scorer") is None
