"""The compiled loops of `minhash`, in their own module since the compiler takes half a second and 50 MB to load.

Shape suffixes: N texts or numbers, H hash functions, B bytes of all texts, U code points, M members of buckets.
"""

import numpy as np

from curation.machine_code import compiled

SHINGLE_WORDS = 5
LETTER, MARK, SYMBOL, PUNCTUATION = (np.uint32(1 << bit) for bit in (31, 30, 29, 28))
_IN_WORD, _POINT = LETTER | MARK, PUNCTUATION - np.uint32(1)
_LARGEST = np.uint32(0xFFFFFFFF)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_LEAVING = np.uint64(pow(0xD6E8FEB86659FD93, SHINGLE_WORDS, 1 << 64))


@compiled
def _mix(x):
  """Applies the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


@compiled
def _code_point(text_B, place, stop):
  """Returns the UTF-8 character at `place` and its number of bytes; a byte that begins none stands for itself."""
  first = np.int64(text_B[place])
  length = 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)
  if length == 1 or place + length > stop:
    return first, 1
  point = first & (0x7F >> length)
  for i in range(1, length):
    point = (point << 6) | (np.int64(text_B[place + i]) & 0x3F)
  return point, length


@compiled
def _add_shingle(joined, multipliers_H, offsets_H, signature_H):
  """Adds a shingle to a signature: permutes 32 bits by H linear functions (Indyk 1999), eight or more at a time."""
  shingle = np.uint32(_mix(joined) >> np.uint64(32))
  for h in range(len(multipliers_H)):
    signature_H[h] = min(signature_H[h], np.uint32(multipliers_H[h] * shingle + offsets_H[h]))


@compiled
def _add_text(text_B, place, stop, codes_U, taken, multipliers_H, offsets_H, signature_H, last_words):
  """Adds the shingles of one text to a signature; returns the words with a letter, and the kinds of other characters.

  A word is hashed by FNV-1a, and a run of words by a rolling polynomial. Characters of the kinds in `taken` are words
  of their own.
  """
  last_words[:] = 0
  joined, words, lettered, slot = np.uint64(0), 0, 0, 0
  word, in_word, other = _FNV_OFFSET, np.uint32(0), np.uint32(0)
  while place < stop or in_word:
    code = np.uint32(0)  # the last byte ends a word
    if place < stop:
      point = np.int64(text_B[place])
      length = 1
      if point >= 0x80:
        point, length = _code_point(text_B, place, stop)
      place += length
      code = codes_U[point] if point < len(codes_U) else np.uint32(point) | LETTER
    if code & _IN_WORD:
      word = (word ^ np.uint64(code & _POINT)) * _FNV_PRIME
      in_word |= code
      continue
    other |= code
    for is_other in range(2):
      if is_other:
        if not code & taken:
          break
        word = (_FNV_OFFSET ^ np.uint64(code & _POINT)) * _FNV_PRIME
      elif not in_word:
        continue
      word = _mix(word)
      joined = joined * _MULTIPLIER + word - last_words[slot] * _LEAVING
      last_words[slot] = word
      slot = slot + 1 if slot + 1 < SHINGLE_WORDS else 0
      words += 1
      if words >= SHINGLE_WORDS:
        _add_shingle(joined, multipliers_H, offsets_H, signature_H)
      lettered += (in_word & LETTER) != 0
      word, in_word = _FNV_OFFSET, np.uint32(0)
  if words < SHINGLE_WORDS:
    _add_shingle(joined, multipliers_H, offsets_H, signature_H)
  return lettered, other


@compiled
def compute_signatures(text_B, starts_N, codes_U, multipliers_H, offsets_H, signatures_NH):
  """Writes MinHash signatures of texts stored end to end into `signatures_NH`, which must hold the largest number.

  `codes_U` has each code point's lower case with the bit of its kind: `LETTER`, `MARK`, `SYMBOL` or `PUNCTUATION`. A
  code of 0 is invisible, and code points from U on are letters. See `minhash.signatures` for the words of short texts.
  """
  last_words = np.empty(SHINGLE_WORDS, np.uint64)
  for n in range(len(starts_N) - 1):
    taken = np.uint32(0)
    while True:
      lettered, others = _add_text(
        text_B,
        starts_N[n],
        starts_N[n + 1],
        codes_U,
        taken,
        multipliers_H,
        offsets_H,
        signatures_NH[n],
        last_words,
      )
      others &= SYMBOL if lettered else SYMBOL | PUNCTUATION
      if taken or lettered >= SHINGLE_WORDS or not others:
        break
      taken = others
      signatures_NH[n] = _LARGEST


@compiled
def _root(parents_N, n):
  """Returns the root of n, and shortens the path to it."""
  while parents_N[n] != n:
    parents_N[n] = parents_N[parents_N[n]]
    n = parents_N[n]
  return n


@compiled
def _join(parents_N, n, other):
  """Makes the smaller root that of both, so that a component's root is its smallest member."""
  n, other = _root(parents_N, n), _root(parents_N, other)
  parents_N[max(n, other)] = min(n, other)


@compiled
def join_pairs(left_E, right_E, parents_N):
  """Joins pairs of numbers, and leaves the roots in `parents_N`, which holds 0, 1, 2, ... or an earlier result."""
  for e in range(len(left_E)):
    _join(parents_N, left_E[e], right_E[e])
  for n in range(len(parents_N)):
    parents_N[n] = parents_N[parents_N[n]]  # a parent is smaller, and has its root already


@compiled
def join_buckets(keys_M, rows_M, signatures_NH, needed, most_compared, parents_N):
  """Joins rows of one key whose signatures agree in `needed` positions; keys are sorted. See `join_pairs`.

  A row is compared with the last `most_compared` rows before it that have different signatures.
  """
  different = np.empty(most_compared, np.int64)
  start, hashes = 0, signatures_NH.shape[1]
  while start < len(keys_M):
    stop = start + 1
    while stop < len(keys_M) and keys_M[stop] == keys_M[start]:
      stop += 1
    count = 0
    for m in range(start, stop if stop - start > 1 else start):
      row, is_same = rows_M[m], False
      for other in different[: min(count, most_compared)]:
        agreeing = 0
        for h in range(hashes):
          agreeing += signatures_NH[row, h] == signatures_NH[other, h]
        if agreeing >= needed:
          _join(parents_N, row, other)
          if agreeing == hashes:
            is_same = True
            break
      if not is_same:
        different[count % most_compared] = row
        count += 1
    start = stop
  for n in range(len(parents_N)):
    parents_N[n] = parents_N[parents_N[n]]


@compiled
def latest_different(signatures_MH, most):
  """Returns the rows of a bucket, in order, that `join_buckets` would compare the next with: int64, at most `most`."""
  different = np.empty(most, np.int64)
  count = 0
  for m in range(len(signatures_MH)):
    is_same = False
    for other in different[: min(count, most)]:
      is_same = True
      for h in range(signatures_MH.shape[1]):
        if signatures_MH[m, h] != signatures_MH[other, h]:
          is_same = False
          break
      if is_same:
        break
    if not is_same:
      different[count % most] = m
      count += 1
  return np.sort(different[: min(count, most)])
