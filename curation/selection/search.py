"""Finds the end of a selection exactly, in three passes over the documents, without a sort or a gather.

1. `sample` takes about `MOST_EDGES` documents at random; their ranks are edges, which divide all ranks into stretches.
2. `count` adds up the documents and the tokens of each stretch; `find_stretch` finds the one in which the amount ends.
3. `within` takes the documents of that stretch, about one of `MOST_EDGES`; `finish` sorts them, and nothing else.

What the passes give adds up in any order, and the result does not depend on the edges. Equal keys need no care, since
ranks hold a hash as well. Shape suffixes: N documents, E edges, M documents of one stretch.
"""

from typing import NamedTuple

import numpy as np

from curation.selection import hashing, selection

MOST_EDGES = 1 << 12


class Selected(NamedTuple):
  """The documents from a rank on, or some of them. `floor` is their smallest rank."""

  documents: int
  num_tokens: int
  floor: int


NOTHING = Selected(0, 0, selection.NO_RANK)


class Ranked(NamedTuple):
  """Ranks of documents, uint64 [N] and uint64 [N], and their tokens, int64 [N] or None if they are not counted."""

  keys: np.ndarray
  ties: np.ndarray
  num_tokens: np.ndarray | None = None

  def take(self, which: np.ndarray) -> "Ranked":
    """Returns some of the documents, by a mask, places or a slice."""
    tokens = None if self.num_tokens is None else self.num_tokens[which]
    return Ranked(self.keys[which], self.ties[which], tokens)


class Edges(NamedTuple):
  """Ranks in ascending order, uint64 [E] and uint64 [E]: stretch i goes from edge i - 1 up to, but without, edge i."""

  keys: np.ndarray
  ties: np.ndarray


class Stretch(NamedTuple):
  """The ranks from `low` up to, but without, `high`, among which a selection ends."""

  low: int
  high: int
  amount: int
  """The part of the search's amount that is left for this stretch."""
  by_count: bool
  above: Selected
  """What is selected above the stretch."""


def concatenate(parts: list[Ranked]) -> Ranked:
  """Returns the documents of all parts, of which there is at least one. Tokens are counted in all parts or in none."""
  parts = [part for part in parts if len(part.keys)] or parts[:1]
  tokens = [part.num_tokens for part in parts if part.num_tokens is not None]
  return Ranked(
    np.concatenate([part.keys for part in parts]),
    np.concatenate([part.ties for part in parts]),
    np.concatenate(tokens) if len(tokens) == len(parts) else None,
  )


def add_selected(parts: list[Selected]) -> Selected:
  """Adds up counts and takes the smallest floor."""
  parts = [NOTHING, *parts]
  return Selected(
    sum(part.documents for part in parts), sum(part.num_tokens for part in parts), min(part.floor for part in parts)
  )


