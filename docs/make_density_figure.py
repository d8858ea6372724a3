"""Draws density.svg, the picture of density.md: `python docs/make_density_figure.py`, with the `dev` extra installed.

Shape suffixes: N points, D = 2 dimensions, K clusters.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from curation.coverage import density, race
from curation.selection import search, selection

FIGURE = pathlib.Path(__file__).with_name("density.svg")
# Of each cluster: the centre, the standard deviation, the points. Each has half as many as the one before it.
CENTRES_KD = np.array([(-0.45, 0.3), (0.4, 0.42), (0.5, -0.3), (-0.1, -0.5), (-0.62, -0.35), (0.05, 0.1)])
SPREAD_K = np.array([0.09, 0.08, 0.09, 0.08, 0.07, 0.07])
POINTS_K = np.array([3_200, 1_600, 800, 400, 200, 100])
RATE = "0.1"


class Sample(NamedTuple):
  """Indices of the drawn points, int64 [k]; the clusters' shares of them, float64 [K]."""

  drawn: np.ndarray
  shares: np.ndarray

  @property
  def unevenness(self) -> float:
    """The total variation distance of the shares to even ones: 0, if all are equal, to 1 - 1/K."""
    return float(np.abs(self.shares - 1 / len(self.shares)).sum() / 2)


class Figure(NamedTuple):
  """`points`: float32 [N, D]; `density`: float64 [N]; `samples`: by name, all points first."""

  points: np.ndarray
  density: np.ndarray
  samples: dict[str, Sample]


def compute() -> Figure:
  """What is drawn: an uneven mixture in the plane, its density by a sketch of the default size, and two samples."""
  cluster_N = np.repeat(np.arange(len(POINTS_K)), POINTS_K)
  noise_ND = np.random.default_rng(0).standard_normal((len(cluster_N), 2))
  points_ND = (CENTRES_KD[cluster_N] + SPREAD_K[cluster_N, None] * noise_ND).astype(np.float32)
  radius = float(np.linalg.norm(points_ND, axis=1).max())
  sketch = race.Sketch(race.SketchConfig(2, density.choose_kernel(points_ND), radius=radius))
  sketch.add(points_ND)
  density_N = sketch.density(points_ND).mean

  def sample(drawn: np.ndarray) -> Sample:
    return Sample(drawn, np.bincount(cluster_N[drawn], minlength=len(POINTS_K)) / len(drawn))

  samples = {
    "all points": sample(np.arange(len(points_ND))),
    "random": sample(draw(selection.SelectionRequest("random", rate=RATE), density_N)),
    "density": sample(draw(selection.SelectionRequest("density", "ips", rate=RATE), density_N)),
  }
  return Figure(points_ND, density_N, samples)


def draw(request: selection.SelectionRequest, scores_N: np.ndarray) -> np.ndarray:
  """Indices of the selected documents of one shard, as `winnow sample` finds them: int64 [k]."""
  rows_N = np.arange(len(scores_N))
  key_N = selection.document_keys(request, "mixture", rows_N, scores_N)
  tie_N = selection.tie_hashes(request.seed, "mixture", rows_N)
  wanted, ranked = request.search(len(scores_N), None), search.Ranked(key_N, tie_N)
  edges = search.choose_edges(search.sample(wanted, ranked))
  stretch = search.find_stretch(wanted, edges, search.count(edges, ranked))
  floor = search.finish(stretch, search.within(stretch, ranked)).floor
  return np.flatnonzero(selection.is_selected(floor, key_N, tie_N))


def paint(figure: Figure, path: pathlib.Path) -> None:
  """Three maps of points, coloured by density, and the clusters' shares of each below it."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import colors, pyplot, ticker

  pyplot.rcParams.update(
    {"font.size": 9, "svg.hashsalt": "winnow", "axes.spines.top": False, "axes.spines.right": False}
  )
  drawing, axes = pyplot.subplots(2, 3, figsize=(9, 4), height_ratios=(2.6, 1), layout="constrained")
  scale = colors.LogNorm(figure.density.min(), figure.density.max())
  order_N = np.argsort(figure.density)  # the densest on top
  dots = None
  for column, (name, sample) in enumerate(figure.samples.items()):
    plane, bars = axes[:, column]
    shown = order_N[np.isin(order_N, sample.drawn)]
    size = 2 if len(shown) == len(order_N) else 4
    dots = plane.scatter(
      *figure.points[shown].T, size, figure.density[shown], norm=scale, linewidths=0, rasterized=True
    )
    title = "all" if name == "all points" else f"{float(RATE):.0%} {name}:"
    plane.set_title(f"{title} {len(shown):,} points")
    plane.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.95, 0.95), ylim=(-0.85, 0.85))
    plane.spines[:].set_visible(True)
    bars.bar(np.arange(len(sample.shares)), sample.shares, color="0.45")
    bars.axhline(1 / len(sample.shares), color="tab:red", linewidth=1)
    bars.set(ylim=(0, 0.6), xticks=[], xlabel=f"the six clusters; {sample.unevenness:.2f} from even")
    bars.yaxis.set_major_formatter(ticker.PercentFormatter(1))
  axes[1, 0].set_ylabel("share of points")
  bar = drawing.colorbar(dots, ax=axes[0, :], aspect=25)
  bar.set_label("estimated density: points near by")
  bar.ax.yaxis.set_major_formatter(ticker.ScalarFormatter())
  drawing.savefig(path, dpi=100, metadata={"Date": None})


if __name__ == "__main__":
  paint(compute(), FIGURE)
