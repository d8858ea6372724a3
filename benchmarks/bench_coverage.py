"""The coverage of the demo's corpus by each sampler: figures, and a map of the embeddings.

Each sampler draws a fifth through `winnow curate`, with the demo embedder. The figures use the embeddings in all their
dimensions. The map is one projection by t-SNE for all samplers. Cells are clusters from another seed, finer than those
that SemDeDup and Prototypes use.

Shape suffixes: N documents, M kept ones, D dimensions.
"""

import argparse
import contextlib
import pathlib
import tempfile
from typing import NamedTuple

import common
import numpy as np
import pyarrow.parquet as pq
import yaml

from curation.coverage import minhash, race
from curation.demo import corpus as demo_corpus
from curation.demo import embedder as demo_embedder
from pipelines.corpus import fixed_width
from pipelines.scoring import stored_blocks
from pipelines.store.score_store import ScoreStore

FIGURE = common.PROJECT / "docs/coverage.svg"
RATE = 0.2
CELLS = 400
_FOLDER = "{folder}"
_EMBEDDER = [f"--model={demo_embedder.folder()}"]
_CLUSTERS = [*_EMBEDDER, "--num_clusters=80"]
SAMPLERS = {
  "random": ["--sampler=random"],
  "density": ["--scorer=density", *_EMBEDDER],
  "minhash": ["--scorer=minhash"],
  "semdedup": ["--scorer=semdedup", *_CLUSTERS],
  "prototypes": ["--scorer=prototypes", *_CLUSTERS],
  "d4": [f"--recipe={_FOLDER}/d4.yaml", *_CLUSTERS],
}
"""The arguments of `winnow curate` for each panel and row, besides corpus, number and folders."""
TITLES = {
  "random": "Random",
  "density": "Density",
  "minhash": "MinHash",
  "semdedup": "SemDeDup",
  "prototypes": "Prototypes",
  "d4": "D4",
}
EVERYTHING = "all"
# Colours that people who do not see red or green can tell apart.
_COLOURS = {"docstring": "#0072b2", "licence": "#d55e00", "readme": "#009e73", "topic": "#cc79a7"}
_PLURALS = {"docstring": "docstrings", "licence": "licences", "readme": "readmes", "topic": "help topics"}


class Corpus(NamedTuple):
  """The documents in one order: sources (`shard#row`), kinds, texts, unit vectors (float32 [N, D]) and cells [N]."""

  sources: list[str]
  kinds: np.ndarray
  texts: list[str]
  embeddings: np.ndarray
  cells: np.ndarray


class Coverage(NamedTuple):
  """The coverage of a sample."""

  documents: int
  cells: float
  """The share of cells with a kept document."""
  distance: float
  """The mean distance of any document to the nearest kept one, between unit vectors, in [0, 2]."""
  near_copies: float
  """The share of kept documents that are near-copies of an earlier kept one (MinHash)."""
  words: float
  """The sample's share of the corpus's words."""


def draw(folder: pathlib.Path) -> tuple[Corpus, dict[str, np.ndarray]]:
  """Runs the commands in the folder; returns the corpus, and by sampler its documents' sorted positions, int64 [M]."""
  written = demo_corpus.write_demo_corpus(folder / "corpus")
  reading = [f"--input={written.pattern}", f"--scores={folder / 'scores'}"]
  # The shipped recipe without the rate of its last stage.
  recipe = yaml.safe_load((common.PROJECT / "recipes/d4.yaml").read_text())
  del recipe["stages"][-1]["rate"]
  (folder / "d4.yaml").write_text(yaml.safe_dump(recipe))
  number = round(RATE * written.documents)
  for name, flags in SAMPLERS.items():
    flags = [flag.replace(_FOLDER, str(folder)) for flag in flags]
    writing = [f"--num_examples={number}", f"--output={folder / name}", "--output_format=parquet"]
    common.winnow("curate", *flags, *reading, *writing)
    print(f"drawn: {name}", flush=True)
  embedded, cells = folder / f"scores/embeddings_{demo_embedder.folder().name}", folder / "scores/cells"
  common.winnow(
    "cluster", f"--embeddings={embedded}", f"--clusters={cells}", f"--num_clusters={CELLS}", "--kmeans_seed=1"
  )
  corpus = _read(written, embedded, cells)
  places = {source: place for place, source in enumerate(corpus.sources)}
  samples = {}
  for name in SAMPLERS:
    kept = [pq.read_table(path, columns=["source"])["source"] for path in (folder / name).glob("*.parquet")]
    samples[name] = np.sort([places[source.as_py()] for column in kept for source in column])
  return corpus, samples


def measure(corpus: Corpus, kept_M: np.ndarray) -> Coverage:
  """Computes the coverage of a sample."""
  nearest_N = np.max(corpus.embeddings @ corpus.embeddings[kept_M].T, axis=1)
  copies_M = minhash.near_copies([corpus.texts[place] for place in kept_M])
  return Coverage(
    len(kept_M),
    len(np.unique(corpus.cells[kept_M])) / len(np.unique(corpus.cells)),
    float(np.mean(np.sqrt(np.maximum(2 - 2 * nearest_N, 0)))),
    float(np.mean(copies_M)),
    sum(len(corpus.texts[place].split()) for place in kept_M) / sum(len(text.split()) for text in corpus.texts),
  )


def project(embeddings_ND: np.ndarray) -> np.ndarray:
  """Maps the embeddings by t-SNE: float64 [N, 2]. Neighbours stay neighbours, but sizes and gaps mean little."""
  from sklearn import manifold

  return manifold.TSNE(metric="cosine", init="pca", perplexity=30, random_state=0).fit_transform(embeddings_ND)


