"""What stores of perplexity scores say of models on whole corpora, as a table, JSON and a curve.

An evaluation's folder has a folder for each corpus, with a store for each model:

SCORES/<corpus>/<model>/      a store, as `pipelines.store.score_store` has it
       evaluation.csv         the figures of every model on every corpus, and on all of them together
       evaluation.json        the same, with the sums that they are made of
       evaluation.svg         perplexity by step, where a run has several
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
from pipelines.flags import scorer_names
from pipelines.jobs import find_stores
from pipelines.reports import charts
from pipelines.reports.figures import Figure
from pipelines.scorers.t5 import model_files
from pipelines.scorers.t5.perplexity import Perplexity
from pipelines.store import kinds, score_files
from pipelines.store.score_store import ScoreStore

ALL = "all"  # of a mixture's parts
TOKENS, CORPUS = WEIGHED_BY = "tokens", "corpus"
_TABLE, _SUMS, _CURVE = "evaluation.csv", "evaluation.json", "evaluation.svg"
_OF_RUN = re.compile(r"(.+)_checkpoint_(\d+)", re.ASCII)
_READERS = 4


class Point(NamedTuple):
  """A model's place among others."""

  run: str
  step: int
  """-1: of no training run that is known."""
  model: str

  @classmethod
  def from_name(cls, model: str) -> "Point":
    """By the name that `models.checkpoint_name` gives."""
    found = _OF_RUN.fullmatch(model)
    return cls(found[1], int(found[2]), model) if found else cls(model, -1, model)


# The figures of a model on corpora, by their names.
Losses = Mapping[str, CorpusLoss]


def find_corpora(patterns: str) -> dict[str, str]:
  """The inputs that --input names, with commas between them, by names made of letters, digits and underscores.

  A name is made of the dataset's or of the last two parts of the path. Raises WinnowError for two of one name.
  """
  found: dict[str, str] = {}
  for pattern in filter(None, patterns.split(",")):
    path = "/".join(inputs.absolute(pattern).split("/")[-2:])
    name = re.sub(r"\W+", "_", path.removeprefix(tfds.PREFIX), flags=re.ASCII).strip("_") or "corpus"
    if name in found or name == ALL:
      raise WinnowError(f"--input={pattern} would be called {name}, as another one is: name its folder differently")
    found[name] = pattern
  return found


def read_loss(store: ScoreStore) -> CorpusLoss:
  """The figure of a complete store of perplexity scores, from them and their documents' numbers of tokens.

  Memory is that of a few blocks, and the sums are those of blocks and shards, whoever scored them. Raises DamagedError,
  and removes the file if the store is mended, and WinnowError where no document was scored.
  """
  request = fingerprints.read_json(store.request_path)
  shards = store.shards()
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    loss = corpus_loss.total(pool.map(lambda shard: _read_shard(store, shard, request), shards))
  if not loss.documents:
    raise WinnowError(f"{store.folder} has a score of no document: see its dead_letter, and give an --input with texts")
  return loss


def _read_shard(store: ScoreStore, shard: blocks.Shard, request: dict[str, Any]) -> CorpusLoss:
  try:
    with score_files.ScoreFile(store, shard) as scores:
      of_blocks = [_read_block(scores, index, shard, request) for index in range(len(scores.summary.block_rows))]
      loss = corpus_loss.total(of_blocks)
      if loss.documents != scores.summary.scored:
        path, scored = store.scores_path(shard), scores.summary.scored
        raise DamagedError(f"{path} is damaged: it has {loss.documents:,} of {scored:,} rows")
  except DamagedError as error:
    if store.is_mended:
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
  return corpus_loss.of_scores(scores_N, targets_N)


def earlier(folder: str, request: dict[str, Any]) -> tuple[dict[str, CorpusLoss], dict[str, str]]:
  """The figures of all models whose stores are in the folder of a corpus, and why those of others are not, by names.

  Their checkpoints need not be there any more. `request`: of one that is evaluated now; the others must be of the same
  but for the model, or they are no points of one curve.
  """
  found: dict[str, CorpusLoss] = {}
  told: dict[str, str] = {}
  for name, store in sorted(find_stores.find_stores(folder).stores.items()):
    if store.scorer != scorer_names.PERPLEXITY or not store.is_complete:
      continue
    if model_files.is_of_unfinished(name):
      told[name] = f"{store.folder} is left out: its checkpoint was not finished; delete the folder"
      continue
    there, here = ({key: of[key] for key in of if key != "model"} for of in (_request(store), request))
    if difference := fingerprints.first_difference(there, here):
      field, known, now = difference
      told[name] = f"{store.folder} is left out, for its {field} is {known} and is {now} here"
      continue
    try:
      found[name] = read_loss(dataclasses.replace(store, is_mended=False))
    except WinnowError as error:
      told[name] = f"{store.folder} is left out: {error}"
  return found, told