def sample(search: selection.Search, ranked: Ranked) -> Ranked:
  """Takes documents at random, by a hash of their ties: about `MOST_EDGES` of all, or all if there are not so many."""
  if search.documents <= MOST_EDGES:
    return Ranked(ranked.keys, ranked.ties)
  least = np.uint64((1 << 64) * MOST_EDGES // search.documents)
  taken_N = hashing.mix(ranked.ties) < least
  return Ranked(ranked.keys[taken_N], ranked.ties[taken_N])


def choose_edges(sampled: Ranked) -> Edges:
  """Sorts the sampled ranks."""
  order_E = np.lexsort((sampled.ties, sampled.keys))
  return Edges(sampled.keys[order_E], sampled.ties[order_E])


def count(edges: Edges, ranked: Ranked) -> np.ndarray:
  """Counts the documents and the tokens of each stretch: int64 [2, E + 1].

  Sums are exact while the tokens of one call sum to less than 2^53. Tokens that are not counted are none.
  """
  stretch_N, num = _stretches(edges, ranked), len(edges.keys) + 1
  counts = np.zeros((2, num), np.int64)
  counts[0] = np.bincount(stretch_N, minlength=num)
  if ranked.num_tokens is not None:
    counts[1] = np.bincount(stretch_N, ranked.num_tokens, num)
  return counts


def _stretches(edges: Edges, ranked: Ranked) -> np.ndarray:
  """Returns the number of the stretch of each document, which is the number of edges up to its rank: int64 [N]."""
  keys, first = np.unique(edges.keys, return_index=True)
  if not len(keys):
    return np.zeros(len(ranked.keys), np.int64)
  key_N = np.searchsorted(keys, ranked.keys)
  stretch_N = np.append(first, len(edges.keys))[key_N]
  alike_N = np.flatnonzero(keys[np.minimum(key_N, len(keys) - 1)] == ranked.keys)
  # Documents with the key of an edge are ordered by their ties too: the number of the key and the leading bits of the
  # tie make one number, for one search; where these are equal the whole ties are compared.
  key_bits = np.uint64(len(keys).bit_length())
  tie_bits, ties_N = np.uint64(64) - key_bits, ranked.ties[alike_N]
  codes_E = np.searchsorted(keys, edges.keys).astype(np.uint64) << tie_bits | edges.ties >> key_bits
  codes_N = key_N[alike_N].astype(np.uint64) << tie_bits | ties_N >> key_bits
  below_N = np.searchsorted(codes_E, codes_N, side="right")
  while len(
    too_far_N := np.flatnonzero((below_N > 0) & (codes_E[below_N - 1] == codes_N) & (edges.ties[below_N - 1] > ties_N))
  ):
    below_N[too_far_N] -= 1
  stretch_N[alike_N] = below_N
  return stretch_N


def find_stretch(search: selection.Search, edges: Edges, counts: np.ndarray) -> Stretch:
  """Finds the stretch in which the amount ends, given the counts of all documents; the lowest one if it never does."""
  amounts_E = counts[0 if search.by_count else 1]
  from_top_E = np.cumsum(amounts_E[::-1])
  fitting = min(int(np.searchsorted(from_top_E, search.amount, side="right")), len(edges.keys))
  index = len(edges.keys) - fitting
  above = counts[:, index + 1 :].sum(axis=1)
  high = _rank(edges, index) if index < len(edges.keys) else selection.NO_RANK  # that of a selected document
  return Stretch(
    low=_rank(edges, index - 1) if index else 0,
    high=high,
    amount=search.amount - int(above[0 if search.by_count else 1]),
    by_count=search.by_count,
    above=Selected(int(above[0]), int(above[1]), high),
  )


def within(stretch: Stretch, ranked: Ranked) -> Ranked:
  """Returns the documents of a stretch."""
  key_N, tie_N = ranked.keys, ranked.ties
  is_within_N = selection.is_selected(stretch.low, key_N, tie_N) & ~selection.is_selected(stretch.high, key_N, tie_N)
  return ranked.take(is_within_N)


def finish(stretch: Stretch, ranked: Ranked) -> Selected:
  """Returns what is selected in all, given all documents of the stretch.

  Raises ValueError if two documents of equal rank, whose 64-bit hashes collide, are at the threshold of a count. Of a
  number of tokens neither is selected.
  """
  ranked = ranked.take(np.lexsort((ranked.ties, ranked.keys))[::-1])
  tokens_M = np.zeros(len(ranked.keys), np.int64) if ranked.num_tokens is None else ranked.num_tokens.astype(np.int64)
  weights_M = np.ones(len(ranked.keys), np.int64) if stretch.by_count else tokens_M
  fitting = int(np.searchsorted(np.cumsum(weights_M), stretch.amount, side="right"))
  while 0 < fitting < len(ranked.keys) and _rank(ranked, fitting) == _rank(ranked, fitting - 1):
    if stretch.by_count:
      raise ValueError("two documents of equal key and equal tie hash are at the threshold")
    fitting -= 1
  above = stretch.above
  floor = _rank(ranked, fitting - 1) if fitting else above.floor
  return Selected(above.documents + fitting, above.num_tokens + int(tokens_M[:fitting].sum()), floor)


def _rank(ranked: Ranked | Edges, place: int) -> int:
  return int(ranked.keys[place]) << 64 | int(ranked.ties[place])
