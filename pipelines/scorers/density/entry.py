"""Density as a scorer of the registry."""

import argparse
from typing import TYPE_CHECKING

from pipelines.files import storage
from pipelines.registry.flag import Flag
from pipelines.scorers.entry import DIMENSIONS, EMBEDDINGS, METHODS, SCORING, Cost, Entry, Stored

if TYPE_CHECKING:
  from pipelines.scorers.density.preparation import SketchPreparation
  from pipelines.scorers.density.scorer import Density


def describe(namespace: argparse.Namespace, stored: Stored) -> "Density":
  from pipelines.scorers.density import sketching
  from pipelines.scorers.density.scorer import Density

  assert stored.embeddings is not None
  return Density(
    sketch_path=storage.join(stored.folder, sketching.FOLDER, sketching.SKETCH_FILE),
    embeddings=stored.embeddings,
    kernel=namespace.kernel,
    bandwidth=namespace.bandwidth,
    hashes=namespace.hashes,
    rows=namespace.sketch_rows,
    counters=namespace.sketch_counters,
    seed=namespace.sketch_seed,
    correct_collisions=namespace.correct_collisions,
  )


def cost(namespace: argparse.Namespace, documents: float, texts: list[str]) -> Cost:
  """Counts the projections of two passes, which count and read the sketch."""
  from curation.coverage import density

  del texts
  operations = 2 * documents * 2 * DIMENSIONS * (namespace.hashes or density.DEFAULT_HASHES) * namespace.sketch_rows
  return Cost("the sketch", "in two passes", operations=operations)


def preparation() -> "type[SketchPreparation]":
  from pipelines.scorers.density.preparation import SketchPreparation

  return SketchPreparation


ENTRY = Entry(
  name="density",
  reads=EMBEDDINGS,
  describe=describe,
  methods=("ips", *METHODS),
  unit="density",
  preparation=preparation,
  cost=cost,
  flags=(
    Flag(
      "kernel",
      "Density",
      SCORING,
      "the distance with which the weight of a neighbour decreases: L2, L1, or the angle",
      default="l2",
      choices=("l2", "l1", "angular"),
    ),
    Flag(
      "bandwidth",
      "Density",
      SCORING,
      "the kernel's width (default: chosen from the data)",
      type=float,
    ),
    Flag(
      "hashes",
      "Density",
      SCORING,
      "hashes per sketch row; more hashes separate near documents from far ones better, and take longer (default: "
      "chosen from the data)",
      type=int,
    ),
    Flag(
      "sketch_rows",
      "Density",
      SCORING,
      "the number of rows of the sketch, R",
      type=int,
      default=1000,
    ),
    Flag(
      "sketch_counters",
      "Density",
      SCORING,
      "the number of counters per row, B",
      type=int,
      default=20_000,
    ),
    Flag("sketch_seed", "Density", SCORING, "seed for the sketch's hashes", type=int, default=0),
    Flag(
      "correct_collisions",
      "Density",
      SCORING,
      "subtract the expected number of chance collisions from each density, but keep it at 1 or more",
      type=bool,
    ),
  ),
)
