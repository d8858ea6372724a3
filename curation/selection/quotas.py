"""Quotas: how many documents of a group, such as a domain, may be selected at most, and which ones those are.

The documents of a group are taken in the order of their ranks, from the largest down, until its quota is full. Groups
go by 64-bit hashes. Shapes: N documents, G groups.
"""

import numpy as np

from curation.selection import hashing
from curation.selection.selection import SelectionRequest

_PENDING = 1 << 18  # documents that are counted at once


def order(key_N: np.ndarray, tie_N: np.ndarray) -> np.ndarray:
  """What puts documents into the order in which quotas take them, when sorted: S16 [N], the largest rank first."""
  rank_N2 = np.empty((len(key_N), 2), ">u8")
  rank_N2[:, 0], rank_N2[:, 1] = ~key_N, ~tie_N
  return rank_N2.reshape(-1).view("S16")


def limits(request: SelectionRequest, group_G: np.ndarray, size_G: np.ndarray) -> np.ndarray:
  """The quota of each group, int64 [G]; `group_G` are hashes (uint64), `size_G` scored documents (int64).

  `group_max`: that many. `group_rate`: floor(rate × size + u), where u in (0, 1) is a hash of seed and group. So the
  expectation is rate × size however small a group is, where rounding to the nearest would lose every group of fewer
  than 1 / (2 × rate) documents; and the documents of a smaller rate lie within those of a larger one.
  """
  if request.group_max is not None:
    return np.full(len(group_G), request.group_max, np.int64)
  u_G = hashing.to_uniforms(hashing.hash_documents("quota", request.seed, "", group_G))
  return np.floor(float(request.exact_group_rate()) * size_G + u_G).astype(np.int64)


class Sizes:
  """Counts documents by group, in memory for the groups and a few MB."""

  def __init__(self):
    self._group_G, self._size_G = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    self._pending: list[np.ndarray] = []
    self._num_pending = 0

  def add(self, group_N: np.ndarray) -> None:
    self._pending.append(group_N)
    self._num_pending += len(group_N)
    if self._num_pending >= _PENDING:
      self._merge()

  def finish(self) -> tuple[np.ndarray, np.ndarray]:
    """The groups in ascending order, uint64 [G], and their documents, int64 [G]."""
    self._merge()
    return self._group_G, self._size_G

  def _merge(self) -> None:
    new, counts = np.unique(np.concatenate([self._group_G[:0], *self._pending]), return_counts=True)
    group = np.union1d(self._group_G, new)
    size = np.zeros(len(group), np.int64)
    size[np.searchsorted(group, self._group_G)] = self._size_G
    size[np.searchsorted(group, new)] += counts
    self._group_G, self._size_G, self._pending, self._num_pending = group, size, [], 0


class Quotas:
  """What is left of the quotas of groups (`group_G` ascending) while documents come in their order."""

  def __init__(self, group_G: np.ndarray, limit_G: np.ndarray):
    self._group_G, self._left_G = group_G, limit_G.copy()

  def take(self, group_N: np.ndarray) -> np.ndarray:
    """Tells which of the next documents are within their groups' quotas: bool [N]."""
    index_N = np.searchsorted(self._group_G, group_N)
    order_N = np.argsort(index_N, kind="stable")
    group, first, counts = np.unique(index_N[order_N], return_index=True, return_counts=True)
    before_N = np.arange(len(group_N)) - np.repeat(first, counts)  # of the same group among these
    taken_N = np.empty(len(group_N), bool)
    taken_N[order_N] = before_N < np.repeat(self._left_G[group], counts)
    self._left_G[group] = np.maximum(self._left_G[group] - counts, 0)
    return taken_N
