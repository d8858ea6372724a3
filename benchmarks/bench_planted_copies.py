"""Copies planted among web texts: which ones SemDeDup and MinHash find at each threshold, as tables and a plot.

Three documents in four of the C4 sample get one copy, of one of three kinds: exact, with small edits, or cut like a
paraphrase. A pair is found if one of the two is removed. Precision is the number of pairs found by removed document.
Scores are those of `winnow score`. SemDeDup uses the demo embedder, which was trained to find such edits, on these
texts among others: its best case.

Shape suffixes: N documents, P planted pairs, T thresholds.
"""

import argparse
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import bench_minhash
import common
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse.csgraph

from curation.coverage import minhash
from curation.demo import embedder as demo_embedder
from curation.demo.embedder import edits

FIGURE = common.PROJECT / "docs/planted_copies.svg"
MIN_WORDS = 20
COSINES = np.round(np.arange(0.6, 0.9951, 0.005), 3)
SIMILARITIES = np.round(np.arange(0.2, 1.01, 0.05), 2)
SHOWN_COSINES = (0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
SHOWN_SIMILARITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_CORPUS = "planted.jsonl"
_SENTENCE_WORDS = 25
_KEPT_SENTENCES = 2 / 3
_CHANGED_WORDS = 0.15
# Colours that people who do not see red or green can tell apart; the shapes differ as well.
_LINES = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"))


def cut(text: str, generator: np.random.Generator) -> str:
  """Cuts a text like a paraphrase: keeps two sentences in three, swaps some neighbours, and changes some words."""
  words, sentences = text.split(), [[]]
  for word in words:
    if sentences[-1] and (sentences[-1][-1][-1] in ".!?" or len(sentences[-1]) == _SENTENCE_WORDS):
      sentences.append([])
    sentences[-1].append(word)
  kept = [sentence for sentence in sentences if generator.random() < _KEPT_SENTENCES] or sentences[:1]
  for place in range(1, len(kept), 2):
    if generator.random() < 0.5:
      kept[place - 1 : place + 1] = kept[place], kept[place - 1]
  left = list(itertools.chain.from_iterable(kept))
  for place in np.flatnonzero(generator.random(len(left)) < _CHANGED_WORDS):
    left[place] = "" if generator.random() < 0.5 else words[generator.integers(len(words))]
  return " ".join(word for word in left if word)


KINDS: dict[str, Callable[[str, np.random.Generator], str]] = {
  "exact copies": lambda text, _: text,
  "small edits": edits.edit,
  "paraphrase-like cuts": cut,
}


class Planted(NamedTuple):
  """Shuffled texts with planted copies."""

  texts: list[str]
  originals_P: np.ndarray
  """The position of each pair's original: int64 [P]."""
  copies_P: np.ndarray
  """The position of each pair's copy: int64 [P]."""
  kinds_P: np.ndarray
  """The position of each pair's kind in KINDS: int64 [P]."""


class Curve(NamedTuple):
  """Removed documents, int64 [T]; the share of pairs found, float64 [T, kinds]; and the precision, float64 [T]."""

  removed: np.ndarray
  recall: np.ndarray
  precision: np.ndarray


def plant(texts: Sequence[str], seed: int) -> Planted:
  """Plants copies of three texts in four; the kinds take turns over a random order."""
  generator = np.random.default_rng(seed)
  originals, kinds, copies = [], [], []
  for turn, place in enumerate(generator.permutation(len(texts))):
    kind = turn % (len(KINDS) + 1)
    if kind < len(KINDS):
      originals.append(place)
      kinds.append(kind)
      copies.append(list(KINDS.values())[kind](texts[place], generator))
  mixed = generator.permutation(len(texts) + len(copies))
  places_N = np.argsort(mixed)  # the new position of each text
  everything = [*texts, *copies]
  originals_P = places_N[np.array(originals, np.int64)]
  return Planted([everything[i] for i in mixed], originals_P, places_N[len(texts) :], np.array(kinds, np.int64))


def measure(planted: Planted, removed_TN: np.ndarray) -> Curve:
  """Computes the curve for documents removed at each threshold: bool [T, N]."""
  found_TP = removed_TN[:, planted.originals_P] | removed_TN[:, planted.copies_P]
  recall_TK = np.stack([found_TP[:, planted.kinds_P == kind].mean(axis=1) for kind in range(len(KINDS))], axis=1)
  removed_T = removed_TN.sum(axis=1)
  precision_T = np.divide(found_TP.sum(axis=1), removed_T, out=np.full(len(removed_T), np.nan), where=removed_T > 0)
  return Curve(removed_T, recall_TK, precision_T)


def semdedup_curve(planted: Planted, folder: pathlib.Path, clusters: int, cosines_T: np.ndarray) -> Curve:
  """Computes SemDeDup's curve over thresholds, from one `winnow score` of the folder's corpus."""
  where = [f"--model={demo_embedder.folder()}", f"--clusters={folder}/scores/clusters_{clusters}"]
  name = f"semdedup_{clusters}"
  scores_N = _score(folder, name, "--scorer=semdedup", *where, f"--num_clusters={clusters}", f"--name={name}")
  return measure(planted, -scores_N > cosines_T[:, None])


def minhash_curve(planted: Planted, folder: pathlib.Path, similarities_T: np.ndarray) -> Curve:
  """Computes MinHash's curve over similarities, from a `winnow score` each; all read one store of signatures."""
  removed_TN = []
  for similarity in similarities_T:
    name = f"minhash_{100 * similarity:.0f}"
    scores_N = _score(folder, name, "--scorer=minhash", f"--similarity={similarity}", f"--name={name}")
    removed_TN.append(scores_N == 0)
  return measure(planted, np.array(removed_TN))


def by_exact_similarity(planted: Planted, similarities_T: np.ndarray) -> tuple[Curve, np.ndarray]:
  """Computes the curve that MinHash would have if it compared every pair exactly, and its own recall and precision.

  The latter, [T, 2], are over pairs of any documents: pairs in one component against pairs of that exact Jaccard
  similarity.
  """
  similar = bench_minhash.exact_similarities(planted.texts)
  signatures_NH = minhash.signatures(pa.array(planted.texts, pa.large_string()), minhash.MinHashConfig().hashes)
  everything_N = np.arange(len(planted.texts))
  removed_TN, pairs = [], []
  for similarity in similarities_T:
    at_least = similar.data >= similarity
    graph = scipy.sparse.coo_matrix((at_least, (similar.row, similar.col)), (len(everything_N), len(everything_N)))
    graph.eliminate_zeros()
    _, component_N = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, firsts = np.unique(component_N, return_index=True)
    removed_TN.append(~np.isin(everything_N, firsts))
    firsts_N = everything_N.copy()
    edges_C2 = bench_minhash.edges(signatures_NH, minhash.MinHashConfig(similarity=float(similarity)))
    firsts_N[edges_C2[:, 0]] = edges_C2[:, 1]
    together = firsts_N[similar.row] == firsts_N[similar.col]
    both = np.sum(together & at_least)
    pairs.append((both / at_least.sum(), both / together.sum()))
  return measure(planted, np.array(removed_TN)), np.array(pairs)


def write(planted: Planted, folder: pathlib.Path) -> None:
  """Writes the texts as the folder's corpus."""
  lines = (orjson.dumps({"text": text}, option=orjson.OPT_APPEND_NEWLINE) for text in planted.texts)
  (folder / _CORPUS).write_bytes(b"".join(lines))


def _score(folder: pathlib.Path, name: str, *flags: str) -> np.ndarray:
  """Runs `winnow score` on the folder's corpus; returns the scores in the store of that name, row by row."""
  common.winnow("score", f"--input={folder / _CORPUS}", f"--scores={folder / 'scores'}", *flags)
  table = pq.read_table(folder / f"scores/{name}/shards/{_CORPUS}.parquet", columns=["row", "score"])
  assert table["row"].to_pylist() == list(range(len(table)))  # no document was refused
  return table["score"].to_numpy()


def table(title: str, thresholds_T: np.ndarray, shown: Sequence[float], curve: Curve, every_pair: Curve) -> list[str]:
  """Returns Markdown rows for some thresholds; figures in brackets are those of comparing every pair."""
  lines = [f"| {title} | removed | {' | '.join(KINDS)} | precision |", "|---" * (len(KINDS) + 3) + "|"]
  for value in shown:
    place = int(np.argmin(np.abs(thresholds_T - value)))
    shares = [
      f"{ours:.2f} ({exact:.2f})"
      for ours, exact in zip(
        (*curve.recall[place], curve.precision[place]),
        (*every_pair.recall[place], every_pair.precision[place]),
        strict=True,
      )
    ]
    removed = f"{curve.removed[place]:,} ({every_pair.removed[place]:,})"
    lines.append(f"| {value:.2f} | {removed} | {' | '.join(shares)} |")
  return lines


def paint(panels: Sequence[tuple[str, str, np.ndarray, Curve, Curve]], path: pathlib.Path) -> None:
  """Plots recall by kind and precision; a panel is (title, axis label, thresholds, curve, curve of every pair)."""
  from matplotlib import figure, lines, rc_context, ticker

  with rc_context({"svg.fonttype": "none", "svg.hashsalt": "planted_copies", "font.size": 10}):
    drawing = figure.Figure(figsize=(9, 4.4), layout="constrained", facecolor="white")
    drawing.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    for axes, (title, label, thresholds_T, curve, every_pair) in zip(
      drawing.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
      marked = slice(None, None, -(-len(thresholds_T) // 9))
      for kind, (colour, marker) in enumerate(_LINES):
        axes.plot(thresholds_T, every_pair.recall[:, kind], color=colour, linewidth=1.2, linestyle=":")
        axes.plot(
          thresholds_T,
          curve.recall[:, kind],
          color=colour,
          linewidth=1.8,
          marker=marker,
          markersize=5,
          markevery=marked,
        )
      axes.plot(thresholds_T, every_pair.precision, color="0.25", linewidth=1.2, linestyle=":")
      axes.plot(thresholds_T, curve.precision, color="0.25", linewidth=1.8, linestyle="--")
      axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
      axes.set(xlabel=label, ylim=(-0.02, 1.03), xlim=(thresholds_T[0], 1))
      axes.xaxis.set_major_locator(ticker.MultipleLocator(0.1))
      axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
      axes.grid(color="0.92", linewidth=0.8)
      axes.set_axisbelow(True)
      axes.spines[["top", "right"]].set_visible(False)
    drawing.axes[0].set_ylabel("planted pairs found; precision")
    handles = [
      lines.Line2D([], [], color=colour, marker=marker, linewidth=1.8, markersize=5, label=kind)
      for kind, (colour, marker) in zip(KINDS, _LINES, strict=True)
    ]
    handles.append(lines.Line2D([], [], color="0.25", linewidth=1.8, linestyle="--", label="precision"))
    handles.append(lines.Line2D([], [], color="0.25", linewidth=1.2, linestyle=":", label="every pair compared"))
    drawing.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9, columnspacing=1.4)
    drawing.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None, dpi=110)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--clusters", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--figure", type=pathlib.Path, help=f"draws the plot there, such as docs/{FIGURE.name}")
  namespace = parser.parse_args()
  common.print_machine()
  real = [text for text in common.documents(1_445) if len(text.split()) >= MIN_WORDS]
  real = [text for text, copy in zip(real, minhash.near_copies(real), strict=True) if not copy]
  planted = plant(real, namespace.seed)
  print(
    f"{common.corpus_name()}: {len(real):,} documents and {len(planted.copies_P):,} planted copies, "
    f"{', '.join(f'{np.sum(planted.kinds_P == kind):,} {name}' for kind, name in enumerate(KINDS))}",
    flush=True,
  )
  with tempfile.TemporaryDirectory(prefix="winnow-copies-") as name:
    folder = pathlib.Path(name)
    write(planted, folder)
    by_cosine = [semdedup_curve(planted, folder, count, COSINES) for count in (namespace.clusters, 1)]
    by_similarity = minhash_curve(planted, folder, SIMILARITIES)
  exact, pairs = by_exact_similarity(planted, SIMILARITIES)
  print(f"\nSemDeDup in {namespace.clusters} clusters; in brackets in one")
  print("\n".join(table("cosine above", COSINES, SHOWN_COSINES, *by_cosine)))
  print("\nMinHash, 16 bands of 8; in brackets by exact similarities")
  print("\n".join(table("similarity from", SIMILARITIES, SHOWN_SIMILARITIES, by_similarity, exact)))
  print("\nMinHash against exact Jaccard, pairs of any documents: at a similarity recall, precision")
  for similarity, (recall, precision) in zip(SIMILARITIES, pairs, strict=True):
    print(f"{similarity:.2f}  {recall:.3f}  {precision:.3f}")
  if namespace.figure:
    panels = (
      ("SemDeDup", "removed above this cosine to an earlier document", COSINES, *by_cosine),
      ("MinHash", "joined from this Jaccard similarity on (--similarity)", SIMILARITIES, by_similarity, exact),
    )
    paint(panels, namespace.figure)


if __name__ == "__main__":
  bench()
