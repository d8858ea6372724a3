"""Clusters in the registry: `winnow cluster` makes them, or a scorer that reads them."""

import argparse

from pipelines.registry.command_names import CLUSTER, CURATE, SCORE
from pipelines.registry.flag import BUCKET, Flag, path
from pipelines.scorers.clusters.preparation import CentroidsPreparation
from pipelines.scorers.entry import DIMENSIONS, EMBEDDINGS, Cost, Entry

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


ENTRY = Entry(name="cluster", reads=EMBEDDINGS, methods=(), preparation=CentroidsPreparation)
