"""Corpora that tests make: short sentences of made-up words, in every format, with bad records in the middle."""

import dataclasses
import gzip
import json
import math
import pathlib
from collections.abc import Callable

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from curation.models import random_t5
from pipelines.output import tfrecords

WORDS = ["river", "stone", "house", "seven", "light", "music", "paper", "garden", "engine", "winter", "yes", "no"]
POOL = 60  # the number of texts that `repeating_texts` repeats
PROMPT = "{document} - useful?"
ODD_LINES = (  # all of them bad, except one that is blank
  b'{"text": "cut off',
  b'{"url": "u"}',
  b'{"text": 7}',
  b'{"text": "  "}',
  b"",
  b'{"text": "\xff\xfe"}',
  b"[1]",
)


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The place of the shards, the texts of their good rows, and the numbers of bad rows and blank lines."""

  pattern: str
  texts: dict[tuple[str, int], str]
  bad: int
  blank: int = 0


def write_model(folder: pathlib.Path, **sizes) -> str:
  """Writes a random T5 with a vocabulary of the words; returns its folder."""
  sizes = {"pieces": 150, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4} | sizes
  return str(random_t5.write_random_checkpoint(folder, [text + " - useful?" for text in sentences(2_000, 99)], **sizes))


def sentences(count: int, seed: int) -> list[str]:
  generator = np.random.default_rng(seed)
  lengths = generator.integers(2, 12, count)
  words = iter(generator.integers(0, len(WORDS), int(lengths.sum())).tolist())
  return [" ".join(WORDS[next(words)] for _ in range(length)) + f" {seed}.{row}" for row, length in enumerate(lengths)]


def repeating_texts(count: int, seed: int) -> list[str]:
  """Returns texts: half repeat one of a pool that all shards share, word for word or nearly; one has no words."""
  generator = np.random.default_rng(1_000 + seed)
  pool = np.random.default_rng(5).integers(0, 10_000, (POOL, 60))
  texts = []
  for row in range(count):
    kind = generator.random()
    words = pool[generator.integers(POOL)] if kind < 0.5 else generator.integers(0, 10_000, 60)
    if kind < 0.2:  # a few words differ; if a tenth or more do, it is no near-copy
      words = words.copy()
      words[generator.choice(60, int(generator.integers(1, 8)), replace=False)] = generator.integers(10_000, 20_000)
    texts.append("..." if row == 7 else " ".join(f"w{word}" for word in words))
  return texts


def rows_of(shard: str, *, big_rows: int, small_rows: int) -> int:
  """Returns the number of rows of a shard of `write_corpus`, with bad ones."""
  return big_rows if shard == "big.jsonl.gz" else small_rows + ("tfrecord" in shard)


def url_of(shard: str, row: int) -> str:
  """Returns a url of one of some thirty domains, which have documents in all shards, some many and some few."""
  return f"http://{row % 3}.site{math.isqrt(row * 7919 % 1009)}.co.uk/{shard}/{row}"


def write_with_embeddings(
  folder: pathlib.Path,
  embed: Callable[[str, int], np.ndarray],
  *,
  big_rows: int,
  small_rows: int,
  bad_row: int,
  make: Callable[[int, int], list[str]] | None = None,
) -> None:
  """Writes corpus/ by `write_corpus`, and made/ with what `embed` gives by shard and rows; spoils two of `a.jsonl`."""
  write_corpus(folder / "corpus", big_rows=big_rows, small_rows=small_rows, make=make or sentences)
  (folder / "made").mkdir()
  for path in sorted((folder / "corpus").iterdir()):
    points_ND = embed(path.name, rows_of(path.name, big_rows=big_rows, small_rows=small_rows))
    if path.name == "a.jsonl":
      points_ND[bad_row], points_ND[bad_row + 1, 3] = 0, np.nan
    np.save(folder / "made" / f"{path.name}.npy", points_ND)


def write_corpus(
  folder: pathlib.Path, *, big_rows: int, small_rows: int, make: Callable[[int, int], list[str]] = sentences
) -> Corpus:
  """Writes twelve shards: one gzip file of `big_rows` rows, and eleven files of `small_rows` in all formats.

  `make` returns the texts of a shard, given their number and a seed.
  """
  folder.mkdir(parents=True, exist_ok=True)
  corpus = Corpus(str(folder / "*"), {}, 0)
  bad = blank = 0
  plan = [("big.jsonl.gz", big_rows), *((name, small_rows) for name in SMALL)]
  for seed, (name, rows) in enumerate(plan):
    texts = make(rows, seed)
    corpus.texts.update({(name, row): text for row, text in enumerate(texts)})
    if ".json" in name:
      lines = [json.dumps({"text": text, "url": url_of(name, row)}).encode() for row, text in enumerate(texts)]
      for place, line in enumerate(ODD_LINES):
        row = rows // 2 + 3 * place
        lines[row] = line
        del corpus.texts[name, row]
        bad, blank = bad + bool(line), blank + (not line)
      (folder / name).write_bytes(_compress(name, b"\n".join(lines) + b"\n"))
    elif name.endswith(".parquet"):
      column = pa.array([None if row == rows // 2 else text for row, text in enumerate(texts)], pa.string())
      del corpus.texts[name, rows // 2]
      bad += 1
      pq.write_table(pa.table({"other": pa.array(range(rows)), "text": column}), folder / name, row_group_size=777)
    else:
      encoded = bytearray(b"".join(_examples(texts).to_pylist()))
      encoded += _frame(b"\x00 no example")
      bad += 1
      (folder / name).write_bytes(bytes(encoded))
  return dataclasses.replace(corpus, bad=bad, blank=blank)


SMALL = (
  "a.jsonl",
  "b.json",
  "c.json.gz",
  "d.jsonl.zst",
  "e.jsonl.gz",
  "f.parquet",
  "g.parquet",
  "h.tfrecord-00000-of-00003",
  "h.tfrecord-00001-of-00003",
  "h.tfrecord-00002-of-00003",
  "i.jsonl",
)


def _compress(name: str, data: bytes) -> bytes:
  if name.endswith(".gz"):
    half = data.index(b"\n", len(data) // 2) + 1
    return gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)  # two members, as parallel gzips write
  return zstandard.ZstdCompressor().compress(data) if name.endswith(".zst") else data


def _examples(texts: list[str]) -> pa.Array:
  empty = pa.array([""] * len(texts))
  return tfrecords.encode_examples(
    pa.table(
      {
        "text": pa.array(texts),
        "url": empty,
        "timestamp": empty,
        "source": empty,
        "score": pa.array([0.0] * len(texts), pa.float32()),
      }
    )
  )


def _frame(data: bytes) -> bytes:
  length = len(data).to_bytes(8, "little")
  return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
  crc = google_crc32c.value(data)
  return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
