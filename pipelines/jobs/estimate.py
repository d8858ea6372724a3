"""`--estimate`: the cost of a scoring command, estimated from a sample of its input; nothing is written.

Documents and tokens are extrapolated from the heads of some shards by the shards' sizes. The time is measured on this
machine, if the command would run here, or computed from the operations and the speed of a named accelerator.
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
from pipelines.corpus.corpus import Corpus
from pipelines.jobs import planning
from pipelines.jobs.durations import duration
from pipelines.runners import accelerators, devices
from pipelines.runners.workers import Workers
from pipelines.scorers.entry import DIMENSIONS, TEXTS, Cost, Entry, Stored
from pipelines.scorers.registry import SCORERS
from pipelines.scorers.t5 import sentence_t5
from pipelines.scorers.t5.base import T5Description

_MEASURED_SECONDS = 5.0
_LOADING_SECONDS = 180.0
"""The start of a worker: its machine boots, its image is pulled, its model is read and its shapes are compiled."""
_WORKERS = (1, 16, 256)
_PRODUCT_SHARE = 0.85
"""The share of the speed of bare matrix products at which a sketch and clusters are made (benchmarks/RESULTS.md)."""


class Speed(NamedTuple):
  """The operations a second of one worker, the source of that figure, and the hardware."""

  flops: float
  source: str
  machine: accelerators.Machine
  accelerator: accelerators.Accelerator | None


class _Estimate(NamedTuple):
  """The rows of the table so far, the hours of one worker that they add up to, its speed, and its model's size."""

  rows: list[tuple[str, str]]
  hours: float
  speed: Speed
  model_bytes: int


class Needs(NamedTuple):
  """What a command needs: hours of one accelerator, or of one core of this machine, and GB of memory in a process."""

  hours: float
  memory_gb: int


def show(namespace: argparse.Namespace, workers: Workers, asked: tuple[float, str] | None = None) -> None:
  """Prints the estimate of a scoring command to standard output. Raises WinnowError where the command itself would.

  `asked`: the share of the documents that a cascade asks about, and the same in words.
  """
  corpus, sampled, estimate = _estimated(namespace)
  if asked is not None:
    estimate.rows.append(("asked by the cascade", f"{asked[1]}; so much of these hours is what follows"))
    estimate = estimate._replace(hours=asked[0] * estimate.hours)
  for count in _worker_counts(workers):
    estimate.rows.append(
      (f"wall time of {count:,} worker{'s' * (count > 1)}", _duration(3600 * estimate.hours / count))
    )
  estimate.rows.append(("price", _price(namespace, estimate)))
  table = rich.table.Table(show_header=False, box=None, pad_edge=False)
  for row in estimate.rows:
    table.add_row(*row)
  console = rich.console.Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
  console.print(table)
  shown = f"{len(sampled.texts):,} of {len(corpus.shards):,} shards"
  console.print(f"From {sum(map(len, sampled.texts)):,} documents of {shown}; ± is one standard error.")


def needs(namespace: argparse.Namespace) -> Needs:
  """Returns the estimate of a scoring command for those who cut it into parts. Raises WinnowError as `show` does."""
  _, _, estimate = _estimated(namespace)
  cores = 1 if estimate.speed.accelerator is not None else _usable_cores()
  return Needs(estimate.hours * cores, accelerators.memory_gb(estimate.model_bytes))


def _estimated(namespace: argparse.Namespace) -> tuple[Corpus, counting.Sampled, _Estimate]:
  corpus = planning.read_corpus(namespace)
  name = getattr(namespace, "scorer", None)  # winnow embed has none
  entry = None if name is None else SCORERS[name]
  if entry is not None and entry.settle is not None:
    entry.settle(namespace)
  model = _model(namespace, entry)
  if namespace.max_bad_fraction < 1:
    first_rows.refuse_pointers(corpus.shards)
  sampled = counting.sample(list(corpus.shards), corpus.fields)
  documents = counting.total(corpus.shards, sampled, [np.ones(len(texts)) for texts in sampled.texts])
  speed = Speed(0.0, "", accelerators.smallest_machine(None), None)
  estimate = _Estimate([("documents", _figure(documents))], 0.0, speed, 0 if model is None else model.model_bytes)
  if model is not None:
    estimate = _add_model(estimate, model, namespace, corpus, sampled)
  if entry is not None and entry.cost is not None:
    texts = [text for head in sampled.texts for text in head]
    estimate = _add_own(estimate, entry.cost(namespace, documents.value, texts))
  elif entry is not None and model is None:
    estimate.rows.append((f"time of {entry.name}", "unknown: the scorer does not estimate it"))
  return corpus, sampled, estimate


def _model(namespace: argparse.Namespace, entry: Entry | None) -> T5Description | None:
  """Returns the scorer that runs --model over texts, or embeds them with it; None if no scorer does."""
  if entry is not None and entry.has_model:
    assert entry.describe is not None
    scorer = entry.describe(namespace, Stored("")).checked()
    return scorer if isinstance(scorer, T5Description) else None
  if entry is not None and entry.reads == TEXTS:
    return None
  if namespace.model is not None:
    return sentence_t5.describe(namespace).checked()
  if namespace.embeddings is None:
    raise WinnowError("give one of --model=, a Sentence-T5, and --embeddings=, files that were made elsewhere")
  return None


