"""Figures of models on whole corpora, from stores of perplexity scores: a table, JSON and a curve.

An evaluation's folder has a folder for each corpus, with a store for each model:

SCORES/<corpus>/<model>/      a store, as in `pipelines.store.score_store`
       evaluation.csv         the figures of every model on every corpus, and on all corpora together
       evaluation.json        the same figures, with the sums behind them
       evaluation.svg         perplexity by step, if a run has several steps
"""

import concurrent.futures
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from curation.errors import DamagedError, WinnowError
from curation.scorers import corpus_loss, span_corruption
from curation.scorers.corpus_loss import CorpusLoss, MeanLoss
from curation.selection import hashing
from pipelines.corpus import blocks, inputs
from pipelines.corpus.readers import tfds
from pipelines.files import damage, fingerprints, storage
from pipelines.jobs import find_stores
from pipelines.reports import charts
from pipelines.reports.figures import Figure
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.store import kinds, score_files
from pipelines.store.score_store import ScoreStore

ALL = "all"  # the name of all corpora together
TOKENS, CORPUS = WEIGHED_BY = "tokens", "corpus"
_TABLE, _SUMS, _CURVE = "evaluation.csv", "evaluation.json", "evaluation.svg"
_RUN_NAME = re.compile(r"(.+)_checkpoint_(\d+)", re.ASCII)
_READERS = 4


class Point(NamedTuple):
  """The place of a model in a training run."""

  run: str
  step: int
  """The training step; -1 if the model is not of a known run."""
  model: str

  @classmethod
  def from_name(cls, model: str) -> "Point":
    """Parses a name of `model_files.checkpoint_name`."""
    match = _RUN_NAME.fullmatch(model)
    return cls(match[1], int(match[2]), model) if match else cls(model, -1, model)


# The figures of a model by the name of the corpus.
Losses = Mapping[str, CorpusLoss]


def find_corpora(patterns: str) -> dict[str, str]:
  """Returns the inputs of a comma-separated --input, by names of letters, digits and underscores.

  A name comes from that of the dataset, or from the last two parts of the path. Raises WinnowError for equal names.
  """
  corpora: dict[str, str] = {}
  for pattern in filter(None, patterns.split(",")):
    path = "/".join(inputs.absolute(pattern).split("/")[-2:])
    name = re.sub(r"\W+", "_", path.removeprefix(tfds.PREFIX), flags=re.ASCII).strip("_") or "corpus"
    if name in corpora or name == ALL:
      raise WinnowError(f"--input={pattern} would be called {name}, as another one is: rename its folder")
    corpora[name] = pattern
  return corpora


def read_loss(store: ScoreStore) -> CorpusLoss:
  """Computes the figure of a complete store of perplexity scores, from scores and numbers of tokens.

  Memory is that of a few blocks. Sums are formed by block, then by shard, so they do not depend on the workers. Raises
  DamagedError, and removes the file if the store `removes_damaged`, and WinnowError if no document was scored.
  """
  request = fingerprints.read_json(store.request_path)
  shards = store.shards()
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    loss = corpus_loss.total(pool.map(lambda shard: _read_shard(store, shard, request), shards))
  if not loss.documents:
    raise WinnowError(
      f"{store.folder} has no scored document: {store.dead_letter_folder} says why; give an --input with texts"
    )
  return loss


def _read_shard(store: ScoreStore, shard: blocks.Shard, request: dict[str, Any]) -> CorpusLoss:
  try:
    with score_files.ScoreFile(store, shard) as scores:
      losses = [_read_block(scores, index, shard, request) for index in range(len(scores.summary.block_rows))]
      loss = corpus_loss.total(losses)
      if loss.documents != scores.summary.scored:
        path, scored = store.scores_path(shard), scores.summary.scored
        raise DamagedError(f"{path} is damaged: it has {loss.documents:,} of {scored:,} rows")
  except DamagedError as error:
    if store.removes_damaged:
      damage.remove(store.folder, store.scores_path(shard), error)
    raise
  return loss


