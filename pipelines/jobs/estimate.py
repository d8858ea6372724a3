"""`--estimate`: what a scoring command would take, from a sample of its input; nothing is written.

Documents and tokens are extrapolated from the heads of some shards by the shards' sizes. The time is measured where the
command would run, on this machine, or reckoned from the operations and the speed of a named accelerator.
"""

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import rich.console
import rich.table
from apache_beam.options import pipeline_options

from curation.errors import WinnowError
from curation.selection import extrapolation
from pipelines.corpus import blocks, counting, first_rows
from pipelines.flags import scorer_names
from pipelines.jobs import plan_store, planning
from pipelines.jobs.durations import duration
from pipelines.registry import command_names
from pipelines.runners import accelerators, devices, launch
from pipelines.scorers.t5.base import OfModel, model_bytes

_MEASURED_SECONDS = 5.0
_LOADING_SECONDS = 180.0
"""Of a worker: its machine starts, its image is pulled, its model is read and its shapes are compiled."""
_WORKERS = (1, 16, 256)
_PRODUCT_SHARE = 0.85
"""Of the speed of matrix products alone, that a sketch and clusters are made with (benchmarks/RESULTS.md)."""
_DIMENSIONS = 768


class Speed(NamedTuple):
  """Operations a second of one worker, how it is known, and what runs there."""

  flops: float
  source: str
  machine: accelerators.Machine
  accelerator: accelerators.Accelerator | None


def show(namespace: argparse.Namespace, launcher: launch.Launcher) -> None:
  """Prints the estimate of a scoring command to the standard output. Raises WinnowError for what the command would."""
  corpus = planning.read_corpus(namespace)
  what_for = getattr(namespace, "scorer", command_names.EMBED)
  scorer: OfModel | None = None
  if what_for not in (command_names.EMBED, *scorer_names.OF_EMBEDDINGS, scorer_names.MINHASH):
    scorer = plan_store.of_model(namespace).checked()
  elif namespace.model is not None:
    scorer = plan_store.sentence_t5(namespace).checked()
  elif namespace.embeddings is None and what_for != scorer_names.MINHASH:
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  if namespace.max_bad_fraction < 1:
    first_rows.refuse_pointers(corpus.shards)
  sampled = counting.sample(list(corpus.shards), corpus.fields)
  table = rich.table.Table(show_header=False, box=None, pad_edge=False)
  documents = counting.total(corpus.shards, sampled, [np.ones(len(texts)) for texts in sampled.texts])
  table.add_row("documents", _figure(documents))
  workers = _workers(launcher)
  hours = 0.0
  if scorer is not None:
    from curation.models import engine  # which imports JAX

    on_cpu = namespace.accelerator is None
    batch_tokens = engine.BATCH_TOKENS_CPU if on_cpu else engine.BATCH_TOKENS_ACCELERATOR
    work = [scorer.work(texts, batch_tokens) for texts in sampled.texts]
    tokens, useful, flops = (
      counting.total(corpus.shards, sampled, [np.asarray(getattr(each, what), float) for each in work])
      for what in ("num_tokens_N", "lengths_N", "flops_N")
    )
    padding = engine.block_padding(work, blocks.BLOCK_ROWS)
    size = model_bytes(scorer)
    if on_cpu:
      speed = _measured(scorer, sampled, work, accelerators.smallest_machine(None, size))
    else:
      speed = _reckoned(accelerators.find(namespace.accelerator), size)
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
  if what_for in scorer_names.OF_EMBEDDINGS:
    is_density = what_for == scorer_names.DENSITY
    operations = (_sketch_flops if is_density else _cluster_flops)(namespace, documents.value)
    if what_for == scorer_names.SEMDEDUP:
      operations += _pair_flops(namespace, documents.value)
    # Its own workers have other cores than this machine where those of the model have an accelerator.
    products = operations / _product_flops() / 3600
    products *= 1.0 if speed.accelerator is None else _usable_cores() / speed.machine.vcpus
    of = "this machine" if speed.accelerator is None else f"one {speed.machine.name}"
    title = "the sketch" if is_density else "the clusters"
    title += " and their pairs" if what_for == scorer_names.SEMDEDUP else ""
    passes = "in two passes" if is_density else f"in {1 + namespace.lloyd_iterations} passes and on the sample"
    table.add_row(f"hours of {of} for {title} ({_DIMENSIONS} dimensions)", f"{products:,.2f}, {passes}")
  if what_for == scorer_names.MINHASH:
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


def _signing_speed(sampled: counting.Sampled, hashes: int) -> float:
  """Documents a second, of one core."""
  from curation.coverage import minhash  # which brings a compiler

  texts = pa.array([text for head in sampled.texts for text in head], pa.large_string())
  minhash.signatures(texts[:1], hashes)
  started, rounds = time.perf_counter(), 0
  while time.perf_counter() - started < _MEASURED_SECONDS / 10:
    minhash.signatures(texts, hashes)
    rounds += 1
  return rounds * len(texts) / (time.perf_counter() - started)


def _measured(scorer: Any, sampled: counting.Sampled, work: list[Any], machine: accelerators.Machine) -> Speed:
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
  from curation.coverage import density

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
  from curation.models import vocabulary

  return vocabulary.usable_cores()


def _figure(total: extrapolation.Total) -> str:
  return f"{total.value:,.0f} ± {total.error:,.0f}"


def _duration(seconds: float) -> str:
  minutes = round((seconds + _LOADING_SECONDS) / 60)
  return f"{duration(60 * minutes)}, of which {duration(_LOADING_SECONDS)} to start"
