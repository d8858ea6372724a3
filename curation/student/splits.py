"""The split of documents into those that a student learns from, is chosen by, and is judged by.

A document's part follows from a hash of its identity. Near-copies have the hash of the first of them, so that no text
that a student is judged by repeats one that it has learned from. Shape suffixes: N documents, H hashes of a signature.
"""

import numpy as np

from curation.coverage import minhash

LEARNING, CHOOSING, JUDGING = 0, 1, 2
SHARES = (0.8, 0.1, 0.1)
SAMPLE, PART = "student sample", "student part"
"""Purposes of `hashing.hash_documents`: which documents are learned from at all, and in which part each of them is."""


def parts_of(hashes_N: np.ndarray) -> np.ndarray:
  """Returns the part of each document by its hash, uint64 [N]: uint8 [N]."""
  borders = [np.uint64(int(share * 2.0**64)) for share in np.cumsum(SHARES)[:-1]]
  return np.searchsorted(borders, hashes_N, side="right").astype(np.uint8)


def join_near_copies(hashes_N: np.ndarray, signatures_NH: np.ndarray, config: minhash.MinHashConfig) -> np.ndarray:
  """Returns the hashes of documents, uint64 [N], with one hash for all near-copies of each other: the first one's.

  Near-copies are those that `minhash` joins by these signatures, uint32 [N, H]. Holds 300 bytes a document, and the
  signatures of documents that share a bucket with another.
  """
  keys_NB = np.concatenate(
    [minhash.band_keys(signatures_NH[start : start + (1 << 16)], config) for start in range(0, len(hashes_N), 1 << 16)]
    or [np.empty((0, config.bands), np.uint64)]
  )
  rows_M = np.repeat(np.arange(len(keys_NB)), config.bands)
  different, place_M, counts = np.unique(keys_NB.reshape(-1), return_inverse=True, return_counts=True)
  del different
  is_shared_M = counts[place_M] > 1
  keys_M, rows_M = keys_NB.reshape(-1)[is_shared_M], rows_M[is_shared_M]
  numbers_N, rows_M = np.unique(rows_M, return_inverse=True)
  edges_C2 = minhash.bucket_edges(keys_M, rows_M, np.asarray(signatures_NH[numbers_N]), config)
  joined_N = hashes_N.copy()
  joined_N[numbers_N[edges_C2[:, 0]]] = hashes_N[numbers_N[edges_C2[:, 1]]]
  return joined_N
