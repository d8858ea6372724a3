"""The figures of a report as tables, for its charts, its page and its CSV files.

Shape suffixes as in `passes`.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.selection import metrics
from pipelines.output import cascades
from pipelines.reports import axes, choices, examples
from pipelines.reports.axes import Axis
from pipelines.reports.material import Sources
from pipelines.reports.passes import Counts, Questions, Sample

CORPUS = "corpus"
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_SCORE_BINS = 48
# Bins of half an octave, from 4 to 65,536 tokens.
_LENGTHS = np.round(2.0 ** np.arange(2, 16.5, 0.5))
_MOST_DOMAINS = 200
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# Unicode pictures of the control characters except tab and newline, since neither a page nor a table may hold them; and
# replacements for characters that would change the order in which letters are shown.
_PICTURES: dict[int, int] = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


class Figure(NamedTuple):
  """A table: the names of its columns, and its rows of text and numbers; None is an empty cell."""

  header: list[str]
  rows: list[list[Any]]

  def to_csv(self) -> bytes:
    """Returns the table as CSV (RFC 4180) in UTF-8, with commas between values and a newline after each row.

    Text is `legible`. A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(_cell, self.header))
    writer.writerows(map(_cell, row) for row in self.rows)
    return written.getvalue().encode()


def legible(text: str) -> str:
  """Makes text safe for a page or a table: pictures in place of control characters, and newlines as line ends."""
  return text.replace("\r\n", "\n").encode("utf-8", "replace").decode().translate(_PICTURES)


def _cell(value: object) -> object:
  if not isinstance(value, str):
    return value
  value = legible(value)
  return f"'{value}" if value.startswith(("\t", "\n")) or value.lstrip().startswith(_FORMULA) else value


def choose_axes(sources: Sources, sample: Sample) -> list[Axis]:
  """Chooses the axis of each scorer from a sample."""
  return [
    axes.choose(store.scorer, scores_N[~np.isnan(scores_N)])
    for store, scores_N in zip(sources.scorers.values(), sample.scores_SN, strict=True)
  ]


def ask(sample: Sample, groups: Sequence[choices.Group], scales: Sequence[Axis]) -> Questions:
  """Decides what to count over the whole corpus, from a sample of it, whose scorers have the axes `scales`."""
  places = sorted({place for group in groups for place in group.places})
  edges_SE = np.stack(
    [
      axis.edges(scores_N[~np.isnan(scores_N)], _SCORE_BINS)
      for axis, scores_N in zip(scales, sample.scores_SN, strict=True)
    ]
  )
  domains = sample.table["domain"]
  frequent = [_frequent(domains)]
  for kept_N in sample.kept_ON:
    frequent.append(_frequent(domains.filter(pa.array(kept_N))))
  names = sorted(set().union(*frequent))
  # A score that is missing has no rank, so the 0 in its place is never shown.
  queries_SQ = np.nan_to_num(sample.scores_SN[:, places], nan=0, posinf=np.inf, neginf=-np.inf)
  return Questions(queries_SQ, edges_SE, _LENGTHS, pa.array(names, pa.string()))


def _quantiles(scores_N: np.ndarray, at: Sequence[float]) -> list[float]:
  """Returns the quantiles of the scores that are not missing, each the score of a document; none without scores."""
  found_N = scores_N[~np.isnan(scores_N)]
  return list(map(float, np.quantile(found_N, at, method="inverted_cdf"))) if len(found_N) else []


def _frequent(domains: pa.ChunkedArray) -> list[str]:
  """Returns the most frequent domains; names break ties."""
  counted = pc.value_counts(domains.drop_null())
  names, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
  return [name for _, name in sorted(zip((-count for count in counts), names, strict=True))[:_MOST_DOMAINS]]


