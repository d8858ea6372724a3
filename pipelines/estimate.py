"""`--estimate`: what a scoring command would take, from a sample of its input; nothing is written.

Documents and tokens are extrapolated from the heads of some shards by the shards' sizes. The time is measured where the
command would run, on this machine, or reckoned from the operations and the speed of a named accelerator.
"""

import argparse
import concurrent.futures
import contextlib
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rich.console
import rich.table
from apache_beam.options import pipeline_options

from curation import extrapolation
from curation.errors import WinnowError
from pipelines import (
  accelerators,
  blocks,
  devices,
  first_rows,
  flags,
  launch,
  model_scorers,
  plans,
  sources,
  store_plans,
  zstd_stream,
)
from pipelines.durations import duration
from pipelines.files import storage

_HEAD_BYTES, _SLICE_BYTES = 1 << 20, 4 << 10
_PLAIN_BYTES = 16 << 20  # of a head; a few bytes may stand for a gigabyte
_READERS = 8
_MEASURED_SECONDS = 5.0
_LOADING_SECONDS = 180.0
"""Of a worker: its machine starts, its image is pulled, its model is read and its shapes are compiled."""
_WORKERS = (1, 16, 256)
_PRODUCT_SHARE = 0.85
"""Of the speed of matrix products alone, that a sketch and clusters are made with (benchmarks/RESULTS.md)."""

_DIMENSIONS = 768


class Sampled(NamedTuple):
  """The sampled heads: a ShardSample of each but for its values, and its texts."""

  shards: list[tuple[blocks.Shard, float, float]]
  """With the number of documents, and its standard error."""
  texts: list[list[str]]


class Speed(NamedTuple):
  """Operations a second of one worker, how it is known, and what runs there."""

  flops: float
  source: str
  machine: accelerators.Machine
  accelerator: accelerators.Accelerator | None


def show(namespace: argparse.Namespace, launcher: launch.Launcher) -> None:
  """Prints the estimate of a scoring command to the standard output. Raises WinnowError for what the command would."""
  corpus = plans.read_corpus(namespace)
  what_for = getattr(namespace, "scorer", flags.EMBED)
  scorer: model_scorers.OfModel | None = None
  if what_for not in (flags.EMBED, *flags.OF_EMBEDDINGS, flags.MINHASH):
    scorer = store_plans.of_model(namespace).checked()
  elif namespace.model is not None:
    scorer = store_plans.sentence_t5(namespace).checked()
  elif namespace.embeddings is None and what_for != flags.MINHASH:
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  if namespace.max_bad_fraction < 1:
    first_rows.refuse_pointers(corpus.shards)
  sampled = sample(list(corpus.shards), corpus.fields)
  table = rich.table.Table(show_header=False, box=None, pad_edge=False)
  documents = _total(corpus.shards, sampled, [np.ones(len(texts)) for texts in sampled.texts])
  table.add_row("documents", _figure(documents))
  workers = _workers(launcher)
  hours = 0.0
  if scorer is not None:
    from curation import engine  # which imports JAX

    on_cpu = namespace.accelerator is None
    batch_tokens = engine.BATCH_TOKENS_CPU if on_cpu else engine.BATCH_TOKENS_ACCELERATOR
    work = [scorer.work(texts, batch_tokens) for texts in sampled.texts]
    tokens, useful, flops = (
      _total(corpus.shards, sampled, [np.asarray(getattr(each, what), float) for each in work])
      for what in ("num_tokens_N", "lengths_N", "flops_N")
    )
    padding = engine.block_padding(work, blocks.BLOCK_ROWS)
    model_bytes = model_scorers.model_bytes(scorer)
    if on_cpu:
      speed = _measured(scorer, sampled, work, accelerators.smallest_machine(None, model_bytes))
    else:
      speed = _reckoned(accelerators.find(namespace.accelerator), model_bytes)
    hours = flops.value / speed.flops / 3600
    table.add_row("tokens of whole texts", _figure(tokens))
    table.add_row("tokens of the model's inputs", _figure(useful))
    table.add_row("padding", f"{1 - padding.useful_tokens / padding.computed_tokens:.1%}")
    table.add_row("operations", f"{flops.value:.3g} ± {flops.error:.1g}")
    table.add_row("speed", f"{speed.flops / 1e12:.3g} TFLOP/s: {speed.source}")
    name = "hours of this machine" if speed.accelerator is None else f"hours of one {speed.accelerator.name}"
    table.add_row(name, f"{hours:,.2f}")
  else:
    speed = Speed(0.0, "", accelerators.smallest_machine(None), None)
  products = 0.0
  if what_for in flags.OF_EMBEDDINGS:
    is_density = what_for == flags.DENSITY
    operations = (_sketch_flops if is_density else _cluster_flops)(namespace, documents.value)
    if what_for == flags.SEMDEDUP:
      operations += _pair_flops(namespace, documents.value)
    # Its own workers have other cores than this machine where those of the model have an accelerator.
    products = operations / _product_flops() / 3600
    products *= 1.0 if speed.accelerator is None else _usable_cores() / speed.machine.vcpus
    of = "this machine" if speed.accelerator is None else f"one {speed.machine.name}"
    title = "the sketch" if is_density else "the clusters"
    title += " and their pairs" if what_for == flags.SEMDEDUP else ""
    passes = "in two passes" if is_density else f"in {1 + namespace.lloyd_iterations} passes and on the sample"
    table.add_row(f"hours of {of} for {title} ({_DIMENSIONS} dimensions)", f"{products:,.2f}, {passes}")
  if what_for == flags.MINHASH:
    products = documents.value / _signing_speed(sampled, namespace.minhash_bands * namespace.minhash_rows) / 3600
    table.add_row("hours of one core of this machine for signatures", f"{products:,.2f}, reading not counted")
  for count in workers:
    table.add_row(f"wall time of {count:,} worker{'s' * (count > 1)}", _duration(3600 * (hours + products) / count))
  price = accelerators.hour_price(speed.machine, speed.accelerator)
  prices = accelerators.table()["prices"]
  if speed.accelerator is None and (count := devices.visible_accelerators()):
    told = f"unknown: measured on this machine's {count} devices; name what it is to run on: --accelerator="
    table.add_row("price", told)
  elif price is None:
    table.add_row("price", f"unknown: {accelerators.TABLE.name} has none of {namespace.accelerator}")
  else:
    share = 1.0 if speed.accelerator is not None else _usable_cores() / speed.machine.vcpus
    told = f"about {price * share * (hours + products):,.2f} {prices['currency']}"
    table.add_row("price", f"{told}, {speed.machine.name} on Dataflow in {prices['region']}, {prices['date']}")
  console = rich.console.Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
  console.print(table)
  shown = sum(map(len, sampled.texts))
  of = f"{len(sampled.texts):,} of {len(corpus.shards):,} shards"
  console.print(f"From {shown:,} documents of {of}; ± is one standard error.")


