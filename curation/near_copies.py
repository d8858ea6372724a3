"""Near-copies among some thousands of texts, by MinHash over runs of five words (Broder 1997).

Shape suffixes: N texts, H hash functions, S shingles of all texts, end to end.
"""

import re
import zlib

import numpy as np

_SHINGLE_WORDS = 5
_WORD = re.compile(r"\w+")
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_BAND_ROWS = 4


def signatures(texts: list[str], hashes: int = 64) -> np.ndarray:
  """MinHash signatures: uint64 [N, H]; the share of equal columns of two rows estimates the Jaccard similarity.

  Case and punctuation do not count. A text of fewer than five words is one shingle, an empty one too. The same on
  every machine.
  """
  shingles_S, starts_N = _shingles(texts)
  signatures_NH = np.empty((len(texts), hashes), np.uint64)
  offsets_H = np.arange(1, hashes + 1, dtype=np.uint64) * _GOLDEN_RATIO
  for h in range(hashes if texts else 0):
    signatures_NH[:, h] = np.minimum.reduceat(_mix(shingles_S + offsets_H[h]), starts_N)
  return signatures_NH


def near_copies(texts: list[str], *, similarity: float = 0.8) -> np.ndarray:
  """Which texts are near-copies of an earlier one in the list: bool [N]; their number is what could be left out.

  A near-copy has a Jaccard similarity, estimated to about 0.05, of at least `similarity`. Pairs are looked for among
  texts that agree in one of 16 bands of 4 hashes: a pair at 0.8 is missed once in 10,000.
  """
  signatures_NH = signatures(texts)
  copies_N = np.zeros(len(texts), bool)
  first_bands = [signatures_NH[:, h : h + _BAND_ROWS] for h in range(0, signatures_NH.shape[1], _BAND_ROWS)]
  seen: list[dict[bytes, list[int]]] = [{} for _ in first_bands]
  for i in range(len(texts)):
    lists = [places.setdefault(band_NR[i].tobytes(), []) for places, band_NR in zip(seen, first_bands, strict=True)]
    candidates = sorted(set().union(*lists))
    agreement = np.mean(signatures_NH[candidates] == signatures_NH[i], axis=1)
    copies_N[i] = bool(np.any(agreement >= similarity))
    if not copies_N[i]:  # a copy of a copy is found by the first of them, and lists stay short
      for places in lists:
        places.append(i)
  return copies_N


def _shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
  """Hashes of all runs of five words, uint64 [S], and where each text's begin, int64 [N]."""
  hashes: dict[str, int] = {}
  parts, starts, total = [], [], 0
  for text in texts:
    words = _WORD.findall(text.lower())
    for word in words:
      if word not in hashes:
        hashes[word] = zlib.crc32(word.encode("utf-8", "replace"))
    words_W = np.array([hashes[word] for word in words], np.uint64)
    runs = max(1, len(words) - _SHINGLE_WORDS + 1)
    part = np.zeros(runs, np.uint64)
    for place in range(min(_SHINGLE_WORDS, len(words))):
      part = _mix(part + words_W[place : place + runs])
    parts.append(part)
    starts.append(total)
    total += runs
  return np.concatenate(parts) if parts else np.zeros(0, np.uint64), np.array(starts, np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finaliser (Steele, Lea and Flood 2014), a step away from 0: a bijection of uint64."""
  x = x + _GOLDEN_RATIO
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