def ledger(sources: Sources) -> Figure:
  """Returns the ledger of each store and output: documents read = scored + bad, blank lines, and documents selected."""
  rows: list[list[Any]] = []
  for name, store in sources.scorers.items():
    summary = sources.summaries[name]
    counts = [summary[field] for field in ("read", "scored", "bad", "blank")]
    rows.append([name, "scores", store.scorer, *counts, None, summary["num_tokens"], None])
  for output in sources.outputs:
    counts = [output.manifest["counts"][field] for field in ("read", "scored", "bad", "blank", "selected")]
    tokens = output.manifest["tokens"]
    sampler = f"{'not ' if output.rejected else ''}by {output.request.sampler}"
    rows.append([output.name, "output", sampler, *counts, tokens["scored"], tokens["selected"]])
  columns = ["read", "scored", "bad", "blank", "selected", "tokens scored", "tokens selected"]
  return Figure(["name", "kind", "scorer or sampler", *columns], rows)


def input_files(sources: Sources) -> Figure:
  """Returns the ledgers of the manifests, by input file."""
  fields = ("read", "scored", "bad", "selected", "tokens_selected")
  rows = [
    [output.name, entry["name"], *(entry[field] for field in fields)]
    for output in sources.outputs
    for entry in output.manifest["inputs"]
  ]
  return Figure(["output", "input", "read", "scored", "bad", "selected", "tokens selected"], rows)


def tau(sources: Sources, sample: Sample) -> Figure:
  """Returns Kendall's tau of each pair of scorers over the sample; empty if all scores of a scorer are equal.

  Scorers of a stage are compared with others over the documents that both have scored.
  """
  matrix_SS = _tau_matrix(sample.scores_SN)
  rows = [
    [name, *(None if np.isnan(value) else float(value) for value in tau_S)]
    for name, tau_S in zip(sources.scorers, matrix_SS, strict=True)
  ]
  return Figure(["scorer", *sources.scorers], rows)


def _tau_matrix(scores_SN: np.ndarray) -> np.ndarray:
  missing_SN = np.isnan(scores_SN)
  if not missing_SN.any():
    return metrics.tau_matrix(scores_SN)
  matrix_SS = np.empty((len(scores_SN), len(scores_SN)))
  for i, j in itertools.combinations_with_replacement(range(len(scores_SN)), 2):
    both_N = ~(missing_SN[i] | missing_SN[j])
    tau = metrics.kendall_tau(scores_SN[i, both_N], scores_SN[j, both_N])
    matrix_SS[i, j] = matrix_SS[j, i] = tau if i != j or np.isnan(tau) else 1.0
  return matrix_SS


def quantiles(sources: Sources, sample: Sample, counts: Counts) -> Figure:
  """Returns scores at some quantiles of the sample, each the score of a document."""
  rows = [
    [name, int(documents), *(_quantiles(scores_N, QUANTILES) or itertools.repeat(None, len(QUANTILES)))]
    for name, documents, scores_N in zip(sources.scorers, counts.documents_S, sample.scores_SN, strict=True)
  ]
  return Figure(["scorer", "documents", *(f"{q:.0%}" for q in QUANTILES)], rows)


def scores(sources: Sources, questions: Questions, counts: Counts) -> Figure:
  """Returns how many documents of the corpus and of each output have a score in each bin."""
  rows = []
  for s, name in enumerate(sources.scorers):
    edges = questions.score_edges_SE[s].tolist()
    for b, count_C in enumerate(counts.scores_CSB[:, s].T.tolist()):
      rows.append([name, edges[b], edges[b + 1], *count_C])
  return Figure(["scorer", "from", "to", *_sets(sources)], rows)


def lengths(sources: Sources, counts: Counts) -> Figure:
  """Returns how many documents of the corpus and of each output have a number of tokens in each bin."""
  edges = _LENGTHS.astype(int).tolist()
  rows = [[edges[b], edges[b + 1], *count_C] for b, count_C in enumerate(counts.lengths_CB.T.tolist())]
  return Figure(["from", "to", *_sets(sources)], rows)