def _read_block(scores: score_files.ScoreFile, index: int, shard: blocks.Shard, request: dict[str, Any]) -> CorpusLoss:
  table = scores.block(index)
  rows_N, scores_N, num_tokens_N = (table[name].to_numpy() for name in ("row", kinds.SCORE, "num_tokens"))
  keys_N = hashing.hash_documents(Perplexity.PURPOSE, request["mask_seed"], shard.name, rows_N)
  targets_N = span_corruption.target_lengths(
    request["objective"], num_tokens_N.astype(np.int64), keys_N, request["max_input_tokens"]
  )
  return corpus_loss.from_scores(scores_N, targets_N)


def earlier(folder: str, request: dict[str, Any]) -> tuple[dict[str, CorpusLoss], dict[str, str]]:
  """Returns the figures of all models with a store in the folder of a corpus, and why others are left out, by name.

  Their checkpoints may be gone. `request` is that of a model that is evaluated now. The other requests must be the same
  except for the model, or their figures are not points of one curve.
  """
  losses: dict[str, CorpusLoss] = {}
  left_out: dict[str, str] = {}
  for name, store in sorted(find_stores.find_stores(folder).stores.items()):
    if store.scorer != Perplexity.SCORER or not store.is_complete:
      continue
    if model_files.is_unfinished_name(name):
      left_out[name] = f"{store.folder} is left out: its checkpoint was not finished; delete the folder"
      continue
    known, wanted = ({key: value[key] for key in value if key != "model"} for value in (_request(store), request))
    if difference := fingerprints.first_difference(known, wanted):
      field, its_value, our_value = difference
      left_out[name] = f"{store.folder} is left out, since its {field} is {its_value}, but {our_value} here"
      continue
    try:
      losses[name] = read_loss(dataclasses.replace(store, removes_damaged=False))
    except WinnowError as error:
      left_out[name] = f"{store.folder} is left out: {error}"
  return losses, left_out


def _request(store: ScoreStore) -> dict[str, Any]:
  request: dict[str, Any] = fingerprints.read_json(store.request_path)
  return request


def disagreements(results: Mapping[str, Losses]) -> list[str]:
  """Returns sentences about corpora on which models had to predict different tokens, so that they do not compare."""
  sentences = []
  for corpus in sorted({corpus for losses in results.values() for corpus in losses}):
    counts = {name: losses[corpus][:2] for name, losses in sorted(results.items()) if corpus in losses}
    first, *others = counts
    if other := next((name for name in others if counts[name] != counts[first]), None):
      one, two = (
        f"{tokens:,} tokens of {documents:,} documents" for documents, tokens in (counts[first], counts[other])
      )
      sentences.append(f"on {corpus} {first} predicted {one}, but {other} {two}: their figures do not compare")
  return sentences


def figures(results: Mapping[str, Losses], corpora: list[str], weigh_by: str) -> Figure:
  """Returns a row for each model, in the order of runs and steps, and corpus, and one row for all of several corpora.

  `weigh_by` says what counts equally in the row for all corpora: each of the `tokens`, or each `corpus`.
  """
  rows: list[list[Any]] = []
  for run, step, model in sorted(map(Point.from_name, results)):
    for corpus, loss in _with_all(results[model], corpora, weigh_by).items():
      if corpus == ALL and len(corpora) == 1:
        continue
      perplexity = loss.perplexity if math.isfinite(loss.perplexity) else None
      place = [model, run, step] if step >= 0 else [model, None, None]
      rows.append([*place, corpus, loss.documents, loss.target_tokens, loss.nll_per_token, perplexity])
  return Figure(["model", "run", "step", "corpus", "documents", "target tokens", "nll per token", "perplexity"], rows)