def _request(store: ScoreStore) -> dict[str, Any]:
  request: dict[str, Any] = fingerprints.read_json(store.request_path)
  return request


def disagreements(results: Mapping[str, Losses]) -> list[str]:
  """Sentences about corpora of which models were not asked to predict the same tokens, so that they do not compare."""
  told = []
  for corpus in sorted({corpus for losses in results.values() for corpus in losses}):
    counts = {name: losses[corpus][:2] for name, losses in sorted(results.items()) if corpus in losses}
    first, *others = counts
    if other := next((name for name in others if counts[name] != counts[first]), None):
      one, two = (f"{of[1]:,} tokens of {of[0]:,} documents" for of in (counts[first], counts[other]))
      told.append(f"on {corpus} {first} was asked for {one}, and {other} for {two}: their figures do not compare")
  return told


def figures(results: Mapping[str, Losses], corpora: list[str], weigh_by: str) -> Figure:
  """A row for each model, in the order of runs and steps, and corpus; of several corpora, one for all of them.

  `weigh_by`: what counts equally in that one, the corpora's `tokens`, or each `corpus`.
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
  """The figures in the order of `corpora`, and that of all of them where none is missing."""
  found = {corpus: losses[corpus] for corpus in corpora if corpus in losses}
  if len(found) < len(corpora):
    return {**found}
  return {**found, ALL: corpus_loss.mean(found.values()) if weigh_by == CORPUS else corpus_loss.total(found.values())}


def lines(figure: Figure) -> list[str]:
  """A figure for a terminal, in columns."""
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


def _shown(value: Any) -> str:
  if value is None:
    return "inf"
  return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def to_json(results: Mapping[str, Losses], corpora: list[str], weigh_by: str, *, request: dict[str, Any]) -> bytes:
  """All figures with their sums; `all` is of all corpora, and not there where one is missing."""
  models = []
  for run, step, model in sorted(map(Point.from_name, results)):
    found = {
      corpus: {
        "documents": loss.documents,
        "target_tokens": loss.target_tokens,
        "nll": loss.nll,  # null where corpora count equally
        "nll_per_token": loss.nll_per_token,
        "perplexity": loss.perplexity,  # null where it is infinite
      }
      for corpus, loss in _with_all(results[model], corpora, weigh_by).items()
    }
    place = {"run": run, "step": step} if step >= 0 else {"run": None, "step": None}
    models.append({"model": model, **place, "corpora": found})
  asked = {name: request[name] for name in ("objective", "mask_seed", "max_input_tokens")}
  return fingerprints.to_json({**asked, "weigh_by": weigh_by, "models": models})


def curves(
  results: Mapping[str, Losses], corpora: list[str], weigh_by: str
) -> dict[str, tuple[list[int], list[float]]]:
  """Of each run with several steps, these and the perplexity on all corpora."""
  found: dict[str, tuple[list[int], list[float]]] = {}
  for run, step, model in sorted(map(Point.from_name, results)):
    loss = _with_all(results[model], corpora, weigh_by).get(ALL)
    if step >= 0 and loss is not None and math.isfinite(loss.perplexity):
      steps, perplexities = found.setdefault(run, ([], []))
      steps.append(step)
      perplexities.append(loss.perplexity)
  return {run: curve for run, curve in found.items() if len(curve[0]) > 1}


def write(
  folder: str, results: Mapping[str, Losses], *, corpora: list[str], weigh_by: str, request: dict[str, Any]
) -> None:
  """Replaces the files of an evaluation by those of these results, which follow from its stores."""
  files = {
    _TABLE: figures(results, corpora, weigh_by).to_csv(),
    _SUMS: to_json(results, corpora, weigh_by, request=request),
  }
  if found := curves(results, corpora, weigh_by):
    equally = ", each counting as much" if weigh_by == CORPUS else ""
    of = corpora[0] if len(corpora) == 1 else f"all {len(corpora)} corpora{equally}"
    files[_CURVE] = charts.curves(found, x_label="step", y_label=f"perplexity on {of}")
  paths = {name: storage.join(folder, name) for name in (_TABLE, _SUMS, _CURVE)}
  # What is there already stays: the folder may be another user's.
  there = {name: storage.read_bytes(path) for name, path in paths.items() if storage.exists(path)}
  storage.delete([paths[name] for name, data in there.items() if data != files.get(name)])
  for name, data in files.items():
    if there.get(name) != data:
      storage.create(paths[name], data)