def domains(sources: Sources, questions: Questions, counts: Counts) -> Figure:
  """Returns documents by domain; domains whose share of an output differs most from that of the corpus come first."""
  shares_CD = counts.domains_CD / np.maximum(counts.documents_C, 1)[:, None]
  shift_D = np.abs(shares_CD[1:] - shares_CD[0]).max(axis=0) if len(shares_CD) > 1 else shares_CD[0]
  names = questions.domains.to_pylist()
  order = np.lexsort((-shares_CD[0], -shift_D)).tolist()
  rows = [[names[d], *counts.domains_CD[:, d].tolist(), *(100 * shares_CD[:, d]).tolist()] for d in order]
  return Figure(["domain", *_sets(sources), *(f"% of {name}" for name in _sets(sources))], rows)


def means(sources: Sources, counts: Counts) -> Figure:
  """Returns the documents and tokens of the corpus and of each output."""
  rows = []
  for name, documents, tokens in zip(
    _sets(sources), counts.documents_C.tolist(), counts.tokens_C.tolist(), strict=True
  ):
    counted = sources.counting is not None
    rows.append([name, documents, *([tokens, tokens / max(documents, 1)] if counted else [None, None])])
  return Figure(["documents of", "documents", "tokens", "tokens a document"], rows)


def example_texts(
  sources: Sources,
  sample: Sample,
  groups: Sequence[choices.Group],
  counts: Counts,
  texts: dict[tuple[str, int], examples.Document],
) -> Figure:
  """Returns the chosen documents: where they are, their score and percentile by each scorer, and their text.

  `by` names the scorers that chose the group. A percentile is among all documents of the scorer's store.
  """
  places = sorted({place for group in groups for place in group.places})
  percentiles_SQ = np.stack(
    [metrics.to_percentiles(rank_2Q, int(n)) for rank_2Q, n in zip(counts.ranks_S2Q, counts.documents_S, strict=True)]
  )
  by_place = dict(zip(places, percentiles_SQ.T.tolist(), strict=True))
  rows = []
  for group in groups:
    for place in group.places:
      shard, row = identity(sources, sample, place)
      values: list[float | None] = []
      for score, percentile in zip(sample.scores_SN[:, place].tolist(), by_place[place], strict=True):
        values += [None, None] if np.isnan(score) else [score, percentile]
      document = texts.get((shard, row), examples.Document(None, None))
      rows.append(
        [group.section, group.name, ", ".join(group.by), f"{shard}#{row}", document.url, *values, document.text]
      )
  columns = [f"{value} by {name}" for name in sources.scorers for value in ("score", "percentile")]
  return Figure(["section", "group", "by", "source", "url", *columns, "text"], rows)


def identity(sources: Sources, sample: Sample, place: int) -> tuple[str, int]:
  """Returns the shard and the row of a document of the sample."""
  return sources.shards[sample.table["shard"][place].as_py()].name, sample.table["row"][place].as_py()


def copies(sources: Sources) -> Figure:
  """Counts copies among documents of each output."""
  rows: list[list[Any]] = []
  for output in sources.outputs:
    rows.append([output.name, *examples.count_copies(output)])
  return Figure(["output", "documents looked at", "exact copies of others", "near-copies, with these"], rows)


def cascade(sources: Sources) -> Figure:
  """Returns the recall that the audit of each output's cascade shows, by the share of the documents that is asked."""
  rows: list[list[Any]] = []
  for output in sources.outputs:
    if (record := output.manifest.get(cascades.FIELD)) is not None:
      rows += [[output.name, 100 * share, 100 * recall] for share, recall in record["certificate"]["curve"]]
  return Figure(["output", "% of documents by the proxy", "% of the audit's best among them"], rows)


def dead_letters(sources: Sources) -> Figure:
  """Returns the number of bad documents by scorer and reason."""
  rows: list[list[Any]] = []
  for name, summary in sources.summaries.items():
    rows += [[name, reason, count] for reason, count in sorted(summary["reasons"].items())]
  return Figure(["scorer", "reason", "documents"], rows)


def bad(sources: Sources) -> Figure:
  """Returns some bad documents of the first store."""
  store = next(iter(sources.scorers.values()))
  return Figure(["source", "reason", "text"], [list(document) for document in examples.bad_documents(store)])


def _sets(sources: Sources) -> list[str]:
  return [CORPUS, *(output.name for output in sources.outputs)]
