"""Texts of the demo's models: reads them, holds some out, and draws excerpts."""

import gzip
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import orjson
import zstandard
from pyarrow import parquet

from curation.errors import WinnowError
from curation.selection import hashing

_READERS = {
  ".json": lambda path: _json_lines(path.read_bytes()),
  ".jsonl": lambda path: _json_lines(path.read_bytes()),
  ".gz": lambda path: _json_lines(gzip.decompress(path.read_bytes())),
  ".zst": lambda path: _json_lines(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())),
  ".parquet": lambda path: parquet.read_table(path, columns=["text"])["text"].to_pylist(),
}
_HELD_OUT_SHARE = 8  # one text in this many
_WORD = re.compile(r"\w+")
_RUN_WORDS = 5
_HELD_OUT_KEY = np.uint64(0x9E3779B97F4A7C15)
_SHARED_FILES = ("c4/c4_en_1445.jsonl.gz",)


def read_texts(paths: Iterable[str | pathlib.Path]) -> list[str]:
  """Reads the `text` of all records of JSON Lines (plain, gzip, zstd) and Parquet files, or of such files in folders.

  Reads everything into memory. Raises WinnowError if a path does not exist, or if there is no text.
  """
  texts: list[str] = []
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise WinnowError(f"{path} does not exist: give files of JSON Lines or Parquet, or a folder of them.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
      if file.suffix in _READERS:
        texts += [text for text in _READERS[file.suffix](file) if text and text.strip()]
  if not texts:
    raise WinnowError("The input holds no text: give files of JSON Lines or Parquet whose records have a `text`.")
  return texts


def read_shared(folder: str | pathlib.Path | None) -> list[str]:
  """Reads the texts of C4 in a folder that holds c4/c4_en_1445.jsonl.gz; returns none without a folder."""
  return read_texts([pathlib.Path(folder, name) for name in _SHARED_FILES]) if folder else []


def held_out(texts: list[str]) -> np.ndarray:
  """Tells which texts are never trained on: bool [N], about one in 8, decided by each text alone.

  One MinHash decides, so a near-copy falls on the same side with a probability equal to its similarity. A document
  whose text changed slightly between two versions of a package mostly stays on its side.
  """
  return np.array([_min_hash(text) for text in texts], np.uint64) % np.uint64(_HELD_OUT_SHARE) == 0


def _min_hash(text: str) -> np.uint64:
  """Returns the smallest hash of a text's runs of five words.

  Kept apart from `coverage.minhash`, since another hash would change which texts the shipped models were trained on.
  """
  # A Python loop over some thousands of texts, of 0.25 ms each.
  words_W = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())], np.uint64)
  runs = max(1, len(words_W) - _RUN_WORDS + 1)
  hashed_R = np.zeros(runs, np.uint64)
  for place in range(min(_RUN_WORDS, len(words_W))):
    hashed_R = hashing.mix(hashed_R + words_W[place : place + runs])
  return hashing.mix(hashed_R + _HELD_OUT_KEY).min()


def not_held_out(pool: list[str]) -> list[str]:
  """Returns the texts that may be trained on."""
  return [text for text, out in zip(pool, held_out(pool), strict=True) if not out]


def draw(pools: list[list[str]], generator: np.random.Generator) -> Iterator[str]:
  """Yields texts without end, from the pools in equal parts.

  The probability of a text is proportional to the square root of its length, so that one-liners do not crowd out long
  texts.
  """
  weighted = []
  for pool in pools:
    if pool:
      roots_N = np.sqrt([min(len(text), 20_000) for text in pool])
      weighted.append((pool, roots_N / roots_N.sum()))
  while True:
    pool, probabilities_N = weighted[int(generator.integers(len(weighted)))]
    yield pool[generator.choice(len(pool), p=probabilities_N)]


def excerpt(text: str, generator: np.random.Generator, *, shortest: int = 8, longest: int = 300) -> str:
  """Draws a passage of `shortest` to `longest` words, short ones more often; returns a shorter text whole.

  The passage begins with the text or with a sentence, and ends with a sentence if one ends nearby.
  """
  words = text.split()
  size = int(shortest * (longest / shortest) ** generator.random())
  if len(words) <= size:
    return " ".join(words)
  ends = [i + 1 for i, word in enumerate(words) if word[-1] in ".!?"]
  starts = [0, *(end for end in ends if end <= len(words) - size)]
  start = 0 if generator.random() < 0.4 else starts[int(generator.integers(len(starts)))]
  stop = next((end for end in ends if start + size <= end <= start + size + 30), start + size)
  return " ".join(words[start:stop])


def _json_lines(data: bytes) -> list[str]:
  return [orjson.loads(line).get("text", "") for line in data.splitlines() if line.strip()]