def _signing_speed(sampled: Sampled, hashes: int) -> float:
  """Documents a second, of one core."""
  from curation import minhash  # which brings a compiler

  texts = pa.array([text for head in sampled.texts for text in head], pa.large_string())
  minhash.signatures(texts[:1], hashes)
  started, rounds = time.perf_counter(), 0
  while time.perf_counter() - started < _MEASURED_SECONDS / 10:
    minhash.signatures(texts, hashes)
    rounds += 1
  return rounds * len(texts) / (time.perf_counter() - started)


def sample(shards: list[blocks.Shard], fields: blocks.Fields) -> Sampled:
  """The first rows of up to 16 shards, evenly spaced; WinnowError where none of them has a document."""
  is_local = all(storage.is_local(shard.path) for shard in shards)
  with concurrent.futures.ThreadPoolExecutor(1 if is_local else _READERS) as pool:  # a store lets each one wait
    heads = list(pool.map(lambda shard: _read_head(shard, fields), first_rows.spread(shards)))
  found = [head for head in heads if head is not None]
  if not found:
    first_rows.refuse_without_documents(shards, fields)
    raise WinnowError("the sampled shards hold no documents at all; check --input")
  return Sampled([known for known, _ in found], [texts for _, texts in found])


def _read_head(
  shard: blocks.Shard, fields: blocks.Fields
) -> tuple[tuple[blocks.Shard, float, float], list[str]] | None:
  """What `Sampled` holds of one shard; None where its first rows have no document."""
  block = next(iter(sources.Texts(fields, first_rows.ROWS).read(shard, lambda index: index == 0)), None)
  if block is None or block.documents is None or not len(block.documents):
    return None
  texts = block.documents["text"].to_pylist()
  sizes_M = np.array([len(text) for text in texts], float)
  count, seen = _count(shard, block)
  error = 0.0 if seen is None or len(texts) < 2 else count * sizes_M.std(ddof=1) / sizes_M.mean() / np.sqrt(seen)
  return (shard, count, error), texts


def count_documents(shards: Sequence[blocks.Shard], fields: blocks.Fields) -> extrapolation.Total:
  """About how many documents shards hold; WinnowError where the sampled ones have none."""
  sampled = sample(list(shards), fields)
  return _total(shards, sampled, [np.ones(len(texts)) for texts in sampled.texts])


def _count(shard: blocks.Shard, block: blocks.Block) -> tuple[float, int | None]:
  """About how many records a shard holds, and of how many that is known; None where all were counted."""
  with storage.open_input(shard.path, buffer_bytes=_HEAD_BYTES) as file:
    if shard.format == "parquet":
      return float(pq.ParquetFile(file).metadata.num_rows), None
    plain, size = _head(file.read(_HEAD_BYTES), shard)
  if shard.format == "jsonl":
    *lines, last = plain.split(b"\n")
    records = sum(1 for line in lines if line.strip()) + (size == shard.size and bool(last.strip()))
  elif shard.format == "tfrecord":
    records = _framed(plain)
  else:  # as many bytes a record as its text has, and its fields
    records = round(size / (block.text_bytes / block.num_rows + 100))
  if size == shard.size and shard.format != "array_record":
    return float(records), None
  return records * shard.size / size, max(records, 1)


