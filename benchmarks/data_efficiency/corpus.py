"""The corpus of the experiment: real text, of which a known part is damaged and a known part is copied.

Real text is the shared C4 sample, if available, and this machine's own documentation, without near-copies. One document
in eight is held out undamaged, and its near-copies with it. A quarter of the others is damaged by
`curation.demo.rater.damage`, and a third as many copies are added as there are whole documents. So 60% of the corpus
are whole documents, 20% damaged ones and 20% copies. A document's url says which it is; no sampler looks at it.
"""

import gzip
import pathlib
from typing import NamedTuple

import numpy as np
import orjson

from curation.coverage import minhash
from curation.demo import corpus as demo_corpus
from curation.demo.embedder import edits
from curation.demo.rater import damage
from curation.demo.training import texts
from curation.models import random_t5

SHARDS = 8
DAMAGED_SHARE = 0.25
COPIES_SHARE = 1 / 3
# This share of the whole documents is copied, the first ones most often (Zipf's law).
COPIED_SHARE = 0.1
EDITED_SHARE = 0.5
MIN_WORDS = 20
PIECES = 3_000
KINDS = ("whole", "copy", "damaged")


class Corpus(NamedTuple):
  """Held-out texts by source, and the texts of the corpus, in order, with their urls."""

  held_out: dict[str, list[str]]
  texts: list[str]
  urls: list[str]


def kind_of(url: str) -> str:
  """Returns the kind of a document, one of KINDS."""
  return url.partition("://")[0]


def read_pools(c4: pathlib.Path | None) -> dict[str, list[str]]:
  """Reads the available texts by source."""
  pools = {} if c4 is None else {"c4": texts.read_texts([c4])}
  return {**pools, "documentation": [document.text for document in demo_corpus.read_documents()]}


def build(pools: dict[str, list[str]], seed: int) -> Corpus:
  """Mixes the texts of pools; the same texts, versions and seed give the same corpus."""
  generator = np.random.default_rng(seed)
  held_out, real = {}, []
  for name, pool in pools.items():
    pool = [text for text in pool if len(text.split()) >= MIN_WORDS]
    pool = [text for text, copy in zip(pool, minhash.near_copies(pool), strict=True) if not copy]
    out = texts.held_out(pool)
    held_out[name] = [text for text, is_out in zip(pool, out, strict=True) if is_out]
    real += [(f"{name}/{i}", text) for i, (text, is_out) in enumerate(zip(pool, out, strict=True)) if not is_out]
  real = [real[i] for i in generator.permutation(len(real))]
  damaged = round(DAMAGED_SHARE * len(real))
  makers = {**damage.KINDS, **damage.UNSEEN_KINDS}
  documents = []
  for place, (name, text) in enumerate(real[:damaged]):
    kind = list(makers)[place % len(makers)]
    documents.append((f"damaged://{kind}/{name}", makers[kind](text, generator)))
  whole = real[damaged:]
  documents += [(f"whole://{name}", text) for name, text in whole]
  odds = 1 / np.arange(1, round(COPIED_SHARE * len(whole)) + 1)
  for number, place in enumerate(generator.choice(len(odds), round(COPIES_SHARE * len(whole)), p=odds / odds.sum())):
    name, text = whole[place]
    if generator.random() < EDITED_SHARE:
      text = edits.edit(text, generator)
    documents.append((f"copy://{number}/{name}", text))
  order = generator.permutation(len(documents))
  return Corpus(held_out, [documents[i][1] for i in order], [documents[i][0] for i in order])


def write(corpus: Corpus, folder: pathlib.Path) -> None:
  """Writes corpus/, held_out/NAME.json.gz and spiece.model, which is trained on the whole corpus."""
  for shard in range(SHARDS):
    rows = zip(corpus.texts[shard::SHARDS], corpus.urls[shard::SHARDS], strict=True)
    _write_shard(folder / f"corpus/mixed-{shard:05d}-of-{SHARDS:05d}.json.gz", list(rows))
  for name, held_out in corpus.held_out.items():
    rows = [(text, f"held_out://{name}/{i}") for i, text in enumerate(held_out)]
    _write_shard(folder / f"held_out/{name}.json.gz", rows)
  (folder / "spiece.model").write_bytes(random_t5.train_vocabulary(corpus.texts, PIECES))


def _write_shard(path: pathlib.Path, rows: list[tuple[str, str]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  records = ({"text": text, "url": url, "timestamp": ""} for text, url in rows)
  lines = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
  path.write_bytes(gzip.compress(lines, mtime=0))