def _add_model(
  estimate: _Estimate, scorer: T5Description, namespace: argparse.Namespace, corpus: Corpus, sampled: counting.Sampled
) -> _Estimate:
  """Adds the cost of running the model: measured on this machine, or computed for a named accelerator."""
  from curation.models import engine  # imports JAX

  on_cpu = namespace.accelerator is None
  batch_tokens = engine.BATCH_TOKENS_CPU if on_cpu else engine.BATCH_TOKENS_ACCELERATOR
  work = [scorer.work(texts, batch_tokens) for texts in sampled.texts]
  tokens, useful, flops = (
    counting.total(corpus.shards, sampled, [np.asarray(getattr(each, field), float) for each in work])
    for field in ("num_tokens_N", "lengths_N", "flops_N")
  )
  padding = engine.block_padding(work, blocks.BLOCK_ROWS)
  if on_cpu:
    speed = _measured(scorer, sampled, work, accelerators.smallest_machine(None, scorer.model_bytes))
  else:
    speed = _computed(accelerators.find(namespace.accelerator), scorer.model_bytes)
  hours = flops.value / speed.flops / 3600
  where = "hours of this machine" if speed.accelerator is None else f"hours of one {speed.accelerator.name}"
  rows = [
    ("tokens of whole texts", _figure(tokens)),
    ("tokens of the model's inputs", _figure(useful)),
    ("padding", f"{1 - padding.useful_tokens / padding.computed_tokens:.1%}"),
    ("operations", f"{flops.value:.3g} ± {flops.error:.1g}"),
    ("speed", f"{speed.flops / 1e12:.3g} TFLOP/s: {speed.source}"),
    (where, f"{hours:,.2f}"),
  ]
  return estimate._replace(rows=[*estimate.rows, *rows], hours=hours, speed=speed)


def _add_own(estimate: _Estimate, cost: Cost) -> _Estimate:
  """Adds the cost of the scorer's own work, beside that of the model."""
  if cost.core_hours is not None:
    row = (f"hours of one core of this machine for {cost.title}", f"{cost.core_hours:,.2f}, {cost.note}")
    return estimate._replace(rows=[*estimate.rows, row], hours=estimate.hours + cost.core_hours)
  hours = (cost.operations or 0.0) / _product_flops() / 3600
  # If the model's workers have an accelerator, the scorer's workers have other cores than this machine.
  hours *= 1.0 if estimate.speed.accelerator is None else _usable_cores() / estimate.speed.machine.vcpus
  where = "this machine" if estimate.speed.accelerator is None else f"one {estimate.speed.machine.name}"
  row = (f"hours of {where} for {cost.title} ({DIMENSIONS} dimensions)", f"{hours:,.2f}, {cost.note}")
  return estimate._replace(rows=[*estimate.rows, row], hours=estimate.hours + hours)


def _price(namespace: argparse.Namespace, estimate: _Estimate) -> str:
  speed = estimate.speed
  price = accelerators.hour_price(speed.machine, speed.accelerator)
  prices = accelerators.table()["prices"]
  if speed.accelerator is None and (count := devices.visible_accelerators()):
    return f"unknown: measured on this machine's {count} devices; name the one to run on: --accelerator="
  if price is None:
    return f"unknown: {accelerators.TABLE.name} has none of {namespace.accelerator}"
  share = 1.0 if speed.accelerator is not None else _usable_cores() / speed.machine.vcpus
  cost = f"about {price * share * estimate.hours:,.2f} {prices['currency']}"
  return f"{cost}, {speed.machine.name} on Dataflow in {prices['region']}, {prices['date']}"


def _measured(scorer: Any, sampled: counting.Sampled, work: list[Any], machine: accelerators.Machine) -> Speed:
  """Measures this machine's speed with the real model, on ever more of the sample until some seconds have passed."""
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


def _computed(accelerator: accelerators.Accelerator, model_bytes: int) -> Speed:
  source = f"{accelerator.utilisation:.0%} of {accelerator.teraflops:g}, by {accelerators.TABLE.name}"
  machine = accelerators.smallest_machine(accelerator, model_bytes)
  return Speed(accelerator.utilisation * accelerator.teraflops * 1e12, source, machine, accelerator)


def _product_flops() -> float:
  """Measures how many operations a second this machine does when it makes a sketch or clusters."""
  a_KK = np.ones((1024, 1024), np.float32)
  a_KK @ a_KK
  started = time.perf_counter()
  for _ in range(10):
    a_KK @ a_KK
  return _PRODUCT_SHARE * 10 * 2 * 1024**3 / (time.perf_counter() - started)


def _worker_counts(workers: Workers) -> tuple[int, ...]:
  """Returns the number of workers that the flags of the runner give, or some numbers to choose from."""
  worker = workers.options.view_as(pipeline_options.WorkerOptions)
  local = workers.options.view_as(pipeline_options.DirectOptions).direct_num_workers
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
