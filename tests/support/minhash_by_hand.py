"""Words and MinHash signatures of a text in plain Python."""

import itertools
import unicodedata

import numpy as np

from curation import blanks
from curation.selection import hashing


def words_of(text: str) -> list[str]:
  """Returns the words of a text: lower-case runs of letters, marks, digits and whatever Unicode 3.2 did not know.

  With fewer than five such words that are more than marks, symbols are words too; with none, so is every character that
  shows anything.
  """

  def category(character: str) -> str:
    found = "L" if ord(character) > 0xFFFF else unicodedata.ucd_3_2_0.category(character)
    return "L" if found == "Cn" else found[0]

  words = [
    "".join(c if ord(c) > 0xFFFF or unicodedata.ucd_3_2_0.category(c) == "Cn" else c.lower()[0] for c in of)
    for is_word, of in itertools.groupby(text, lambda c: category(c) in "LMN")
    if is_word
  ]
  lettered = sum(any(category(c) in "LN" for c in word) for word in words)
  if lettered >= 5:
    return words
  found = []
  for is_word, of in itertools.groupby(text, lambda c: category(c) in "LMN"):
    others = [c for c in of if not blanks.is_blank(c) and not (lettered and category(c) == "P")]
    found += [words.pop(0)] if is_word else others
  return found


def signature_by_hand(text: str, hashes: int) -> list[int]:
  """Returns a signature, computed in Python's own numbers without a rolling hash."""

  def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)

  words = []
  for word in words_of(text):
    hashed = 0xCBF29CE484222325
    for character in word:
      hashed = (hashed ^ ord(character)) * 0x100000001B3 % 2**64
    words.append(mix(hashed))
  shingles = []
  for first in range(max(1, len(words) - 4)):
    joined = 0
    for number in words[first : first + 5]:
      joined = (joined * 0xD6E8FEB86659FD93 + number) % 2**64
    shingles.append(mix(joined) >> 32)
  drawn = hashing.hash_documents("minhash", 0, "", np.arange(hashes)).tolist()
  return [min(((d >> 32 | 1) * s + d) % 2**32 for s in shingles) for d in drawn]
