"""What a command prints at its end: how scores are distributed, what was kept, how long it took, and what to type next.

Results go to standard output, where they are the same for the same request. The time goes to standard error.
Legend: N scores.
"""

import argparse
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import itertools
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from curation.errors import WinnowError
from pipelines.corpus import blocks
from pipelines.corpus.corpus import Corpus
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.flags.declarations import FLAGS
from pipelines.jobs import find_stores
from pipelines.jobs.durations import duration
from pipelines.jobs.store_job import ScoringJob
from pipelines.registry import command_names, examples
from pipelines.scorers.registry import SCORERS
from pipelines.store import kinds, score_files
from pipelines.store.score_store import ScoreStore

_MOST_SCORES = 1 << 20  # 4 MiB; of so many a percentile is off by about 0.1
_MOST_BLOCKS = 1 << 10  # reads, of which each may be a request to an object store
_SHOWN = {"min": 0.0, "10%": 0.1, "50%": 0.5, "90%": 0.9, "max": 1.0}
_COLUMNS = 80
_READERS = 8  # files read at once
_OF_ONE_JOB = ("job_name", "template_location", "update", "transform_name_mapping")  # options of Beam, of no later job
_suggests = contextvars.ContextVar("suggests", default=True)


class Stopwatch:
  """Measures the time since it was made."""

  def __init__(self) -> None:
    self._started = time.monotonic()

  def shown(self) -> str:
    """Returns the time so far, as users see it."""
    return duration(time.monotonic() - self._started)


@contextlib.contextmanager
def without_suggestions() -> Iterator[None]:
  """Lets commands end without the command to type next, for a program that runs the next one itself."""
  token = _suggests.set(False)
  try:
    yield
  finally:
    _suggests.reset(token)


def print_next(stopwatch: Stopwatch, words: Sequence[str], *, when: str = "next") -> None:
  """Prints how long a command took, and the command to type next, whose `words` are not quoted yet."""
  print(f"done in {stopwatch.shown()}", file=sys.stderr, flush=True)
  if _suggests.get():
    print("\n".join([f"{when}:", *(f"  {line}" for line in examples.cut(map(_quoted, words)))]))


def wrapped(line: str) -> str:
  """Returns a line for a terminal as one or several, of which all but the first are indented."""
  return textwrap.fill(line, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def share(part: int, whole: int) -> str:
  """Formats a part of a whole as a percentage of three digits: "6.17%"."""
  return f"{100 * part / whole:.3g}%" if whole else "0%"


def quantiles(store: ScoreStore) -> str:
  """Returns the quantiles of a complete store's scores for a terminal; "" if it does not hold scores.

  They are exact for up to a million scores. Those of more come from blocks that are spread evenly over the corpus.
  """
  if store.kind.shard_fields != (kinds.SCORE_FIELD,) or store.scorer == kinds.COUNT:
    return ""
  try:
    scores_N, is_sample = _some_scores(dataclasses.replace(store, removes_damaged=False))
  except (WinnowError, OSError) as error:  # what the command has done is whole all the same
    print(f"winnow: warning: the scores cannot be read again for their quantiles: {error}", file=sys.stderr)
    return ""
  if not len(scores_N):
    return ""
  values = np.quantile(scores_N, list(_SHOWN.values()), method="inverted_cdf")
  shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(_SHOWN, values.tolist(), strict=True))
  title = f"quantiles of {len(scores_N):,} scores" if is_sample else "quantiles"
  return wrapped(f"{title}: {shown}")


