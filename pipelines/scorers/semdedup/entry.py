"""SemDeDup as a scorer of the registry."""

import argparse
from typing import TYPE_CHECKING

from pipelines.files import storage
from pipelines.registry.flag import Flag
from pipelines.scorers.clusters import entry
from pipelines.scorers.entry import CLUSTERS, DIMENSIONS, SCORING, Cost, Entry, Stored

if TYPE_CHECKING:
  from pipelines.scorers.semdedup.preparation import ComparisonPreparation
  from pipelines.scorers.semdedup.scorer import SemDeDup


def describe(namespace: argparse.Namespace, stored: Stored) -> "SemDeDup":
  from pipelines.scorers.semdedup import layout
  from pipelines.scorers.semdedup.scorer import SemDeDup

  assert stored.clusters is not None and stored.embeddings is not None and stored.clustering is not None
  return SemDeDup(
    stored.clusters,
    stored.embeddings,
    keep=namespace.keep,
    config=stored.clustering.config,
    max_cluster_pairs=namespace.max_cluster_pairs,
    split_path=storage.join(stored.folder, layout.SPLIT_FILE),
  )


def cost(namespace: argparse.Namespace, documents: float, texts: list[str]) -> Cost:
  """Adds to the clusters' cost the pairs of documents in clusters of one size, which is the least possible."""
  clusters = entry.cost(namespace, documents, texts)
  pairs = documents**2 / 2 / namespace.num_clusters * 2 * DIMENSIONS
  return clusters._replace(title="the clusters and their pairs", operations=(clusters.operations or 0.0) + pairs)


def preparation() -> "type[ComparisonPreparation]":
  from pipelines.scorers.semdedup.preparation import ComparisonPreparation

  return ComparisonPreparation


ENTRY = Entry(
  name="semdedup",
  reads=CLUSTERS,
  describe=describe,
  unit="− cosine to an earlier document",
  preparation=preparation,
  cost=cost,
  flags=(
    Flag(
      "keep",
      "Clusters",
      SCORING,
      "the documents of a cluster that SemDeDup ranks first, and so keeps among similar ones: those nearest to the "
      "centroid, those farthest from it, or random ones",
      default="nearest",
      choices=("nearest", "farthest", "random"),
    ),
    Flag(
      "max_cluster_pairs",
      "Clusters",
      SCORING,
      "split a cluster with more pairs of documents than this by a second k-means, and compare documents only within "
      "its pieces; a cluster of 447,000 documents has as many pairs as the default, and is twelve times the mean size "
      "of 364M documents in 10,000 clusters",
      type=int,
      default=10**11,
    ),
  ),
)
