"""Quotas: limits on how many documents of a group, such as a domain, may be selected.

The documents of a group are taken by rank, the largest first, until the group's quota is used up. Groups are identified
by 64-bit hashes. Shapes: N documents, G groups.
"""

import numpy as np

from curation.selection import hashing
from curation.selection.selection import SelectionRequest

_PENDING = 1 << 18  # documents that are collected before they are counted


def order(key_N: np.ndarray, tie_N: np.ndarray) -> np.ndarray:
  """Returns sort keys for the order in which quotas take documents, the largest rank first: S16 [N]."""
  rank_N2 = np.empty((len(key_N), 2), ">u8")
  rank_N2[:, 0], rank_N2[:, 1] = ~key_N, ~tie_N
  return rank_N2.reshape(-1).view("S16")


def limits(request: SelectionRequest, group_G: np.ndarray, size_G: np.ndarray) -> np.ndarray:
  """Returns the quota of each group: int64 [G]. `group_G` are hashes (uint64), `size_G` scored documents (int64).

  `group_max` is the quota itself. `group_rate` gives floor(rate × size + u), where u in (0, 1) is a hash of seed and
  group. So the expectation is rate × size however small a group is, whereas rounding to the nearest would lose every
  group of fewer than 1 / (2 × rate) documents. The documents selected at a smaller rate are a subset of those selected
  at a larger one.
  """
  if request.group_max is not None:
    return np.full(len(group_G), request.group_max, np.int64)
  u_G = hashing.to_uniforms(hashing.hash_documents("quota", request.seed, "", group_G))
  return np.floor(float(request.exact_group_rate()) * size_G + u_G).astype(np.int64)


class Sizes:
  """Counts documents by group, in memory proportional to the number of groups, plus a few MB."""

  def __init__(self):
    self._group_G, self._size_G = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    self._pending: list[np.ndarray] = []
    self._num_pending = 0

  def add(self, group_N: np.ndarray) -> None:
    """Counts documents by their groups' hashes, uint64 [N]."""
    self._pending.append(group_N)
    self._num_pending += len(group_N)
    if self._num_pending >= _PENDING:
      self._merge()

  def finish(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the groups in ascending order, uint64 [G], and their numbers of documents, int64 [G]."""
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
  """The remaining quotas of groups while documents come in order of rank. `group_G` must ascend."""

  def __init__(self, group_G: np.ndarray, limit_G: np.ndarray):
    self._group_G, self._left_G = group_G, limit_G.copy()

  def take(self, group_N: np.ndarray) -> np.ndarray:
    """Tells which of the next documents are within their groups' quotas, and uses the quotas up: bool [N]."""
    index_N = np.searchsorted(self._group_G, group_N)
    order_N = np.argsort(index_N, kind="stable")
    group, first, counts = np.unique(index_N[order_N], return_index=True, return_counts=True)
    before_N = np.arange(len(group_N)) - np.repeat(first, counts)  # earlier documents of the same group in this call
    taken_N = np.empty(len(group_N), bool)
    taken_N[order_N] = before_N < np.repeat(self._left_G[group], counts)
    self._left_G[group] = np.maximum(self._left_G[group] - counts, 0)
    return taken_N
