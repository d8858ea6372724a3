import numpy as np
import pytest

from curation.selection import hashing


def test_golden_values():
  """Kills the mutant that takes an unseeded or platform-dependent hash; any change of the function shows."""
  hashes = hashing.hash_documents("random", 0, "c4-train.00000-of-01024.json.gz", np.array([0, 1, 2, 355_999]))
  assert [f"{value:016x}" for value in hashes] == GOLDEN


GOLDEN = ["a77dc6a14d21e5c7", "176555752f23819e", "70ad9d0bddfd87e1", "5a92f47e6861c4f6"]


@pytest.mark.parametrize("change", [("tie", 0, "a"), ("random", 1, "a"), ("random", 0, "b")])
def test_purpose_seed_and_shard_give_other_hashes(change):
  rows = np.arange(1000)
  base = hashing.hash_documents("random", 0, "a", rows)
  assert not np.intersect1d(base, hashing.hash_documents(*change, rows)).size


def test_rows_of_a_shard_never_collide_and_do_not_depend_on_their_neighbours():
  rows = np.arange(1_000_000, dtype=np.int32)
  hashes = hashing.hash_documents("tie", 7, "shard", rows)
  assert len(np.unique(hashes)) == len(rows)
  assert hashing.hash_documents("tie", 7, "shard", np.array([123_456], np.int64))[0] == hashes[123_456]


def test_every_bit_is_uniform():
  hashes = hashing.hash_documents("place", 3, "shard", np.arange(100_000))
  bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  assert np.abs(bits.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(len(hashes))
  byte_counts = np.bincount((hashes & np.uint64(255)).astype(int), minlength=256)
  chi_squared = ((byte_counts - len(hashes) / 256) ** 2 / (len(hashes) / 256)).sum()
  assert chi_squared < 255 + 6 * np.sqrt(2 * 255)
