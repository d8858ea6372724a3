"""Estimates of the number of documents of a corpus and of their properties, from the heads of some shards."""

import concurrent.futures
import contextlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from curation.errors import WinnowError
from curation.selection import extrapolation
from pipelines.corpus import blocks, first_rows, sources
from pipelines.corpus.readers import zstd_stream
from pipelines.corpus.readers.reader import OpenShard
from pipelines.corpus.readers.registry import READERS
from pipelines.files import storage

_HEAD_BYTES, _SLICE_BYTES = 1 << 20, 4 << 10
_PLAIN_BYTES = 16 << 20  # unpacked, since a few bytes may expand to a gigabyte
_READERS = 8


class Sampled(NamedTuple):
  """The sampled heads: for each the fields of a ShardSample except its values, and its texts."""

  shards: list[tuple[blocks.Shard, float, float]]
  """Each shard with its estimated number of documents and the standard error."""
  texts: list[list[str]]


def sample(shards: list[blocks.Shard], fields: blocks.Fields) -> Sampled:
  """Samples the first rows of up to 16 shards, evenly spaced; raises WinnowError if none of them has a document."""
  is_local = all(storage.is_local(shard.path) for shard in shards)
  with concurrent.futures.ThreadPoolExecutor(
    1 if is_local else _READERS
  ) as pool:  # requests to a store have a long latency
    heads = list(pool.map(lambda shard: _read_head(shard, fields), first_rows.spread(shards)))
  filled = [head for head in heads if head is not None]
  if not filled:
    first_rows.refuse_without_documents(shards, fields)
    raise WinnowError("the sampled shards hold no documents; check --input")
  return Sampled([counted for counted, _ in filled], [texts for _, texts in filled])


def _read_head(
  shard: blocks.Shard, fields: blocks.Fields
) -> tuple[tuple[blocks.Shard, float, float], list[str]] | None:
  """Returns the entry of one shard in `Sampled`; None if its first rows have no document."""
  block = next(iter(sources.Texts(fields, first_rows.ROWS).read(shard, lambda index: index == 0)), None)
  if not isinstance(block, blocks.Block) or not len(block.documents):
    return None
  texts = block.documents["text"].to_pylist()
  sizes_M = np.array([len(text) for text in texts], float)
  count, seen = _count(shard, block)
  error = 0.0 if seen is None or len(texts) < 2 else count * sizes_M.std(ddof=1) / sizes_M.mean() / np.sqrt(seen)
  return (shard, count, error), texts


def count_documents(shards: Sequence[blocks.Shard], fields: blocks.Fields) -> extrapolation.Total:
  """Estimates the number of documents in shards; raises WinnowError if the sampled ones have none."""
  sampled = sample(list(shards), fields)
  return total(shards, sampled, [np.ones(len(texts)) for texts in sampled.texts])


def _count(shard: blocks.Shard, block: blocks.Block) -> tuple[float, int | None]:
  """Estimates the number of records of a shard; also returns how many were seen, or None if all were counted."""
  reader = READERS[shard.format]
  with OpenShard(shard, buffer_bytes=_HEAD_BYTES) as opened:
    if (num_rows := reader.num_rows(opened)) is not None:
      return float(num_rows), None
    plain, size = _head(opened.file.read(_HEAD_BYTES), shard)
  records = reader.count(plain, size == shard.size)
  if records is None:  # a record has the bytes of its text, and about 100 for other fields
    records = round(size / (block.text_bytes / block.num_rows + 100))
  elif size == shard.size:
    return float(records), None
  return records * shard.size / size, max(records, 1)


def _head(raw: bytes, shard: blocks.Shard) -> tuple[bytes, int]:
  """Unpacks the beginning of a file, about `_PLAIN_BYTES` at most; returns it and the number of packed bytes used.

  Stops without an error if the file is damaged, since its reader will report that.
  """
  if not shard.compression:
    return raw, len(raw)
  fed = 0

  def slices() -> Iterator[bytes]:
    nonlocal fed
    for start in range(0, len(raw), _SLICE_BYTES):
      piece = raw[start : start + _SLICE_BYTES]
      fed += len(piece)
      yield piece

  is_gzip = shard.compression == "gzip"
  unpacked = (
    _gunzip(slices()) if is_gzip else zstd_stream.decompress(slices(), piece_bytes=1, max_window=shard.max_window)
  )
  pieces, size = [], 0
  with contextlib.suppress(blocks.BrokenShardError, zlib.error):
    for piece in unpacked:
      pieces.append(piece)
      size += len(piece)
      if size >= _PLAIN_BYTES and fed < len(raw):
        break
  return b"".join(pieces), fed


def _gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
  member = None
  for data in pieces:
    while data:  # parallel gzip tools write several members
      member = member or zlib.decompressobj(31)
      yield member.decompress(data)
      data, member = (member.unused_data, None) if member.eof else (b"", member)


def total(shards: Sequence[blocks.Shard], sampled: Sampled, values: list[np.ndarray]) -> extrapolation.Total:
  """Extrapolates the values of the sampled documents to a total over all shards."""
  samples = [
    extrapolation.ShardSample(shard.size, documents, error, values_M)
    for (shard, documents, error), values_M in zip(sampled.shards, values, strict=True)
  ]
  return extrapolation.total(samples, num_shards=len(shards), size=sum(shard.size for shard in shards))