def _some_scores(store: ScoreStore) -> tuple[np.ndarray, bool]:
  """Returns all scores of a store, float32 [N], or about `_MOST_SCORES` of them; and whether these are not all."""
  summary = store.summary()
  sizes = {entry["shard"]: len(entry["block_rows"]) for entry in summary["shards"]}
  step = max(1, -(-summary["scored"] // _MOST_SCORES))
  if step > 1:
    step = max(step, sum(sizes.values()) // _MOST_BLOCKS)
  wanted: list[tuple[blocks.Shard, range]] = []
  first = 0  # the first block to read of the next shard
  for shard in store.shards():
    wanted.append((shard, range(first, sizes[shard.name], step)))
    first += len(wanted[-1][1]) * step - sizes[shard.name]

  def read(shard: blocks.Shard, indices: range) -> list[np.ndarray]:
    with score_files.ScoreFile(store, shard) as scores:
      tables = scores.batches(_MOST_SCORES) if step == 1 else map(scores.block, indices)
      return [table[kinds.SCORE].to_numpy() for table in tables]

  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    parts = pool.map(lambda some: read(*some), [(shard, indices) for shard, indices in wanted if indices])
    scores_N = np.concatenate([np.zeros(0, np.float32), *itertools.chain.from_iterable(parts)])
  return scores_N, step > 1


def kept_lines(manifest: dict[str, Any]) -> Iterator[str]:
  """Yields how many documents and tokens an output holds, and which part of those with scores that is."""
  counts, tokens, is_rejected = manifest["counts"], manifest["tokens"], manifest["rejected"]
  verb = "rejected" if is_rejected else "selected"
  kept = share(counts["selected"], counts["scored"])
  yield f"{counts['selected']:,} of {counts['scored']:,} documents {verb} ({kept})"
  if tokens["selected"] is not None:
    kept = share(tokens["selected"], tokens["scored"])
    yield f"{tokens['selected']:,} of {tokens['scored']:,} tokens {verb} ({kept})"
  if is_rejected:
    return
  if "score" in manifest["threshold"]:
    yield f"the score of the last one selected is {manifest['threshold']['score']:.6g}"
  if (budget := manifest["request"]["num_tokens"]) is not None:
    yield f"{budget - tokens['selected']:,} of the budget's {budget:,} tokens are left"


def _quoted(word: str) -> str:
  name, equals, value = word.partition("=")
  return f"{name}={shlex.quote(value)}" if equals and name.startswith("--") else shlex.quote(word)


def after_store(command: str, namespace: argparse.Namespace, job: ScoringJob) -> list[str]:
  """Returns the command that takes what `winnow embed`, `cluster` or `score` has made."""
  if command == command_names.SCORE:
    return _after_scores(namespace, job.config.store)
  if command == command_names.EMBED:
    given = parsing.own_arguments(command, [namespace])[2:]
    renamed = [argument.replace("--name=", "--embedding_name=", 1) for argument in given]
    return ["winnow", command_names.SCORE, "--scorer=density", *filter(_is_for_score, renamed)]
  scores, _, name = namespace.embeddings.rstrip("/").rpartition("/")
  flags = {"input": job.where.get("input"), "tfds_data_dir": job.where.get("tfds_data_dir"), **job.made_with}
  flags |= {"scores": scores or ".", "embedding_name": name, "clusters": namespace.clusters} | _reading(job.corpus)
  given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
  return ["winnow", command_names.SCORE, "--scorer=prototypes", *given]


def runner_options(beam_arguments: Sequence[str]) -> list[str]:
  """Returns the options of Beam that a command was given and that the next one wants as well."""
  options: list[list[str]] = []
  for argument in beam_arguments:
    if argument.startswith("--") or not options:
      options.append([])
    options[-1].append(argument)  # a value may be an argument of its own
  names = [option[0].partition("=")[0].removeprefix("--") for option in options]
  return [word for name, option in zip(names, options, strict=True) if name not in _OF_ONE_JOB for word in option]


def _is_for_score(argument: str) -> bool:
  name = argument.partition("=")[0].removeprefix("--")
  return any(flag.name == name and command_names.SCORE in flag.commands for flag in FLAGS)


def _reading(corpus: Corpus) -> dict[str, Any]:
  """Returns the flags that say how a corpus is read, without those at their defaults."""
  fields = corpus.fields
  values: dict[str, Any] = {"text_field": fields.text, "url_field": fields.url, "timestamp_field": fields.timestamp}
  values |= {"block_rows": corpus.block_rows}
  return {flag.name: values[flag.name] for flag in FLAGS if values.get(flag.name, flag.default) != flag.default}


def _after_scores(namespace: argparse.Namespace, store: ScoreStore) -> list[str]:
  alike = [other for other in find_stores.find_stores(namespace.scores).stores.values() if other.scorer == store.scorer]
  name = [f"--name={storage.base_name(store.folder)}"] if len(alike) > 1 else []
  output = _beside(namespace.scores, f"sample_{storage.base_name(store.folder)}")
  drawing = [f"--sampler={store.scorer}", SCORERS[store.scorer].suggested_amount]
  return ["winnow", command_names.SAMPLE, f"--scores={namespace.scores}", *name, *drawing, f"--output={output}"]


def after_sample(namespace: argparse.Namespace, beam_arguments: Sequence[str]) -> list[str]:
  """Returns the command that looks at an output: a report, or a verification if there is no folder of scores."""
  if namespace.scores is None:
    return ["winnow", command_names.VERIFY, namespace.output, *runner_options(beam_arguments)]
  places = [f"--scores={namespace.scores}", f"--output={namespace.output}"]
  return ["winnow", command_names.REPORT, *places, f"--report={_beside(namespace.output, 'report')}"]


def _beside(folder: str, name: str) -> str:
  """Returns a path in the folder that holds a folder, as its user wrote it."""
  head, slash, _ = folder.rstrip("/").rpartition("/")
  return f"{folder.rstrip('/')}_{name}" if head.endswith(":/") else f"{head}{slash}{name}"