def _head(raw: bytes, shard: blocks.Shard) -> tuple[bytes, int]:
  """What the beginning of a file holds, some `_PLAIN_BYTES` at most, and how many bytes of the file that takes.

  Ends without an error where the file is damaged, which is for the reader to tell.
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
    while data:  # parallel gzips write several members
      member = member or zlib.decompressobj(31)
      yield member.decompress(data)
      data, member = (member.unused_data, None) if member.eof else (b"", member)


def _framed(data: bytes) -> int:
  """Whole TFRecords at the beginning: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
  place = records = 0
  while place + 12 <= len(data):
    place += 16 + int.from_bytes(data[place : place + 8], "little")
    records += place <= len(data)
  return records


def _total(shards: Any, sampled: Sampled, values: list[np.ndarray]) -> extrapolation.Total:
  samples = [
    extrapolation.ShardSample(shard.size, documents, error, values_M)
    for (shard, documents, error), values_M in zip(sampled.shards, values, strict=True)
  ]
  return extrapolation.total(samples, num_shards=len(shards), size=sum(shard.size for shard in shards))


def _measured(scorer: Any, sampled: Sampled, work: list[Any], machine: accelerators.Machine) -> Speed:
  """The speed of this machine with the real model, on ever more of the sample until some seconds have passed."""
  devices.platforms()
  loaded = scorer.load()
  loaded.warm_up()
  texts = [text for rows in zip(*sampled.texts, strict=False) for text in rows] or sampled.texts[0]
  flops_N = np.concatenate([each.flops_N for each in work])
  by_text = dict(zip([text for head in sampled.texts for text in head], flops_N, strict=True))
  done, seconds, count, place = 0.0, 0.0, 16, 0
  while place < len(texts) and seconds < _MEASURED_SECONDS:
    part = texts[place : place + count]
    started = time.perf_counter()
    loaded.run(loaded.prepare(pa.chunked_array([part])))
    seconds += time.perf_counter() - started
    done += sum(by_text[text] for text in part)
    place, count = place + count, 2 * count
  source = f"measured here on {min(place, len(texts)):,} documents in {seconds:.1f} s"
  return Speed(done / seconds, source, machine, None)


def _reckoned(accelerator: accelerators.Accelerator, model_bytes: int) -> Speed:
  source = f"{accelerator.utilisation:.0%} of {accelerator.teraflops:g}, by {accelerators.TABLE.name}"
  machine = accelerators.smallest_machine(accelerator, model_bytes)
  return Speed(accelerator.utilisation * accelerator.teraflops * 1e12, source, machine, accelerator)


def _sketch_flops(namespace: argparse.Namespace, documents: float) -> float:
  """Counting and reading the sketch: the projections of each pass."""
  from curation import density

  return 2 * documents * 2 * _DIMENSIONS * (namespace.hashes or density.DEFAULT_HASHES) * namespace.sketch_rows


def _cluster_flops(namespace: argparse.Namespace, documents: float) -> float:
  """Every document beside every centroid, once and in each further iteration; and the sample in each of its own."""
  sample = min(documents, namespace.num_clusters * namespace.kmeans_sample)
  assigned = documents * (1 + namespace.lloyd_iterations) + sample * namespace.kmeans_iterations
  return assigned * 2 * _DIMENSIONS * namespace.num_clusters


def _pair_flops(namespace: argparse.Namespace, documents: float) -> float:
  """Every document beside those before it in clusters of one size, which is the least that there can be."""
  return documents**2 / 2 / namespace.num_clusters * 2 * _DIMENSIONS


def _product_flops() -> float:
  """Operations a second of such products here."""
  a_KK = np.ones((1024, 1024), np.float32)
  a_KK @ a_KK
  started = time.perf_counter()
  for _ in range(10):
    a_KK @ a_KK
  return _PRODUCT_SHARE * 10 * 2 * 1024**3 / (time.perf_counter() - started)


def _workers(launcher: launch.Launcher) -> tuple[int, ...]:
  """As many as the flags of the runner say, or some numbers to choose from."""
  worker = launcher.options.view_as(pipeline_options.WorkerOptions)
  local = launcher.options.view_as(pipeline_options.DirectOptions).direct_num_workers
  given = worker.max_num_workers or worker.num_workers or (local if local and local > 1 else None)
  return _WORKERS if given is None else (given,)


def _usable_cores() -> int:
  from curation import vocabulary

  return vocabulary.usable_cores()


def _figure(total: extrapolation.Total) -> str:
  return f"{total.value:,.0f} ± {total.error:,.0f}"


def _duration(seconds: float) -> str:
  minutes = round((seconds + _LOADING_SECONDS) / 60)
  return f"{duration(60 * minutes)}, of which {duration(_LOADING_SECONDS)} to start"