def _with_all(losses: Losses, corpora: list[str], weigh_by: str) -> dict[str, CorpusLoss | MeanLoss]:
  """Returns the figures in the order of `corpora`, and that of all corpora if none is missing."""
  known = {corpus: losses[corpus] for corpus in corpora if corpus in losses}
  if len(known) < len(corpora):
    return {**known}
  return {**known, ALL: corpus_loss.mean(known.values()) if weigh_by == CORPUS else corpus_loss.total(known.values())}


def lines(figure: Figure) -> list[str]:
  """Returns a figure as lines for a terminal, in columns."""
  kept = [figure.header.index(name) for name in figure.header if name not in ("run", "step")]
  rows = [[figure.header[column] for column in kept]]
  rows += [[_shown(row[column]) for column in kept] for row in figure.rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  is_text = [isinstance(figure.rows[0][column], str) for column in kept]
  return [
    "  ".join(
      cell.ljust(width) if text else cell.rjust(width) for cell, width, text in zip(row, widths, is_text, strict=True)
    ).rstrip()
    for row in rows
  ]


def _shown(value: object) -> str:
  if value is None:
    return "inf"
  return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def to_json(results: Mapping[str, Losses], corpora: list[str], weigh_by: str, *, request: dict[str, Any]) -> bytes:
  """Returns all figures with their sums as JSON; `all` is for all corpora, and is left out if one is missing."""
  models = []
  for run, step, model in sorted(map(Point.from_name, results)):
    figures_by_corpus = {
      corpus: {
        "documents": loss.documents,
        "target_tokens": loss.target_tokens,
        "nll": loss.nll,  # null if corpora count equally
        "nll_per_token": loss.nll_per_token,
        "perplexity": loss.perplexity,  # null if it is infinite
      }
      for corpus, loss in _with_all(results[model], corpora, weigh_by).items()
    }
    place = {"run": run, "step": step} if step >= 0 else {"run": None, "step": None}
    models.append({"model": model, **place, "corpora": figures_by_corpus})
  asked = {name: request[name] for name in ("objective", "mask_seed", "max_input_tokens")}
  return fingerprints.to_json({**asked, "weigh_by": weigh_by, "models": models})


def curves(
  results: Mapping[str, Losses], corpora: list[str], weigh_by: str
) -> dict[str, tuple[list[int], list[float]]]:
  """Returns for each run with several steps its steps, and its perplexities on all corpora."""
  by_run: dict[str, tuple[list[int], list[float]]] = {}
  for run, step, model in sorted(map(Point.from_name, results)):
    loss = _with_all(results[model], corpora, weigh_by).get(ALL)
    if step >= 0 and loss is not None and math.isfinite(loss.perplexity):
      steps, perplexities = by_run.setdefault(run, ([], []))
      steps.append(step)
      perplexities.append(loss.perplexity)
  return {run: curve for run, curve in by_run.items() if len(curve[0]) > 1}


def write(
  folder: str, results: Mapping[str, Losses], *, corpora: list[str], weigh_by: str, request: dict[str, Any]
) -> None:
  """Writes the files of an evaluation, which depend only on its stores, in place of old ones."""
  files = {
    _TABLE: figures(results, corpora, weigh_by).to_csv(),
    _SUMS: to_json(results, corpora, weigh_by, request=request),
  }
  if points := curves(results, corpora, weigh_by):
    equally = ", each counting as much" if weigh_by == CORPUS else ""
    name = corpora[0] if len(corpora) == 1 else f"all {len(corpora)} corpora{equally}"
    files[_CURVE] = charts.curves(points, x_label="step", y_label=f"perplexity on {name}")
  paths = {name: storage.join(folder, name) for name in (_TABLE, _SUMS, _CURVE)}
  # Files that are already right stay, since the folder may belong to another user.
  existing = {name: storage.read_bytes(path) for name, path in paths.items() if storage.exists(path)}
  storage.delete([paths[name] for name, data in existing.items() if data != files.get(name)])
  for name, data in files.items():
    if existing.get(name) != data:
      storage.create(paths[name], data)