def to_markdown(corpus: Corpus, samples: dict[str, np.ndarray], figures: dict[str, Coverage]) -> str:
  """Returns a table with a row for the whole corpus and one for each sample, with the shares of kinds of documents."""
  kinds = list(_COLOURS)
  lines = [
    f"| sampler | documents | cells kept | distance to the nearest kept | near-copies | words kept | "
    f"{' | '.join(_PLURALS[kind] for kind in kinds)} |",
    "|---" * (6 + len(kinds)) + "|",
  ]
  for name, kept_M in samples.items():
    coverage, shares = figures[name], [f"{np.mean(corpus.kinds[kept_M] == kind):.1%}" for kind in kinds]
    lines.append(
      f"| {name} | {coverage.documents:,} | {coverage.cells:.1%} | {coverage.distance:.3f} | "
      f"{coverage.near_copies:.1%} | {coverage.words:.1%} | {' | '.join(shares)} |"
    )
  return "\n".join(lines)


def paint(
  map_N2: np.ndarray, kinds_N: np.ndarray, samples: dict[str, np.ndarray], figures: dict[str, Coverage], path
) -> None:
  """Draws a panel for each sample: its documents in the colours of their kinds, above all others in grey."""
  from matplotlib import figure, lines, rc_context

  columns = 3 if len(samples) <= 6 else 4
  rows = -(-len(samples) // columns)
  with rc_context({"svg.fonttype": "none", "svg.hashsalt": "coverage", "font.size": 10}):
    drawing = figure.Figure(figsize=(9, 3.5 * rows * 3 / columns + 0.4), layout="constrained", facecolor="white")
    drawing.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    order_N = np.random.default_rng(0).permutation(len(map_N2))  # no kind lies on top of the others
    for axes, (name, kept_M) in zip(panels, samples.items(), strict=False):
      is_all = name == EVERYTHING
      shown = order_N[np.isin(order_N, kept_M)]
      if not is_all:
        axes.scatter(*map_N2.T, 1.5, "0.86", linewidths=0, rasterized=True)
      colours = [_COLOURS[kind] for kind in kinds_N[shown]]
      axes.scatter(*map_N2[shown].T, 1.5 if is_all else 3, colours, linewidths=0, rasterized=True)
      axes.set(xticks=[], yticks=[], aspect="equal")
      axes.spines[:].set_color("0.8")
      title = "All documents" if is_all else TITLES[name]
      axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
      coverage = figures[name]
      axes.set_title(f"{coverage.documents:,}", loc="right", fontsize=9)
      caption = [f"{coverage.near_copies:.1%} near-copies"]
      if not is_all:
        caption[:0] = [f"{coverage.cells:.0%} of the cells kept", f"nearest kept at {coverage.distance:.2f}"]
      axes.set_xlabel("\n".join(caption), fontsize=9)
    handles = [
      lines.Line2D([], [], color=colour, marker="o", linestyle="", markersize=6, label=_PLURALS[kind])
      for kind, colour in _COLOURS.items()
    ]
    handles.append(lines.Line2D([], [], color="0.8", marker="o", linestyle="", markersize=6, label="not kept"))
    spare = panels[len(samples) :]
    for axes in spare:
      axes.set_axis_off()
    if len(spare):
      spare[0].legend(handles=handles, loc="center", frameon=False, labelspacing=0.9)
    else:
      drawing.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    drawing.savefig(path, dpi=110, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--folder", type=pathlib.Path, help="keeps stores and samples there (default: nowhere)")
  parser.add_argument("--figure", type=pathlib.Path, help=f"draws the map there, such as docs/{FIGURE.name}")
  namespace = parser.parse_args()
  common.print_machine()
  with contextlib.ExitStack() as stack:
    folder = namespace.folder
    if folder is None:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-coverage-")))
    corpus, samples = draw(folder.absolute())
  samples = {EVERYTHING: np.arange(len(corpus.texts)), **samples}
  figures = {name: measure(corpus, kept_M) for name, kept_M in samples.items()}
  print(to_markdown(corpus, samples, figures))
  if namespace.figure:
    paint(project(corpus.embeddings), corpus.kinds, samples, figures, namespace.figure)


def _read(written: demo_corpus.DemoCorpus, embedded: pathlib.Path, cells: pathlib.Path) -> Corpus:
  """Reads the corpus with its embeddings and cells."""
  # The documents went to the shards in turn.
  names = [pathlib.Path(path).name for path in written.paths]
  documents = {
    f"{names[place % len(names)]}#{place // len(names)}": document
    for place, document in enumerate(demo_corpus.read_documents())
  }
  sources, vectors, cell_parts = [], [], []
  store = ScoreStore.at(str(embedded))
  assert store is not None
  for shard in store.shards():
    for block in stored_blocks.StoredEmbeddings(store, "float16").read(shard, lambda _: True):
      assert block.documents is not None
      sources += [f"{shard.name}#{row}" for row in block.documents["row"].to_pylist()]
      vectors.append(race.unit_vectors(fixed_width.array(block.documents["embedding"], "float16")))
    cell_parts.append(
      pq.read_table(cells / f"shards/{shard.file_name}.parquet", columns=["cluster"])["cluster"].to_numpy()
    )
  kinds = np.array([documents[source].source for source in sources])
  texts = [documents[source].text for source in sources]
  return Corpus(sources, kinds, texts, np.concatenate(vectors), np.concatenate(cell_parts))


if __name__ == "__main__":
  bench()
