"""Clusters in the registry, made by `winnow cluster` or a scorer that reads them, and SSL Prototypes (paper B.4)."""

import argparse
from typing import TYPE_CHECKING

from pipelines.registry.command_names import CLUSTER, CURATE, SCORE
from pipelines.registry.flag import BUCKET, Flag, path
from pipelines.scorers.entry import CLUSTERS, DIMENSIONS, EMBEDDINGS, Cost, Entry, Stored

if TYPE_CHECKING:
  from pipelines.scorers.clusters.preparation import CentroidsPreparation
  from pipelines.scorers.clusters.prototypes import Prototypes

_CLUSTERING = (CLUSTER, SCORE, CURATE)
FLAGS = (
  Flag(
    "clusters",
    "Clusters",
    _CLUSTERING,
    "the folder of the store of clusters, created if it is missing (default: clusters_MODEL beside the embeddings)",
    helps={CLUSTER: "the folder for the store of clusters (default: clusters_MODEL beside the embeddings)"},
    type=path,
    pattern=BUCKET,
  ),
  Flag("num_clusters", "Clusters", _CLUSTERING, "the number of clusters, k", type=int, default=10_000),
  Flag(
    "kmeans_sample",
    "Clusters",
    _CLUSTERING,
    "documents per cluster in the sample on which the centroids are trained; one worker holds this sample in memory",
    type=int,
    default=256,
  ),
  Flag(
    "kmeans_iterations",
    "Clusters",
    _CLUSTERING,
    "the number of k-means iterations on the sample",
    type=int,
    default=20,
  ),
  Flag(
    "lloyd_iterations",
    "Clusters",
    _CLUSTERING,
    "the number of further k-means iterations on all documents",
    type=int,
    default=0,
  ),
  Flag(
    "kmeans_seed",
    "Clusters",
    _CLUSTERING,
    "seed for the sample, the initial centroids and SemDeDup's ties",
    helps={CLUSTER: "seed for the sample and the initial centroids"},
    type=int,
    default=0,
  ),
)
"""The flags of every scorer that reads clusters."""


def cost(namespace: argparse.Namespace, documents: float, texts: list[str]) -> Cost:
  """Counts the products of every document with every centroid, in each pass over all documents and over the sample."""
  del texts
  sample = min(documents, namespace.num_clusters * namespace.kmeans_sample)
  assigned = documents * (1 + namespace.lloyd_iterations) + sample * namespace.kmeans_iterations
  note = f"in {1 + namespace.lloyd_iterations} passes and on the sample"
  return Cost("the clusters", note, operations=assigned * 2 * DIMENSIONS * namespace.num_clusters)


def preparation() -> "type[CentroidsPreparation]":
  from pipelines.scorers.clusters.preparation import CentroidsPreparation

  return CentroidsPreparation


def describe_prototypes(namespace: argparse.Namespace, stored: Stored) -> "Prototypes":
  from pipelines.scorers.clusters.prototypes import Prototypes

  del namespace
  assert stored.clusters is not None
  return Prototypes(stored.clusters)


ENTRY = Entry(name="cluster", reads=EMBEDDINGS, methods=(), preparation=preparation)
PROTOTYPES = Entry(
  name="prototypes", reads=CLUSTERS, describe=describe_prototypes, unit="− cosine to the centroid", cost=cost
)
